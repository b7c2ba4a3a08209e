"""Notebook 00's helpers: the check of versions, the picture of the parts, and its map of the series."""

import re

import nbformat

from helpers.paths import NOTEBOOKS, ROOT
from helpers.series import run
from helpers.teaching.environment import check_environment, differences, read_pins
from helpers.teaching.overview import ARROWS, BOXES, parts_figure


def test_pins_are_read_as_pip_reads_them(tmp_path):
    file = tmp_path / "requirements.txt"
    file.write_text(
        "# a==1\ntorch==2.0.1  # why\nuvicorn[standard]==0.30\n-e .\n\nnumpy>=1\nRuff==0.1;python_version>'3'\n"
    )
    assert read_pins(file) == {"torch": "2.0.1", "uvicorn": "0.30", "Ruff": "0.1"}


def test_every_line_of_the_projects_requirements_is_understood():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert len(read_pins()) == sum(bool(line) and line[0] not in "#-" for line in lines) > 15


def test_differences_name_package_and_both_versions(monkeypatch):
    installed = {"same": "1.0", "local": "2.13.0+cpu", "old": "0.9"}
    monkeypatch.setattr("helpers.teaching.environment.version", installed.__getitem__)
    monkeypatch.setattr("helpers.teaching.environment.PackageNotFoundError", KeyError)
    pins = {"same": "1.0", "local": "2.13.0", "old": "1.0", "absent": "3.1"}
    assert differences(pins) == ["old is 0.9, tested with 1.0", "absent is not installed, tested with 3.1"]


def test_the_message_says_what_to_do(tmp_path):
    file = tmp_path / "requirements.txt"
    file.write_text("pytest==0.0.1\nno-such-package==1.0\n")
    *found, advice = check_environment(file).splitlines()
    assert len(found) == 2
    assert "pip install -r requirements.txt" in advice
    file.write_text("\n")
    assert check_environment(file).startswith("All packages")


def test_the_picture_has_every_box_and_arrow_inside_its_frame():
    figure = parts_figure()
    figure.canvas.draw()
    axes = figure.axes[0]
    shown = {text.get_text() for text in axes.texts}
    assert {text for *_, text in BOXES.values()} <= shown
    assert sum(text.get_text() == "" for text in axes.texts) == len(ARROWS)  # an arrow is an empty annotation
    for text in axes.texts:
        if text.get_text():
            box = text.get_window_extent()
            assert figure.bbox.contains(box.x0, box.y0), text
            assert figure.bbox.contains(box.x1, box.y1), text


def test_the_map_lists_every_notebook():
    notebook = nbformat.read(NOTEBOOKS / "00_start_here.ipynb", as_version=4)
    text = next(cell.source for cell in notebook.cells if cell.id == "map")
    linked = re.findall(r"\]\((\d\d_\w+\.ipynb)\)", text)
    assert {path.name for path in run.find_notebooks()} - {"00_start_here.ipynb"} <= set(linked)
    assert linked == sorted(linked)
