"""The benchmarks of reading and writing: both sides compute the same, and what is counted. Never how fast it is."""

import json

import pytest
import torch

from helpers import __main__ as cli
from helpers.bench import model as speed
from helpers.checkpoints import synthetic


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Let the included checkpoints be tiny ones."""
    versions = {"rwkv4-world-mini": "4", "rwkv5-world-mini": "5.0"}

    def tiny(name):
        path = tmp_path / f"{name}.pth"
        sizes = {"hidden_size": 32, "head_size": 16, "dtype": torch.float32}
        return path if path.exists() else synthetic.write_random_checkpoint(path, versions[name], **sizes)

    monkeypatch.setattr(speed, "bundled_checkpoint", tiny)
    monkeypatch.setattr(speed, "BUILD", tmp_path / "build")
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.mark.parametrize("work", ["prefill", "decode"])
def test_a_whole_run(work, small):
    out = small / "results" / "speed.json"
    options = ["--sizes", "rwkv4-world-mini", "rwkv5-world-mini", "--rows", "1", "2", "--tokens", "9"]
    assert cli.main(["bench", work, *options, "--repeat", "2", "--threads", "1", "--out", str(out)]) == 0
    recorded = json.loads(out.read_text())
    assert recorded["machine"]["package_kernels"] is False
    assert {"torch", "transformers", "rwkv", "processor", "threads"} <= recorded["machine"].keys()
    rows = recorded["rows"]
    assert [(row["version"], row["dtype"], row["rows"]) for row in rows] == [
        (version, dtype, count) for version in ("4", "5.0") for dtype in ("float32", "bfloat16") for count in (1, 2)
    ]
    tokens = 9 + (speed.FIRST if work == "decode" else 0)
    for row in rows:
        assert row["package"] == "cpu fp32"
        assert row["relative_logit_difference"] < (1e-5 if row["dtype"] == "float32" else 5e-2)
        seconds = row["runs"]["ours_seconds"]
        assert len(seconds) == len(row["runs"]["package_seconds"]) == 2
        assert row["our_tokens_per_s"] == pytest.approx(row["rows"] * tokens / (sum(seconds) / 2), rel=0.01)
        assert row["ratio_lowest"] <= row["ratio"] <= row["ratio_highest"]
    assert list((small / "build").iterdir()) == []


@pytest.mark.parametrize("work", ["prefill", "decode"])
def test_versions_that_the_package_runs_in_different_processes(work, small, monkeypatch):
    monkeypatch.setitem(speed.SIZES, "0.1B", (2, 64))
    out = small / "speed.json"
    options = ["--versions", "6", "7", "--dtypes", "float32", "--rows", "2", "--tokens", "9"]
    assert cli.main(["bench", work, *options, "--repeat", "1", "--threads", "1", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["version"] for row in rows] == ["6", "7"]
    for row in rows:
        assert row["relative_logit_difference"] < 1e-5
        assert row["runs"]["package_seconds"][0] > 0


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--versions", "8", "--versions has 8; choose of 4, 5.0, 5.1, 5.2, 6, 7"),
        ("--sizes", "7B", "--sizes has 7B; choose of 0.1B, 0.4B, 1.5B, rwkv5-world-mini"),
        ("--dtypes", "int8", "--dtypes has int8; choose of float32, bfloat16, float16"),
        ("--package-dtype", "int8", "--package-dtype has int8; choose of float32, bfloat16, float16"),
        ("--rows", "0", "--rows is 0; give a number from 1 on"),
        ("--tokens", "-1", "--tokens is -1; give a number from 1 on"),
        ("--repeat", "0", "--repeat is 0; give a number from 1 on"),
    ],
)
def test_what_cannot_be_measured_is_refused(option, value, message, capsys, monkeypatch):
    monkeypatch.setattr(speed, "measure", lambda *args: pytest.fail("measured"))
    assert cli.main(["bench", "prefill", option, value]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_one_sentence(tmp_path, capsys):
    assert cli.main(["bench", "prefill", "--device", "cuda", "--out", str(tmp_path / "out.json")]) == 2
    assert "Cannot use the device cuda" in capsys.readouterr().err
