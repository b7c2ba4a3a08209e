"""The LAMBADA browser, driven without a browser, the pictures, and the count of words said before."""

import json

import pytest
import torch
from matplotlib.figure import Figure

from helpers import __main__ as cli
from helpers.bench import copying
from helpers.lambada import SAMPLE, Document, Result
from helpers.teaching import pictures_lambada
from helpers.teaching.lambada_browser import FILTERS, LambadaBrowser, passage_html, select, top_tokens

VOCAB = {1: b" a", 2: b" cat", 3: b"\xe4", **{index: f" w{index}".encode() for index in range(4, 16)}}
TEXTS = ["A cat saw a cat", "The <b> dog saw a", "Then came w5"]
DOCUMENTS = [Document([1, 4], [2]), Document([5], [1]), Document([6, 7], [5, 4])]
OURS = [Result(-1.0, True), Result(-3.0, False), Result(-2.0, False)]
THEIRS = [Result(-1.0, True), Result(-3.0, True), Result(-2.0, False)]


def predict(ids):
    logits = torch.zeros(16)
    logits[2], logits[0] = 4.0, 3.0
    return logits


@pytest.fixture
def browser():
    sides = {"ours": predict, "theirs": lambda ids: predict(ids) * 0}
    return LambadaBrowser(TEXTS, DOCUMENTS, sides, {"ours": OURS, "theirs": THEIRS}, VOCAB)


def test_the_most_probable_tokens():
    top = top_tokens(predict([]), VOCAB)
    assert len(top) == 8
    assert [token for token, _ in top[:2]] == [" cat", "<|endoftext|>"]
    expected = torch.softmax(predict([]), dim=-1)
    assert top[0][1] == pytest.approx(expected[2].item())


def test_bytes_that_are_no_text_are_shown_all_the_same():
    assert top_tokens(torch.eye(16)[3] * 9, VOCAB)[0][0] == "\ufffd"


@pytest.mark.parametrize(
    ("kind", "found"),
    zip(FILTERS, ([0, 1, 2], [0], [1, 2], [0], [1, 2], [1], [1, 2, 0]), strict=True),
)
def test_filters(kind, found):
    assert select(TEXTS, OURS, THEIRS, kind) == found


def test_a_passage_is_shown_with_its_target_marked():
    text = passage_html(TEXTS[1])
    assert "The &lt;b&gt; dog saw" in text
    assert text.count("<mark") == 1
    assert "␣a</mark>" in text


def test_the_first_passage_is_there_at_once(browser):
    assert browser.status.value == "1 of 3: passage 0"
    assert "ours</b>: right, log-probability of the word -1.0000" in browser.view.value
    assert browser.view.value.count("<table") == 2
    assert "<b>&#x27; cat&#x27;</b>" in browser.view.value  # the target's token stands out


def test_turning_over_and_choosing(browser):
    browser.position.value = 2
    assert browser.status.value == "3 of 3: passage 2"
    assert "Then came" in browser.passage.value
    browser.kind.value = "the sides differ"
    assert browser.status.value == "1 of 1: passage 1"
    assert "ours</b>: wrong" in browser.view.value
    assert "theirs</b>: right" in browser.view.value
    browser.kind.value = "hardest first"
    assert browser.status.value == "1 of 3: passage 1"
    assert "run this cell" in repr(browser)


def test_a_kind_without_passages():
    results = {"ours": OURS[:1], "theirs": OURS[:1]}
    browser = LambadaBrowser(TEXTS[:1], DOCUMENTS[:1], {"ours": predict}, results, VOCAB)
    browser.kind.value = "wrong"
    assert (browser.status.value, browser.view.value) == ("No passage is of this kind.", "")
    browser.kind.value = "all"
    assert browser.status.value == "1 of 1: passage 0"


def test_pictures():
    assert isinstance(pictures_lambada.score_figure(), Figure)
    assert isinstance(pictures_lambada.batch_figure(), Figure)


@pytest.mark.parametrize(
    ("text", "times"),
    [("A cat saw a cat", 1), ("Cats saw a cat", 0), ("Anna, Anna's dog and anna saw Anna", 2), ("One two", 0)],
)
def test_times_said(text, times):
    assert copying.times_said(text) == times


def test_groups_hold_every_passage_once():
    rows = copying.count_groups(TEXTS, OURS)
    assert rows[:2] == [{"said": "0", "passages": 2, "right": 0}, {"said": "1", "passages": 1, "right": 1}]
    assert sum(row["passages"] for row in rows) == len(TEXTS)


def test_the_command_counts_and_records(tmp_path):
    out = tmp_path / "copying.json"
    assert (
        cli.main(["bench", "copying", "--data", str(SAMPLE), "--limit", "6", "--threads", "1", "--out", str(out)]) == 0
    )
    content = json.loads(out.read_text())
    assert sum(row["passages"] for row in content["rows"]) == 6
    assert content["model"] == "rwkv5-world-mini"


@pytest.mark.parametrize("options", [["--limit", "0"], ["--threads", "0"], ["--data", "nowhere.jsonl"]])
def test_what_cannot_be_counted(options, tmp_path, capsys):
    given = ["--data", str(SAMPLE), "--out", str(tmp_path / "out.json"), *options]
    assert cli.main(["bench", "copying", *given]) == 2
    assert not (tmp_path / "out.json").exists()
