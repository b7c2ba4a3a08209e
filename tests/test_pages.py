"""The pages of `make tutorial`: complete without a network, with titles, contents, descriptions and working links."""

import base64
import re

import nbformat
import pytest
from bs4 import BeautifulSoup  # nbconvert brings it
from nbconvert import HTMLExporter

from helpers.errors import InputError
from helpers.paths import BUILD
from helpers.series import pages, run
from helpers.teaching import plotting

ALT = 'A line that rises from 1 to 2 & is called "growth"'


@pytest.fixture
def figure_output(monkeypatch):
    """What a cell that shows a figure has as its output."""
    outputs = []
    monkeypatch.setattr(plotting, "display", lambda data, metadata, raw: outputs.append((data, metadata)))
    figure, axes = plotting.new_figure()
    axes.plot([1, 2])
    axes.set(xlabel="x", ylabel="y")
    plotting.show(figure, alt=ALT)
    [(data, metadata)] = outputs
    return nbformat.from_dict(nbformat.v4.new_output("display_data", data, metadata=metadata))


def page_of(*cells) -> str:
    return pages.as_html(nbformat.v4.new_notebook(cells=list(cells)), BUILD / "notebooks")


def code(*outputs):
    return nbformat.v4.new_code_cell("1", outputs=list(outputs))


def test_a_figure_carries_its_description_everywhere(figure_output):
    """JupyterLab shows the HTML, GitHub the PNG with the metadata, a terminal the text."""
    assert 'alt="A line that rises from 1 to 2 &amp; is called &quot;growth&quot;"' in figure_output.data["text/html"]
    assert figure_output.data["image/png"] in figure_output.data["text/html"]
    assert base64.b64decode(figure_output.data["image/png"]).startswith(b"\x89PNG")
    assert figure_output.metadata["image/png"]["alt"] == figure_output.data["text/plain"] == ALT
    notebook = nbformat.v4.new_notebook(cells=[code(figure_output)])
    [committed] = run.committed_form(notebook).cells[0].outputs
    assert set(committed.data) == {"image/png", "text/plain"}
    assert committed.metadata["image/png"]["alt"] == ALT


@pytest.mark.parametrize("form", ["executed", "committed"])
def test_descriptions_reach_a_page(figure_output, form):
    notebook = nbformat.v4.new_notebook(cells=[code(figure_output)])
    if form == "committed":
        notebook = run.committed_form(notebook)
    images = BeautifulSoup(page_of(*notebook.cells), "html.parser").find_all("img")
    assert [image["alt"] for image in images] == [ALT]


def test_descriptions_reach_readers_of_the_committed_notebook(figure_output):
    """nbconvert's classic page stands for GitHub's, which is made in a similar way."""
    notebook = run.committed_form(nbformat.v4.new_notebook(cells=[code(figure_output)]))
    page, _ = HTMLExporter(template_name="classic").from_notebook_node(notebook)
    assert [image["alt"] for image in BeautifulSoup(page, "html.parser").find_all("img")] == [ALT]


def test_code_is_shown_as_text():
    page = page_of(nbformat.v4.new_code_cell("x = '<script>alert(1)</script>'"))
    assert "<script>alert" not in page
    assert "x = '<script>alert(1)</script>'" in BeautifulSoup(page, "html.parser").find("main").get_text()


def test_a_page_asks_for_nothing_from_elsewhere():
    text = nbformat.v4.new_markdown_cell("# 07. A `title`\n\n$e^x$ and [a link](https://example.org)")
    view = {pages.WIDGET: {"model_id": "1"}, "text/plain": "[Playground: run this cell]"}
    notebook = nbformat.v4.new_notebook(cells=[text, code(nbformat.v4.new_output("display_data", view))])
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    page = pages.as_html(notebook, BUILD / "notebooks")
    assert set(re.findall(r'(?:src|href)="(https?://[^"]*)"', page)) == {"https://example.org"}
    assert re.findall(r'<script[^>]* src="([^"]*)"', page) == ["mathjax.js"]
    assert "[Playground: run this cell]" in page
    assert "<title>07. A title</title>" in page


def test_contents_and_headings_agree_whatever_is_in_them():
    headings = ["1. Bytes", "4. `\\u0000` against `\\x00`", "5. `'\\x80'` is <b>not</b> `b'\\x80'` & 100 %", "1. Bytes"]
    page = page_of(*(nbformat.v4.new_markdown_cell(f"## {heading}") for heading in headings))
    anchors = re.findall(r'<h2 id="([^"]*)"', page)
    linked = re.findall(r'<li><a href="#([^"]*)"', page)
    assert anchors[0] == "1.-Bytes"
    assert len(set(anchors)) == len(linked) == 4
    assert [pages.quote(anchor) for anchor in anchors] == linked
    assert "mathjax" not in page


def test_links_lead_to_pages_and_files_or_nowhere():
    page = page_of(
        nbformat.v4.new_markdown_cell(
            "[a](00_start_here.ipynb#Glossary) [b](../README.md#map) [c](parity.json) [d](#Glossary) [e](mailto:x@y)"
        )
    )
    links = dict(re.findall(r'<a href="([^"]*)"[^>]*>(\w)</a>', page))
    assert links == {
        "00_start_here.html#Glossary": "a", "../../README.md#map": "b", "#Glossary": "d", "mailto:x@y": "e"
    }  # fmt: skip


def test_mathjax_is_the_published_one(tmp_path, monkeypatch):
    pages.copy_mathjax(tmp_path / "a" / "mathjax.js")
    assert (tmp_path / "a" / "mathjax.js").stat().st_size > 1_000_000
    monkeypatch.setattr(pages, "MATHJAX_SHA256", "0")
    with pytest.raises(InputError, match="reinstall sphinx-mathjax-offline"):
        pages.copy_mathjax(tmp_path / "mathjax.js")
