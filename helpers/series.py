"""Run the series: every notebook in order, headless, with a table of results at the end."""

import argparse
import asyncio
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from .errors import InputError
from .notebook import METRICS_MIME
from .paths import BUILD, NOTEBOOKS, shown


def find_notebooks(names: list[str] | None = None, folder: Path = NOTEBOOKS) -> list[Path]:
    """Return the notebooks in order, or those whose names begin with one of ``names``, for example ``["02", "05"]``.

    Raises:
        InputError: a name fits no notebook.
    """
    every = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not names:
        return every
    for name in names:
        if not any(path.name.startswith(name) for path in every):
            raise InputError(f"No notebook in {shown(folder)} begins with {name!r}; give for example 02.")
    return [path for path in every if path.name.startswith(tuple(names))]


def execute(notebook: Path, out: Path, parameters: dict | None = None) -> NotebookNode:
    """Run one notebook with papermill and write it, executed, to ``out``; return it.

    The kernel is this very interpreter, and nothing in it reaches for the network.

    Raises:
        InputError: a cell failed; what ran until then is in ``out`` with ``.failed`` before the suffix.
    """
    bin_folder = str(Path(sys.executable).parent)
    os.environ["PATH"] = bin_folder + os.pathsep + os.environ.get("PATH", "")  # the kernel is started as `python`
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads of models this small mostly wait for each other
    if sys.platform == "win32":
        asyncio.set_event_loop_policy(asyncio.WindowsSelectorEventLoopPolicy())
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_suffix(".failed.ipynb")
    try:
        executed = papermill.execute_notebook(
            notebook,
            partial,
            parameters,
            kernel_name="python3",
            cwd=str(notebook.parent),
            extra_arguments=["--IPKernelApp.log_level=ERROR"],  # without a warning about TCP on this machine
        )
    except PapermillExecutionError as error:
        raise InputError(
            f"{notebook.name}, cell In [{error.exec_count}]: {error.ename}: {error.evalue}; see {shown(partial)}."
        ) from None
    except DeadKernelError:
        raise InputError(
            f"{notebook.name}: the kernel died, perhaps for want of memory; see {shown(partial)}."
        ) from None
    partial.replace(out)
    return executed


def read_metrics(notebook: NotebookNode) -> dict[str, float | int | bool | str]:
    """Return what the notebook recorded with :func:`helpers.notebook.record`."""
    metrics: dict = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            metrics |= output.get("data", {}).get(METRICS_MIME, {})
    return metrics


def write_aside(path: Path, text: str) -> None:
    """Write a file so that it is complete when it appears."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def run_series(names: list[str] | None = None, out_dir: Path = BUILD / "notebooks", folder: Path = NOTEBOOKS) -> dict:
    """Run notebooks in order; write executed .ipynb and .html files, and ``summary.json`` beside ``out_dir``.

    Returns:
        ``{metric: value}`` of all notebooks, with ``"seconds"``: seconds of each notebook.
    """
    summary: dict = {"seconds": {}}
    notebooks = find_notebooks(names, folder)
    for number, notebook in enumerate(notebooks, start=1):
        print(f"[{number}/{len(notebooks)}] {notebook.name}", flush=True)
        start = time.monotonic()
        executed = execute(notebook, out_dir / notebook.name)
        write_aside(out_dir / f"{notebook.stem}.html", as_html(executed))
        summary |= read_metrics(executed)
        summary["seconds"][notebook.stem] = round(time.monotonic() - start, 1)
        write_aside(out_dir.parent / "summary.json", json.dumps(summary, indent=2) + "\n")
    return summary


def as_html(executed: NotebookNode) -> str:
    """Return an executed notebook as a page, whose links to other notebooks lead to their pages."""
    notebook = nbformat.from_dict(executed)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = merge_streams(cell.outputs)
    html, _ = HTMLExporter(template_name="lab").from_notebook_node(notebook)
    return re.sub(r'href="(\d\d_\w+)\.ipynb"', r'href="\1.html"', html)


def committed_form(executed: NotebookNode) -> NotebookNode:
    """Return an executed notebook as it is committed: outputs, but no times, no progress bars, no widget state."""
    notebook = nbformat.from_dict(executed)
    notebook.metadata = {name: notebook.metadata[name] for name in ("kernelspec",) if name in notebook.metadata}
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata = {"tags": cell.metadata.tags} if cell.metadata.get("tags") else {}
        if cell.cell_type == "code":
            cell.outputs = merge_streams(
                output for output in cell.outputs if output.output_type != "stream" or output.name == "stdout"
            )
    return notebook


def merge_streams(outputs: Iterable[NotebookNode]) -> list[NotebookNode]:
    """Join text that was printed in one go but arrived in pieces."""
    merged: list[NotebookNode] = []
    for output in outputs:
        if merged and output.output_type == merged[-1].output_type == "stream" and output.name == merged[-1].name:
            merged[-1].text += output.text
        else:
            merged.append(output)
    return merged


def table(summary: dict) -> str:
    """Return the summary as two columns of text, and the seconds of each notebook below."""
    metrics = {name: value for name, value in summary.items() if name != "seconds"}
    seconds = {f"{name}, seconds": value for name, value in summary["seconds"].items()}
    width = max(map(len, metrics | seconds), default=0)
    rule = "-" * (width + 14)
    return "\n".join([rule, *two_columns(metrics, width), rule, *two_columns(seconds, width), rule])


def two_columns(values: dict, width: int) -> Iterator[str]:
    for name, value in values.items():
        yield f"{name:<{width}}  {value:.6g}" if isinstance(value, float) else f"{name:<{width}}  {value}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NOTEBOOK", help="for example 02 05; by default all")
    parser.add_argument("--save", action="store_true", help="for maintainers: store the outputs in notebooks/")


def main(args: argparse.Namespace) -> int:
    summary = run_series(args.names)
    if args.save:
        for notebook in find_notebooks(args.names):
            executed = nbformat.read(BUILD / "notebooks" / notebook.name, as_version=4)
            write_aside(notebook, nbformat.writes(committed_form(executed)) + "\n")
    print(f"\n{table(summary)}\n")
    first = find_notebooks(args.names)[0].stem
    print(f"Read the executed notebooks in a browser, beginning with {BUILD / 'notebooks' / first}.html")
    print(f"All numbers: {BUILD / 'summary.json'}. Run them yourself in JupyterLab: make lab")
    return 0
