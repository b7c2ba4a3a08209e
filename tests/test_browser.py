"""What readers do in JupyterLab, in a real browser: type, click, move sliders, read what the widgets answer.

The playground is tried in its notebook, run as readers run it. All others, to save time, share one notebook, in which
each widget has a small input (``tiny_widgets.py``).
"""

import re

import pytest

from tests import browser, jupyterlab

pytestmark = pytest.mark.browser

WIDGETS = (
    "trie_walk",
    "tokenizer_explorer",
    "decay_explorer",
    "state_explorer",
    "conversion_inspector",
    "lambada_browser",
    "chat",
)


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jupyterlab")
    with browser.launch() as chromium, jupyterlab.started(folder) as address:
        yield chromium, address, folder


@pytest.fixture
def lab(jupyter):
    lab = jupyterlab.Lab(*jupyter)
    yield lab
    lab.close()


@pytest.fixture(scope="module")
def opened(jupyter):
    lab = jupyterlab.Lab(*jupyter)
    sources = {name: f"from tests import tiny_widgets\n\ntiny_widgets.{name}()" for name in WIDGETS}
    sources["figure"] = (
        "from helpers.teaching import parts_figure, show\n\nshow(parts_figure(), alt='How the parts fit together.')"
    )
    notebook = lab.open_cells(sources)
    notebook.run_all()
    yield notebook
    lab.close()


@pytest.fixture
def tiny(opened):
    """The notebook with all the widgets of ``tiny_widgets.py``; each test uses its own."""
    yield opened
    opened.watched.check()


def test_figures_have_descriptions(tiny):
    figure = tiny.cell("figure")
    figure.get_by_alt_text("How the parts fit together.").wait_for()
    assert figure.locator("img").count() == 1


def test_the_trie_walk_steps_and_falls_back(tiny):
    cell = tiny.cell("trie_walk")
    tiny.until_text("trie_walk", "Byte a leads on to a. A token ends here")
    first = tiny.until_redrawn("trie_walk")
    for _ in range(3):
        cell.get_by_role("button", name="Next").click()
    tiny.until_text("trie_walk", "From abc, byte a leads nowhere. Fall back 1 to the last token passed, and take ab.")
    tiny.until_redrawn("trie_walk", first)
    cell.get_by_role("button", name="Back").click()
    tiny.until_text("trie_walk", "No token ends here; the longest so far is ab.")
    tiny.slider("trie_walk", "Step").press("End")
    tiny.until_text("trie_walk", "The text ends. Take ab.")


def test_the_trie_walk_takes_another_text_and_another_vocabulary(tiny):
    cell = tiny.cell("trie_walk")
    cell.get_by_role("textbox", name="Text").fill("<i>")
    tiny.until_text("trie_walk", "No token begins at byte 0 of the text, <.")
    cell.get_by_label("Tokens").select_option("World")
    tiny.until_text("trie_walk", "Byte < leads on to <. A token ends here")
    assert not cell.locator("img.widget-image").is_visible(), "65,529 tokens are not drawn as a tree"


def test_the_tokenizer_explorer_follows_what_is_typed(tiny):
    cell = tiny.cell("tokenizer_explorer")
    cell.get_by_role("textbox", name="Text").fill("one<|endoftext|>two")
    tiny.until_text("tokenizer_explorer", "9 tokens")
    cell.get_by_role("checkbox").uncheck()
    assert "id 0: 3 tokens" in tiny.until_text("tokenizer_explorer", "below, it is id 0")


def test_the_decay_explorer_follows_its_sliders(tiny):
    first = tiny.until_redrawn("decay_explorer")
    tiny.slider("decay_explorer", "time_decay").press("ArrowRight")
    tiny.until_text("decay_explorer", "w = exp(-exp(-1.40)) = 0.7815, half-life 2.81 tokens")
    second = tiny.until_redrawn("decay_explorer", first)
    tiny.slider("decay_explorer", "bonus u").press("ArrowLeft")
    tiny.until_text("decay_explorer", "the token itself counts 1.20")
    tiny.until_redrawn("decay_explorer", second)
    tiny.slider("decay_explorer", "tokens T").press("Home")
    tiny.until_text("decay_explorer", "2 tokens back 0.78 is left")


def test_the_state_explorer_plays_a_sentence_and_shows_any_head(tiny):
    cell = tiny.cell("state_explorer")
    assert "One <b>two</b>" in tiny.until_text("state_explorer", "token 1 of "), "markup is shown as text"
    text = cell.get_by_label("text")
    text.fill("He was old")
    text.press("Enter")
    tiny.until_text("state_explorer", "token 1 of 3: the change is 100% of the size of S")
    before = tiny.until_redrawn("state_explorer")
    tiny.slider("state_explorer", "token").press("ArrowRight")
    tiny.until_text("state_explorer", "token 2 of 3")
    cell.locator(".widget-play button").first.click()
    tiny.until_text("state_explorer", "token 3 of 3")
    assert "■ goes back to the first" in tiny.text("state_explorer")
    cell.locator(".widget-play button").nth(1).click()
    tiny.until_text("state_explorer", "token 1 of 3")
    before = tiny.until_redrawn("state_explorer", before)
    for name in ("block", "head"):
        cell.get_by_label(name).select_option("0")
        before = tiny.until_redrawn("state_explorer", before)


def test_the_conversion_inspector_finds_and_shows_tensors(tiny):
    cell = tiny.cell("conversion_inspector")
    tiny.until_text("conversion_inspector", "46 of 46 tensors")
    cell.get_by_label("Find").fill("1.ffn.key")
    assert "[128, 32], 4,096 numbers" in tiny.until_text("conversion_inspector", "1 of 46 tensors")
    cell.get_by_label("Find").fill("feed_forward")
    tiny.until_text("conversion_inspector", "10 of 46 tensors")
    cell.get_by_label("Tensor").select_option("blocks.0.ffn.time_mix_k")
    tiny.until_text("conversion_inspector", "rwkv.blocks.0.feed_forward.time_mix_key")
    assert re.search(r"same bits\s+yes", tiny.text("conversion_inspector"))
    cell.get_by_role("img", name="Histogram of 32 numbers").wait_for()


def test_the_lambada_browser_turns_over_passages(tiny):
    cell = tiny.cell("lambada_browser")
    text = tiny.until_text("lambada_browser", "1 of 3: passage 0")
    assert "<b>ran</b>" in text, "markup is shown as text"
    assert "uniform: wrong, log-probability of the word -11.0000" in text
    tiny.slider("lambada_browser", "Passage").press("ArrowRight")
    tiny.until_text("lambada_browser", "2 of 3: passage 1")
    tiny.until_text("lambada_browser", "She gave him the key to the")
    cell.get_by_label("Show").select_option("said before")
    tiny.until_text("lambada_browser", "1 of 1: passage 0")
    cell.get_by_label("Show").select_option("right")
    tiny.until_text("lambada_browser", "No passage is of this kind.")


def test_a_chat_sends_at_enter_stops_and_starts_over(tiny):
    cell = tiny.cell("chat")
    cell.get_by_label("Message").fill("How are <b>you</b>?")
    cell.get_by_label("Message").press("Enter")
    assert "How are <b>you</b>?" in tiny.until_text("chat", "Assistant"), "markup is shown as text"
    tiny.page.wait_for_timeout(600)  # a second click within half a second would belong to the first
    cell.get_by_role("button", name="Stop").click()
    cell.get_by_role("button", name="Send").wait_for()
    cell.get_by_role("button", name="Start over").click()
    cell.get_by_text("Assistant").wait_for(state="detached")


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
