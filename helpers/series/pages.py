"""One notebook, executed, as a page of its own: complete without a network, readable on a phone and in print."""

import html
import os
import re
import shutil
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path
from urllib.parse import quote

import nbformat
from nbconvert import HTMLExporter
from nbformat import NotebookNode

from ..atomic import write_text
from ..checkpoints.files import sha256
from ..errors import InputError
from ..paths import NOTEBOOKS

TEMPLATES = Path(__file__).parent
WIDGET = "application/vnd.jupyter.widget-view+json"
HEADING = re.compile(r'<h([1-6])(?: id="[^"]*")?>(.*?)(?:<a class="anchor-link".*?</a>)?</h\1>', re.DOTALL)
LINK = re.compile(r'<a href="(?!#|\w+:)([^"#]+)(#[^"]*)?"[^>]*>(.*?)</a>', re.DOTALL)

MATHJAX = "sphinx-mathjax-offline", "sphinx-mathjax-offline/static/mathjax/tex-svg-full.js"  # package, and file in it
# of es5/tex-svg-full.js in MathJax 3.2.2
MATHJAX_SHA256 = "a4354ff94fd868aea0cc6eaaa79a57fda0588646fc46ee3700a349ee0a11cbe6"


def write_page(executed: NotebookNode, path: Path) -> None:
    """Write an executed notebook as an HTML page; formulas need ``mathjax.js`` beside it, see :func:`copy_mathjax`."""
    write_text(path, as_html(executed, path.parent))


def as_html(executed: NotebookNode, folder: Path) -> str:
    """Return an executed notebook as a page that is to stand in ``folder``.

    Links to other notebooks lead to their pages, links to files of the project to these, others become text. Widgets
    give way to the sentence that stands in their place.
    """
    notebook = nbformat.from_dict(executed)
    notebook.metadata.pop("widgets", None)
    notebook.metadata["title"] = title_of(notebook)
    notebook.metadata["formulas"] = has_formulas(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = merge_streams(cell.outputs)
            for output in cell.outputs:
                output.get("data", {}).pop(WIDGET, None)
    exporter = HTMLExporter(extra_template_paths=[str(TEMPLATES)], template_file="page.html.j2")
    page, _ = exporter.from_notebook_node(notebook)
    page, contents = with_anchors(page)
    page = page.replace("<!-- contents -->", contents)
    return LINK.sub(lambda match: link_from(folder, match), page)


def title_of(notebook: NotebookNode) -> str:
    """Return the text of the first heading, or "Notebook"."""
    lines = notebook.cells[0].source.splitlines() if notebook.cells else []
    return lines[0].lstrip("# ").replace("`", "") if lines and lines[0].startswith("# ") else "Notebook"


def has_formulas(notebook: NotebookNode) -> bool:
    return any("$" in cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def with_anchors(page: str) -> tuple[str, str]:
    """Give every heading an id that links can name; return the page, and a list of links to its sections."""
    sections: list[str] = []
    used: set[str] = set()

    def anchored(match: re.Match[str]) -> str:
        level, content = match[1], match[2].strip()
        text = html.unescape(re.sub("<[^>]+>", "", content))
        anchor = re.sub(r"[\"'<>&#%\\`]", "", text.replace(" ", "-"))
        while anchor in used:
            anchor += "_"
        used.add(anchor)
        if level == "2":
            sections.append(f'<li><a href="#{quote(anchor)}">{html.escape(text)}</a></li>')
        return f'<h{level} id="{anchor}">{content}</h{level}>'

    page = HEADING.sub(anchored, page)
    return page, f"<ul>{''.join(sections)}</ul>"


def link_from(folder: Path, match: re.Match[str]) -> str:
    """Return a relative link of a notebook as it reads in a page in ``folder``; of one to no file, only its text."""
    target, anchor, text = match[1], match[2] or "", match[3]
    file = (NOTEBOOKS / target).resolve()
    if not file.exists():
        return text
    if file.suffix == ".ipynb":
        return f'<a href="{file.stem}.html{anchor}">{text}</a>'
    return f'<a href="{Path(os.path.relpath(file, folder)).as_posix()}{anchor}">{text}</a>'


def merge_streams(outputs: Iterable[NotebookNode]) -> list[NotebookNode]:
    """Join text that was printed in one go but arrived in pieces."""
    merged: list[NotebookNode] = []
    for output in outputs:
        if merged and output.output_type == merged[-1].output_type == "stream" and output.name == merged[-1].name:
            merged[-1].text += output.text
        else:
            merged.append(output)
    return merged


def copy_mathjax(path: Path) -> None:
    """Copy MathJax, which typesets formulas, to ``path``: one file that asks for nothing else.

    Raises:
        InputError: it is not the file that was published.
    """
    package, name = MATHJAX
    source = Path(str(distribution(package).locate_file(name)))
    if sha256(source) != MATHJAX_SHA256:
        raise InputError(f"{name} is not MathJax 3.2.2; reinstall {package} with pip.")
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, path)
