"""A JupyterLab of the tests' own, driven through Chromium: open a notebook, run cells, click, type, read.

    def test_explorer(lab):
        notebook, widget = lab.open("02_tokenizer", "TokenizerExplorer(", FUZZ_TEXTS=100)
        notebook.run_all()
        notebook.cell(widget).get_by_role("textbox").fill("Hello")
        notebook.until_text(widget, "1 tokens")

``lab`` checks at the end of each test that no console showed an error and nothing was asked of another computer.
"""

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat

from helpers.paths import NOTEBOOKS, ROOT
from helpers.series.run import kernel_environment
from tests import browser

LIMIT = 60_000  # milliseconds after which something counts as stuck
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},  # they would ask the network
    "notebook-extension/tracker": {"windowingMode": "none"},  # all cells are on the page, not only those in view
}


@contextmanager
def started(folder: Path) -> Iterator[str]:
    """Start JupyterLab with ``folder`` as its root, settings and all, and yield the address with its token."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, values in SETTINGS.items():
        file = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(values))
    token = secrets.token_hex(16)
    (folder / "root").mkdir()
    options = {
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.root_dir": folder / "root",
        "IdentityProvider.token": token,
        "LabApp.expose_app_in_browser": True,
    }
    line = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"]
    line += [f"--{name}={value}" for name, value in options.items()]
    places = {"CONFIG_DIR": "config", "DATA_DIR": "data", "RUNTIME_DIR": "runtime"}
    environment = os.environ | kernel_environment(folder / "kernel")
    environment["PYTHONPATH"] = str(ROOT)  # this checkout, with its tests, and no other that is installed
    environment |= {f"JUPYTER_{name}": str(folder / place) for name, place in places.items()}
    environment |= {f"JUPYTERLAB_{name.upper()}_DIR": str(folder / name) for name in ("settings", "workspaces")}
    with open(folder / "log", "w") as log, subprocess.Popen(line, env=environment, stdout=log, stderr=log) as process:
        try:
            address = f"http://127.0.0.1:{port}/"
            wait_for(f"{address}api/status?token={token}", process, folder / "log")
            yield f"{address}?token={token}"
        finally:
            process.terminate()


def wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    """Wait until a server answers."""
    end = time.monotonic() + LIMIT / 1000
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)


class Lab:
    """JupyterLab in a browser."""

    def __init__(self, chromium: Any, address: str, folder: Path):
        self.chromium, self.folder = chromium, folder
        self.address, _, self.token = address.partition("?")
        self.opened: list[browser.Watched] = []

    def open(self, name: str, last: str, **parameters: object) -> tuple["LabNotebook", str]:
        """Open a copy of a notebook of the series, without outputs, that ends with the first cell with ``last`` in it.

        Args:
            name: of the file, such as ``02_tokenizer``.
            last: part of the source of the cell to try, such as ``Playground(``.
            parameters: other values than those of the cell tagged ``parameters``, for example to save time.

        Returns: the notebook, and the id of that cell.
        """
        notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        sources = [cell.source if cell.cell_type == "code" else "" for cell in notebook.cells]
        end = next((number for number, source in enumerate(sources) if last in source), None)
        assert end is not None, f"no code cell of {name} has {last!r} in it"
        notebook.cells = notebook.cells[: end + 1]
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
            if "parameters" in cell.metadata.get("tags", []):
                cell.source += "".join(f"\n{key} = {value!r}" for key, value in parameters.items())
        return self.open_notebook(notebook, f"{name}.ipynb"), notebook.cells[end].id

    def open_cells(self, cells_by_id: Mapping[str, str]) -> "LabNotebook":
        """Open a new notebook with these code cells: id and source of each."""
        cells = [nbformat.v4.new_code_cell(source, id=index) for index, source in cells_by_id.items()]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        return self.open_notebook(notebook, "cells.ipynb")

    def open_notebook(self, notebook: nbformat.NotebookNode, name: str) -> "LabNotebook":
        folder = tempfile.mkdtemp(dir=self.folder / "root")
        nbformat.write(notebook, Path(folder) / name)
        watched = browser.watched_page(self.chromium, self.address, viewport=browser.DESKTOP)
        watched.page.set_default_timeout(LIMIT)
        self.opened.append(watched)
        watched.page.goto(f"{self.address}lab/tree/{Path(folder).name}/{name}?{self.token}&reset")
        return LabNotebook(watched, [cell.id for cell in notebook.cells])

    def close(self) -> None:
        """Close the pages, shut their kernels down, and see that nothing went wrong."""
        opened, self.opened = self.opened, []
        for watched in opened:
            watched.page.evaluate("jupyterapp.shell.currentWidget.sessionContext.shutdown()")
            watched.page.close()
        for watched in opened:
            watched.check()


class LabNotebook:
    """A notebook that is open in JupyterLab; its cells go by their ids."""

    def __init__(self, watched: browser.Watched, ids: list[str]):
        self.watched, self.page, self.ids = watched, watched.page, ids
        self.page.wait_for_function("""window.jupyterapp?.shell.currentWidget?.context?.isReady &&
            jupyterapp.shell.currentWidget.sessionContext?.session?.kernel?.status === "idle" """)

    def run_all(self) -> None:
        """Run every cell, and see that none ends in an error."""
        self.page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
        self._no_error()

    def run(self, index: str) -> None:
        """Run one cell, and see that it does not end in an error."""
        self.page.evaluate(
            """async number => {
                const notebook = jupyterapp.shell.currentWidget.content;
                notebook.deselectAll();
                notebook.activeCellIndex = number;
                await jupyterapp.commands.execute("notebook:run-cell");
            }""",
            self.ids.index(index),
        )
        self._no_error()

    def _no_error(self) -> None:
        errors = self.page.evaluate("""jupyterapp.shell.currentWidget.content.widgets
            .flatMap(cell => cell.model.toJSON().outputs ?? []).filter(output => output.output_type === "error")
            .map(output => `${output.ename}: ${output.evalue}`)""")
        assert errors == []

    def cell(self, index: str) -> Any:
        """Return the Playwright locator of a cell, for clicking and typing: ``cell("x").get_by_role("button")``."""
        return self.page.locator(".jp-Notebook .jp-Cell").nth(self.ids.index(index))

    def slider(self, index: str, name: str) -> Any:
        """Return the locator of the handle of a slider, for keys: ``slider("x", "seed").press("ArrowRight")``."""
        return self.cell(index).locator(".widget-slider").filter(has_text=name).get_by_role("slider")

    def until_redrawn(self, index: str, before: str | None = None) -> str:
        """Wait until the picture of a widget is another than ``before``, and return its address."""
        picture = self.cell(index).locator("img.widget-image").element_handle()
        self.page.wait_for_function(
            "([picture, before]) => picture.src !== before && picture.naturalWidth > 0", arg=[picture, before]
        )
        return picture.evaluate("picture => picture.src")

    def text(self, index: str) -> str:
        """Return the text that the output of a cell shows."""
        return "\n".join(self.cell(index).locator(".jp-Cell-outputArea").all_inner_texts())

    def until_text(self, index: str, part: str) -> str:
        """Wait until the output of a cell shows ``part``, and return all of its text."""
        self.cell(index).locator(".jp-Cell-outputArea").get_by_text(part).first.wait_for()
        return self.text(index)
