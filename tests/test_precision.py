"""bf16 and fp16 in the certificate: the limits follow from how far the rwkv package itself is off there."""

import json
import math

import pytest
import torch

from helpers.bench import precision as bench
from helpers.checkpoints.oracle import load_oracle, process_of
from helpers.checkpoints.synthetic import write_random_checkpoint
from helpers.errors import InputError
from helpers.proof import precision, tables
from helpers.proof.precision import LOWER, Reading, precision_result
from helpers.proof.questions import Question, expected

SMALL = {"layers": 2, "hidden_size": 16, "head_size": 8, "vocab_size": 100}
SAMPLE = Question("prefill", "ids", [list(range(1, 101))])
EXACT = 5 * torch.randn(100, 50, generator=torch.Generator().manual_seed(0))


def rounded(size, seed):
    """Return logits that are off as by roundings, by up to 3 to 4 times ``size``."""
    noise = torch.randn(EXACT.shape, generator=torch.Generator().manual_seed(seed))
    return Reading(EXACT + size * noise, (EXACT + size * noise.roll(1))[:48])


def judged(dtype, ours, **packages):
    found = {name: rounded(8 * 0.02 if name == "bf16" else 0.02, 1) for name in LOWER} | packages
    return precision_result("Ours", dtype, SAMPLE, ours, found, EXACT, 1e-4)


@pytest.mark.parametrize(("dtype", "size"), [("bf16", 0.16), ("fp16", 0.02)])
def test_the_package_sets_the_limit(dtype, size):
    for factor, good in ((0, True), (0.5, True), (1.5, True), (2.6, False), (5, False)):
        result = judged(dtype, rounded(factor * size, 2))
        assert result.within_tolerance == good, factor
        assert factor == 5 or result.to_fp32.largest < 0.1 * result.max_abs_logit
    one_token, steps = rounded(size, 2)
    one_token[7] += 90 * size
    assert not judged(dtype, Reading(one_token, steps)).within_tolerance
    assert not judged(dtype, Reading(steps, one_token[:48])).within_tolerance
    assert not judged(dtype, rounded(math.nan, 2)).within_tolerance
    assert not judged(dtype, Reading(torch.empty(0), torch.empty(0))).within_tolerance


def test_a_package_without_roundings_leaves_room_for_one():
    exact = Reading(EXACT, EXACT[:48])
    for dtype, kind in LOWER.items():
        ours = Reading(EXACT.to(kind).float(), EXACT.to(kind).float()[:48])
        assert judged(dtype, ours, bf16=exact, fp16=exact).within_tolerance
        assert not judged(dtype, Reading(1.03 * EXACT, 1.03 * EXACT[:48]), bf16=exact, fp16=exact).within_tolerance


def test_what_the_package_does_not_run():
    """The other dtype tells what its roundings do; without any, a tenth of the largest logit is left."""
    result = judged("fp16", rounded(0.02, 2), fp16=None)
    assert result.package_to_fp32 is None
    assert result.within_tolerance
    assert not judged("fp16", rounded(0.05, 2), fp16=None).within_tolerance
    assert tables.columns(result)[2][0] == "the package does not run this dtype on a CPU"
    alone = judged("bf16", rounded(0.16, 2), bf16=None, fp16=None)
    assert alone.limit.largest == pytest.approx(0.1 * EXACT.abs().max().item())
    assert alone.limit_is.startswith("0.1 of the largest logit")


def test_what_is_too_large_for_fp16():
    """A model whose numbers grow past 65504 does so on both sides; bf16 is judged by itself."""
    endless = rounded(math.inf, 1)
    result = judged("fp16", endless, fp16=endless)
    assert result.limit is result.steps_limit is None
    assert result.within_tolerance
    assert judged("bf16", rounded(0.16, 2), fp16=endless).within_tolerance
    assert not judged("bf16", rounded(0.4, 2), fp16=endless).within_tolerance


def test_an_operation_that_a_cpu_does_not_have(monkeypatch, tmp_path):
    def refuse(*_):
        raise RuntimeError("not implemented for 'Half'")

    path = write_random_checkpoint(tmp_path / "a.pth", "4", vocab_size=50, hidden_size=16, dtype=torch.float32)
    monkeypatch.setattr(precision, "expected", refuse)
    assert precision.read_by_package(path, "fp16", SAMPLE, None) is None


def test_a_process_takes_another_model(tmp_path):
    """RWKV-7 runs in a process of its own, which loads one dtype after the other, and outlives what it cannot load."""
    path = write_random_checkpoint(tmp_path / "a.pth", "7", vocab_size=110, dtype=torch.float32)
    oracle = load_oracle(path)
    exact = expected(oracle, SAMPLE)["0.logits"]
    with pytest.raises(InputError, match="cannot load"):
        load_oracle(path, "cpu fp8", process=process_of(oracle))
    reading = precision.read_by_package(path, "bf16", SAMPLE, process_of(oracle))
    assert torch.equal(reading.once, reading.once.bfloat16().float())
    assert 0 < (reading.once - exact).abs().max() < 0.1 * exact.abs().max()


def test_the_benchmark_of_the_limits(tmp_path, monkeypatch):
    """Right models are within all limits, and the file says how much of them they used."""
    monkeypatch.setattr(bench, "BUILD", tmp_path / "build")
    monkeypatch.setattr(bench, "random_sizes", lambda rng: SMALL)
    out = tmp_path / "precision.json"
    threads = torch.get_num_threads()
    try:
        rows = bench.run(models=1, versions=["5.0", "6"], first=3, out=out)
    finally:
        torch.set_num_threads(threads)
    recorded = json.loads(out.read_text())
    assert recorded["rows"] == rows
    assert [(row["version"], row["dtype"]) for row in rows] == [(v, d) for v in ("5.0", "6") for d in LOWER]
    assert 0 < max(recorded["worst"].values()) <= 1
    assert list((tmp_path / "build").iterdir()) == []
    with pytest.raises(InputError, match=r"There is no version 8; choose from 4, 5\.0"):
        bench.run(versions=["8"])
