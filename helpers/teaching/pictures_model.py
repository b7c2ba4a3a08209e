"""Pictures of how RWKV-5 works: its memory, token shift, the mask, chunks, time-mix and the block."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .drawing import INPUT, MEMORY, OUTPUT, UNUSED, WORK, arrow, box, canvas, cells, label, paler
from .plotting import GREY, PURPLE

LOST = "#6B6B6B"  # of words about what is left out: dark enough to read


def film_strip(tokens: Sequence[str] = ("Sarah", "took", "the", "letter")) -> Figure:
    """Draw the state as a film strip: a frame per token, each a matrix that fades and gets a new row."""
    figure, axes = canvas(3.5, "One frame per token: the state has the same size in each")
    gap, size = 1.68, 0.92
    matrix = np.zeros((4, 4))
    values = np.array([[0.9, 0.3, 0.6, 0.2], [0.2, 0.8, 0.4, 1.0], [0.7, 0.6, 0.1, 0.5], [0.4, 1.0, 0.9, 0.3]])
    middles = [0.62 + gap * number for number in range(len(tokens) + 1)]
    for left in np.arange(0.1, 7.9, 0.22):  # the holes of the film
        for y in (1.12, 2.36):
            axes.add_patch(Rectangle((left, y), 0.1, 0.09, facecolor=paler(PURPLE, 0.5), edgecolor="none"))
    for number, x in enumerate(middles):
        heat(axes, x - size / 2, 1.32, matrix, size)
        label(axes, x, 2.62, f"$S_{number}$")
        if number < len(tokens):
            matrix = 0.6 * matrix
            matrix[number] += values[number]
    for number, token in enumerate(tokens):
        x = middles[number] + gap / 2
        box(axes, x, 0.42, token, INPUT, width=0.95, height=0.42)
        arrow(axes, (middles[number] + size / 2 + 0.06, 1.78), (middles[number + 1] - size / 2 - 0.06, 1.78))
        arrow(axes, (x, 0.66), (x, 1.66))
        arrow(axes, (x, 1.9), (x, 2.92))
        box(axes, x, 3.14, f"$y_{number}$", OUTPUT, width=0.7, height=0.38)
    figure.set_label(
        "A film strip of five frames S0 to S4, each a matrix of 4 by 4. Between two frames a token comes in "
        "from below: Sarah, took, the, letter; and an output y leaves above. Here each key has a single 1, so "
        "each token adds a row, and the rows written before grow paler."
    )
    return figure


def heat(axes: Axes, x: float, y: float, matrix: np.ndarray, size: float) -> None:
    """Draw a small matrix as purple squares, darker where a number is larger; (x, y) is its lower left corner."""
    step = size / len(matrix)
    for row, numbers in enumerate(matrix):
        for column, number in enumerate(numbers):
            corner = (x + column * step, y + size - (row + 1) * step)
            color = paler(PURPLE, 0.1 + 0.9 * min(float(number), 1.0))
            axes.add_patch(Rectangle(corner, step, step, facecolor=color, edgecolor="white", linewidth=0.8, zorder=2))
    axes.add_patch(Rectangle((x, y), size, size, fill=False, edgecolor=PURPLE, linewidth=1.4, zorder=3))


def memory_picture() -> Figure:
    """Draw how a pair is written into a matrix as an outer product, and how a vector reads it."""
    figure, axes = canvas(3.0, "Write a value under a key, and read it")
    step = 0.42
    for row, number in enumerate("0100"):
        cells(axes, 0.75, 1.68 - row * step, [number], INPUT, step, step)
    label(axes, 0.96, 2.35, "key $k^T$")
    label(axes, 1.45, 1.25, "×")
    cells(axes, 1.7, 1.04, list("5678"), INPUT, step, step)
    label(axes, 2.54, 1.7, "value $v$")
    arrow(axes, (3.55, 1.25), (4.1, 1.25), "add")
    rows = ["1234", "5678", "0000", "0000"]
    for row, numbers in enumerate(rows):
        cells(axes, 4.25, 1.68 - row * step, list(numbers), MEMORY, step, step)
    label(axes, 5.09, 2.35, "memory $S$")
    cells(axes, 6.1, 1.68, list("0100"), WORK, step, step)
    label(axes, 6.94, 2.35, "read with $r$")
    arrow(axes, (6.94, 1.62), (6.94, 0.9))
    arrow(axes, (5.95, 1.26), (6.9, 1.26))
    cells(axes, 6.1, 0.46, list("5678"), OUTPUT, step, step)
    label(axes, 6.94, 0.22, "$y = r\\,S$")
    label(axes, 1.5, 0.6, "(the pair 1000, 1234\nwas written before)", size=8, ha="left")
    figure.set_label(
        "A key, the column 0 1 0 0, times a value, the row 5 6 7 8, is added to a memory of 4 by 4 numbers, "
        "whose second row becomes 5 6 7 8; the first row, 1 2 3 4, was there before. Reading with 0 1 0 0 "
        "gives 5 6 7 8 back."
    )
    return figure


def shift_picture(tokens: Sequence[str] = ("The", "old", "man", "looked")) -> Figure:
    """Draw token shift: each token is mixed with the one before it; the state brings and takes the one at the edge."""
    figure, axes = canvas(2.7, "Token shift: each token and the one before it")
    gap, low, high = 1.5, 0.55, 1.95
    places = [0.85 + gap * number for number in range(len(tokens) + 1)]
    box(axes, places[0], low, "before", MEMORY, width=1.0)
    for number, token in enumerate(tokens):
        x = places[number + 1]
        box(axes, x, low, token, INPUT, width=1.0)
        box(axes, x, high, "mixed", WORK, width=1.0)
        arrow(axes, (x, low + 0.26), (x, high - 0.26))
        arrow(axes, (places[number] + 0.25, low + 0.26), (x - 0.3, high - 0.26), color=GREY)
        label(axes, x + 0.15, 1.25, "μ")
        label(axes, x - 0.92, 1.38, "1 − μ", color=LOST)
    end = places[-1] + 0.5
    arrow(axes, (end, low), (end + 0.4, low), color=PURPLE)
    label(axes, end + 0.22, low - 0.36, "to the state", size=8)
    label(axes, places[0], low - 0.38, "from the state", size=8)
    figure.set_label(
        "A row of tokens: The, old, man, looked. Each goes up into a mixed token with weight mu, and into the"
        " mixed token on its right with weight 1 minus mu. The first takes the token before it from the "
        "state, and the last goes to the state."
    )
    return figure


def mask_picture(size: int = 6) -> Figure:
    """Draw the mask M with symbols: row i is the token that reads, column j the one that is read."""
    figure, axes = canvas(3.5, "The mask M: how much of token j reaches token i")
    step, left, top = 0.46, 1.25, 2.97
    for j in range(size):
        label(axes, left + (j + 0.5) * step, top + 0.16, f"j={j}", size=8)
    for i in range(size):
        label(axes, left - 0.3, top - (i + 0.5) * step, f"i={i}", size=8)
        row = [mask_entry(i, j) for j in range(size)]
        colors = [WORK if j == i else MEMORY if j < i else UNUSED for j in range(size)]
        cells(axes, left, top - (i + 1) * step, row, colors, step, step)
    notes = [
        (2.35, WORK, "the token itself: the bonus u"),
        (1.6, MEMORY, "the past: written i − j − 1 decays ago"),
        (0.85, UNUSED, "the future: nobody hears it"),
    ]
    for y, color, text in notes:
        cells(axes, 4.5, y - 0.13, [""], color, 0.3, 0.26)
        label(axes, 4.95, y, text, ha="left")
    figure.set_label(
        "The mask M for six tokens. On the diagonal u, the bonus. Below it 1, then w, w squared and so on, "
        "the same value along each diagonal. Above the diagonal nothing: the future."
    )
    return figure


def mask_entry(i: int, j: int) -> str:
    """Return the entry of M for token i, which reads, and token j, which is read, as a symbol."""
    if j > i:
        return ""
    if j == i:
        return "u"
    power = i - j - 1
    return "1" if power == 0 else "w" if power == 1 else f"$w^{power}$"


def chunks_picture(chunks: int = 3, size: int = 4) -> Figure:
    """Draw a text in chunks: matrix products in each, and the state handed from one to the next."""
    figure, axes = canvas(2.9, "The text in chunks: only S goes from one to the next")
    gap, step = 2.32, 0.4
    starts = [1.05 + gap * number for number in range(chunks)]
    label(axes, 0.38, 1.45, "$S_0$")
    arrow(axes, (0.55, 1.45), (starts[0] - 0.02, 1.45), color=PURPLE)
    for number, x in enumerate(starts):
        width = size * step
        tokens = [str(number * size + place) for place in range(size)]
        cells(axes, x, 0.25, tokens, INPUT, step, 0.36)
        box(axes, x + width / 2, 1.45, "$((r k^T) * M)\\,v$\n$+\\; w^i\\, r S$", WORK, width=width, height=0.8)
        cells(axes, x, 2.3, [f"$y_{{{token}}}$" for token in tokens], OUTPUT, step, 0.36)
        arrow(axes, (x + width / 2, 0.64), (x + width / 2, 1.02))
        arrow(axes, (x + width / 2, 1.88), (x + width / 2, 2.27))
        last = number == chunks - 1
        arrow(axes, (x + width + 0.02, 1.45), (x + (width + 0.45 if last else gap - 0.02), 1.45), color=PURPLE)
        label(axes, x + width + (0.7 if last else 0.36), 1.45 if last else 1.66, f"$S_{{{(number + 1) * size}}}$")
    figure.set_label(
        "Twelve tokens in three chunks of four. Each chunk goes through matrix products to its four outputs. "
        "The state goes from chunk to chunk: S0 into the first, S4 into the second, S8 into the third, S12 "
        "out of it."
    )
    return figure


def time_mix_picture() -> Figure:
    """Draw the inside of time-mix: two tokens are mixed three times, S is read and written, a norm, an output."""
    figure, axes = canvas(3.9, "Inside time-mix: one token, one head")
    box(axes, 0.75, 2.5, "token $x_t$", INPUT, width=1.1)
    box(axes, 0.75, 1.1, "before $x_{t-1}$", MEMORY, width=1.1)
    for y, name in ((2.8, "r"), (1.8, "k"), (0.8, "v")):
        box(axes, 2.35, y, f"mix, then $W_{name}$", WORK, width=1.2)
        arrow(axes, (1.31, 2.5), (1.73, y + 0.08))
        arrow(axes, (1.31, 1.1), (1.73, y - 0.08), color=GREY)
        arrow(axes, (2.97, y), (3.52, y), name)
    box(axes, 4.25, 1.8, "read\n$r\\,(S + u\\,k^T v)$\n\nwrite\n$w\\,S + k^T v$", MEMORY, width=1.45, height=2.4)
    arrow(axes, (4.25, 3.5), (4.25, 3.02), color=PURPLE)
    label(axes, 3.55, 3.33, "S from the state", size=8)
    arrow(axes, (4.25, 0.58), (4.25, 0.12), color=PURPLE)
    label(axes, 3.62, 0.24, "S to the state", size=8)
    arrow(axes, (4.99, 1.8), (5.3, 1.8), "y")
    box(axes, 5.72, 1.8, "ln_x", WORK, width=0.8)
    arrow(axes, (6.13, 1.8), (6.43, 1.8))
    box(axes, 6.86, 1.8, "$W_o$", WORK, width=0.8)
    arrow(axes, (7.27, 1.8), (7.75, 1.8), color="#00664A")
    label(axes, 7.5, 2.22, "added to x", size=8)
    box(axes, 6.28, 2.95, "× gate", UNUSED, width=1.0)
    label(axes, 6.28, 3.35, "from RWKV-5.1 on", LOST, size=8)
    arrow(axes, (6.28, 2.68), (6.28, 1.88), color=GREY)
    label(axes, 6.28, 1.3, "all heads side by side", size=8)
    figure.set_label(
        "Time-mix from left to right. The token and the token before are mixed three times and multiplied "
        "with W_r, W_k, W_v. r, k, v go to S, which is read and written, and which comes from the state and "
        "goes to the state. y goes through ln_x and W_o and is added to x. A gate, grey, comes between ln_x "
        "and W_o from RWKV-5.1 on."
    )
    return figure


def block_picture(layers: str = "L") -> Figure:
    """Draw the whole model with one block, and where the state is tapped: two tokens and S."""
    figure, axes = canvas(3.7, "From ids to logits, and what the state keeps")
    axes.set_xlim(0, 8.9)
    y, pluses = 1.95, (4.02, 6.5)
    axes.add_patch(Rectangle((1.82, 0.15), 5.0, 2.95, fill=False, edgecolor=GREY, linestyle="--", linewidth=1.2))
    label(axes, 4.3, 3.26, f"block, {layers} times (ln0 only before the first)", LOST)
    box(axes, 0.45, y, "emb", WORK, width=0.66)
    box(axes, 1.32, y, "ln0", WORK, width=0.6)
    box(axes, 2.35, y, "ln1", WORK, width=0.6)
    box(axes, 3.25, y, "time-mix", WORK, width=0.96)
    box(axes, 4.68, y, "ln2", WORK, width=0.6)
    box(axes, 5.63, y, "channel-mix", WORK, width=1.1)
    box(axes, 7.42, y, "ln_out", WORK, width=0.7)
    box(axes, 8.28, y, "head", WORK, width=0.62)
    for x in pluses:
        box(axes, x, y, "+", OUTPUT, width=0.34, height=0.34)
    steps = [(0.79, 1.01), (1.63, 2.04), (2.66, 2.76), (3.74, 3.84), (4.2, 4.37), (4.99, 5.07), (6.19, 6.32)]
    for start, end in [*steps, (6.68, 7.05), (7.78, 7.95), (8.6, 8.85)]:
        arrow(axes, (start, y), (end, y))
    for start, end in ((1.92, pluses[0]), (4.28, pluses[1])):  # what goes past the two layers
        axes.plot([start, start, end], [y, 2.75, 2.75], color="#22272E", linewidth=1.2)
        arrow(axes, (end, 2.75), (end, y + 0.18))
    taps = [(2.7, "token\nbefore [D]", 3.02), (3.75, "S\n[H, N, N]", 3.48), (5.63, "token\nbefore [D]", 5.63)]
    for x, text, at in taps:
        box(axes, x, 0.68, text, MEMORY, width=0.98, height=0.62)
        arrow(axes, (x, 1.01), (at, y - 0.27), color=PURPLE)
        arrow(axes, (at, y - 0.27), (x, 1.01), color=PURPLE)
    label(axes, 0.9, 0.68, "state of the block,\ncarried to the\nnext token:", size=8)
    figure.set_label(
        "The model from left to right: emb, ln0, then a block L times, then ln_out and head. In a block, ln1 "
        "and time-mix, then ln2 and channel-mix; what came in is added behind each. The state is tapped at "
        "three places: the token before and S at time-mix, the token before at channel-mix."
    )
    return figure
