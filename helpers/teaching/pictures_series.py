"""The map of the series: which notebooks there are, and which one to read before which."""

from matplotlib.figure import Figure

from .drawing import INPUT, MEMORY, OUTPUT, UNUSED, WORK, arrow, box, canvas, label

HALF_WIDTH, HALF_HEIGHT = 0.72, 0.29  # of a box

# number -> (x, y, color, what it is about)
SERIES = {
    "00": (0.8, 3.65, UNUSED, "Start here"),
    "01": (2.4, 3.65, INPUT, "Vocabulary"),
    "02": (4.0, 3.65, INPUT, "Tokenizers"),
    "03": (0.8, 2.65, MEMORY, "Build RWKV-5"),
    "04": (2.4, 2.65, MEMORY, "Find the difference"),
    "05": (4.0, 2.65, MEMORY, "RWKV-4 to 5.2"),
    "06": (5.6, 2.65, MEMORY, "RWKV-6"),
    "07": (7.2, 2.65, MEMORY, "RWKV-7"),
    "08": (2.4, 1.55, WORK, "Convert"),
    "09": (4.0, 1.55, WORK, "Check on LAMBADA"),
    "13": (5.6, 1.55, WORK, "Appendix to 08"),
    "10": (2.4, 0.45, OUTPUT, "Generate and serve"),
    "11": (4.0, 0.45, OUTPUT, "Train"),
    "12": (0.8, 0.45, OUTPUT, "Measure, speed up"),
}
BEFORE = (
    ("00", "01"),
    ("01", "02"),
    ("02", "03"),
    ("03", "04"),
    ("04", "05"),
    ("05", "06"),
    ("06", "07"),
    ("03", "08"),
    ("08", "09"),
    ("08", "13"),
    ("08", "10"),
    ("09", "11"),
    ("03", "12"),
)
LANES = ((INPUT, "text and tokens"), (MEMORY, "the model"), (WORK, "the conversion"), (OUTPUT, "what to do with it"))


def series_figure() -> Figure:
    """Draw the notebooks as boxes; an arrow leads from a notebook to one that builds on it."""
    figure, axes = canvas(4.35, "The series: an arrow leads to what builds on it")
    for number, (x, y, color, text) in SERIES.items():
        box(axes, x, y, f"{number}\n{text}", color, width=2 * HALF_WIDTH, height=2 * HALF_HEIGHT)
    for first, then in BEFORE:
        (x, y, *_), (to_x, to_y, *_) = SERIES[first], SERIES[then]
        if (first, then) == ("08", "13"):  # over notebook 09
            arrow(axes, (x + 0.5, y + HALF_HEIGHT), (to_x - 0.5, to_y + HALF_HEIGHT), bend=0.12)
        elif y == to_y:
            arrow(axes, (x + HALF_WIDTH, y), (to_x - HALF_WIDTH, to_y))
        else:
            arrow(axes, (x, y - HALF_HEIGHT), (to_x, to_y + HALF_HEIGHT))
    for row, (color, text) in enumerate(LANES):
        x, y = 5.2, 0.85 - 0.22 * row
        axes.plot([x], [y], "s", color=color, markersize=8)
        label(axes, x + 0.2, y, text, ha="left")
    figure.set_label(
        "Map of the series. 00 leads to 01 vocabulary, 02 tokenizers and 03 build RWKV-5. From 03 one way goes on to "
        "04 find the difference, 05 RWKV-4 to 5.2, 06 RWKV-6 and 07 RWKV-7; another to 08 convert, which leads to 09 "
        "check on LAMBADA, 10 generate and serve, and 13, its appendix; 09 leads to 11 train. A third way goes from "
        "03 to 12 measure and speed up."
    )
    return figure


def series_lines() -> list[str]:
    """Return what the map says, a line per notebook and a line per arrow."""
    boxes = [f"{number} {text} at {x}, {y}" for number, (x, y, _, text) in SERIES.items()]
    return [*boxes, *(f"{first} before {then}" for first, then in BEFORE)]
