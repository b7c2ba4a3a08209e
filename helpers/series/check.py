"""Keep the committed notebooks honest: their form, and their outputs against those of a fresh run."""

import math
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from .colab import cell_source, has_cell, repository

MARKERS = (
    "What you will do",
    "What you will learn",
    "What you need",
    "Pitfall",
    "Exercise",
    "Summary",
    "Next",
    "Sources",
)
MACHINE_PATH = re.compile(r"(/home/|/work/|/root/|/tmp/|/Users/|[A-Z]:\\Users)")
NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?(?:[eE][-+]?\d+)?")
RELATIVE, ABSOLUTE = 2e-2, 1e-3  # libraries on another processor round differently


def check_template(path: Path) -> list[str]:
    """Return what is wrong with the form of a notebook; an empty list is good."""
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    problems = []
    if (notebook.nbformat, notebook.nbformat_minor) < (4, 5):
        problems.append("the format is older than 4.5")
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        problems.append("the kernel is not python3")
    if "widgets" in notebook.metadata:
        problems.append("widget state is saved in the metadata")
    if sum("parameters" in cell.metadata.get("tags", []) for cell in code) != 1:
        problems.append("there must be one cell tagged parameters")
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        problems.append("it was not run from top to bottom")
    if not notebook.cells[0].source.startswith("# "):
        problems.append("it does not begin with a title")
    if not has_cell(notebook, cell_source(repository())):
        problems.append("its first code cell is not the one for Colab; run python -m helpers.series.colab")
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    problems += [f"there is no {marker!r}" for marker in MARKERS if marker not in text]
    for cell in notebook.cells:
        problems += check_cell(cell)
    return problems


def check_cell(cell: NotebookNode) -> list[str]:
    """Return what is wrong with one cell."""
    problems = []
    where = f"cell {cell.get('id')}"
    if MACHINE_PATH.search(cell.source) or MACHINE_PATH.search(all_text(cell)):
        problems.append(f"{where} has a machine's path")
    if cell.cell_type == "code" and len(cell.source.splitlines()) > 30:
        problems.append(f"{where} has more than 30 lines")
    for output in cell.get("outputs", []):
        if output.output_type == "error" and "raises-exception" not in cell.metadata.get("tags", []):
            problems.append(f"{where} ends in {output.ename}")
        metadata = output.get("metadata", {})
        if "image/png" in output.get("data", {}) and not (
            metadata.get("image/png", {}).get("alt") or metadata.get("alt")
        ):
            problems.append(f"{where} has a figure without alt text")
    return problems


def all_text(cell: NotebookNode) -> str:
    """Return the text that a cell printed or displayed, in one piece: how it is split differs from run to run."""
    parts = []
    for output in cell.get("outputs", []):
        if output.output_type == "stream" and output.name == "stdout":
            parts.append(output.text)
        data = output.get("data", {})
        parts += [data[kind] for kind in ("text/html", "text/plain") if kind in data and "image/png" not in data]
        if output.output_type == "error":
            parts.append(f"{output.ename}: {output.evalue}")
    return "".join("".join(part) for part in parts)


def compare_outputs(committed: NotebookNode, fresh: NotebookNode) -> list[str]:
    """Return the cells whose outputs differ; cells tagged ``volatile`` may, and numbers within a tolerance."""
    ours = {cell.id: cell for cell in committed.cells if cell.cell_type == "code"}
    theirs = {cell.id: cell for cell in fresh.cells if cell.cell_type == "code"}
    problems = []
    for index, cell in ours.items():
        if "volatile" in cell.metadata.get("tags", []):
            continue
        if index not in theirs or theirs[index].source != cell.source:
            problems.append(f"cell {index} is another one in the fresh run")
        elif images(cell) != images(theirs[index]):
            problems.append(f"cell {index}: {images(cell)} figures, {images(theirs[index])} in the fresh run")
        elif not same_text(all_text(cell), all_text(theirs[index])):
            problems.append(
                f"cell {index}: {all_text(cell)[:200]!r}, but {all_text(theirs[index])[:200]!r} in the fresh run"
            )
    return problems


def images(cell: NotebookNode) -> int:
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def same_text(ours: str, theirs: str) -> bool:
    """Compare two texts: the same words, and numbers that agree within the tolerance."""
    if NUMBER.sub("0", ours) != NUMBER.sub("0", theirs):
        return False
    pairs = zip(NUMBER.findall(ours), NUMBER.findall(theirs), strict=True)
    numbers = [(float(a.replace(",", "")), float(b.replace(",", ""))) for a, b in pairs]
    return all(math.isclose(a, b, rel_tol=RELATIVE, abs_tol=ABSOLUTE) for a, b in numbers)
