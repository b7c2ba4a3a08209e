"""The benchmark of the LAMBADA check: that both sides compute the same, and what it counts. Never how fast it is."""

import json

import pytest
import torch

from helpers import __main__ as cli
from helpers.bench import lambada as speed
from helpers.checkpoints import oracle, synthetic
from helpers.conversion import directory, loading
from helpers.lambada import passages, protocol


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("speed") / "model.pth"
    return synthetic.write_random_checkpoint(path, hidden_size=32, head_size=16, dtype=torch.float32)


def test_the_loop_of_the_article_and_the_batches_agree(checkpoint, tmp_path):
    """1e-4: fp32 rounding of logits of size 10, see test_modeling."""
    documents = protocol.encode_world(passages.read_texts(limit=8), "none")
    theirs = speed.article_loop(oracle.load_oracle(checkpoint), documents)
    model = loading.load_model(directory.convert(checkpoint, tmp_path / "converted", progress=False))
    ours = speed.our_batches(model, 200, documents)
    difference, changed = protocol.compare_results(ours, theirs)
    assert difference < 1e-4
    assert changed == []


def test_matrix_flops(checkpoint, tmp_path):
    """By hand: a block has r, k, v, o of D x D, channel-mix k and v of D x 4D and r of D x D; the head D x V."""
    model = loading.load_model(directory.convert(checkpoint, tmp_path / "converted", progress=False))
    documents = [passages.Document([1, 2, 3], [4, 5])]  # reads 4 tokens, predicts 2
    weights = 2 * (5 * 32 * 32 + 2 * 32 * 128)
    assert speed.matrix_flops(model, documents) == 2 * (4 * weights + 2 * 32 * 65536)


def test_a_whole_run(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "bundled_checkpoint", lambda: checkpoint)
    monkeypatch.setattr(speed, "BUILD", tmp_path / "build")
    out = tmp_path / "results" / "speed.json"
    options = ["--limit", "6", "--repeat", "2", "--threads", "1", "--models", "bundled", "--out", str(out)]
    threads = torch.get_num_threads()
    try:
        assert cli.main(["bench", "lambada", "--data", str(passages.SAMPLE), *options]) == 0
    finally:
        torch.set_num_threads(threads)
    recorded = json.loads(out.read_text())
    assert [row["dtype"] for row in recorded["rows"]] == ["float32", "bfloat16"]
    for row in recorded["rows"]:
        assert row["documents"] == 6
        assert len(row["runs"]["our_seconds"]) == len(row["runs"]["loop_seconds"]) == 2
        assert row["speedup"] == pytest.approx(row["loop_seconds"] / row["our_seconds"], rel=0.3)  # of rounded seconds
    assert recorded["rows"][0]["max_abs_logprob_diff_to_loop"] < 1e-4
    assert list((tmp_path / "build").iterdir()) == []


def test_unknown_models_are_refused(capsys):
    assert cli.main(["bench", "lambada", "--data", str(passages.SAMPLE), "--models", "7B"]) == 2
    assert "There is no model 7B; choose of bundled, 0.1B" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["--limit", "--loop", "--repeat", "--threads", "--batch-tokens"])
@pytest.mark.parametrize("number", ["0", "-1"])
def test_numbers_below_1_are_refused(name, number, capsys, monkeypatch):
    monkeypatch.setattr(speed, "measure", lambda *args: pytest.fail("measured"))
    assert cli.main(["bench", "lambada", "--data", str(passages.SAMPLE), name, number]) == 2
    assert f"{name} is {number}; give a number from 1 on" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_one_sentence(tmp_path, capsys):
    options = ["--device", "cuda", "--out", str(tmp_path / "out.json")]
    assert cli.main(["bench", "lambada", "--data", str(passages.SAMPLE), *options]) == 2
    assert "Cannot use the device cuda" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_refused_first(tmp_path, capsys):
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out.json"
    assert cli.main(["bench", "lambada", "--data", str(passages.SAMPLE), "--out", str(out)]) == 2
    assert f"Cannot write into {tmp_path / 'file'}" in capsys.readouterr().err
