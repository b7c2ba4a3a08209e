"""The walk through a trie: its steps, how they are told and drawn, and the widget without a browser."""

import re

import pytest

from helpers.hub_code.tokenization_rwkv_world import BYTE_TO_CHAR
from helpers.teaching.pictures_tokenizer import (
    byte_alphabet_figure,
    character_bytes_figure,
    pipeline_figure,
    searches_figure,
    trie_figure,
)
from helpers.teaching.trie_walk import MOST_BYTES, TrieWalk, sentence, step_html, walk
from helpers.tokenizer import TrieTokenizer, build_fast_tokenizer, fuzz_texts, read_vocab

WORDS = ["a", "ab", "abc", "abcdef", "b", "c", "cde", "d", "e"]
TINY = TrieTokenizer(dict(enumerate((word.encode() for word in WORDS), 1)))
SOURCE = b"abcdeab"


def texts_of(figure) -> str:
    return " ".join(text.get_text() for axes in figure.axes for text in axes.texts)


def test_the_steps_of_a_walk():
    steps = walk(TINY, SOURCE)
    assert [step.path for step in steps if not step.taken][:5] == [b"a", b"ab", b"abc", b"abcd", b"abcde"]
    assert [(step.path, step.token, step.fallback) for step in steps if step.taken] == [
        (b"abcde", b"abc", 2),
        (b"d", b"d", 0),
        (b"e", b"e", 0),
        (b"ab", b"ab", 0),
    ]
    assert [step.start for step in steps if step.taken] == [0, 3, 4, 5]
    assert [step.ways for step in steps[:5]] == [1, 1, 1, 1, 1]
    assert walk(TINY, b"") == []


def test_a_walk_takes_the_tokens_of_the_tokenizer():
    world = TrieTokenizer(read_vocab())
    for text in fuzz_texts(500, seed=3):
        taken = [step.token for step in walk(world, text.encode()) if step.taken]
        assert taken == [world.vocab[index] for index in world.encode(text)]


def test_a_byte_without_a_token():
    with pytest.raises(ValueError, match="No token begins at byte 1 of the text, x"):
        walk(TINY, b"ax")


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "Byte a leads on to a. A token ends here, the longest so far."),
        (3, "Byte d leads on to abcd. No token ends here; the longest so far is abc."),
        (5, "From abcde, byte a leads nowhere. Fall back 2 to the last token passed, and take abc."),
        (7, "From d, byte e leads nowhere. Take d."),
        (-1, "The text ends. Take ab."),
    ],
)
def test_what_is_said(number, said):
    assert sentence(walk(TINY, SOURCE)[number], SOURCE) == said


def test_no_token_yet():
    trie = TrieTokenizer({1: b"xy", 2: b"y"})
    assert sentence(walk(trie, b"xy")[0], b"xy") == "Byte x leads on to x. No token ends here."


def test_html_shows_every_byte_and_is_escaped():
    trie = TrieTokenizer({1: b"<", 2: b"a"})
    steps = walk(trie, b"<a<")
    for number in range(len(steps)):
        page = step_html(steps, number, b"<a<")
        row = page.split("</tr>")[0]
        assert row.count("<span") == 3
        assert row.count("&lt;</span>") == 2
    assert "(0 bytes lead on;" in page


def test_the_widget_steps_and_follows_the_text():
    widget = TrieWalk({"nine": [word.encode() for word in WORDS], "World": read_vocab().values()}, text="abcdeab")
    assert (widget.step.max, widget.step.value) == (13, 1)
    assert "leads on to a" in widget.view.value
    assert bytes(widget.tree.value).startswith(b"\x89PNG")
    for _ in range(5):
        widget.forward.click()
    assert "Fall back 2" in widget.view.value
    widget.back.click()
    assert "leads on to abcde" in widget.view.value
    widget.step.value = 13
    widget.forward.click()
    assert widget.step.value == 13
    widget.text.value = "abx"
    assert "No token begins at byte 2" in widget.view.value
    assert widget.tree.layout.display == "none"
    widget.vocabulary.value = "World"
    assert widget.step.value == 1
    assert "bytes lead on" in widget.view.value
    widget.text.value = ""
    assert widget.view.value == "Type a text."
    widget.text.value = "\ud83d"
    assert "?" in widget.view.value
    widget.text.value = "a b" * 1000
    assert len(widget.source) == MOST_BYTES
    assert "run this cell" in repr(widget)


def test_every_node_is_drawn_and_the_path_is_numbered():
    plain, walked = texts_of(trie_figure(WORDS)), texts_of(trie_figure(WORDS, "abcde", kept=3))
    assert sorted(plain.split()) == sorted([*"abcdefbcdede", "start"])
    assert re.search(r"\b5\b", walked)
    assert "6: no way on, back to abc" in walked
    assert "back" not in texts_of(trie_figure(WORDS, "ab", kept=2))
    assert len(trie_figure(WORDS).axes[0].patches) == 13


def test_searches_are_told():
    texts = texts_of(searches_figure("abcdeab", [("abcde", "abc"), ("d", "d"), ("e", "e"), ("ab", "ab")]))
    assert "a leads nowhere, back 2: take abc" in texts
    assert "the text ends: take ab" in texts


def test_the_pictures_of_characters_show_the_real_tokens():
    vocab = read_vocab()
    texts = texts_of(character_bytes_figure())
    for index, token in (
        (10285, "中".encode()), (3025, b"\xe4\xb8"), (174, b"\xad"), (3017, b"\xe2\x98"), (150, b"\x95"),
    ):  # fmt: skip
        assert vocab[index] == token
        assert f"id {index}" in texts
    assert "☕".encode() not in vocab.values()


def test_the_pipeline_shows_pieces_and_ids():
    backend = build_fast_tokenizer()
    texts = texts_of(pipeline_figure(backend, "Retokenize, ☕!")).split()
    assert "Retokenize," in texts
    assert [text for text in texts if text.isdigit()] == [str(index) for index in backend.encode("Retokenize, ☕!").ids]


def test_the_alphabet_has_256_cells():
    figure = byte_alphabet_figure(BYTE_TO_CHAR)
    assert len(figure.axes[0].patches) == 256
    assert len({patch.get_facecolor() for patch in figure.axes[0].patches}) == 2
