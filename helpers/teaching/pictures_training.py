"""Pictures of training: from a text to windows, to kinds of tokens, to the weights of the loss."""

from matplotlib.figure import Figure

from .drawing import INPUT, MEMORY, OUTPUT, UNUSED, WORK, arrow, box, canvas, cells, label

TOKENS = (" Ann", " met", " Tom", ".", " Tom", " saw", " Ann", "'s", " dog")
RENAMED = (" Nora", " met", " Bo", ".", " Bo", " saw", " Nora", "'s", " dog")
WEIGHTS = ("0.1", "1", "0.1", "1", "3", "1", "3", "1", "1")  # the loss predicts each token but the first of a window


def windows_figure() -> Figure:
    """Draw the way of a piece of text into the loss: cut, renamed, given kinds, weighted."""
    figure, axes = canvas(4.6, "From text to loss")
    colors = {"1": WORK, "0.1": UNUSED, "3": INPUT}
    left, width = 1.9, 0.66
    label(axes, 0.9, 4.0, "a novel")
    for number in range(6):
        cells(axes, left + 0.99 * number, 3.8, [""], MEMORY if number == 2 else UNUSED, width=0.99)
    label(axes, left + 2.5 * 0.99, 4.0, "window")
    for x, end in ((left + 1.98, left), (left + 2.97, left + 9 * width)):
        axes.plot([x, end], [3.8, 3.3], ":", color=MEMORY, linewidth=1.4)
    rows = ((2.9, "a window of\nT + 1 tokens", TOKENS), (2.0, "other names\nin every epoch", RENAMED))
    for y, name, texts in rows:
        label(axes, 0.9, y + 0.2, name)
        cells(axes, left, y, texts, MEMORY, width=width)
    label(axes, 0.9, 1.3, "kind of token,\nweight in the loss")
    cells(axes, left, 1.1, WEIGHTS, [colors[weight] for weight in WEIGHTS], width=width)
    for y in (2.9, 2.0):
        arrow(axes, (left + 4.5 * width, y), (left + 4.5 * width, y - 0.47))
    arrow(axes, (left + 4.5 * width, 1.1), (left + 4.5 * width, 0.72))
    box(axes, left + 4.5 * width, 0.45, "loss = sum(weight x cross-entropy) / sum(weight)", OUTPUT, width=4.4)
    for x, weight, name in ((0.4, "0.1", "put in"), (0.4, "3", "repeated")):
        y = 0.62 if weight == "3" else 0.15
        cells(axes, x - 0.25, y, [weight], colors[weight], width=0.45, height=0.34)
        label(axes, x + 0.75, y + 0.17, name, size=8)
    figure.set_label(
        "A piece of a novel becomes a window of tokens: Ann met Tom. Tom saw Ann's dog. Then names are "
        "replaced: Nora met Bo. Bo saw Nora's dog. Each token gets a weight: 0.1 where a put-in name first "
        "occurs, 3 where Bo and Nora come again, 1 otherwise. The loss is the weighted mean of the cross-"
        "entropies."
    )
    return figure
