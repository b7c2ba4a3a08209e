"""The state explorer: type a sentence, go through it token by token, and look at S of any head."""

import html
from collections.abc import Callable, Sequence

import ipywidgets as widgets
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from .plotting import BLUE, RED, new_figure, png

BUTTONS = "▶ plays, from the first token again if it is at the last; ■ goes back to the first; ⇄ plays without end."
MAX_CHARACTERS = 400  # of the sentence; more would take long to read, token by token
Reader = Callable[[str], tuple[Sequence[str], Tensor]]  # text -> its tokens as texts, S after each (T, L, H, N, N)


def changes(states: Tensor) -> Tensor:
    """Return what each token changes in S: S after it minus S before it, in the shape of ``states`` (T, ...)."""
    return states - torch.cat([torch.zeros_like(states[:1]), states[:-1]])


def share_changed(states: Tensor, t: int) -> float:
    """Return the size of the change by token t over the size of S after it, for states of one head (T, N, N)."""
    return float(changes(states)[t].norm() / states[t].norm().clamp(min=1e-12))


def explorer_figure(states: Tensor, t: int, layer: int, head: int, half_lives: Tensor) -> Figure:
    """Draw S of one head after token t, what t changed in it, and the head's half-life among all others.

    Args:
        states: (T, L, H, N, N), S after each token, rows belong to k and columns to v.
        half_lives: (L, H), in tokens; where a head has one per channel, its longest.
    """
    of_head = states[:, layer, head]
    top = max(of_head.abs().flatten(1).quantile(0.98, dim=1).max().item(), 1e-12)  # one scale for all tokens
    figure, (left, middle, right) = new_figure(1, 3, height=2.9, width_ratios=(1, 1, 1.1))
    panels = ((left, of_head[t], f"S after token {t + 1}"), (middle, changes(of_head)[t], "what it changed"))
    for axes, matrix, title in panels:
        picture = axes.imshow(matrix.numpy(), cmap="RdBu_r", vmin=-top, vmax=top)
        axes.set(xlabel="channel of v", ylabel="channel of k", title=title)
        axes.grid(False)
    figure.colorbar(picture, ax=middle, shrink=0.75, extend="both")
    for layer_number, lives in enumerate(half_lives):
        right.scatter([layer_number] * len(lives), lives, color=BLUE, s=16)
    life = half_lives[layer, head].item()
    right.scatter([layer], [life], s=110, facecolor="none", edgecolor=RED, linewidth=2)
    right.set(yscale="log", xlabel="block", ylabel="half-life in tokens", title=f"this head: {life:.3g} tokens")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def strip_html(tokens: Sequence[str], t: int) -> str:
    """Return the tokens as HTML; those not yet read are pale, token t is framed."""
    parts = []
    for number, token in enumerate(tokens):
        shown = html.escape(token).replace("\n", "⏎") or "�"
        frame = f"border-bottom:3px solid {RED};" if number == t else ""
        parts.append(f'<span style="{frame}opacity:{1 if number <= t else 0.45}">{shown}</span>')
    return f'<div style="white-space:pre-wrap;line-height:1.7">{"".join(parts)}</div>'


class StateExplorer(widgets.VBox):
    """A sentence, a player that goes through its tokens, and the choice of block and head.

    Args:
        read: reads a text with a model and returns its tokens and the states after each.
        half_lives: (L, H) of the same model, in tokens.
        text: what stands in the box at first.
    """

    def __init__(self, read: Reader, half_lives: Tensor, text: str = "The old man looked at the sea."):
        self.read, self.half_lives = read, half_lives
        blocks, heads = half_lives.shape
        slowest = divmod(int(half_lives.argmax()), heads)
        wide = widgets.Layout(width="95%")
        self.text = widgets.Text(value=text, description="text", continuous_update=False, layout=wide)
        self.player = widgets.Play(value=0, min=0, max=0, interval=700)
        self.token = widgets.IntSlider(value=0, min=0, max=0, description="token", readout=False)  # the status counts
        self.layer = widgets.Dropdown(options=range(blocks), value=slowest[0], description="block")
        self.head = widgets.Dropdown(options=range(heads), value=slowest[1], description="head")
        for choice in (self.layer, self.head):
            choice.layout = widgets.Layout(width="160px")
        self.status, self.strip = widgets.HTML(), widgets.HTML()
        self.view = widgets.Image(format="png", layout=widgets.Layout(max_width="100%"))
        controls = widgets.HBox(
            [self.player, self.token, self.layer, self.head], layout=widgets.Layout(flex_flow="row wrap")
        )
        buttons = widgets.HTML(f"<small>{BUTTONS}</small>")  # they are icons, and show no text of their own
        super().__init__([self.text, controls, buttons, self.strip, self.status, self.view])
        self.link = widgets.jslink((self.player, "value"), (self.token, "value"))
        self.tokens: Sequence[str] = ()
        self.states = torch.zeros(0)
        self.text.observe(self.read_text, names="value")
        for control in (self.token, self.layer, self.head):
            control.observe(self.update, names="value")
        self.read_text()

    def read_text(self, _change: object = None) -> None:
        """Let the model read what stands in the box, and begin at its first token."""
        if not self.text.value:
            self.status.value = "Type a sentence."
            return
        self.tokens, self.states = self.read(self.text.value[:MAX_CHARACTERS])
        self.token.value = 0
        self.token.max = self.player.max = len(self.tokens) - 1
        self.update()

    def update(self, _change: object = None) -> None:
        """Draw the chosen token, block and head."""
        t, layer, head = self.token.value, self.layer.value, self.head.value
        share = share_changed(self.states[:, layer, head], t)
        self.strip.value = strip_html(self.tokens, t)
        self.status.value = f"token {t + 1} of {len(self.tokens)}: the change is {share:.0%} of the size of S"
        self.view.value = png(explorer_figure(self.states, t, layer, head, self.half_lives))

    def __repr__(self) -> str:
        """What a page without a running kernel shows."""
        return "[State explorer: run this cell in JupyterLab to read a sentence of your own]"
