"""The benchmark of the LAMBADA check: that both sides compute the same, and what it counts. Never how fast it is."""

import importlib.util
import json
import sys

import pytest
import torch

from helpers import conversion, lambada, lambada_run, oracle, synthetic
from helpers.paths import ROOT


@pytest.fixture(scope="module")
def speed():
    path = ROOT / "benchmarks" / "lambada_speed.py"
    spec = importlib.util.spec_from_file_location("lambada_speed", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("speed") / "model.pth"
    return synthetic.write_random_checkpoint(path, hidden_size=32, head_size=16, dtype=torch.float32)


def test_the_loop_of_the_article_and_the_batches_agree(speed, checkpoint, tmp_path):
    """1e-4: fp32 rounding of logits of size 10, see test_modeling."""
    documents = lambada_run.encode_world(lambada.read_texts(limit=8), "none")
    theirs = speed.article_loop(oracle.load_oracle(checkpoint), documents)
    model = lambada.load_model(conversion.convert(checkpoint, tmp_path / "converted", progress=False))
    ours = speed.ours(model, documents, batch_tokens=200)
    difference, changed = lambada.compare(ours, theirs)
    assert difference < 1e-4
    assert changed == []


def test_matrix_flops(speed, checkpoint, tmp_path):
    """By hand: a block has r, k, v, o of D x D, channel-mix k and v of D x 4D and r of D x D; the head D x V."""
    model = lambada.load_model(conversion.convert(checkpoint, tmp_path / "converted", progress=False))
    documents = [lambada.Document([1, 2, 3], [4, 5])]  # reads 4 tokens, predicts 2
    weights = 2 * (5 * 32 * 32 + 2 * 32 * 128)
    assert speed.matrix_flops(model, documents) == 2 * (4 * weights + 2 * 32 * 65536)


def test_a_whole_run(speed, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "bundled_checkpoint", lambda: checkpoint)
    monkeypatch.setattr(speed, "WORK", tmp_path / "work")
    out = tmp_path / "speed.json"
    options = ["--limit", "6", "--repeat", "2", "--threads", "1", "--models", "bundled", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["lambada_speed.py", "--data", str(lambada.SAMPLE), *options])
    threads = torch.get_num_threads()
    try:
        speed.main()
    finally:
        torch.set_num_threads(threads)
    recorded = json.loads(out.read_text())
    assert [row["dtype"] for row in recorded["rows"]] == ["float32", "bfloat16"]
    for row in recorded["rows"]:
        assert row["documents"] == 6
        assert len(row["runs"]["our_seconds"]) == len(row["runs"]["loop_seconds"]) == 2
        assert row["speedup"] == pytest.approx(row["loop_seconds"] / row["our_seconds"], rel=0.3)  # of rounded seconds
    assert recorded["rows"][0]["max_abs_logprob_diff_to_loop"] < 1e-4
    assert not (tmp_path / "work").exists()
