"""What readers do in JupyterLab, in a real browser: run cells, type, click, read what the widgets answer."""

import re

import pytest

from tests import browser, jupyterlab

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jupyterlab")
    with browser.launch() as chromium, jupyterlab.started(folder) as address:
        yield jupyterlab.Lab(chromium, address, folder)


@pytest.fixture
def lab(jupyter):
    yield jupyter
    jupyter.close()


def test_figures_have_descriptions(lab):
    source = "from helpers.teaching import parts_figure, show\nshow(parts_figure(), alt='How the parts fit together.')"
    notebook = lab.open_cells(source)
    notebook.run_all()
    notebook.cell("0").get_by_alt_text("How the parts fit together.").wait_for()
    assert browser.undescribed(notebook.page) == []


def test_the_playground_writes_and_repeats_itself(lab):
    notebook, widget = lab.open("00_start_here", "Playground(")
    notebook.run_all()
    cell = notebook.cell(widget)
    cell.get_by_label("prompt").fill("The captain <b>looked</b>")
    texts = []
    for _ in range(2):
        cell.get_by_role("button", name="Run").click()
        cell.get_by_role("button", name="Stop").wait_for()
        text = notebook.until_text(widget, "done: 64 tokens")
        texts.append(re.sub(r"\d+ tokens/s", "", text))
    assert texts[0] == texts[1], "the same seed writes the same text"
    assert "The captain <b>looked</b>" in texts[0], "markup is shown as text"


def test_the_tokenizer_explorer_follows_what_is_typed(lab):
    notebook, widget = lab.open("02_tokenizer", "TokenizerExplorer(", FUZZ_TEXTS=100)
    notebook.run_all()
    cell = notebook.cell(widget)
    cell.get_by_role("textbox", name="Text").fill("one<|endoftext|>two")
    notebook.until_text(widget, "9 tokens")
    cell.get_by_role("checkbox").uncheck()
    assert "id 0: 3 tokens" in notebook.until_text(widget, "below, it is id 0")


def test_a_chat_sends_at_enter_stops_and_starts_over(lab):
    notebook, widget = lab.open("10_generate_and_serve", "ChatWidget(")
    notebook.run_all()
    cell = notebook.cell(widget)
    cell.get_by_label("Message").fill("How are you? " * 500)  # long enough that there is time to stop
    cell.get_by_label("Message").press("Enter")
    notebook.until_text(widget, "Assistant")
    notebook.page.wait_for_timeout(600)  # a second click within half a second would belong to the first
    cell.get_by_role("button", name="Stop").click()
    cell.get_by_role("button", name="Send").wait_for()
    cell.get_by_role("button", name="Start over").click()
    cell.get_by_text("Assistant").wait_for(state="detached")
