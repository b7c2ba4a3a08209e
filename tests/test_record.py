"""conversion.json: what a directory was made from and holds, byte for byte, and how it is read back."""

import hashlib
import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers import __main__ as cli
from helpers.checkpoints import files, synthetic
from helpers.conversion.directory import convert
from helpers.conversion.export import export
from helpers.conversion.names import RECORD
from helpers.conversion.reading import load_converted
from helpers.conversion.record import Record, SourceFile, read_record
from helpers.conversion.refresh import refresh
from helpers.errors import InputError


@pytest.fixture
def model(tmp_path):
    path = synthetic.write_random_checkpoint(tmp_path / "a.pth", vocab_size=300)
    return path, convert(path, tmp_path / "out", max_shard_size="100KB", progress=False)


def sums(folder):
    names = {path.name for path in folder.iterdir()} - {"README.md", RECORD}
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def test_the_record_of_a_conversion(model, tmp_path):
    path, folder = model
    record = read_record(folder)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert record.source == (SourceFile("a.pth", path.stat().st_size, digest),)
    assert record.files == sums(folder)
    assert len([name for name in record.files if name.endswith(".safetensors")]) > 2
    assert record.made_with["torch"] == torch.__version__
    again = convert(path, tmp_path / "again", max_shard_size="100KB", progress=False)
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_many_pieces_are_hashed_as_they_were_written(dtype, tmp_path, monkeypatch):
    """Hashing is done beside writing, some pieces behind it."""
    monkeypatch.setattr(files, "NUMBERS_AT_ONCE", 100)
    path = synthetic.write_random_checkpoint(tmp_path / "a.pth", vocab_size=300, dtype=torch.float32)
    folder = convert(path, tmp_path / "out", dtype, progress=False)
    assert read_record(folder).files == sums(folder)
    weights, converted = files.load_checkpoint(path), load_converted(folder)[0]
    assert all(torch.equal(converted[name], weight.to(dtype or weight.dtype)) for name, weight in weights.items())


def test_the_record_of_a_refresh(model):
    folder = model[1]
    (folder / "LICENSE").write_text("kept")
    weights = {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}
    refresh(folder, progress=False)
    record = read_record(folder)
    expected = {name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in weights.items()}
    assert {source.file: (source.bytes, source.sha256) for source in record.source} == expected
    found = sums(folder)
    assert record.files.items() <= found.items()
    kept = {"LICENSE", "README.old.md", "tokenizer.json", "tokenizer_config.json", "vocab.json"}
    assert found.keys() - record.files.keys() == kept | {"tokenization_rwkv_world.py"}, "they were not written"


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", "[" * 10**5, "null", '{"source": 3, "files": {}, "made_with": {}}',
     '{"source": [], "files": {"a": 1}, "made_with": {}}', '{"source": [], "files": [], "made_with": {}}',
     '{"source": [{"file": "a", "bytes": "1", "sha256": ""}], "files": {}, "made_with": {}}',
     '{"source": [{"file": "a"}], "files": {}, "made_with": {}}'],
)  # fmt: skip
def test_what_is_no_record(content, tmp_path):
    assert read_record(tmp_path) is None
    (tmp_path / RECORD).write_text('{"source": [], "files": {}, "made_with": {}}')
    assert read_record(tmp_path) == Record((), {}, {})
    (tmp_path / RECORD).write_text(content)
    with pytest.raises(InputError, match=r"conversion\.json is not the record of a conversion"):
        read_record(tmp_path)


def test_tied_tables_come_back_as_two(model, tmp_path):
    """A directory that transformers wrote with one table: the head is that table, in every way back."""
    folder = convert(model[0], tmp_path / "tied", progress=False)
    weights = load_file(folder / "model.safetensors")
    del weights["head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"no tensor head\.weight"):
        load_converted(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    back = files.load_checkpoint(export(folder, tmp_path / "back.pth"))
    table = weights["rwkv.embeddings.weight"]
    assert torch.equal(back["head.weight"], table)
    assert torch.equal(back["emb.weight"], table)
    refresh(folder, progress=False)
    refreshed = load_file(folder / "model.safetensors")
    assert torch.equal(refreshed["head.weight"], table)
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no such pipes")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.safetensors.index.json"])
def test_a_pipe_in_the_place_of_a_file(name, model, tmp_path, capsys):
    """It has no end, and must not be waited for."""
    folder = convert(model[0], tmp_path / "piped", progress=False)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    if "index" in name:
        (folder / "model.safetensors").unlink()
    commands = [["refresh", str(folder)], ["lambada", "--model", str(folder), "--limit", "1"]]
    for command in [*commands, ["export", str(folder), str(tmp_path / "new.pth")]]:
        if name == "config.json" and command[0] == "export":  # it needs no configuration
            continue
        assert cli.main(command) == 2, command
        assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("length", [True, 0, -1, "1024", None])
def test_a_context_length_that_is_none(length, model, capsys):
    folder = model[1]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"context_length": length}))
    assert cli.main(["lambada", "--model", str(folder), "--limit", "1", "--device", "cpu"]) == 2
    assert "config.json" in capsys.readouterr().err
    assert cli.main(["refresh", str(folder)]) == 0
    assert json.loads((folder / "config.json").read_text())["context_length"] == 4096


def test_a_configuration_that_is_nested_without_end(model, capsys):
    (model[1] / "config.json").write_text('{"a":' * 10**5)
    assert cli.main(["refresh", str(model[1])]) == 2
    assert "is not a configuration; correct it, or remove it" in capsys.readouterr().err
