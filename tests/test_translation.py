"""Notebooks in Chinese and the map of the series: each is kept equal to what it stands for."""

import copy

import nbformat
import pytest

from helpers.paths import NOTEBOOKS
from helpers.series import run, translation
from helpers.teaching import series_map
from helpers.teaching.pictures_series import BEFORE, SERIES, series_figure, series_lines

PAIRS = translation.translated()


def test_the_first_notebook_is_there_in_chinese():
    assert NOTEBOOKS / "00_start_here_zh.ipynb" in [twin for _, twin in PAIRS]
    assert not {twin for _, twin in PAIRS} & set(run.find_notebooks())


@pytest.mark.parametrize(("original", "twin"), PAIRS, ids=lambda path: path.stem)
def test_only_the_prose_is_translated(original, twin):
    """After a change, run python -m helpers.series.translation, and translate the prose that it says is not."""
    first, second = nbformat.read(original, as_version=4), nbformat.read(twin, as_version=4)
    assert translation.differences(first, second) == []
    prose = "".join(cell.source for cell in second.cells if cell.cell_type == "markdown")
    assert sum("\u4e00" <= character <= "\u9fff" for character in prose) > 2000


@pytest.mark.parametrize(
    "change",
    [
        lambda cells: cells.pop(),
        lambda cells: cells.reverse(),
        lambda cells: cells[0].update(source="no heading"),
        lambda cells: cells[0].update(source=cells[0].source + "\n[link](01_vocab_conversion.ipynb)"),
        lambda cells: next(cell for cell in cells if cell.cell_type == "code").update(source="1 + 1"),
        lambda cells: next(cell for cell in cells if cell.cell_type == "code").update(outputs=[]),
        lambda cells: next(cell for cell in cells if cell.cell_type == "code").metadata.update(tags=["other"]),
    ],
)
def test_a_difference_is_found_and_mended_but_for_prose(change):
    original = nbformat.read(PAIRS[0][0], as_version=4)
    twin = nbformat.read(PAIRS[0][1], as_version=4)
    code = next(cell for cell in original.cells if cell.cell_type == "code")
    code.outputs = [nbformat.v4.new_output("stream", text="3")]
    translation.follow(original, twin)
    assert translation.differences(original, twin) == []
    changed = copy.deepcopy(twin)
    change(changed.cells)
    assert translation.differences(original, changed)
    if changed.cells[0].source == twin.cells[0].source:
        translation.follow(original, changed)
        assert len(changed.cells) == len(original.cells)


def test_the_map_is_the_one_that_is_drawn():
    """After a change: python -m helpers.teaching.series_map."""
    assert series_map.stored_lines() == series_lines()
    assert {path.name[:2] for path in run.find_notebooks()} <= set(SERIES)
    assert {name for pair in BEFORE for name in pair} == set(SERIES)


def test_the_map_s_texts_fit_into_their_boxes():
    figure = series_figure()
    figure.canvas.draw()
    (axes,) = figure.axes
    boxes = [patch.get_window_extent() for patch in axes.patches]
    texts = [text.get_window_extent() for text in axes.texts if text.get_text()[:2] in SERIES]
    assert len(texts) == len(SERIES)
    assert all(any(box.contains(*text.min) and box.contains(*text.max) for box in boxes) for text in texts)
