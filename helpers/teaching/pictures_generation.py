"""Pictures of generation: prefill and decode, padding and its mask, a state beside a cache of keys and values."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .drawing import INPUT, MEMORY, OUTPUT, UNUSED, WORK, arrow, box, canvas, cells, label
from .plotting import INK


def writing_figure() -> Figure:
    """Draw how a text is written: the prompt is read at once, then each new token is read with the state."""
    figure, axes = canvas(2.9, "Prefill reads the prompt at once, decode reads one token per step")
    cells(axes, 0.2, 0.3, ["The", " sea", " was"], INPUT, width=0.6)
    steps = ((1.1, " calm", "prefill"), (3.6, ".", "decode"), (6.1, " It", "decode"))
    for number, (x, token, name) in enumerate(steps):
        box(axes, x, 1.35, f"model: {name}", WORK)
        arrow(axes, (x, 0.72), (x, 1.1))
        arrow(axes, (x, 1.6), (x, 1.98))
        cells(axes, x - 0.35, 2.0, [token], OUTPUT, width=0.7)
        box(axes, x + 1.25, 1.35, "state", MEMORY, width=0.8)
        arrow(axes, (x + 0.7, 1.35), (x + 0.85, 1.35))
        if number < 2:
            arrow(axes, (x + 1.65, 1.35), (x + 1.8, 1.35))
            cells(axes, x + 2.15, 0.3, [token], INPUT, width=0.7)
            axes.plot([x + 0.35, x + 1.72, x + 1.72, x + 2.15], [2.2, 2.2, 0.5, 0.5], ":", color=INK, linewidth=1.2)
    figure.set_label(
        "The model reads three tokens of a prompt at once, the prefill, and gives a token and a state. In "
        "each step of decode it reads the token it gave, with the state from before, and gives the next one "
        "and a new state."
    )
    return figure


def padding_figure() -> Figure:
    """Draw two prompts of unequal length as a batch: padded left and right, with their masks."""
    figure, axes = canvas(3.5, "Two prompts in one batch: padding and mask")
    short, long = ["Good", " evening"], ["He", " opened", " the", " door"]
    for left, title, rows in (
        (0.2, "padded on the left", (["0", "0", *short], long)),
        (4.2, "padded on the right", ([*short, "0", "0"], long)),
    ):
        label(axes, left + 1.6, 3.2, title, size=10)
        for y, row in zip((2.45, 1.95), rows, strict=True):
            cells(axes, left, y, row, [UNUSED if text == "0" else INPUT for text in row], width=0.8)
        label(axes, left + 1.6, 1.66, "attention_mask")
        for y, row in zip((1.1, 0.7), rows, strict=True):
            marks = ["0" if text == "0" else "1" for text in row]
            cells(axes, left, y, marks, [UNUSED if mark == "0" else MEMORY for mark in marks], width=0.8)
        _last_column(axes, left)
    label(axes, 1.8, 0.22, "last column: the last token of each prompt")
    label(axes, 5.8, 0.22, "last column: padding in the first row")
    figure.set_label(
        "The prompts 'Good evening' and 'He opened the door' as rows of four tokens. Padded on the left, the "
        "two zeros come first, and the last column holds the last token of each prompt. Padded on the right, "
        "the zeros come last, and the last column of the short row is padding. The mask is 0 at the zeros and"
        " 1 elsewhere."
    )
    return figure


def _last_column(axes: Axes, left: float) -> None:
    """Mark the column after which ``generate`` chooses the next tokens."""
    x = [left + 2.38, left + 3.22, left + 3.22, left + 2.38, left + 2.38]
    axes.plot(x, [1.89, 1.89, 2.91, 2.91, 1.89], color=OUTPUT, linewidth=2.2, zorder=5)


def memory_figure() -> Figure:
    """Draw what is kept after 1, 2, 3 and 4 tokens: a growing cache of keys and values, and a state."""
    figure, axes = canvas(3.4, "What is kept of the past")
    label(axes, 0.85, 2.1, "Transformer:\nkeys and values")
    label(axes, 0.85, 0.85, "RWKV: state")
    for number in range(1, 5):
        x = 0.4 + 1.7 * number
        label(axes, x, 0.3, f"after {number} token{'s' if number > 1 else ''}")
        box(axes, x, 0.85, "S", MEMORY, width=0.9)
        for row in range(number):
            cells(axes, x - 0.6, 1.4 + 0.38 * row, [f"k{row + 1}", f"v{row + 1}"], MEMORY, width=0.6, height=0.34)
        if number < 4:
            arrow(axes, (x + 0.45, 0.85), (x + 1.25, 0.85))
    figure.set_label(
        "After 1, 2, 3 and 4 tokens a Transformer keeps 1, 2, 3 and 4 pairs of keys and values. RWKV keeps "
        "one state, of the same size each time."
    )
    return figure
