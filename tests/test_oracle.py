"""The rwkv package as reference: what it cannot run is said in one sentence, whoever asks."""

import shutil

import pytest
import torch

from helpers import __main__ as cli
from helpers.checkpoints import oracle, synthetic
from helpers.errors import InputError

CANNOT = {  # what the package cannot run
    "an RWKV-5 of one layer": {"version": "5.0", "layers": 1},
    "one with a time-mix of another width": {"version": "5.2", "attention_size": 128},
    "an RWKV-5.0 or 5.1 of one head": {"version": "5.1", "head_size": 64},
    "an RWKV-5 with heads of a single channel": {"version": "5.0", "hidden_size": 4, "head_size": 1},
    "an RWKV-5.0 or 5.1 with a bonus per channel": {"version": "5.0", "bonus_shape": (2, 32)},
    "an RWKV-5.2 of one head with a trained state, or with one bonus": {
        "version": "5.2",
        "head_size": 64,
        "bonus_shape": (1, 1),
    },
}


def write(tmp_path, **options):
    sizes = {"vocab_size": 300, "dtype": torch.float32}
    return synthetic.write_random_checkpoint(tmp_path / "a.pth", **(sizes | options))


@pytest.mark.parametrize("limit", CANNOT)
def test_models_that_the_package_cannot_run(limit, tmp_path):
    path = write(tmp_path, **CANNOT[limit])
    with pytest.raises(InputError, match=f"The model in {path} is {limit}, which the rwkv package cannot run"):
        oracle.load_oracle(path)
    write(tmp_path, **CANNOT[limit], dtype=torch.bfloat16)
    with pytest.raises(InputError, match=f"The model in {path} is {limit}"):
        oracle.fp32_copy(path, tmp_path / "copies")
    assert not (tmp_path / "copies").exists(), "refused before a large file is written"


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    def full(*args):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")

    path = write(tmp_path, dtype=torch.bfloat16)
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match=r"Cannot write .*: the disk may be full"):
        oracle.fp32_copy(path, tmp_path / "copies")
    assert list((tmp_path / "copies").iterdir()) == []


@pytest.mark.parametrize("name", ["a.bin", "a", "a.PTH", "a.pth.old"])
def test_names_that_the_package_does_not_read(name, tmp_path):
    path = tmp_path / name
    shutil.move(write(tmp_path), path)
    with pytest.raises(InputError, match=r"reads files that end in \.pth only"):
        oracle.load_oracle(path)
    shutil.copy(path, f"{path}.pth")  # the package would read this file instead
    with pytest.raises(InputError, match=r"reads files that end in \.pth only"):
        oracle.load_oracle(path)


def test_white_space_around_a_name(tmp_path, monkeypatch):
    """The package strips it, and would read another file."""
    write(tmp_path, seed=1).rename(tmp_path / " a.pth")
    write(tmp_path, seed=2)
    monkeypatch.chdir(tmp_path)
    ours, other = (oracle.load_oracle(name).forward([1, 2], None)[0] for name in (" a.pth", "a.pth"))
    assert not torch.equal(ours, other)


@pytest.mark.parametrize("strategy", ["meta fp32", "cpu fp64", ""])
def test_strategies_that_the_package_does_not_know(strategy, tmp_path):
    path = write(tmp_path)
    with pytest.raises(InputError, match=f"The rwkv package cannot load {path} with the strategy '{strategy}'"):
        oracle.load_oracle(path, strategy)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_lambada_of_an_original(dtype, tmp_path, capsys, monkeypatch):
    """The command gives one sentence, too."""
    monkeypatch.setattr(oracle.fp32_copy, "__defaults__", (tmp_path / "copies",))
    path = synthetic.write_random_checkpoint(tmp_path / "a.pth", hidden_size=8, head_size=8, layers=1)
    arguments = ["lambada", "--limit", "1", "--device", "cpu", "--dtype", dtype, "--checkpoint"]
    assert cli.main([*arguments, str(path)]) == 2
    assert "is an RWKV-5 of one layer" in capsys.readouterr().err
    other = synthetic.write_random_checkpoint(tmp_path / "a.bin", hidden_size=16, head_size=8)
    code = cli.main([*arguments, str(other)])
    assert code == (0 if dtype == "float32" else 2)  # fp32 runs from a copy, which has the right name
    assert code == 0 or "end in .pth" in capsys.readouterr().err
