"""Pictures of notebook 07: a memory that erases before it writes, the time-mix of RWKV-7, a chunk as a triangle."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from .drawing import INPUT, MEMORY, OUTPUT, UNUSED, WORK, arrow, box, canvas, cells, label
from .plotting import BLUE, GREY, INK, ORANGE, PURPLE, new_figure


def overwrite_picture() -> Figure:
    """Draw two memories that are told Monday's and then Tuesday's weather under the same key."""
    figure, axes = canvas(3.0, "Two notes under one key")
    label(axes, 1.7, 2.72, "write under “weather”:", size=9, ha="right")
    cells(axes, 1.85, 2.52, ["rain"], INPUT, width=0.9)
    label(axes, 4.75, 2.72, "then, under the same key:", size=9, ha="right")
    cells(axes, 4.9, 2.52, ["sun"], INPUT, width=0.9)
    for y, name, first, second, found, color in (
        (1.75, "RWKV-5, 6\nadds", ["rain"], ["rain + sun"], "“rain and sun”", UNUSED),
        (0.6, "RWKV-7\nerases, then adds", ["rain"], ["sun"], "“sun”", OUTPUT),
    ):
        label(axes, 0.75, y, name, size=9)
        cells(axes, 1.75, y - 0.2, first, MEMORY, width=1.1)
        arrow(axes, (2.95, y), (4.7, y))
        cells(axes, 4.8, y - 0.2, second, MEMORY, width=1.1)
        arrow(axes, (6.0, y), (6.45, y), "read")
        box(axes, 7.2, y, found, color, width=1.4)
    label(axes, 3.82, 0.8, "take off what\nthe key finds", size=8)
    figure.set_label(
        "Two memories are told 'rain' and then 'sun' under one key. RWKV-5 and 6 keep the sum of both and "
        "read 'rain and sun'. RWKV-7 first takes off what the key finds, so it keeps and reads 'sun' alone."
    )
    return figure


def time_mix_picture() -> Figure:
    """Draw what the time-mix of RWKV-7 makes of a token, from its six mixtures to its output."""
    figure, axes = canvas(3.9, "Time-mix of RWKV-7")
    box(axes, 0.75, 2.0, "token and\nthe one before", INPUT, width=1.3, height=0.7)
    rows = (
        ("r", "ask", 3.45),
        ("w", "decay", 2.87),
        ("k", "key", 2.29),
        ("v", "value", 1.71),
        ("a", "erase", 1.13),
        ("g", "gate", 0.55),
    )
    for letter, name, y in rows:
        arrow(axes, (1.42, 2.0), (2.08, y))
        low_rank = letter in "wag"
        box(axes, 2.75, y, f"{name} ({letter})", WORK if not low_rank else INPUT, width=1.25, height=0.44)
    label(axes, 2.75, 0.14, "orange: two thin matrices", size=8, color=INK)
    box(axes, 5.0, 2.29, "S\n1. decay\n2. erase\n3. write", MEMORY, width=1.3, height=1.25)
    for y in (2.87, 2.29, 1.71, 1.13):
        arrow(axes, (3.4, y), (4.33, 2.29 + (y - 2.0) * 0.35))
    box(axes, 5.0, 3.45, "read: r S", WORK, width=1.3, height=0.44)
    arrow(axes, (3.4, 3.45), (4.33, 3.45))
    arrow(axes, (5.0, 2.94), (5.0, 3.21))
    box(axes, 6.9, 2.87, "a norm per head,\nplus the bonus", WORK, width=1.55, height=0.6)
    arrow(axes, (5.68, 3.45), (6.3, 3.2))
    box(axes, 6.9, 1.71, "times the gate", WORK, width=1.55, height=0.44)
    arrow(axes, (6.9, 2.55), (6.9, 1.96))
    arrow(axes, (3.4, 0.55), (6.3, 1.47), bend=-0.12)
    box(axes, 6.9, 0.75, "output matrix", OUTPUT, width=1.55, height=0.44)
    arrow(axes, (6.9, 1.47), (6.9, 1.0))
    figure.set_label(
        "Time-mix of RWKV-7: a token and the one before it are mixed in six ratios. r, k and v come from full"
        " matrices, decay w, erase a and gate g from two thin ones. The state decays, is erased and written; "
        "r reads it; a norm per head, a bonus, the gate and the output matrix follow."
    )
    return figure


def triangle_picture(size: int = 5) -> Figure:
    """Draw which earlier tokens of a chunk a token's erasing depends on: a triangle, solved from the top."""
    figure, axes = canvas(2.6, "Inside a chunk: what must be known before what")
    side = 0.4
    for row in range(size):
        colors = [MEMORY if column < row else UNUSED for column in range(size)]
        cells(axes, 1.0, 1.8 - row * side, ["" if column >= row else "A" for column in range(size)], colors, side, side)
        label(axes, 0.55, 2.0 - row * side, f"u{row + 1}")
    label(axes, 1.0 + size * side / 2, 2.35, "needs u1 … u5")
    label(axes, 3.6, 1.5, "u1 needs only the state\nthat the chunk begins with.", ha="left")
    label(
        axes, 3.6, 0.75, "u2 needs u1, u3 needs u1 and u2, …\nnever a later one: solve from top to bottom.", ha="left"
    )
    arrow(axes, (3.3, 2.15), (3.3, 0.25))
    figure.set_label(
        "A lower triangular matrix for a chunk of five tokens: the row u of a token, which it erases with, "
        "depends on those of earlier tokens only, so the system is solved from top to bottom."
    )
    return figure


def state_heatmaps(states: Mapping[str, Tensor]) -> Figure:
    """Draw states of one head side by side, on one scale: (N, N) each, rows are keys, columns are values."""
    figure, every = new_figure(1, len(states), height=2.7)
    limit = max(float(state.abs().max()) for state in states.values())
    for axes, (name, state) in zip(np.atleast_1d(every), states.items(), strict=True):
        image = axes.imshow(state.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes.set(title=name, xlabel="value channel", ylabel="key channel")
        axes.grid(False)
    figure.colorbar(image, ax=every, shrink=0.8, label="number in S")
    told = ", ".join(f"{name} {float(state.abs().max()):.1f}" for name, state in states.items())
    figure.set_label(
        f"States of one head as heat maps on one scale. The largest number of each, without its sign: {told}."
    )
    return figure


def error_figure(overwrites: Sequence[int], errors: Mapping[str, Sequence[float]]) -> Figure:
    """Plot how far what is read is from what was written last, relative to it, over the times it was written."""
    figure, axes = new_figure(height=2.9)
    styles = zip((GREY, BLUE, PURPLE, ORANGE), ("o", "s", "D", "^"), strict=True)
    for (name, values), (color, marker) in zip(errors.items(), styles, strict=False):
        axes.plot(overwrites, values, color=color, marker=marker, label=name)
    axes.set(xlabel="times that each key was written", ylabel="relative error", title="Reading the last value back")
    axes.set_ylim(bottom=0)
    axes.legend()
    told = "; ".join(f"{name}: {', '.join(f'{value:.1f}' for value in values)}" for name, values in errors.items())
    times = ", ".join(map(str, overwrites))
    figure.set_label(f"Relative error of the values read back after each key was written {times} times. {told}.")
    return figure
