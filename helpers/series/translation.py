"""Notebooks in Chinese: their prose is their own; code, tags and outputs are those of the English ones.

python -m helpers.series.translation      # copy code and outputs anew, after the English notebook has been saved
"""

import re
from itertools import zip_longest
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from ..atomic import write_text
from ..paths import NOTEBOOKS
from .run import find_translations

SUFFIX = "_zh"
FENCED = re.compile(r"```python\n.*?\n```", re.DOTALL)
HEADING = re.compile(r"^#+(?= )", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#]+)\)")


def translated(folder: Path = NOTEBOOKS) -> list[tuple[Path, Path]]:
    """Return pairs of an English notebook and its Chinese twin, in order."""
    return [(twin.with_stem(twin.stem.removesuffix(SUFFIX)), twin) for twin in find_translations(folder)]


def follow(original: NotebookNode, twin: NotebookNode) -> None:
    """Give a twin the code cells, tags, and solutions' code of the original."""
    prose = {cell.id: cell for cell in twin.cells if cell.cell_type == "markdown"}
    cells = []
    for cell in original.cells:
        if cell.cell_type == "markdown" and cell.id in prose:
            source = prose[cell.id].source
            for code in FENCED.findall(cell.source):  # a solution's
                source = code.join(FENCED.split(source, maxsplit=1))
            cell = nbformat.from_dict({**cell, "source": source})
        cells.append(cell)
    twin.cells, twin.metadata = cells, original.metadata


def differences(original: NotebookNode, twin: NotebookNode) -> list[str]:
    """Return a sentence for each cell in which the two differ in more than prose; an empty list is good."""
    found: list[str] = []
    for one, other in zip_longest(original.cells, twin.cells):
        if one is None or other is None or (one.id, one.cell_type) != (other.id, other.cell_type):
            return [*found, f"cell {(one or other).id} has no counterpart"]
        if one.cell_type == "code":
            same = one == other
        else:
            same = shape(one) == shape(other) and one.metadata == other.metadata and one.source != other.source
        if not same:
            found.append(f"cell {one.id} is not that of the original")
    return found


def shape(cell: NotebookNode) -> tuple:
    """Return what prose keeps in another language: levels of headings, tables' rows, code, and where links lead."""
    rows = sum(line.startswith("|") for line in cell.source.splitlines())
    links = [link.replace(f"{SUFFIX}.ipynb", ".ipynb") for link in LINK.findall(cell.source)]
    return HEADING.findall(FENCED.sub("", cell.source)), rows, FENCED.findall(cell.source), sorted(links)


def main() -> None:
    for original, path in translated():
        twin = nbformat.read(path, as_version=4)
        follow(nbformat.read(original, as_version=4), twin)
        write_text(path, nbformat.writes(twin) + "\n")


if __name__ == "__main__":
    main()
