"""One look for every figure, and no figure without a description."""

import base64
import html
import io
from typing import Any

import matplotlib.pyplot as plt
from IPython.display import display
from matplotlib.figure import Figure

# Okabe and Ito's palette, which color-blind readers can tell apart.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY = COLORS = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#7F7F7F",
)  # fmt: skip

PAPER, INK = "#F7F7F4", "#22272E"  # not quite white, so that a figure does not glare on a dark page

STYLE: dict[Any, Any] = {  # matplotlib's types have a list of the keys, so str would be too wide
    "figure.figsize": (8.0, 3.6),
    "figure.dpi": 110,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "axes.prop_cycle": plt.cycler(color=COLORS),
    "image.cmap": "viridis",
    "legend.frameon": False,
}


def new_figure(rows: int = 1, columns: int = 1, height: float = 3.6, width: float = 8.0, **kwargs):
    """Return ``plt.subplots(rows, columns)`` in the project's style; size in inches."""
    plt.rcParams.update(STYLE)
    return plt.subplots(rows, columns, figsize=(width, height), **kwargs)


def show(figure: Figure, alt: str = "") -> None:
    """Display ``figure`` as a PNG with ``alt``, the sentence that a reader who cannot see it gets instead.

    GitHub and the site read the description from the output's metadata. JupyterLab does not, so there is the same image
    as HTML too, which JupyterLab prefers; it is not committed.

    Args:
        alt: by default the figure's label, which functions that draw a picture set.

    Raises:
        ValueError: the description is too short to describe anything, or an axis that is drawn has data but no labels.
    """
    alt = alt or str(figure.get_label())
    if len(alt) < 20:
        raise ValueError(f"alt text {alt!r} is too short: say what the figure shows")
    for axes in figure.axes:
        drawn = axes.axison and axes.has_data() and axes.get_label() != "<colorbar>"
        if drawn and not (axes.get_xlabel() and axes.get_ylabel()):
            raise ValueError("label both axes, with units")
    image = base64.b64encode(png(figure)).decode()
    as_html = f'<img src="data:image/png;base64,{image}" alt="{html.escape(alt)}">'
    data = {"image/png": image, "text/html": as_html, "text/plain": alt}
    display(data, metadata={"image/png": {"alt": alt}}, raw=True)


def png(figure: Figure, metadata: dict[str, str | None] | None = None) -> bytes:
    """Return ``figure`` as a PNG that carries ``metadata``, texts by the format's keywords; and close it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata=metadata)
    plt.close(figure)
    return buffer.getvalue()
