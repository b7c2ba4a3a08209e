"""The vocabulary: every malformed line is refused by number, and every conversion gives the same bytes back."""

import ast
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rwkv.rwkv_tokenizer import TRIE_TOKENIZER

from helpers.errors import InputError
from helpers.tokenizer.stats import collisions, ids_lost, is_utf8, script
from helpers.tokenizer.vocab import (
    chars_to_token,
    is_plain,
    parse_line,
    read_vocab,
    token_to_chars,
    vocab_from_json,
    vocab_to_json,
    vocab_to_txt,
    world_vocab_path,
)

tokens = st.binary(min_size=1, max_size=20) | st.text(min_size=1, max_size=12).map(lambda text: text.encode("utf-8"))
ids = st.integers(min_value=1, max_value=999_999_999)
vocabularies = st.dictionaries(tokens, ids, min_size=1, max_size=12).map(
    lambda pairs: {index: token for token, index in pairs.items()}
)


@pytest.fixture(scope="module")
def vocab() -> dict[int, bytes]:
    return read_vocab()


def test_world_vocabulary_counts(vocab):
    assert list(vocab) == list(range(1, 65530))
    assert {bytes([byte]) for byte in range(256)} <= set(vocab.values())
    assert len(set(vocab.values())) == 65529
    assert max(map(len, vocab.values())) == 128
    assert sum(not is_utf8(token) for token in vocab.values()) == 486


def test_equals_the_table_of_the_rwkv_package(vocab):
    assert TRIE_TOKENIZER(str(world_vocab_path())).idx2token == vocab


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_text_round_trip_is_byte_identical(tmp_path, newline):
    original = world_vocab_path().read_bytes().replace(b"\r\n", b"\n").replace(b"\n", newline)
    path = tmp_path / "vocab.txt"
    path.write_bytes(original)
    assert vocab_to_txt(read_vocab(path), newline.decode()) == original


def test_installed_file_round_trips_through_json_with_its_own_line_ends(vocab):
    original = world_vocab_path().read_bytes()
    newline = "\r\n" if b"\r\n" in original else "\n"
    assert vocab_to_txt(vocab_from_json(vocab_to_json(vocab)), newline) == original


def test_json_round_trip_keeps_tokens_and_order(vocab):
    text = vocab_to_json(vocab)
    assert list(vocab_from_json(text).items()) == list(vocab.items())
    assert len(json.loads(text)) == 65529
    assert text.replace("\n", "").isprintable()  # no key has a blank, a control or an invisible character


@given(st.text() | st.text("'\"\\\r\n\0ab #{"), st.sampled_from("'\"b"), st.sampled_from("'\"b"))
def test_a_plain_literal_means_what_python_says(text, first, last):
    literal = first + text + last
    if is_plain(literal):
        assert ast.literal_eval(literal) == text


def test_most_literals_are_plain():
    assert is_plain("' a'")
    assert is_plain('"it\'s"')
    odd = ("", "'", "''b", "b'a'", "'a\\n'", "'a''b'", "'a\nb'", "'a", "a'", "'a\"")
    assert not any(map(is_plain, odd))


def test_last_line_needs_no_line_end(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes(b"1 'a' 1\r\n2 b'\\xff' 1")
    assert read_vocab(path) == {1: b"a", 2: b"\xff"}


def test_unusual_line_breaks_inside_a_literal_do_not_split_the_line(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes("1 'a\u2028b\x85c\x0c' 9\n".encode())  # str.splitlines would break this line three times
    assert read_vocab(path) == {1: "a\u2028b\x85c\x0c".encode()}


@settings(deadline=None)
@given(vocabularies)
def test_any_vocabulary_round_trips(tmp_path_factory, vocab):
    path = tmp_path_factory.getbasetemp() / "any_vocab.txt"
    for newline in ("\n", "\r\n"):
        path.write_bytes(vocab_to_txt(vocab, newline))
        assert read_vocab(path) == vocab
        assert vocab_to_txt(read_vocab(path), newline) == path.read_bytes()
    assert vocab_from_json(vocab_to_json(vocab)) == vocab


@settings(deadline=None)
@given(ids, tokens)
def test_line_round_trips(index, token):
    line = vocab_to_txt({index: token}).decode("utf-8")
    assert line.count("\n") == 1
    assert parse_line(line.removesuffix("\n")) == (index, token)


@settings(deadline=None)
@given(st.binary())
def test_byte_alphabet_round_trips(token):
    text = token_to_chars(token)
    assert len(text) == len(token)
    assert chars_to_token(text) == token


@settings(deadline=None)
@given(st.text())
def test_arbitrary_lines_parse_or_raise_value_error(line):
    try:
        index, token = parse_line(line)
    except ValueError:
        return
    assert index >= 0
    assert isinstance(token, bytes)


BAD_LINES = {
    "empty line": (b"", "three fields"),
    "no fields": (b"2", "three fields"),
    "no length": (b"2 'b'", "three fields"),
    "tabs": (b"2\t'b'\t1", "three fields"),
    "only tabs between literal and length": (b"2 'b'\t1", "three fields"),
    "word as id": (b"two 'b' 1", "not a number"),
    "negative id": (b"-2 'b' 1", "not a number"),
    "decimal id": (b"2.0 'b' 1", "not a number"),
    "Arabic digit as id": ("٢ 'b' 1".encode(), "not a number"),
    "leading blank": (b" 2 'b' 1", "not a number"),
    "byte order mark": (b"\xef\xbb\xbf2 'b' 1", "not a number"),
    "id of 5,000 digits": (b"2" * 5000 + b" 'b' 1", "at most 9 digits"),
    "wrong length": (b"2 'bb' 1", "the length is '1', but should be 2"),
    "length in characters": ("2 'é' 1".encode(), "the length is '1', but should be 2"),
    "length is no number": (b"2 'b' one", "the length is 'one'"),
    "length with a leading zero": (b"2 'b' 01", "the length is '01'"),
    "trailing blank": (b"2 'b' 1 ", "not a str or bytes literal"),
    "no quotes": (b"2 b 1", "not a str or bytes literal"),
    "open quote": (b"2 'b 1", "not a str or bytes literal"),
    "int literal": (b"2 7 1", "not a str or bytes literal"),
    "list literal": (b"2 ['b'] 1", "not a str or bytes literal"),
    "f-string": (b"2 f'{1}' 1", "not a str or bytes literal"),
    "name": (b"2 __name__ 8", "not a str or bytes literal"),
    "call": (b"2 __import__('os').system('x') 1", "not a str or bytes literal"),
    "multiplication": (b"2 'b'*3 3", "not a str or bytes literal"),
    "NUL byte": (b"2 '\x00' 1", "not a str or bytes literal"),
    "nested parentheses": (b"2 " + b"(" * 20000 + b" 1", "not a str or bytes literal"),
    "nested minus signs": (b"2 " + b"-" * 20000 + b"1 1", "not a str or bytes literal"),
    "long sum": (b"2 " + b"+".join([b"1"] * 20000) + b" 1", "not a str or bytes literal"),
    "lone surrogate": (rb"2 '\ud800' 3", "no UTF-8 form"),
    "not UTF-8": (b"2 '\xff' 1", "not UTF-8"),
    "empty token": (b"2 '' 0", "the token is empty"),
    "id 0": (b"0 'b' 1", "reserved"),
    "repeated id": (b"1 'b' 1", "id 1 occurs twice"),
    "repeated token": (b"2 'a' 1", "already has id 1"),
    "repeated token in another notation": (rb"2 b'\x61' 1", "already has id 1"),
}


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize(("line", "reason"), BAD_LINES.values(), ids=BAD_LINES)
def test_malformed_line_is_refused_by_its_number(tmp_path, line, reason, newline):
    path = tmp_path / "vocab.txt"
    path.write_bytes(newline.join([b"1 'a' 1", line, b"3 'c' 1", b""]))
    with pytest.raises(InputError, match="line 2: ") as caught:
        read_vocab(path)
    message = str(caught.value)
    assert reason in message
    assert "\n" not in message
    assert len(message) < 300 + len(str(path))  # a hostile line is quoted in part, never whole


def test_a_hostile_literal_is_not_executed(tmp_path):
    target = tmp_path / "executed"
    literal = f"__import__('pathlib').Path({str(target)!r}).touch()or'b'"
    assert eval(literal) == "b"  # the payload works where eval runs it ...
    assert target.exists()
    target.unlink()
    path = tmp_path / "vocab.txt"
    path.write_text(f"1 {literal} 1\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"line 1: .* is not a str or bytes literal"):
        read_vocab(path)
    assert not target.exists()  # ... and read_vocab does not


def test_missing_file_directory_and_empty_file(tmp_path):
    with pytest.raises(InputError, match=r"Cannot read .*no_such\.txt: No such file"):
        read_vocab(tmp_path / "no_such.txt")
    with pytest.raises(InputError, match="Cannot read the vocabulary"):
        read_vocab(tmp_path)
    (tmp_path / "empty.txt").write_bytes(b"")
    with pytest.raises(InputError, match="holds no tokens"):
        read_vocab(tmp_path / "empty.txt")


def test_missing_rwkv_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install rwkv"):
        world_vocab_path()


BAD_JSON = {
    "not JSON": ("{", "is not JSON"),
    "endless nesting": ('{"a":' * 100_000, "is not JSON"),
    "a list": ('["a"]', "no object"),
    "a number": ("1", "no object"),
    "empty": ("{}", "no object"),
    "repeated token": ('{"a": 1, "a": 2}', "repeats"),
    "repeated id": ('{"a": 1, "b": 1}', "repeats"),
    "blank in the token": ('{"a b": 1}', "byte alphabet"),
    "lone surrogate": (r'{"\ud800": 1}', "byte alphabet"),
    "empty token": ('{"": 1}', "byte alphabet"),
    "id 0": ('{"a": 0}', "no positive integer"),
    "id true": ('{"a": true}', "no positive integer"),
    "id in quotes": ('{"a": "1"}', "no positive integer"),
    "id is an object": ('{"a": {"b": 1}}', "no positive integer"),
}


@pytest.mark.parametrize(("text", "reason"), BAD_JSON.values(), ids=BAD_JSON)
def test_bad_json_is_refused(text, reason):
    with pytest.raises(InputError, match=reason):
        vocab_from_json(text)


def test_lossy_keys_lose_what_the_notebook_says(vocab):
    assert ids_lost(vocab, lambda token: token.decode("utf-8", errors="ignore")) == 485
    assert ids_lost(vocab, lambda token: token.decode("utf-8", errors="replace")) == 486
    assert ids_lost(vocab, token_to_chars) == 0
    merged = collisions(vocab, lambda token: token.decode("utf-8", errors="ignore"))
    assert merged == {"": [index for index, token in vocab.items() if not is_utf8(token)]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" the", "Latin"), ("don't", "Latin"), ("ａ", "Latin"), ("中", "Han"), ("的。", "Han"), (" при", "Cyrillic"),
        ("한", "Hangul"), ("ー", "Kana"), ("です", "Kana"), (" μm", "Mixed"), ("ა", "Other script"), ("12", "Digits"),
        (" 7", "Digits"), ("\r\n", "White space"), ("->", "Symbols"), ("\x00", "Symbols"), ("🥺", "Symbols"),
    ],
)  # fmt: skip
def test_script_of_text(text, expected):
    assert script(text.encode("utf-8")) == expected


def test_script_of_bytes_that_are_not_text(vocab):
    assert script(b"\xe4\xb8") == "Not UTF-8"
    assert sum(script(token) == "Not UTF-8" for token in vocab.values()) == 486
