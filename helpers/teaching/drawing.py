"""Pictures of how things work: boxes, arrows, rows of cells. One unit is one inch, y grows upwards, as on paper.

A picture is a function that returns a figure, made of these few. Pictures of one subject share a file, for example
``pictures_tokenizer.py``. Colors mean the same everywhere: what goes in is orange, what is computed blue, what comes
out green, memory (the state) purple, what is left out grey.
"""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from .plotting import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, new_figure

INPUT, WORK, OUTPUT, MEMORY, UNUSED = ORANGE, BLUE, GREEN, PURPLE, GREY
Point = tuple[float, float]


def canvas(height: float, title: str = "", width: float = 8.0, alt: str = "") -> tuple[Figure, Axes]:
    """Return a figure of ``width`` x ``height`` inches to draw on, without axes; (0, 0) is its lower left corner.

    ``alt`` says what the picture shows; :func:`~.plotting.show` hands it to readers who cannot see it.
    """
    figure, axes = new_figure(height=height, width=width)
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    figure.set_label(alt)
    if title:
        axes.set_title(title)
    return figure, axes


def box(axes: Axes, x: float, y: float, text: str, color: str = WORK, width: float = 1.4, height: float = 0.5) -> None:
    """Draw a rounded box around ``text`` with its middle at (x, y): colored edge, pale inside, dark text."""
    corner = (x - width / 2 + 0.06, y - height / 2 + 0.06)
    shape = FancyBboxPatch(corner, width - 0.12, height - 0.12, boxstyle="round,pad=0.06", linewidth=1.6, zorder=2)
    shape.set(facecolor=paler(color), edgecolor=color)
    axes.add_patch(shape)
    label(axes, x, y, text)


def label(axes: Axes, x: float, y: float, text: str, color: str = INK, size: float = 9, **style: Any) -> None:
    """Write ``text`` with its middle at (x, y); ``style`` goes to matplotlib's ``text``."""
    given: dict[str, Any] = {"ha": "center", "va": "center", "zorder": 4} | style
    axes.text(x, y, text, color=color, fontsize=size, **given)


def arrow(axes: Axes, start: Point, end: Point, text: str = "", color: str = INK, bend: float = 0.0) -> None:
    """Draw an arrow from ``start`` to ``end``, with ``text`` above its middle; ``bend`` > 0 is a bow upwards."""
    line = {"arrowstyle": "-|>", "color": color, "linewidth": 1.3, "shrinkA": 0, "shrinkB": 0}
    line["connectionstyle"] = f"arc3,rad={-bend}"
    axes.annotate("", xy=end, xytext=start, arrowprops=line, zorder=3)
    if text:
        x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
        label(axes, x, y + 0.13 + bend * abs(end[0] - start[0]) / 2, text, color, size=8)


def cells(
    axes: Axes,
    x: float,
    y: float,
    texts: Sequence[str],
    colors: Sequence[str] | str = WORK,
    width: float = 0.5,
    height: float = 0.4,
) -> list[Point]:
    """Draw a row of cells, for example tokens or bytes, from (x, y), its lower left corner; return the cells' middles.

    Args:
        colors: one for all, or one per cell.
        width: of one cell; for cells of several widths draw them one by one.
    """
    every = [colors] * len(texts) if isinstance(colors, str) else list(colors)
    middles = []
    for number, (text, color) in enumerate(zip(texts, every, strict=True)):
        left = x + number * width
        inside = paler(color)
        axes.add_patch(Rectangle((left, y), width, height, facecolor=inside, edgecolor=color, linewidth=1.2, zorder=2))
        middles.append((left + width / 2, y + height / 2))
        label(axes, *middles[-1], text)
    return middles


def paler(color: str, share: float = 0.22) -> tuple[float, float, float]:
    """Return the color mixed with white, so that dark text on it can be read: ``share`` of the color is left."""
    red, green, blue = (1 - share + share * part for part in to_rgb(color))
    return red, green, blue
