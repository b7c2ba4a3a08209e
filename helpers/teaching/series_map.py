"""The map of the series as a file, for the READMEs.

python -m helpers.teaching.series_map      # draw it anew
"""

from PIL import Image

from ..paths import NOTEBOOKS
from .pictures_series import series_figure, series_lines
from .plotting import png

MAP = NOTEBOOKS / "images" / "series_map.png"
KEY = "Description"  # one of the keywords that the PNG format names


def draw() -> bytes:
    """Return the map as a PNG that also carries what it says as text, so that a test can see whether it is old."""
    return png(series_figure(), {KEY: "\n".join(series_lines()), "Software": None})


def stored_lines() -> list[str]:
    """Return what the stored map says."""
    with Image.open(MAP) as image:
        return str(image.info[KEY]).splitlines()


if __name__ == "__main__":
    MAP.parent.mkdir(exist_ok=True)
    MAP.write_bytes(draw())
