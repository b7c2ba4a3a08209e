"""The decay explorer: move decay and bonus, and watch the mask M, the weights of the past, and the half-life."""

import math
from typing import Any

import ipywidgets as widgets
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..hub_code.modeling_rwkv5 import wkv5_mask
from .plotting import BLUE, INK, PURPLE, new_figure, png


def half_life(time_decay: float) -> float:
    """Return after how many tokens half is left, if w = exp(-exp(time_decay)): ``w^t = 1/2`` gives t."""
    return math.log(2) * math.exp(-time_decay)


def decay_text(time_decay: float, bonus: float, size: int) -> str:
    """Return in a line what the two numbers mean for a text of ``size`` tokens."""
    w = math.exp(-math.exp(time_decay))
    left = w ** (size - 1)
    return (
        f"w = exp(-exp({time_decay:.2f})) = {w:.4f}, half-life {half_life(time_decay):.3g} tokens; "
        f"the token itself counts {bonus:.2f}, the one before it 1, and {size} tokens back {left:.2g} is left"
    )


def decay_figure(time_decay: float, bonus: float, size: int) -> Figure:
    """Draw the mask M of ``size`` tokens, and beside it its last row by age: with what weight each token is heard."""
    log_w = torch.tensor([[-math.exp(time_decay)]])
    mask = wkv5_mask(log_w, torch.tensor([[bonus]]), size)[0, :, :, 0]
    weights = mask[-1].flip(0).tolist()  # by age: the token itself first
    mask[torch.ones(size, size).triu(1) > 0] = torch.nan  # the future: not zero but nothing
    figure, (left, right) = new_figure(1, 2, height=3.2, width_ratios=(1, 1.5))
    picture = left.imshow(mask.numpy(), vmin=min(0.0, bonus), vmax=max(1.0, bonus))
    left.set(xlabel="token j, which is read", ylabel="token i, which reads", title="Mask M")
    left.grid(False)
    figure.colorbar(picture, ax=left, shrink=0.8)
    right.bar(range(size), weights, color=[BLUE] + [PURPLE] * (size - 1))
    life = half_life(time_decay)
    if 1 + life < size:
        right.axvline(1 + life, color=INK, linestyle=":")
        right.text(1 + life, 1.02, " one half-life", transform=right.get_xaxis_transform(), va="bottom", fontsize=8)
    right.set(xlabel="age in tokens (0: the token itself)", ylabel="weight")
    right.set_title(f"w = {math.exp(-math.exp(time_decay)):.3f}, u = {bonus:.2f}", pad=18)
    for axis in (left.xaxis, left.yaxis, right.xaxis):
        axis.set_major_locator(MaxNLocator(6, integer=True))
    return figure


class DecayExplorer(widgets.VBox):
    """Sliders for ``time_decay``, the bonus u and the number of tokens; the figure and a line follow them."""

    def __init__(self, time_decay: float = -1.5, bonus: float = 1.3, size: int = 16):
        style: dict[str, Any] = {"style": {"description_width": "90px"}, "continuous_update": False}
        style["layout"] = widgets.Layout(width="380px")
        self.time_decay = widgets.FloatSlider(time_decay, min=-7, max=2, step=0.1, description="time_decay", **style)
        self.bonus = widgets.FloatSlider(bonus, min=-1, max=3, step=0.1, description="bonus u", **style)
        self.size = widgets.IntSlider(size, min=2, max=64, description="tokens T", **style)
        self.status, self.view = widgets.HTML(), widgets.Image(format="png", layout=widgets.Layout(max_width="100%"))
        super().__init__([self.time_decay, self.bonus, self.size, self.status, self.view])
        for slider in (self.time_decay, self.bonus, self.size):
            slider.observe(self.update, names="value")
        self.update()

    def update(self, _change: object = None) -> None:
        values = self.time_decay.value, self.bonus.value, self.size.value
        self.status.value = decay_text(*values)
        self.view.value = png(decay_figure(*values))

    def __repr__(self) -> str:
        """What a page without a running kernel shows."""
        return "[Decay explorer: run this cell in JupyterLab to move decay and bonus]"
