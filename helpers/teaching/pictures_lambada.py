"""LAMBADA as pictures: from a passage to its number, and many passages in one padded batch."""

from matplotlib.figure import Figure

from .drawing import INPUT, OUTPUT, UNUSED, WORK, arrow, box, canvas, cells, label

CONTEXT, TARGET = ("…", "speak", ',"', "said", "uncle"), ("Th", "add", "eus")
PROBABILITIES = ("0.935", "1.000", "1.000")


def score_figure() -> Figure:
    """Draw how one passage becomes one number: context and target, the shift by one, and the sum."""
    figure, axes = canvas(3.4, "From a passage to one number", width=8.6)
    label(axes, 0.62, 2.75, "tokens")
    context = cells(axes, 1.2, 2.55, CONTEXT, INPUT, width=0.85)
    target = cells(axes, 1.2 + 0.85 * len(CONTEXT), 2.55, TARGET, OUTPUT, width=0.85)
    label(axes, 3.3, 3.12, "context: all but the last word", size=8)
    label(axes, 6.73, 3.12, "target: space + last word", size=8)
    box(axes, 4.25, 1.95, "model: one forward pass", WORK, width=6.1, height=0.4)
    label(axes, 0.62, 1.2, "prediction\nof the next")
    readers = [context[-1], *target[:-1]]
    for (x, _), (into, _), text in zip(readers, target, PROBABILITIES, strict=True):
        arrow(axes, (x, 2.53), (x, 2.17))
        arrow(axes, (x, 1.74), (x, 1.42))
        cells(axes, x - 0.42, 1.02, [text], OUTPUT, width=0.84)
        arrow(axes, (x + 0.1, 1.44), (into, 2.53), color="#888888", bend=-0.1)
    label(axes, 2.6, 1.2, "not needed", color="#555555")
    label(axes, 5.6, 0.45, "log 0.935 + log 1.000 + log 1.000 = -0.068;  correct: each is the most probable")
    figure.set_label(
        "A row of tokens: the context, then the three tokens of the target. One forward pass; the predictions"
        " at the last token of the context and at the target's first two are those of the target's tokens; "
        "their log-probabilities are added up."
    )
    return figure


def batch_figure() -> Figure:
    """Draw the same three passages padded on the right and on the left, and the mask that the left one needs."""
    figure, axes = canvas(2.9, "Three passages in one batch", width=8.6)
    lengths, width = (7, 5, 4), 0.42
    for x, side, note in (
        (0.3, "right", "right: the padding comes later,\na causal model never sees it"),
        (4.6, "left", "left: all end together, to go on writing;\nthe mask hides what comes first"),
    ):
        for row, length in enumerate(lengths):
            gap = 7 - length
            texts, colors = ["t"] * (length - 1) + ["?"], [INPUT] * (length - 1) + [OUTPUT]
            pads, grey = ["0"] * gap, [UNUSED] * gap
            texts, colors = (texts + pads, colors + grey) if side == "right" else (pads + texts, grey + colors)
            cells(axes, x, 2.0 - 0.45 * row, texts, colors, width=width, height=0.38)
            if side == "left":
                mask = " ".join("0" * gap + "1" * length)
                label(axes, x + 7 * width + 0.5, 2.19 - 0.45 * row, mask, size=8, family="monospace")
        label(axes, x + 1.5, 0.62, note, size=8.5)
    label(axes, 8.05, 2.6, "mask", size=8)
    label(axes, 4.3, 0.15, "t: context   ?: the place whose prediction counts   0: padding", size=8)
    figure.set_label(
        "The same three rows twice. Padded on the right, the zeros come after the tokens and no mask is "
        "needed. Padded on the left, all rows end together, and a mask of zeros and ones hides the padding."
    )
    return figure
