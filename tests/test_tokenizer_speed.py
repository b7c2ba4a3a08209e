"""The benchmark of the tokenizer: that all sides get the same texts and the ids are right. Never how fast it is."""

import json
import os

import pytest

from helpers import __main__ as cli
from helpers.bench import tokenizer as speed


def test_benchmark_writes_what_it_measured(tmp_path, capsys):
    data = tmp_path / "mine.txt"
    data.write_text("Any text will do. " * 300, encoding="utf-8")
    out = tmp_path / "speed.json"
    options = ["--documents", "2", "--repeat", "1", "--data", str(data), "--out", str(out)]
    assert cli.main(["bench", "tokenizer", *options]) == 0
    results = json.loads(out.read_text(encoding="utf-8"))
    assert [row["text"] for row in results["rows"]] == ["English", "Chinese", "code", "mixed", "mine.txt"]
    for row in results["rows"]:
        assert {"TRIE_TOKENIZER", "ours", "GPT-2's BPE", "WordPiece, whole text"} <= row["megabytes_per_second"].keys()
        assert all(0 < numbers["slowest"] <= numbers["median"] for numbers in row["megabytes_per_second"].values())
        assert row["bytes"] > row["tokens"] > 0
    assert results["machine"]["tokenizers"]
    assert len(results["nanoseconds_per_byte"]) > 30
    assert "MB/s, median" in capsys.readouterr().out


def test_wrong_ids_stop_the_benchmark():
    right = speed.Side("right", lambda documents: [[1] for _ in documents])
    wrong = speed.Side("wrong", lambda documents: [[2] for _ in documents])
    with pytest.raises(RuntimeError, match="wrong gives other ids than right"):
        speed.measure([right, wrong], ["a"], 1)
    other = speed.Side("other", wrong.encode, world=False)
    assert speed.measure([right, other], ["a"], 1)["tokens"] == 1


def test_documents_are_as_long_as_they_should_be_and_the_same_each_time():
    documents = speed.documents_by_kind(5)
    assert documents == speed.documents_by_kind(5) != speed.documents_by_kind(5, seed=1)
    for texts in documents.values():
        assert [len(text) for text in texts] == [speed.DOCUMENT] * 5
    assert len(set(documents["English"])) == 5
    chinese = documents["Chinese"][0]
    assert sum("\u4e00" <= char <= "\u9fff" for char in chinese) > len(chinese) / 2
    assert "def " in "".join(documents["code"])


def test_unusual_texts_have_the_size_that_was_asked_for():
    for text in speed.unusual_texts(3000).values():
        assert 2000 <= len(text.encode()) <= 9000  # of random bytes, most become a mark of three bytes


@pytest.mark.parametrize("before", [None, "true"])
def test_threads_are_as_before(monkeypatch, before):
    if before is None:
        monkeypatch.delenv(speed.THREADS, raising=False)
    else:
        monkeypatch.setenv(speed.THREADS, before)
    with speed.on_cores(every=False):
        assert os.environ[speed.THREADS] == "false"
    assert os.environ.get(speed.THREADS) == before


@pytest.mark.parametrize("options", [["--documents", "0"], ["--repeat", "0"]])
def test_counts_below_one_are_refused(options, tmp_path, capsys):
    assert cli.main(["bench", "tokenizer", "--out", str(tmp_path / "a.json"), *options]) == 2
    assert f"{options[0]} is 0; give a number from 1 on" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"short", b"\xff" * 3000, None])
def test_unusable_data_is_refused(content, tmp_path, capsys):
    data = tmp_path / "data.txt"
    if content is not None:
        data.write_bytes(content)
    assert cli.main(["bench", "tokenizer", "--data", str(data), "--out", str(tmp_path / "a.json")]) == 2
    assert f"--data {data}" in capsys.readouterr().err
    assert not (tmp_path / "a.json").exists()
