"""The series as a website: the committed notebooks with their outputs, the READMEs and a glossary, with search.

    make site       # or, with the packages of requirements-site.txt: python -m helpers.series.site

Nothing is executed and nothing is asked of the network. What GitHub shows is prepared in ``build/site-source`` for
Sphinx, which writes ``build/site``.
"""

import hashlib
import io
import os
import posixpath
import re
import shutil
import sys
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import nbformat
from nbformat import NotebookNode

from ..errors import InputError
from ..paths import BUILD, NOTEBOOKS, ROOT, own_version, shown
from .pages import WIDGET, copy_mathjax
from .run import find_notebooks, find_translations

TITLE = "RWKV World on Hugging Face"
RENAMED = {"README.md": "index.md", "README_zh.md": "index_zh.md"}
ABOUT = ("WORKS_WITH.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "data/rwkv5-world-mini.md",
         "data/rwkv4-world-mini.md", "data/rwkv6-world-mini.md", "data/rwkv7-world-mini.md",
         "data/training_runs.md", "data/lambada_style_sample.md")  # fmt: skip
LINK = re.compile(r"(!?)\[([^\[\]]*(?:\[[^\]]*\][^\[\]]*)*)\]\(([^()\s]+)\)")
BADGE = re.compile(r"\[!\[([^\]]*)\]\(https?:[^)]*\)\]\(([^)]*)\)")  # its image would come from elsewhere
FOLDED = {"source_hidden": "hide-input", "outputs_hidden": "hide-output"}  # JupyterLab's words, and myst-nb's

CONFIG: dict[str, Any] = {
    "project": TITLE,
    "html_title": TITLE,
    "copyright": "The RWKV World on Hugging Face authors",
    "extensions": ["myst_nb", "sphinx.ext.mathjax"],
    "html_theme": "sphinx_book_theme",
    "html_static_path": ["_static"],
    "html_css_files": ["site.css"],
    "html_favicon": "_static/favicon.svg",
    "html_context": {"default_mode": "auto"},  # dark where the reader's system is
    "templates_path": [],
    "nb_execution_mode": "off",
    "nb_ipywidgets_js": {},  # from elsewhere, and of no use without a kernel
    "myst_enable_extensions": ["dollarmath", "amsmath"],
    "myst_heading_anchors": 4,
    "mathjax_path": "mathjax.js",
    "mathjax3_config": {"options": {"enableMenu": False}},
    "suppress_warnings": ["myst.header", "misc.highlighting_failure", "mystnb.unknown_mime_type", "myst.strikethrough"],
}


def build_site(out: Path = BUILD / "site", source: Path = BUILD / "site-source", repository: str = "") -> Path:
    """Build the site and return its first page.

    Args:
        out, source: folders; what is in them is removed.
        repository: where the project is published, such as ``https://github.com/NAME/PROJECT``, for links to its files.

    Raises:
        InputError: the packages of ``requirements-site.txt`` are missing, or Sphinx warns, for example of a dead link.
    """
    try:
        from sphinx.application import Sphinx
    except ImportError:
        raise InputError("Sphinx is not installed; run make site, or pip install -r requirements-site.txt.") from None
    for folder in (out, source):
        shutil.rmtree(folder, ignore_errors=True)
    descriptions = prepare(source, repository)
    options = {"show_navbar_depth": 1, "home_page_in_toc": True, "use_download_button": False,
               "navbar_persistent": []}  # fmt: skip
    if repository:
        launch = {"colab_url": "https://colab.research.google.com", "binderhub_url": "https://mybinder.org"}
        options |= {"repository_url": repository, "use_repository_button": True, "repository_branch": "main",
                    "launch_buttons": launch, "path_to_docs": ""}  # fmt: skip
    warnings = io.StringIO()
    app = Sphinx(
        source, None, out, source / "_doctrees", "html", status=None, warning=warnings,
        confoverrides=CONFIG | {"version": own_version(), "html_theme_options": options},
    )  # fmt: skip
    app.connect("doctree-read", lambda _app, doctree: describe_images(doctree, descriptions))
    app.connect("html-page-context", lambda _app, page, _template, context, _doctree: say_language(page, context))
    app.build()
    if text := re.sub(r"\x1b\[[0-9;]*m", "", warnings.getvalue()).replace(f"{source}/", "").strip():
        raise InputError(f"The site has defects: {'; '.join(text.splitlines())}.")
    return out / "index.html"


def prepare(source: Path, repository: str) -> dict[str, str]:
    """Write what Sphinx reads; return the descriptions of all figures by the SHA-256 of the image."""
    notebooks, translations = find_notebooks(), find_translations()
    files = [ROOT / name for name in (*RENAMED, *ABOUT)] + notebooks + translations
    names = [path.relative_to(ROOT).as_posix() for path in files]
    pages = {name: RENAMED.get(name, name) for name in names}
    descriptions: dict[str, str] = {}
    for name, page in pages.items():
        target = source / page
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".ipynb":
            notebook = nbformat.read(ROOT / name, as_version=4)
            descriptions |= image_descriptions(notebook)
            nbformat.write(prepared(notebook, name, pages, repository), target)
        else:
            text = relinked((ROOT / name).read_text(encoding="utf-8"), name, pages, repository)
            target.write_text(text.replace("```mermaid", "```text"), encoding="utf-8")
    glossary = relinked(glossary_text(notebooks[0]), notebooks[0].relative_to(ROOT).as_posix(), pages, repository)
    (source / "notebooks" / "glossary.md").write_text(glossary, encoding="utf-8")
    series = [path.relative_to(ROOT).with_suffix("").as_posix() for path in (*notebooks, *translations)]
    about = [name.removesuffix(".md") for name in ABOUT]
    with open(source / "index.md", "a", encoding="utf-8") as index:
        index.write(contents("The series", [*series, "notebooks/glossary"]))
        index.write(contents("The project", ["index_zh", *about]))
    shutil.copytree(NOTEBOOKS / "images", source / "notebooks" / "images")  # what the READMEs show
    copy_mathjax(source / "_static" / "mathjax.js")
    for name in ("site.css", "favicon.svg"):
        shutil.copyfile(Path(__file__).with_name(name), source / "_static" / name)
    return descriptions


def contents(caption: str, pages: list[str]) -> str:
    """Return a table of contents for the side bar."""
    return "\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```", ""])


def glossary_text(notebook: Path) -> str:
    """Return the section "Glossary" of the first notebook as a page."""
    cells = nbformat.read(notebook, as_version=4).cells
    found = [cell.source for cell in cells if cell.source.startswith("## Glossary")]
    if not found:
        raise InputError(f"{shown(notebook)} has no cell that begins with ## Glossary; write one.")
    return found[0].removeprefix("#") + "\n"


def prepared(notebook: NotebookNode, name: str, pages: Mapping[str, str], repository: str) -> NotebookNode:
    """Return a notebook as the site shows it: folded what is folded in JupyterLab, sentences in place of widgets."""
    cells = [cell for cell in notebook.cells if "colab" not in cell.metadata.get("tags", [])]
    for cell in cells:
        if cell.cell_type == "markdown":
            cell.source = relinked(cell.source, name, pages, repository)
            continue
        hidden = cell.metadata.get("jupyter", {})
        folded = [tag for key, tag in FOLDED.items() if hidden.get(key)]
        cell.metadata["tags"] = [*cell.metadata.get("tags", []), *folded]
        for output in cell.outputs:
            data = output.get("data", {})
            data.pop(WIDGET, None)
            if "text/markdown" in data:
                data["text/markdown"] = relinked(data["text/markdown"], name, pages, repository)
    notebook.cells = cells
    return notebook


def image_descriptions(notebook: NotebookNode) -> dict[str, str]:
    """Return ``{SHA-256 of the image: its description}``."""
    found = {}
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if image := output.get("data", {}).get("image/png"):
            digest = hashlib.sha256(b64decode(image)).hexdigest()
            found[digest] = output.metadata.get("image/png", {}).get("alt", "")
    return found


def describe_images(doctree: Any, descriptions: Mapping[str, str]) -> None:
    """Give the figures of a page their descriptions; myst-nb names an image by its checksum."""
    for image in doctree.findall():
        if image.tagname == "image" and (alt := descriptions.get(PurePosixPath(image["uri"]).stem)):
            image["alt"] = alt


def say_language(page: str, context: dict[str, Any]) -> None:
    """Mark pages in Chinese as such, for fonts and screen readers."""
    if page.endswith("_zh"):
        context["language"] = "zh-CN"


def relinked(text: str, name: str, pages: Mapping[str, str], repository: str) -> str:
    """Return Markdown of the file ``name`` with its relative links as they must be on the site.

    Links to what is no page lead to the repository; without one, they are only text. Pictures stay as they are.
    """

    def relink(match: re.Match[str]) -> str:
        mark, label, link = match.groups()
        if mark or re.match(r"\w+:", link):
            return match[0]
        target, _, anchor = link.partition("#")
        anchor = f"#{slug(anchor)}" if anchor else ""
        if not target:
            return f"[{label}]({anchor})"
        path = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
        if path in pages:
            return f"[{label}]({posixpath.relpath(pages[path], posixpath.dirname(name) or '.')}{anchor})"
        if not repository or not (ROOT / path).exists():
            return label
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"[{label}]({repository}/{kind}/HEAD/{path})"

    text = BADGE.sub(r"[\1](\2)", text)
    pieces = re.split(r"(^```.*?^```$)", text, flags=re.DOTALL | re.MULTILINE)  # code stays as it is
    return "".join(piece if number % 2 else LINK.sub(relink, piece) for number, piece in enumerate(pieces))


def slug(anchor: str) -> str:
    """Return JupyterLab's or GitHub's anchor of a heading as GitHub and the site write it."""
    return re.sub(r"[^\w\- ]", "", anchor.lower())


def main() -> int:
    repository = os.environ.get("GITHUB_REPOSITORY", "")
    try:
        page = build_site(repository=f"https://github.com/{repository}" if repository else "")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"Open {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
