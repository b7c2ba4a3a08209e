"""Where two models can be compared: a block with its three taps of the state, and what lies between them."""

from matplotlib.figure import Figure

from .drawing import INPUT, MEMORY, OUTPUT, UNUSED, WORK, arrow, box, canvas, label

TAPS = ("1: input of\ntime-mix", "2: S", "3: input of\nchannel-mix")
BETWEEN = (
    "the block before:\nits channel-mix;\nln1 of this one",
    "key, value,\ndecay, their\nmixing ratios",
    "receptance, bonus,\ngate, ln_x, output;\nor ln2",
)


def taps_figure() -> Figure:
    """Draw one block, the three places at which its state is taken, and which tensors lie in front of each."""
    figure, axes = canvas(3.5, "One block, and the three places where its state shows what happened")
    stream = 2.75
    middles = {"ln1": 1.25, "time-mix": 2.85, "+": 4.15, "ln2": 4.95, "channel-mix": 6.25, "+ ": 7.4}
    label(axes, 0.38, stream + 0.32, "from the\nblock before", size=8)
    for text, x in middles.items():
        if text.strip() == "+":
            box(axes, x, stream, "+", UNUSED, width=0.36, height=0.36)
        elif text.startswith("ln"):
            box(axes, x, stream, text, UNUSED, width=0.6)
        else:
            box(axes, x, stream, text, WORK, width=1.3)
    edges = [(0.1, 0.95), (1.55, 2.2), (3.5, 3.97), (4.33, 4.65), (5.25, 5.6), (6.9, 7.22), (7.58, 7.95)]
    for start, end in edges:
        arrow(axes, (start, stream), (end, stream))
    for start, end in ((0.8, 4.15), (4.5, 7.4)):  # the stream that runs around each branch
        axes.plot([start, start, end], [stream, 3.25, 3.25], color="#22272E", linewidth=1.1)
        arrow(axes, (end, 3.25), (end, stream + 0.18))
    taps = (1.85, 2.85, 5.42)
    for x, text in zip(taps, TAPS, strict=True):
        top = stream - 0.25 if text == TAPS[1] else stream
        arrow(axes, (x, top), (x, 1.93), color=MEMORY)
        box(axes, x, 1.68, text, MEMORY, width=1.2 if text == TAPS[2] else 0.95)
    colors = (INPUT, WORK, OUTPUT)
    middle = (1.15, 3.4, 5.65)
    for number, (x, text, color) in enumerate(zip(middle, BETWEEN, colors, strict=True), start=1):
        box(axes, x, 0.45, text, color, width=1.85, height=0.76)
        label(axes, x, 1.0, f"{number} is the first to differ: look here", size=8)
    return figure
