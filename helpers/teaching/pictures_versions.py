"""How the versions of RWKV differ: their time-mix side by side, what they remember, and the halves of 5.2."""

from itertools import pairwise

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .drawing import INPUT, MEMORY, OUTPUT, UNUSED, WORK, arrow, box, canvas, cells, label, paler

FAMILY = (  # version; mixing, memory, norm, gate: the text of the box, and whether it is new
    ("4", ("ratios", False), ("two sums\nper channel", False), ("sums are divided", False), ("sigmoid(r)", False)),
    ("5.0", ("ratios", False), ("matrix per head,\nread by r", True), ("norm per head", True), ("all", True)),
    ("5.1", ("ratios", False), ("matrix per head,\nread by r", False), ("norm per head", False), ("gate", True)),
    ("5.2", ("ratios", False), ("w, u\nper channel", True), ("norm per head", False), ("gate", False)),
    ("6", ("the text\nsets them", True), ("the text\nsets w", True), ("norm per head", False), ("gate", False)),
    ("7", ("ratios again", True), ("erases,\nthen writes", True), ("norm per head", False), ("gate", False)),
)
LEVELS = (INPUT, WORK, MEMORY)  # of blocks of 8, 4 and 2 tokens


def family_figure() -> Figure:
    """Draw time-mix of six versions, one row per version; what a version changes is blue."""
    figure, axes = canvas(4.9, "Time-mix through the versions: what each one changes is blue")
    columns = (1.7, 3.4, 5.2, 6.95)
    for x, text in zip(columns, ("mixing of r, k, v", "memory", "after the memory", "what passes"), strict=True):
        label(axes, x, 4.5, text, weight="bold")
    for row, (version, *parts) in enumerate(FAMILY):
        y = 4.0 - 0.7 * row
        label(axes, 0.4, y, f"RWKV-{version}", weight="bold")
        for x, (text, new) in zip(columns, parts, strict=True):
            box(axes, x, y, text, WORK if new else UNUSED, width=1.35)
        for left, right in pairwise(columns):
            arrow(axes, (left + 0.68, y), (right - 0.68, y))
    figure.set_label(
        "One row per version. RWKV-4: ratios, two sums per channel, divided, sigmoid of r. 5.0: a matrix per "
        "head that r reads, a norm per head, no gate. 5.1 adds a gate. 5.2 has w and u per channel. In 6 the "
        "text sets ratios and w. 7 has plain ratios again, and erases before it writes."
    )
    return figure


def memory_figure() -> Figure:
    """Draw what RWKV-4 and RWKV-5 remember of four channels: two sums for each, and a matrix for all."""
    figure, axes = canvas(2.7, "What four channels remember")
    label(axes, 2.0, 2.42, "RWKV-4: two sums per channel, 8 numbers", weight="bold")
    for name, y in (("sum of e$^k$v", 1.55), ("sum of e$^k$", 1.0)):
        label(axes, 0.7, y + 0.2, name)
        cells(axes, 1.35, y, [""] * 4, MEMORY)
    label(axes, 2.0, 0.45, "the answer is one divided by the other:\nan average of the values so far")
    label(axes, 6.1, 2.42, "RWKV-5: a matrix per head, 16 numbers", weight="bold")
    for row in range(4):
        cells(axes, 5.1, 1.75 - 0.3 * row, [""] * 4, MEMORY, height=0.3)
    label(axes, 4.55, 1.45, "channels\nof k")
    label(axes, 6.1, 2.16, "channels of v", size=8)
    label(axes, 6.1, 0.45, "the answer is r S: which values come back\ndepends on what r asks for")
    figure.set_label(
        "Left, RWKV-4: two rows of four numbers, the sums of e to the k times v and of e to the k; the answer"
        " is one divided by the other. Right, RWKV-5: a matrix of four by four, rows for channels of k, "
        "columns for channels of v; the answer is r S."
    )
    return figure


def level_of(i: int, j: int) -> int:
    """Return the size of the half in which token j is read by token i of the other half; 0 for the token itself."""
    return next((half for half in (4, 2, 1) if i // half == j // half + 1 and i // half % 2), 0)


def halves_figure() -> Figure:
    """Draw the scores of eight tokens in blocks by level, and how a decay is split at the border of two halves."""
    figure, axes = canvas(3.9, "Halves of halves: eight tokens take three levels of products")
    size, left, top = 0.36, 0.75, 3.2
    for i in range(8):
        for j in range(i + 1):
            level = level_of(i, j)
            color = {4: LEVELS[0], 2: LEVELS[1], 1: LEVELS[2], 0: OUTPUT}[level]
            corner = (left + j * size, top - (i + 1) * size)
            axes.add_patch(Rectangle(corner, size, size, facecolor=paler(color, 0.4), edgecolor="white"))
            label(axes, corner[0] + size / 2, corner[1] + size / 2, "u" if level == 0 else str(level), size=8)
        label(axes, left - 0.15, top - (i + 0.5) * size, str(i), size=8)
        label(axes, left + (i + 0.5) * size, top + 0.14, str(i), size=8)
    label(axes, left + 4 * size, 3.5, "j, which is read", size=8)
    label(axes, 0.3, top - 4 * size, "i, which reads", rotation=90, size=8)
    texts = (
        "4 x 4 across the middle",
        "2 x 2 across the middle of each half",
        "1 x 1 across the middle of each quarter",
        "the token itself, bonus u",
    )
    for row, (text, color) in enumerate(zip(texts, (*LEVELS, OUTPUT), strict=True)):
        axes.add_patch(Rectangle((4.2, 3.1 - 0.3 * row), 0.2, 0.2, facecolor=paler(color, 0.4), edgecolor=color))
        label(axes, 4.5, 3.2 - 0.3 * row, text, ha="left")
    tokens = cells(axes, 4.2, 0.95, [str(t) for t in range(8)], [UNUSED] * 4 + [WORK] * 4, width=0.45)
    axes.plot([6.0, 6.0], [0.55, 1.65], color="#22272E", linestyle="--")
    label(axes, 6.0, 1.78, "border", size=8)
    arrow(axes, (tokens[1][0], 0.85), (6.0, 0.85), color=INPUT)
    arrow(axes, (6.0, 0.85), (tokens[6][0], 0.85), color=INPUT)
    label(axes, 5.4, 0.68, "q = 2 between", size=8)
    label(axes, 6.6, 0.68, "p = 2 between", size=8)
    label(axes, 6.0, 0.3, "token 6 reads token 1:  w$^{6-1-1}$ = w$^2$ · w$^2$, no exponent is negative")
    figure.set_label(
        "Left, the scores of eight tokens: one block of 4 x 4, two of 2 x 2, four of 1 x 1, and the bonus u "
        "on the diagonal. Right, a border between tokens 3 and 4: token 6 reads token 1 across it, two tokens"
        " on either side lie between, and w to the 4 is w squared times w squared."
    )
    return figure
