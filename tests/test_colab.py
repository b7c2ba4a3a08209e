"""The cell for Colab and the badges: the same everywhere, and of no effect on other machines."""

import sys

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

from helpers.paths import ROOT
from helpers.series import check, colab
from tests.test_notebooks import good_notebook

ADDRESS = "https://github.com/someone/something"


class Notebook:
    """Stands in for IPython: notes what a cell asks the system to do."""

    def __init__(self):
        self.asked = []

    def system(self, line):
        self.asked.append(line)

    def run_line_magic(self, name, line):
        self.asked.append(f"{name} {line}")


def asked_by_the_cell() -> list[str]:
    notebook = Notebook()
    source = TransformerManager().transform_cell(colab.cell_source(ADDRESS))
    exec(source, {"get_ipython": lambda: notebook})
    return notebook.asked


def test_elsewhere_the_cell_does_nothing(monkeypatch):
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    assert asked_by_the_cell() == []


def test_on_colab_it_gets_the_project(monkeypatch):
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release")
    monkeypatch.setattr(sys, "path", [])
    clone, install, directory = asked_by_the_cell()
    assert clone == f"git clone --quiet --depth 1 {ADDRESS} /content/project"
    assert install.startswith("pip install --quiet --editable")
    assert directory == "cd /content/project/notebooks"
    assert sys.path == ["/content/project"]


def test_the_address_is_one_everywhere():
    for name in colab.READMES:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert colab.BEGIN + colab.badges(colab.repository()) + colab.END in text, "run python -m helpers.series.colab"


def test_a_move_changes_every_address(tmp_path, capsys):
    for name in (*colab.READMES, "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    notebook = good_notebook()
    path = tmp_path / "03_x.ipynb"
    nbformat.write(notebook, path)
    assert colab.main([f"{ADDRESS}.git"], tmp_path, tmp_path) == 0
    assert "03_x.ipynb" in capsys.readouterr().out
    assert colab.repository(tmp_path) == ADDRESS
    assert "someone/something" in (tmp_path / "README_zh.md").read_text(encoding="utf-8")
    assert colab.repository() not in (tmp_path / "README.md").read_text(encoding="utf-8")
    moved = nbformat.read(path, as_version=4)
    assert colab.has_cell(moved, colab.cell_source(ADDRESS))
    assert [cell.id for cell in moved.cells] == [cell.id for cell in notebook.cells]
    assert colab.main([], tmp_path, tmp_path) == 0
    assert capsys.readouterr().out == "", "there is nothing left to do"


def test_numbers_stay_in_order(tmp_path):
    notebook = good_notebook()
    del notebook.cells[1]
    notebook.cells[1].execution_count, notebook.cells[2].execution_count = 1, 2
    result = nbformat.v4.new_output("execute_result", {"text/plain": "1"}, execution_count=2)
    notebook.cells[2].outputs.append(result)
    colab.put_cell(notebook, colab.cell_source(colab.repository()))
    assert [cell.get("execution_count") for cell in notebook.cells] == [None, 1, 2, 3]
    assert notebook.cells[3].outputs[-1].execution_count == 3
    nbformat.write(notebook, tmp_path / "a.ipynb")
    assert check.check_template(tmp_path / "a.ipynb") == []


def test_what_is_no_address_is_refused(capsys):
    assert colab.main(["someone/something"]) == 2
    assert "'someone/something' is no address" in capsys.readouterr().err
