"""Try the series without installing it: badges for Colab and Binder, and the first code cell of each notebook.

python -m helpers.series.colab                                      # put that cell into notebooks that lack it
python -m helpers.series.colab https://github.com/NAME/PROJECT      # the project has moved: new addresses everywhere

The address stands in ``pyproject.toml``, under ``project.urls``.
"""

import re
import sys
import tomllib
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from ..atomic import write_text
from ..errors import InputError
from ..paths import NOTEBOOKS, ROOT, shown

ID = TAG = "colab"
ADDRESS = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+")
READMES = ("README.md", "README_zh.md")
BEGIN, END = "<!-- badges: begin -->\n", "<!-- badges: end -->"


def repository(root: Path = ROOT) -> str:
    """Return where the project is published."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["urls"]["Repository"])


def cell_source(address: str) -> str:
    """Return the cell that gets the project and its packages on Colab, and does nothing elsewhere."""
    return f"""import os  # what follows acts on Google Colab alone: it gets the project and its packages
import sys

if "COLAB_RELEASE_TAG" in os.environ:
    !git clone --quiet --depth 1 {address} /content/project
    !pip install --quiet --editable "/content/project[notebooks,serve,train]"
    sys.path.insert(0, "/content/project")
    %cd /content/project/notebooks"""


def badges(address: str) -> str:
    """Return the badges of the READMEs as Markdown."""
    name = address.removeprefix("https://github.com/")
    first = "notebooks/00_start_here.ipynb"
    colab = f"https://colab.research.google.com/github/{name}/blob/HEAD/{first}"
    binder = f"https://mybinder.org/v2/gh/{name}/HEAD?urlpath=lab/tree/{first}"
    return (
        f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab})\n"
        f"[![Launch Binder](https://mybinder.org/badge_logo.svg)]({binder})\n"
    )


def has_cell(notebook: NotebookNode, source: str) -> bool:
    """Return whether the first code cell of a notebook is the one for Colab."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return bool(code) and TAG in code[0].metadata.get("tags", []) and code[0].source == source


def put_cell(notebook: NotebookNode, source: str) -> None:
    """Put the cell for Colab after the title, in place of an older one; the numbers of other cells follow."""
    before = [cell for cell in notebook.cells if TAG in cell.metadata.get("tags", [])]
    notebook.cells = [cell for cell in notebook.cells if cell not in before]
    cell = nbformat.v4.new_code_cell(source, id=ID, metadata={"tags": [TAG]}, execution_count=1)
    notebook.cells.insert(1, cell)
    if not before:
        for other in notebook.cells[2:]:
            shift_count(other)


def shift_count(cell: NotebookNode) -> None:
    """Number a cell and its results one higher, because a cell was put before it."""
    for numbered in (cell, *cell.get("outputs", [])):
        if numbered.get("execution_count") is not None:
            numbered.execution_count += 1


def move(root: Path, address: str) -> None:
    """Write a new address into ``pyproject.toml`` and the badges of both READMEs."""
    file = root / "pyproject.toml"
    text = file.read_text(encoding="utf-8").replace(f'"{repository(root)}"', f'"{address}"')
    write_text(file, text)
    for name in READMES:
        before, begin, rest = (root / name).read_text(encoding="utf-8").partition(BEGIN)
        if not begin:
            raise InputError(f"{name} has no line {BEGIN.strip()}; put one where its badges shall stand.")
        write_text(root / name, before + BEGIN + badges(address) + END + rest.partition(END)[2])


def main(arguments: list[str], root: Path = ROOT, folder: Path = NOTEBOOKS) -> int:
    address = arguments[0].removesuffix("/").removesuffix(".git") if arguments else repository(root)
    if not ADDRESS.fullmatch(address):
        print(f"{address!r} is no address such as https://github.com/NAME/PROJECT; give one.", file=sys.stderr)
        return 2
    move(root, address)
    source = cell_source(address)
    for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        if not has_cell(notebook, source):
            put_cell(notebook, source)
            write_text(path, nbformat.writes(notebook) + "\n")
            print(f"{shown(path)}: the cell for Colab was put in")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
