"""The website and the pages of `make tutorial`: each is opened in Chromium, on a desktop and as narrow as a phone."""

from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import nbformat
import pytest
from bs4 import BeautifulSoup

from helpers.errors import InputError
from helpers.paths import NOTEBOOKS
from helpers.series import lab, pages, site
from helpers.series.run import find_notebooks
from tests import browser

# the theme and myst-parser use what a later Sphinx will not have; the versions are pinned
pytestmark = pytest.mark.filterwarnings("ignore:.*Check CHANGES for Sphinx API modifications")

PAGES = {"a/index.md": "a/index.md", "notebooks/01_x.ipynb": "notebooks/01_x.ipynb", "README.md": "index.md"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[a](01_x.ipynb#4.-Bytes)", "[a](01_x.ipynb#4-bytes)"),
        ("[a](../README.md) and ![b](01_x.ipynb)", "[a](../index.md) and ![b](01_x.ipynb)"),
        ("[a](#Glossary) [b](https://example.org) [c](../no_such.md)", "[a](#glossary) [b](https://example.org) c"),
        ("[`a[1]`](../LICENSE)", "[`a[1]`](https://x/blob/HEAD/LICENSE)"),
        ("[![A](https://y/z.svg)](https://w)", "[A](https://w)"),
        ("[a](../helpers)", "[a](https://x/tree/HEAD/helpers)"),
        ("![map](images/map.png)", "![map](images/map.png)"),
        ("```python\n[a](../no_such.md)\n```", "```python\n[a](../no_such.md)\n```"),
    ],
)
def test_links_are_those_of_the_site(text, expected):
    assert site.relinked(text, "notebooks/02_y.ipynb", PAGES, "https://x") == expected


def test_without_a_repository_links_to_its_files_are_text():
    assert site.relinked("[a](../LICENSE) [b](../helpers)", "notebooks/02_y.ipynb", PAGES, "") == "a b"


def test_a_notebook_is_prepared():
    """What JupyterLab folds is folded, what only Colab needs is left out, a sentence takes a widget's place."""
    view = nbformat.v4.new_output("display_data", {pages.WIDGET: {}, "text/plain": "[Chat: run this cell]"})
    hidden = {"tags": ["solution"], "jupyter": {"source_hidden": True, "outputs_hidden": True}}
    cells = [
        nbformat.v4.new_code_cell("colab", metadata={"tags": ["colab"]}),
        nbformat.v4.new_code_cell("1", metadata=hidden, outputs=[view]),
    ]
    [cell] = site.prepared(nbformat.v4.new_notebook(cells=cells), "notebooks/01_x.ipynb", PAGES, "").cells
    assert cell.metadata.tags == ["solution", "hide-input", "hide-output"]
    assert list(cell.outputs[0].data) == ["text/plain"]


def test_jupyterlab_opens_the_project_at_the_first_notebook(monkeypatch):
    monkeypatch.setattr(lab.os, "geteuid", lambda: 0, raising=False)
    line = lab.command(["--no-browser"])
    assert f"--ServerApp.root_dir={NOTEBOOKS.parent}" in line
    assert "--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb" in line
    assert line[-2:] == ["--allow-root", "--no-browser"]
    monkeypatch.setattr(lab.os, "geteuid", lambda: 1000, raising=False)
    assert "--allow-root" not in lab.command([])


def test_the_glossary_is_found():
    assert site.glossary_text(find_notebooks()[0]).startswith("# Glossary")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    pytest.importorskip("sphinx_book_theme", reason=f"the site's packages are not installed; {browser.INSTALL}")
    pytest.importorskip("myst_nb", reason=f"the site's packages are not installed; {browser.INSTALL}")
    folder = tmp_path_factory.mktemp("site")
    return site.build_site(folder / "site", folder / "source").parent


@pytest.fixture(scope="module")
def chromium():
    with browser.launch() as launched:
        yield launched


def test_every_notebook_and_both_readmes_are_pages(built):
    names = {path.relative_to(built).as_posix() for path in built.rglob("*.html")}
    assert {f"notebooks/{path.stem}.html" for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")} <= names
    assert {"index.html", "index_zh.html", "notebooks/glossary.html", "search.html"} <= names
    assert '<html lang="zh-CN"' in (built / "index_zh.html").read_text(encoding="utf-8")
    assert '<html lang="en"' in (built / "index.html").read_text(encoding="utf-8")


def test_a_dead_link_is_a_defect(built, tmp_path, monkeypatch):
    """Sphinx says what it could not resolve, and the build fails with its words."""
    monkeypatch.setattr(site, "find_notebooks", lambda: find_notebooks(["00"]))  # one is enough
    monkeypatch.setattr(site, "glossary_text", lambda notebook: "# Glossary\n\n[a](#no-such-heading)\n")
    with pytest.raises(InputError, match=r"glossary\.md:3: .*no-such-heading"):
        site.build_site(tmp_path / "site", tmp_path / "source")


def look_at_all(chromium, folder: Path) -> list[str]:
    """Open every page below ``folder``; return what is wrong with it."""
    problems, links, anchors = [], {}, {}
    with browser.served(folder) as address:
        watched = browser.watched_page(chromium, address, viewport=browser.DESKTOP)
        names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.html")))
        for name in (name for name in names if not name.startswith("_static/")):  # the theme's templates
            watched.page.set_viewport_size(browser.DESKTOP)
            watched.page.goto(address + name, wait_until="load")
            anchors[name] = set(watched.page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)"))
            hrefs = watched.page.evaluate("[...document.querySelectorAll('a[href]')].map(a => a.getAttribute('href'))")
            links[name] = [urljoin(address + name, href) for href in hrefs]
            problems += [f"{name}: {image} has no description" for image in browser.undescribed(watched.page)]
            watched.page.set_viewport_size(browser.PHONE)
            problems += [f"{name}: {what} sticks out on a phone" for what in browser.overflow(watched.page)]
            problems += [f"{name}: {text!r} is cut off on a phone" for text in browser.cut_off(watched.page)]
            problems += [f"{name}: error {text}" for text in unset_formulas(watched.page)]
    for name, targets in links.items():
        for target in {target for target in targets if target.startswith(address)}:
            parts = urlsplit(target)
            file = unquote(parts.path).lstrip("/") or "index.html"
            if not (folder / file).exists():
                problems.append(f"{name}: a link to {file}, which does not exist")
            elif parts.fragment and file in anchors and unquote(parts.fragment) not in anchors[file]:
                problems.append(f"{name}: a link to #{parts.fragment} of {file}, which is not there")
    problems += [f"console: {error}" for error in watched.errors]
    return problems + [f"asked for {url}" for url in watched.elsewhere]


def unset_formulas(page) -> list[str]:
    """Wait for MathJax where there are formulas; return those that it could not read."""
    if not page.evaluate("!!document.querySelector('script[src*=mathjax]')"):
        return []
    page.wait_for_function("window.MathJax && MathJax.startup && MathJax.startup.promise")
    page.evaluate("MathJax.startup.promise")
    return page.evaluate("[...document.querySelectorAll('[data-mml-node=merror]')].map(e => e.textContent)")


def test_every_page_of_the_site_is_sound(built, chromium):
    assert look_at_all(chromium, built) == []


def test_search_finds(built, chromium):
    with browser.served(built) as address:
        watched = browser.watched_page(chromium, address)
        watched.page.goto(f"{address}search.html?q=perplexity")
        watched.page.wait_for_selector("ul.search li a")
        assert watched.page.locator("ul.search li a", has_text="LAMBADA").count() >= 1
        assert watched.errors == []


def test_solutions_are_folded(built):
    """Nobody sees a solution or a hint before unfolding it."""
    for notebook in find_notebooks():
        page = BeautifulSoup((built / "notebooks" / f"{notebook.stem}.html").read_bytes(), "html.parser")
        folds = page.select("article details")
        assert len(folds) >= 3, notebook.stem
        assert not any(fold.has_attr("open") for fold in folds), notebook.stem


def test_every_page_of_the_tutorial_is_sound(chromium, tmp_path):
    """As `make tutorial` writes them, from the committed outputs; links that leave the folder are not followed."""
    pages.copy_mathjax(tmp_path / "mathjax.js")
    for path in find_notebooks():
        pages.write_page(nbformat.read(path, as_version=4), tmp_path / f"{path.stem}.html")
    problems = look_at_all(chromium, tmp_path)
    assert [problem for problem in problems if "which does not exist" not in problem] == []
