"""Run the series: every notebook in order, headless, with a table of results at the end."""

import asyncio
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from ..atomic import write_text
from ..errors import InputError
from ..exercises.checking import fill_solutions
from ..paths import BUILD, NOTEBOOKS, shown
from ..teaching.notebook import METRICS_MIME, Metric


def find_notebooks(names: list[str] | None = None, folder: Path = NOTEBOOKS) -> list[Path]:
    """Return the notebooks in order, or those whose names begin with one of ``names``, for example ``["02", "05"]``.

    Translations, whose names end in ``_zh``, are left out: they say what the originals say.

    Raises:
        InputError: a name fits no notebook.
    """
    every = [path for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")) if not path.stem.endswith("_zh")]
    if not names:
        return every
    for name in names:
        if not any(path.name.startswith(name) for path in every):
            raise InputError(f"No notebook in {shown(folder)} begins with {name!r}; give for example 02.")
    return [path for path in every if path.name.startswith(tuple(names))]


def find_translations(folder: Path = NOTEBOOKS) -> list[Path]:
    """Return the notebooks in Chinese, in order."""
    return sorted(folder.glob("[0-9][0-9]_*_zh.ipynb"))


def execute(notebook: Path, out: Path, parameters: dict | None = None) -> NotebookNode:
    """Run one notebook with papermill and write it, executed, to ``out``; return it.

    The kernel is this very interpreter, and nothing in it reaches for the network.

    Raises:
        InputError: a cell failed; what ran until then is in ``out`` with ``.failed`` before the suffix.
    """
    if sys.platform == "win32":
        asyncio.set_event_loop_policy(asyncio.WindowsSelectorEventLoopPolicy())
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_suffix(".failed.ipynb")
    try:
        with tempfile.TemporaryDirectory() as folder, changed_environment(kernel_environment(Path(folder))):
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


def kernel_environment(folder: Path) -> dict[str, str]:
    """Return the variables that a notebook's kernel has beside those of this process.

    Args:
        folder: empty; it gets the kernel ``python3``, which is this interpreter. Jupyter looks there first, so that
            no other kernel of that name is taken.
    """
    spec = folder / "kernels" / "python3"
    spec.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel = {"argv": command, "display_name": "Python 3", "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(kernel), encoding="utf-8")
    bin_folder = str(Path(sys.executable).parent)
    return {
        "JUPYTER_PATH": str(folder) + os.pathsep + os.environ.get("JUPYTER_PATH", ""),
        "PATH": bin_folder + os.pathsep + os.environ.get("PATH", ""),  # for what notebooks start by name
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONWARNINGS": "ignore",
        # threads of models this small mostly wait for each other
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }


@contextmanager
def changed_environment(variables: dict[str, str]) -> Iterator[None]:
    """Set variables of this process, which papermill hands on to the kernel, and restore all of them afterwards."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@dataclass(frozen=True)
class Summary:
    """What a run of the series gave."""

    metrics: dict[str, Metric]
    seconds: dict[str, float]  # of each notebook

    def to_json(self) -> str:
        """Return the content of ``summary.json``."""
        return json.dumps({"seconds": self.seconds, **self.metrics}, indent=2) + "\n"


def read_metrics(notebook: NotebookNode) -> dict[str, Metric]:
    """Return what the notebook recorded with :func:`helpers.teaching.notebook.record`."""
    metrics: dict[str, Metric] = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            metrics |= output.get("data", {}).get(METRICS_MIME, {})
    return metrics


def run_series(
    names: list[str] | None = None, out_dir: Path = BUILD / "notebooks", folder: Path = NOTEBOOKS
) -> Summary:
    """Run notebooks in order; write executed .ipynb and .html files, and ``summary.json`` beside ``out_dir``."""
    summary = Summary({}, {})
    notebooks = find_notebooks(names, folder)
    for number, notebook in enumerate(notebooks, start=1):
        print(f"[{number}/{len(notebooks)}] {notebook.name}", flush=True)
        start = time.monotonic()
        executed = execute(notebook, out_dir / notebook.name)
        write_text(out_dir / f"{notebook.stem}.html", as_html(executed))
        summary.metrics.update(read_metrics(executed))
        summary.seconds[notebook.stem] = round(time.monotonic() - start, 1)
        write_text(out_dir.parent / "summary.json", summary.to_json())
    return summary


def save_outputs(names: list[str] | None = None, out_dir: Path = BUILD / "notebooks") -> None:
    """Store the outputs of executed notebooks in ``notebooks/``, in the form in which they are committed."""
    for notebook in find_notebooks(names):
        executed = nbformat.read(out_dir / notebook.name, as_version=4)
        write_text(notebook, nbformat.writes(committed_form(executed)) + "\n")


def as_html(executed: NotebookNode) -> str:
    """Return an executed notebook as a page, whose links to other notebooks lead to their pages."""
    notebook = nbformat.from_dict(executed)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = merge_streams(cell.outputs)
    html, _ = HTMLExporter(template_name="lab").from_notebook_node(notebook)
    return re.sub(r'href="(\d\d_\w+)\.ipynb"', r'href="\1.html"', html)


def committed_form(executed: NotebookNode) -> NotebookNode:
    """Return an executed notebook as it is committed: outputs, but no times, no progress bars, no widget state.

    Of a cell's metadata its tags stay, and whether JupyterLab hides its source or its outputs.
    """
    notebook = nbformat.from_dict(executed)
    fill_solutions(notebook)
    notebook.metadata = {name: notebook.metadata[name] for name in ("kernelspec",) if name in notebook.metadata}
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata = {key: cell.metadata[key] for key in ("jupyter", "tags") if cell.metadata.get(key)}
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


def table(summary: Summary) -> str:
    """Return the summary as two columns of text, and the seconds of each notebook below."""
    seconds = {f"{name}, seconds": value for name, value in summary.seconds.items()}
    width = max(map(len, summary.metrics | seconds), default=0)
    rule = "-" * (width + 14)
    return "\n".join([rule, *two_columns(summary.metrics, width), rule, *two_columns(seconds, width), rule])


def two_columns(values: Mapping[str, Metric], width: int) -> Iterator[str]:
    for name, value in values.items():
        yield f"{name:<{width}}  {value:.6g}" if isinstance(value, float) else f"{name:<{width}}  {value}"
