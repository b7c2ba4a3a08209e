"""The pictures of notebooks 04 and 05: where a state is taken, and how versions differ."""

import pytest
from matplotlib.figure import Figure

from helpers.teaching import pictures_difference, pictures_versions, plotting

PICTURES = (
    pictures_difference.taps_figure,
    pictures_versions.family_figure,
    pictures_versions.memory_figure,
    pictures_versions.halves_figure,
)


@pytest.mark.parametrize("draw", PICTURES, ids=lambda draw: draw.__name__)
def test_a_picture_can_be_shown(draw):
    figure = draw()
    assert isinstance(figure, Figure)
    assert figure.get_figwidth() == 8  # 880 pixels, as wide as a page shows
    plotting.show(figure, alt="a picture that is only drawn to see that it can be shown")


def test_levels_of_halves():
    """Below the diagonal each pair of tokens belongs to one level: that of the smallest block that holds both."""
    for i in range(8):
        assert pictures_versions.level_of(i, i) == 0
        for j in range(i):
            block = next(size for size in (2, 4, 8) if i // size == j // size)
            assert pictures_versions.level_of(i, j) == block // 2
