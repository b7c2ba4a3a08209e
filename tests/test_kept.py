"""The tokenizer files that are kept from one run to the next: never others than those that would be made."""

import ast
import os

import pytest

from helpers.tokenizer import fast, kept
from helpers.tokenizer.vocab import read_vocab

TEXTS = ('{"a": "\\u0000é"}', '{"Ġ": 1}\n')


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Return what notes how often the texts are made; they are kept in a folder that does not exist yet."""
    monkeypatch.setattr(kept, "KEPT", tmp_path / "new" / "kept")
    calls = []

    def make():
        calls.append(1)
        return TEXTS

    make.calls = calls
    return make


def test_they_are_made_once(made):
    assert [kept.kept_or(made) for _ in range(3)] == [TEXTS] * 3
    assert len(made.calls) == 1
    assert os.listdir(kept.KEPT.parent) == [kept.KEPT.name]


@pytest.mark.parametrize("damage", ["cut", "bit", "longer", "empty", "sign", "text"])
def test_a_damaged_file_is_made_again(damage, made):
    kept.kept_or(made)
    data = kept.KEPT.read_bytes()
    kept.KEPT.write_bytes(
        {
            "cut": data[:-1],
            "bit": data[:-3] + bytes([data[-3] ^ 1]) + data[-2:],
            "longer": data + b" ",
            "empty": b"",
            "sign": b"0" * (kept.SIGN - 1) + data[kept.SIGN - 1 :],
            "text": b"\xff" * len(data),
        }[damage]
    )
    assert kept.kept_or(made) == TEXTS
    assert len(made.calls) == 2
    assert kept.KEPT.read_bytes() == data, "the next run finds it mended"


@pytest.mark.parametrize("changed", ["vocabulary", "code", "library"])
def test_what_was_made_from_something_else_is_not_used(changed, made, tmp_path, monkeypatch):
    kept.kept_or(made)
    other = tmp_path / "other"
    if changed == "vocabulary":
        other.write_bytes(kept.world_vocab_path().read_bytes() + b"65530 'new' 3\r\n")
        monkeypatch.setattr(kept, "world_vocab_path", lambda: other)
    elif changed == "code":
        other.write_bytes(kept.CODE[0].read_bytes() + b"\n")
        monkeypatch.setattr(kept, "CODE", (other, *kept.CODE[1:]))
    else:
        monkeypatch.setattr(kept.tokenizers, "__version__", "0.0")
    kept.kept_or(made)
    assert len(made.calls) == 2


@pytest.mark.parametrize("obstacle", ["file in the place of the folder", "folder in the place of the file"])
def test_where_nothing_can_be_kept(obstacle, made):
    """They are made each time, without a word."""
    if obstacle.startswith("file"):
        kept.KEPT.parent.write_text("precious")
    else:
        kept.KEPT.mkdir(parents=True)
    assert [kept.kept_or(made) for _ in range(2)] == [TEXTS] * 2
    assert len(made.calls) == 2


def test_a_vocabulary_that_cannot_be_read_is_left_to_its_reader(made, tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "world_vocab_path", lambda: tmp_path / "nowhere")
    assert kept.kept_or(made) == TEXTS
    assert not kept.KEPT.exists()


def test_what_is_kept_is_what_would_be_made(made):
    """The real files, from the file on the disk."""
    fresh = fast._files_of(read_vocab())
    assert kept.kept_or(lambda: fresh) == fresh
    assert kept.kept_or(made) == fresh
    assert not made.calls


def test_all_code_that_makes_them_counts():
    """Whatever module of this project the two that make them import is one that counts, or only finds files."""
    imported = set()
    for path in kept.CODE:
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ImportFrom) and node.level:
                imported.add(node.module.rpartition(".")[2])
    assert imported - {path.stem for path in kept.CODE} == {"errors", "paths", "atomic"}
