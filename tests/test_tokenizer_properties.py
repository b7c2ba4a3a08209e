"""Properties of the tokenizers' parts for any vocabulary, and of the tools that compare and show tokens."""

import json
import re
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.errors import InputError
from helpers.hub_code.tokenization_rwkv_world import BYTE_TO_CHAR, CHAR_TO_BYTE
from helpers.teaching.token_view import (
    MAX_TOKENS,
    TokenizerExplorer,
    agreement_html,
    bytes_of_tokens,
    show_tokens,
    token_label,
    tokens_html,
)
from helpers.tokenizer.check import Mismatch, find_mismatches, fuzz_texts, load_cases, reference_tokenizer
from helpers.tokenizer.fast import (
    CHAT_TEMPLATE,
    build_fast_tokenizer,
    piece_regex,
    trie_regex,
    what_follows,
)
from helpers.tokenizer.trie import TrieTokenizer
from helpers.tokenizer.vocab import chars_to_token, read_vocab, token_to_chars

# Few letters, so that words share beginnings; and characters that mean something in a regex.
letters = st.sampled_from(list("ab \n]^-\\[|?.&é中"))
words = st.sets(st.text(letters, min_size=1, max_size=6), max_size=25)
texts = st.text(letters, max_size=30)


def longest_matches(vocabulary: set[str], text: str) -> list[str]:
    """The definition, without a trie."""
    pieces, start = [], 0
    while start < len(text):
        piece = max((word for word in vocabulary if text.startswith(word, start)), key=len)
        pieces.append(piece)
        start += len(piece)
    return pieces


@given(words, texts, st.integers(min_value=1, max_value=4))
@settings(max_examples=300, deadline=None)
def test_regex_finds_the_longest_words(vocabulary, text, max_alternatives):
    vocabulary = vocabulary | set(text)
    if vocabulary:
        assert re.findall(trie_regex(vocabulary, max_alternatives), text) == longest_matches(vocabulary, text)


@given(words, texts)
@settings(max_examples=200, deadline=None)
def test_trie_and_fast_tokenizer_agree_on_any_vocabulary(vocabulary, text):
    tokens = {word.encode() for word in vocabulary} | {bytes([byte]) for byte in range(256)}
    vocab = dict(enumerate(sorted(tokens), start=1))
    ids = TrieTokenizer(vocab).encode(text)
    assert build_fast_tokenizer(vocab).encode(text).ids == ids
    assert TrieTokenizer(vocab).decode(ids) == text


# Characters of every length, those that the regex has rules for, and tokens that start or end inside of a character.
chars = st.sampled_from(list("abZ ,.'-(0\n\x00éж中国。，か한ከ\U0001f600\U00020000"))
raw = st.lists(chars, min_size=1, max_size=4).map("".join).map(str.encode)
cut = st.tuples(raw, st.integers(0, 3), st.integers(0, 3)).map(
    lambda given: given[0][given[1] : len(given[0]) - given[2]]
)


@given(
    st.sets(raw | cut.filter(bool), max_size=25), st.lists(chars | st.just("<|endoftext|>"), max_size=30).map("".join)
)
@settings(max_examples=300, deadline=None)
def test_words_and_characters_are_cut_where_no_token_crosses(vocabulary, text):
    vocab = dict(enumerate(sorted(vocabulary | {bytes([byte]) for byte in range(256)}), start=1))
    fast = build_fast_tokenizer(vocab)
    fast.encode_special_tokens = True
    assert fast.encode(text).ids == TrieTokenizer(vocab).encode(text)


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_trie_equals_the_reference_on_any_text(text):
    ids = reference_tokenizer().encode(text)
    assert TRIE.encode(text) == ids
    assert TRIE.decode(ids) == text


TRIE = TrieTokenizer(read_vocab())
SPLIT = build_fast_tokenizer().pre_tokenizer.pre_tokenize_str
SMALL = {byte + 1: bytes([byte]) for byte in range(256)}


def test_regex_of_a_small_vocabulary():
    assert trie_regex(["a", "ab", "abc", "b"]) == "(?:a(?:b(?:c)?)?|b)"
    assert trie_regex(["ax", "bx", "c"]) == "(?:[ab]x|c)"  # equal continuations are merged
    assert trie_regex(["a", "bx", "cy", "dz"], max_alternatives=2) == "(?:(?=[ab])(?:a|bx)|cy|dz)"


def test_what_follows_a_character():
    words = [token_to_chars(word) for word in (b"ab", b"a ", "é!".encode(), "中é".encode(), b"\xad\xe5", b"\xa9\xa9")]
    follows = what_follows(words)
    assert follows["a"] == {"b", "Ġ"}
    assert follows["Ã"] == {"!", "å"}  # byte C3 starts an é; b"\xad\xe5" may start inside of any character
    assert follows["ä"] == {"Ã", "å"}
    assert follows["b"] == set()


def test_pieces_are_words_characters_and_tokens():
    def pieces(text):
        return [chars_to_token(piece).decode(errors="replace") for piece, _ in SPLIT(text)]

    assert pieces("Look, unbelievable words don't (12):") == [
        "Look,",
        " unbelievable",
        " words",
        " don",
        "'t",
        " (",
        "12",
        "):",
    ]
    assert pieces("sesquipedalianism") == ["ses", "quipe", "dalianism"]  # too long to be a piece as it is
    assert pieces("    x.y\n\n") == ["    ", "x.", "y", "\n\n"]
    assert pieces("今天，天气不错。") == ["今天", "，天", "气不", "错。"]


@pytest.mark.parametrize(
    "unit", ["a", "qx", "aBcD", "ACGTTGCA", "é", "哈", "。", "ከ", "\x01", "a,", "0", " ", "=-", "😀"]
)
def test_work_grows_with_the_length_of_a_text_alone(unit):
    """WordPiece looks every beginning of a piece up, until one is a token: count how often, for any kind of text."""
    for length in (500, 5000):
        text = unit * (length // len(unit))
        look_ups = 0
        for piece, _ in SPLIT(text):
            source, start = chars_to_token(piece), 0
            while start < len(source):
                _, end = TRIE.longest_match(source, start)
                look_ups += len(source) - end + 1
                start = end
        assert look_ups <= 8 * len(text.encode())  # 7.5: all parts of the longest word, 14 bytes


def test_transformers_js_knows_all_parts():
    """It has no ByteLevel normalizer and no ``select`` filter (transformers.js 4.3.1)."""
    parts = json.loads(build_fast_tokenizer(SMALL).to_str())
    assert parts["normalizer"] is None
    assert [part["type"] for part in parts["pre_tokenizer"]["pretokenizers"]] == ["ByteLevel", "Split"]
    assert (parts["model"]["type"], parts["decoder"]["type"]) == ("WordPiece", "ByteLevel")
    assert "select" not in CHAT_TEMPLATE


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_javascript_reads_the_regex_as_we_do():
    texts = list(fuzz_texts(300, seed=9))
    expected = [[piece for piece, _ in SPLIT(text)] for text in texts]
    script = """
        const [regex, texts] = JSON.parse(require("fs").readFileSync(0))
        const pattern = new RegExp(regex, "gu")
        console.log(JSON.stringify(texts.map(text => text.match(pattern) ?? [])))
    """
    regex = piece_regex([token_to_chars(token) for token in read_vocab().values()])
    given = json.dumps([regex, [token_to_chars(text.encode()) for text in texts]])
    done = subprocess.run(["node", "-e", script], input=given, capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout) == expected


def test_trie_names_a_byte_that_no_token_starts_with():
    tokenizer = TrieTokenizer({1: b"ab", 2: b"a"})
    assert tokenizer.encode("aab") == [2, 1]
    with pytest.raises(ValueError, match="no token starts with byte 0x63, at byte 2"):
        tokenizer.encode("abc")


def test_fast_tokenizer_refuses_a_vocabulary_without_all_bytes():
    with pytest.raises(InputError, match="lacks 255 of the 256 single bytes"):
        build_fast_tokenizer({1: b"a", 2: b"ab"})


def test_byte_alphabet_is_a_bijection_of_visible_characters():
    assert sorted(BYTE_TO_CHAR) == list(range(256))
    assert {char: byte for byte, char in BYTE_TO_CHAR.items()} == CHAR_TO_BYTE
    assert all(char.isprintable() and not char.isspace() for char in CHAR_TO_BYTE)
    assert BYTE_TO_CHAR[ord("a")] == "a"
    assert BYTE_TO_CHAR[ord(" ")] == "Ġ"


def test_fuzz_texts_are_different_repeatable_and_varied():
    found = list(fuzz_texts(1000, seed=7))
    assert found == list(fuzz_texts(1000, seed=7)) != list(fuzz_texts(1000, seed=8))
    assert len(set(found)) == 1000
    everything = "".join(found)
    everything.encode()  # no lone surrogates
    for part in ("<|endoftext|>", "\u200d", "\r\n", "    ", "\x00", "今天", "\ufffd", "مرحبا"):
        assert part in everything
    assert max(everything) > "\uffff"


def test_compare_reports_the_texts_that_differ():
    mismatches = find_mismatches(lambda text: [1, 2], lambda text: [1, 3] if text == "b" else [1, 2], ["a", "b"])
    assert mismatches == [Mismatch("b", [1, 2], [1, 3])]
    assert str(mismatches[0]) == "'b': ids differ at 1: expected [1, 2], got [1, 3]"
    assert "ids differ at the end" in str(Mismatch("b", [1], [1, 2]))


def test_cases_are_read_and_repeated(tmp_path):
    path = tmp_path / "cases.jsonl"
    path.write_text(
        '{"name": "x", "text": "a\u2028b", "ids": [1]}\n{"name": "y", "text": "ab", "repeat": 3}\n', "utf-8"
    )
    first, second = load_cases(path)
    assert (first.name, first.text, first.ids) == ("x", "a\u2028b", [1])
    assert (second.text, second.ids) == ("ababab", None)


@pytest.mark.parametrize("line", ["[]", "{", '{"name": "x"}', '{"name": "x", "text": 1.5}', ""])
def test_bad_case_lines_are_refused_by_number(tmp_path, line):
    path = tmp_path / "cases.jsonl"
    path.write_text('{"name": "x", "text": "a"}\n' + line + '\n{"name": "x", "text": "a"}\n')
    with pytest.raises(InputError, match="line 2: not a case"):
        load_cases(path)


def test_missing_cases_are_refused(tmp_path):
    with pytest.raises(InputError, match="Cannot read the tokenizer cases"):
        load_cases(tmp_path / "none.jsonl")


# Views


class Tokenizer:
    """Bytes as ids, and id 0 as a special token: the little of a tokenizer that the views use."""

    class Special:
        content = "<|endoftext|>"

    added_tokens_decoder = {0: Special}  # noqa: RUF012

    def __call__(self, text, split_special_tokens=False):
        data = list(text.encode()) if split_special_tokens else list(text.replace("<|endoftext|>", "\0").encode())
        return {"input_ids": data}

    def convert_ids_to_tokens(self, index):
        return BYTE_TO_CHAR[index]


def test_labels_show_what_cannot_be_seen():
    assert token_label(b" a\n\t\r") == "␣a⏎⇥␍"
    assert token_label(b"\xe4\xbd") == "\\xe4\\xbd"
    assert token_label("\u200d你".encode()) == "\\u200d你"


def test_html_is_escaped_and_complete():
    page = tokens_html([7, 8], [b"<b>", b"&"])
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert ">7<" in page
    assert ">3c 62 3e<" in page


def test_a_long_run_of_spaces_is_counted():
    assert ">␣ × 30 a<" in tokens_html([1], [b" " * 30 + b"a"])


def test_html_of_a_long_text_is_cut():
    page = tokens_html(range(MAX_TOKENS + 5), [b"a"] * (MAX_TOKENS + 5))
    assert "and 5 more tokens" in page
    assert page.count("<td") == 3 * MAX_TOKENS


def test_special_tokens_show_their_text():
    assert bytes_of_tokens(Tokenizer(), [0, 97]) == [b"<|endoftext|>", b"a"]
    assert "endoftext" in show_tokens("a<|endoftext|>", Tokenizer()).data


def test_agreement_is_said_both_ways():
    assert "✓ one, two agree</b>: 2 tokens, 1 characters, 2 bytes" in agreement_html(
        "é", dict.fromkeys(("one", "two"), lambda text: [1, 2])
    )
    assert "✗" in agreement_html("é", {"one": lambda text: [1], "two": lambda text: [2]})


def test_explorer_follows_the_text_and_the_choice():
    widget = TokenizerExplorer(Tokenizer(), {"bytes": lambda text: list(text.encode())}, text="a")
    assert ">97<" in widget.view.value
    widget.text.value = "b<|endoftext|>"
    assert ">98<" in widget.view.value
    assert ">0<" not in widget.view.value
    assert "14 tokens" in widget.status.value
    widget.ordinary.value = False
    assert ">0<" in widget.view.value
    assert ">none<" in widget.view.value
    assert "14 tokens" in widget.status.value
    assert "below, it is id 0: 2 tokens" in widget.status.value
    assert "run this cell" in repr(widget)  # what GitHub shows
