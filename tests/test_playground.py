"""The sampling playground, driven without a browser: buttons are clicked, values are set, threads are counted."""

import html
import re
import threading
import time

import pytest

from helpers.generation.sampling import Sampling, stream_text
from helpers.teaching import worker
from helpers.teaching.playground import MAX_NEW_TOKENS, Playground

LIMIT = 60  # seconds after which a thread counts as stuck


@pytest.fixture
def playground(tiny_rwkv5):
    before = set(threading.enumerate())
    widget = Playground(*tiny_rwkv5, prompt="Hello", settings=Sampling(max_new_tokens=6, seed=5))
    yield widget
    widget.close()
    assert set(threading.enumerate()) <= before, "a thread is left"


def until(condition) -> None:
    """Wait for ``condition()``, but not for ever."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


def test_nothing_runs_before_the_first_click(playground):
    assert not playground.worker.running
    assert playground.view.value == ""
    assert playground.button.description == "Run"


def test_a_click_writes_the_same_text_as_the_plain_function(playground, tiny_rwkv5):
    *_, expected = stream_text(*tiny_rwkv5, "Hello", Sampling(max_new_tokens=6, seed=5))
    seen = []
    playground.view.observe(lambda change: seen.append(change["new"]), names="value")
    playground.button.click()
    playground.worker.wait(LIMIT)
    assert len(seen) >= 3, "the text should have appeared in steps"
    assert strip_tags(playground.view.value) == "Hello" + expected
    assert playground.status.value.startswith("done: 6 tokens, ")
    assert playground.button.description == "Run"


def strip_tags(text: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", text))


def test_every_control_reaches_the_sampler(playground):
    playground.temperature.value, playground.top_p.value = 0.5, 0.4
    playground.repetition_penalty.value, playground.presence_penalty.value = 1.5, 1.25
    playground.length.value, playground.seed.value = 3, 9
    assert playground.settings() == Sampling(0.5, 0.4, 1.5, 1.25, max_new_tokens=3, seed=9)


def test_another_seed_writes_another_text(playground):
    texts = []
    for seed in (1, 2, 1):
        playground.seed.value = seed
        playground.run()
        playground.worker.wait(LIMIT)
        texts.append(playground.view.value)
    assert texts[0] == texts[2] != texts[1]


def test_stop_ends_the_text_and_run_works_again(playground, monkeypatch):
    monkeypatch.setattr(worker, "SETTLE", 0)
    playground.length.value = MAX_NEW_TOKENS
    playground.button.click()
    until(lambda: playground.status.value.endswith("tokens …"))
    assert playground.button.description == "Stop"
    playground.run()  # while it runs, this does nothing
    playground.button.click()
    playground.worker.wait(LIMIT)
    assert not playground.worker.running
    assert playground.status.value.startswith("stopped: ")
    assert int(playground.status.value.split()[1]) < MAX_NEW_TOKENS
    playground.length.value = 2
    playground.button.click()
    playground.worker.wait(LIMIT)
    assert playground.status.value.startswith("done: 2 tokens, ")


def test_a_double_click_starts_and_does_not_stop(playground):
    playground.length.value = MAX_NEW_TOKENS
    playground.button.click()
    playground.button.click()
    assert not playground.worker.stopping


def test_reading_a_long_prompt_can_be_stopped(playground, monkeypatch):
    monkeypatch.setattr(worker, "SETTLE", 0)
    seen = []
    playground.status.observe(lambda change: seen.append(change["new"]), names="value")
    playground.status.observe(lambda change: playground.button.click() if len(seen) == 3 else None, names="value")
    playground.prompt.value = "Hello " * 2500
    playground.button.click()
    playground.worker.wait(LIMIT)
    assert seen[0] == "reading, 2,501 tokens left …"
    assert seen[-1] == playground.status.value == "stopped"
    assert len(seen) == 4


def test_the_widget_of_a_cell_that_is_run_again_stops(playground, tiny_rwkv5):
    playground.length.value = MAX_NEW_TOKENS
    playground.button.click()
    until(lambda: playground.status.value.endswith("tokens …"))
    again = Playground(*tiny_rwkv5)
    playground.worker.wait(LIMIT)
    assert playground.status.value.startswith("stopped: ")
    again.close()


def test_closing_ends_the_thread(tiny_rwkv5):
    widget = Playground(*tiny_rwkv5, settings=Sampling(max_new_tokens=MAX_NEW_TOKENS))
    widget.run()
    until(lambda: widget.status.value.endswith("tokens …"))
    widget.close()
    assert not widget.worker.running


def test_errors_are_shown_in_the_widget(playground, monkeypatch):
    playground.prompt.value = ""
    playground.button.click()
    playground.worker.wait(LIMIT)
    assert "InputError</b>: There are no tokens to continue" in playground.status.value
    playground.prompt.value = "oops \ud83d"  # the tokenizer's error
    playground.button.click()
    playground.worker.wait(LIMIT)
    assert "InputError</b>: The text has a lone surrogate" in playground.status.value
    monkeypatch.setattr(type(playground.model), "forward", lambda *args, **kwargs: 1 / 0)
    playground.prompt.value = "Hello"
    playground.button.click()
    playground.worker.wait(LIMIT)
    assert playground.status.value == "<b>ZeroDivisionError</b>: division by zero"
    assert playground.button.description == "Run"


def test_markup_in_a_prompt_is_shown_as_text(playground):
    playground.prompt.value = "<script>alert(1)</script> & <b>"
    playground.button.click()
    playground.worker.wait(LIMIT)
    assert "&lt;script&gt;" in playground.view.value
    assert "<script>" not in playground.view.value


def test_a_static_page_says_what_it_is(playground):
    assert repr(playground) == "[Sampling playground: run this cell in JupyterLab to let the model write]"
