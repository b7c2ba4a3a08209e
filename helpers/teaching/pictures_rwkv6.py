"""Pictures of notebook 06: a decay that the text sets, two thin matrices, and masks that differ from text to text."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from .drawing import INPUT, MEMORY, OUTPUT, UNUSED, WORK, arrow, box, canvas, cells, label
from .plotting import BLUE, GREY, new_figure


def forgetting_picture() -> Figure:
    """Draw what two memories hold after each token of a sentence that begins anew in the middle."""
    figure, axes = canvas(2.9, "When to forget: a clock, or the text")
    tokens = ["red", "red", ".", "blue", "blue"]
    for x, token in enumerate(tokens):
        cells(axes, 2.2 + 1.1 * x, 2.25, [token], INPUT, width=0.95)
    for y, name, held, colors in (
        (1.35, "RWKV-5\nfades by the clock", ["1", "1.9", "1.7", "1.5", "1.4"], [MEMORY] * 5),
        (0.35, "RWKV-6\nthe text decides", ["1", "2", "0", "0", "0"], [MEMORY, MEMORY, UNUSED, UNUSED, UNUSED]),
    ):
        label(axes, 1.05, y + 0.22, name)
        for x, (text, color) in enumerate(zip(held, colors, strict=True)):
            cells(axes, 2.2 + 1.1 * x, y, [text], color, width=0.95)
    label(axes, 1.05, 2.45, "the text")
    label(axes, 4.9, 1.98, "how much “red” is held after each token")
    arrow(axes, (5.55, 0.98), (5.0, 0.84))
    label(axes, 5.65, 1.0, "here “.” says: forget", ha="left")
    figure.set_label(
        "A text says red, red, full stop, blue, blue. The memory of RWKV-5 holds 1, 1.9, 1.7, 1.5, 1.4 of "
        "red: it fades by the clock. That of RWKV-6 holds 1, 2, 0, 0, 0: at the full stop the text says "
        "forget."
    )
    return figure


def thin_matrices_picture() -> Figure:
    """Draw how a token sets a number per channel through two thin matrices."""
    figure, axes = canvas(2.3, "How a token has a say: two thin matrices")
    box(axes, 0.85, 1.25, "mixed token\nD", INPUT, width=1.3, height=0.8)
    box(axes, 2.75, 1.25, "D × R", WORK, width=0.9, height=1.5)
    box(axes, 4.15, 1.25, "tanh\nR", UNUSED, width=0.9, height=0.6)
    box(axes, 5.6, 1.25, "R × D", WORK, width=1.4, height=0.6)
    box(axes, 7.25, 1.25, "plus a fixed\nnumber: D", OUTPUT, width=1.2, height=0.8)
    for start, end in ((1.52, 2.28), (3.22, 3.68), (4.62, 4.88), (6.32, 6.63)):
        arrow(axes, (start, 1.25), (end, 1.25))
    label(axes, 4.0, 0.22, "R is small: 2 D R numbers instead of D × D")
    figure.set_label(
        "A mixed token of D numbers goes through a tall matrix of D by R, a tanh, and a wide matrix of R by "
        "D; a fixed number per channel is added."
    )
    return figure


def decays_figure(tokens: Sequence[str], decays: Mapping[str, Sequence[float]]) -> Figure:
    """Plot the decay at each token of a text for a few memories, one line each."""
    figure, axes = new_figure(height=2.7)
    styles = zip((GREY, BLUE), ("--", "-"), ("o", "s"), strict=True)
    for (name, values), (color, line, marker) in zip(decays.items(), styles, strict=False):
        axes.plot(range(len(tokens)), values, line, color=color, marker=marker, label=name)
    axes.set_xticks(range(len(tokens)), tokens)
    axes.set(xlabel="token", ylabel="what is held of “red”", title="Two memories read the same text", ylim=(-0.1, 3.3))
    axes.legend()
    told = (f"{name}: {', '.join(f'{value:g}' for value in values)}" for name, values in decays.items())
    figure.set_label(f"What memories hold of red after each token of “{' '.join(tokens)}”. {'; '.join(told)}.")
    return figure


def masks_figure(masks: Mapping[str, Tensor]) -> Figure:
    """Draw how much of token j is left when token i reads, for several texts side by side: (C, C) each."""
    figure, every = new_figure(1, len(masks), height=3.0)
    for axes, (name, mask) in zip(np.atleast_1d(every), masks.items(), strict=True):
        image = axes.imshow(mask.numpy(), vmin=0, vmax=1)
        axes.set(title=name, xlabel="token j, which wrote", ylabel="token i, which reads")
        axes.grid(False)
    figure.colorbar(image, ax=every, shrink=0.85, label="share that is left")
    reach = {name: int((mask[-1] > 0.1).sum()) for name, mask in masks.items()}
    told = "; ".join(f"in “{name}” the last token still reads {count}" for name, count in reach.items())
    figure.set_label(
        "Lower triangular masks, brightest beside the diagonal. A steady decay fades evenly; a token that says forget "
        f"cuts off all that was written before it. More than a tenth is left of: {told} of the {len(mask)} tokens."
    )
    return figure


def kept_figure(tokens: Sequence[str], kept: Tensor, ends: Sequence[int]) -> Figure:
    """Plot what a model keeps of its states at each token, (T,), as bars; those at ``ends`` stand out."""
    figure, axes = new_figure(height=3.2)
    colors = [BLUE if index in ends else GREY for index in range(len(tokens))]
    axes.bar(range(len(tokens)), kept.tolist(), color=colors, width=0.8)
    names = [repr(token.strip(" "))[1:-1] for token in tokens]
    axes.set_xticks(range(len(tokens)), names, rotation=90, fontsize=8)
    axes.set(xlabel="token", ylabel="share kept, mean", ylim=(0, 1))
    axes.set_title("What a trained RWKV-6 keeps at each token")
    axes.margins(x=0.01)
    order = kept.argsort().tolist()
    least, most = ([names[index] for index in part] for part in (order[:4], order[-4:]))
    figure.set_label(
        f"Bars over {len(tokens)} tokens of a text, from {float(kept.min()):.2f} to {float(kept.max()):.2f}: least is "
        f"kept at {', '.join(least)}, most at {', '.join(most)}. Blue are the ends of sentences, which are low."
    )
    return figure
