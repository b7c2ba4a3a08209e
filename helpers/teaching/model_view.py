"""Look into RWKV-5 models: how long heads remember, what a state holds, what reads what."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ..hub_code.modeling_rwkv5 import wkv5_scores
from ..proof.parity import Parity
from .plotting import GREY, new_figure


def half_lives(model) -> list[Tensor]:
    """Return for each block of an RWKV-5 model after how many tokens half of an entry of S is left: (H, 1) or (H, N).

    ``w^t = 1/2`` gives ``t = ln 2 / -log w``.
    """
    with torch.no_grad():
        return [math.log(2) / -block.attention.log_decay_and_bonus()[0] for block in model.rwkv.blocks]


@torch.no_grad()
def watch_state(model, ids: Tensor) -> Tensor:
    """Read ids (T,) one by one, and return the WKV state after each: (T, L, H, N, N)."""
    state, states = None, []
    for index in ids:
        state = model(index.view(1, 1), state=state, use_cache=True).state
        states.append(state[1][0])
    return torch.stack(states)


@torch.no_grad()
def reading_scores(model, ids: Tensor, layer: int) -> Tensor:
    """Return how strongly each token i reads the value of token j in one block, (H, T, T): r_i k_j, decayed.

    It is what the attention matrix is to a transformer, but without softmax: scores can be negative.
    """
    time_mix, seen, names = model.rwkv.blocks[layer].attention, {}, ("receptance", "key")
    hooks = [
        getattr(time_mix, name).register_forward_hook(lambda _, __, output, name=name: seen.update({name: output}))
        for name in names
    ]
    try:
        model(ids[None], use_cache=False, logits_to_keep=1)
    finally:
        for hook in hooks:
            hook.remove()
    tokens = len(ids)
    size = 1 << (tokens - 1).bit_length()  # one chunk, a power of two
    r, k = (seen[name].view(tokens, time_mix.heads, -1).transpose(0, 1) for name in names)
    r, k = (F.pad(x, (0, 0, 0, size - tokens))[None, :, None] for x in (r, k))  # (1, H, 1, C, N)
    return wkv5_scores(r, k, *time_mix.log_decay_and_bonus())[0, :, 0, :tokens, :tokens]


def copy_rates(model, ids: Tensor) -> Tensor:
    """Read different ids (n,) twice in a row, and return how often each head finds what followed last time, (L, H).

    Counted are the second readings whose highest score, of all tokens before but the first, belongs to the token
    behind their first occurrence. Heads that do this can copy; see Olsson et al., arXiv 2209.11895, on induction heads.
    """
    n = len(ids)
    before = torch.ones(2 * n, 2 * n).tril(-1).bool()
    before[:, 0] = False  # many heads read the first token whatever it is
    rates = []
    for layer in range(len(model.rwkv.blocks)):
        scores = reading_scores(model, ids.repeat(2), layer).masked_fill(~before, -torch.inf)
        rates.append((scores[:, n:].argmax(-1) == torch.arange(1, n + 1)).float().mean(-1))
    return torch.stack(rates)


def label_first(row: Sequence[Axes], label: str) -> None:
    """Label the vertical axis that a row of panels shares, and show the label at the first one."""
    for position, axes in enumerate(row):
        axes.set_ylabel(label, visible=position == 0)


def difference_figure(results: dict[str, Parity]) -> Figure:
    """Draw the largest relative difference of each block's state, one line per comparison; 0 is drawn at 1e-9.

    The first one, with which the others agree in most blocks, is a broad band below their lines.
    """
    figure, axes = new_figure(height=3.0)
    for (label, result), marker in zip(results.items(), "osv^D", strict=False):
        worst = [max(*parts, 1e-9) for parts in result.state_diff]
        first = label == next(iter(results))
        style = {"linewidth": 9, "alpha": 0.3, "color": GREY} if first else {"marker": marker}
        axes.semilogy(range(len(worst)), worst, label=label, **style)
    axes.axhline(1e-4, color=GREY, linestyle=":", label="tolerance")
    axes.set(xlabel="block", ylabel="largest relative difference", title="Where two models begin to differ")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def half_life_figure(model) -> Figure:
    """Draw the half-life of each head (or channel) in each block, on a logarithmic axis."""
    figure, axes = new_figure(height=3.2)
    lives = half_lives(model)
    for head in range(lives[0].shape[0]):
        points = [(layer, value) for layer, life in enumerate(lives) for value in life[head].tolist()]
        axes.scatter(*zip(*points, strict=True), marker="osv^D"[head % 5], s=36, label=f"head {head}")
    axes.set(yscale="log", xlabel="block", ylabel="half-life in tokens", title="How long each head remembers")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def state_figure(states: Tensor, tokens: Sequence[str], layer: int, head: int, at: Sequence[int]) -> Figure:
    """Draw S of one head after some of the tokens. ``states`` is what :func:`watch_state` returns."""
    figure, grid = new_figure(1, len(at), height=2.4, sharey=True, squeeze=False)
    top = states[at[-1], layer, head].abs().quantile(0.95).item()  # a few entries are far above all others
    for axes, t in zip(grid[0], at, strict=True):
        picture = axes.imshow(states[t, layer, head].numpy(), cmap="RdBu_r", vmin=-top, vmax=top)
        axes.set(title=f"after {tokens[t]!r}", xlabel="channel of v")
        axes.title.set_fontsize(9)
        axes.grid(False)
    label_first(grid[0], "channel of k")
    figure.suptitle(f"S of head {head} in block {layer}, while a sentence is read", fontweight="bold", fontsize=11)
    figure.colorbar(picture, ax=grid[0], label="entry of S", extend="both")
    return figure


def change_figure(model, states: Tensor, tokens: Sequence[str]) -> Figure:
    """Draw how much of each head's S is new after each token, heads sorted by the half-life of their slowest row."""
    size = states.flatten(3).norm(dim=3)  # (T, L, H)
    before = torch.cat([torch.zeros_like(states[:1]), states[:-1]])
    change = (states - before).flatten(3).norm(dim=3) / size
    lives = torch.stack(half_lives(model)).amax(-1)  # (L, H)
    order = lives.flatten().argsort(descending=True)
    rows = change.flatten(1).T[order]
    figure, axes = new_figure(height=4.6)
    picture = axes.imshow(rows.numpy(), aspect="auto", vmin=0, vmax=1)
    axes.set_xticks(range(len(tokens)), [token.strip() or "␣" for token in tokens], rotation=60, ha="right")
    shown = range(0, len(order), 3)
    axes.set_yticks(shown, [f"{lives.flatten()[order[i]]:.3g}" for i in shown])
    axes.set(xlabel="token read", ylabel="half-life of the head in tokens", title="How much each token changes S")
    axes.grid(False)
    figure.colorbar(picture, ax=axes, label="size of the change / size of S", extend="max")
    return figure


def reading_figure(scores: Sequence[Tensor], titles: Sequence[str]) -> Figure:
    """Draw (T, T) matrices of :func:`reading_scores`, each on a scale of its own.

    Many heads read the first token far more than all others, whatever it is; that column is left out.
    """
    figure, grid = new_figure(1, len(scores), height=4.2, width=9.0, sharey=True, squeeze=False)
    for axes, matrix, title in zip(grid[0], scores, titles, strict=True):
        size = len(matrix)
        others = matrix[:, 1:]
        top = others.abs().quantile(0.999)
        place = (0.5, size - 0.5, size - 0.5, -0.5)  # left, right, bottom, top
        picture = axes.imshow((others / top).numpy(), cmap="RdBu_r", vmin=-1, vmax=1, extent=place)
        axes.set(xlabel="position j, which is read; the first is left out", title=title)
        axes.grid(False)
    label_first(grid[0], "position i, which reads")
    figure.colorbar(picture, ax=grid[0], label="score / largest score", shrink=0.8, extend="both")
    return figure
