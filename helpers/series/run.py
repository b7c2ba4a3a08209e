"""Run the series: every notebook, headless, with a table of results at the end."""

import asyncio
import json
import multiprocessing
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from ..atomic import write_text
from ..checkpoints.intact import cores
from ..errors import InputError
from ..exercises.checking import fill_solutions
from ..paths import BUILD, NOTEBOOKS, shown
from ..teaching.notebook import METRICS_MIME, Metric
from .pages import copy_mathjax, merge_streams, write_page

AT_A_TIME = 2  # notebooks; a third one would need more memory than some laptops have
PROGRESS = re.compile(r"[^\n]*\d%\|[^\n]*\|[^\n]*\Z")  # how a bar of tqdm.notebook reads where it cannot be drawn
ALONE = ("12_",)  # it measures how fast this machine is, so nothing else should run meanwhile


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


def execute(notebook: Path, out: Path, parameters: dict | None = None, progress: bool = True) -> NotebookNode:
    """Run one notebook with papermill and write it, executed, to ``out``; return it.

    The kernel is this very interpreter, and nothing in it reaches for the network. ``progress`` draws a bar.

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
                progress_bar=progress,
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
    """Run notebooks; write executed .ipynb and .html files, and ``summary.json`` beside ``out_dir``.

    Each notebook works in a folder of its own, so two run at a time where there are two processors.

    Raises:
        InputError: a cell failed; notebooks that had not begun by then are not run.
    """
    notebooks = find_notebooks(names, folder)
    alone = [path for path in notebooks if path.name.startswith(ALONE)]
    together = [path for path in notebooks if path not in alone]
    at_a_time = min(AT_A_TIME, cores())
    print(f"Running {len(notebooks)} notebooks, {at_a_time} at a time; each is listed when it is done", flush=True)
    results: dict[Path, Result] = {}
    for result in chain(run_several(together, out_dir, at_a_time), run_several(alone, out_dir, 1)):
        results[result.notebook] = result
        print(f"[{len(results)}/{len(notebooks)}] {result.notebook.name}: {result.seconds} s", flush=True)
    copy_mathjax(out_dir / "mathjax.js")
    in_order = [results[path] for path in notebooks]
    metrics = dict(chain.from_iterable(result.metrics.items() for result in in_order))
    summary = Summary(metrics, {result.notebook.stem: result.seconds for result in in_order})
    write_text(out_dir.parent / "summary.json", summary.to_json())
    return summary


@dataclass(frozen=True)
class Result:
    """What a run of one notebook gave."""

    notebook: Path
    metrics: dict[str, Metric]
    seconds: float


def run_several(notebooks: list[Path], out_dir: Path, at_a_time: int) -> Iterator[Result]:
    """Run notebooks, each by a process of its own, and yield results in the order in which they end."""
    if not notebooks:
        return
    # papermill hands on the variables of its process to the kernel, so threads would be in each other's way
    with ProcessPoolExecutor(at_a_time, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(run_one, notebook, out_dir) for notebook in notebooks]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:  # after a failure nothing more is begun
            pool.shutdown(cancel_futures=True)


def run_one(notebook: Path, out_dir: Path) -> Result:
    """Run a notebook and write it, executed, as .ipynb and as a page."""
    start = time.monotonic()
    executed = execute(notebook, out_dir / notebook.name, progress=False)
    write_page(executed, out_dir / f"{notebook.stem}.html")
    return Result(notebook, read_metrics(executed), round(time.monotonic() - start, 1))


def save_outputs(names: list[str] | None = None, out_dir: Path = BUILD / "notebooks") -> None:
    """Store the outputs of executed notebooks in ``notebooks/``, in the form in which they are committed."""
    for notebook in find_notebooks(names):
        executed = nbformat.read(out_dir / notebook.name, as_version=4)
        write_text(notebook, nbformat.writes(committed_form(executed)) + "\n")


def committed_form(executed: NotebookNode) -> NotebookNode:
    """Return an executed notebook as it is committed: outputs, but no times, no progress bars, no widget state.

    Of a cell's metadata its tags stay, and whether JupyterLab hides its source or its outputs. Figures stay as PNG
    alone, which GitHub shows for certain.
    """
    notebook = nbformat.from_dict(executed)
    fill_solutions(notebook)
    notebook.metadata = {name: notebook.metadata[name] for name in ("kernelspec",) if name in notebook.metadata}
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata = {key: cell.metadata[key] for key in ("jupyter", "tags") if cell.metadata.get(key)}
        if cell.cell_type == "code":
            cell.outputs = merge_streams(output for output in cell.outputs if not is_passing(output))
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    output.data.pop("text/html", None)
    return notebook


def is_passing(output: NotebookNode) -> bool:
    """Return whether an output was of use only while the cell ran: what went to stderr, and progress bars."""
    if output.output_type == "stream":
        return output.name != "stdout"
    return PROGRESS.match("".join(output.get("data", {}).get("text/plain", ""))) is not None


def table(summary: Summary) -> str:
    """Return the summary as two columns of text, and the seconds of each notebook below."""
    seconds = {f"{name}, seconds": value for name, value in summary.seconds.items()}
    width = max(map(len, summary.metrics | seconds), default=0)
    rule = "-" * (width + 14)
    return "\n".join([rule, *two_columns(summary.metrics, width), rule, *two_columns(seconds, width), rule])


def two_columns(values: Mapping[str, Metric], width: int) -> Iterator[str]:
    for name, value in values.items():
        yield f"{name:<{width}}  {value:.6g}" if isinstance(value, float) else f"{name:<{width}}  {value}"
