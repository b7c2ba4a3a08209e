"""Measure the LAMBADA check: our batches against the article's loop over the ``rwkv`` package, in turn.

    python -m helpers bench lambada --data lambada_test.jsonl                  # CPU: 300 passages, 2 threads
    python -m helpers bench lambada --data lambada_test.jsonl --device cuda    # GPU: all passages, four precisions

Both sides get token ids and return a log-probability and a hit for each passage. Loading and encoding are not timed,
and both sides first run a few passages to warm up. On a GPU the loop runs in each precision, on some passages, and its
time is scaled up; on a CPU it runs in fp32 only. The model of 0.1B shape (12 layers, 768) has random weights; the
bundled one is trained, so its perplexity says what a precision costs. Notebook 09 shows the results.
"""

import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ..atomic import scratch_folder, write_text
from ..checkpoints.bundled import bundled_checkpoint
from ..checkpoints.oracle import fp32_copy, load_oracle
from ..checkpoints.synthetic import write_random_checkpoint
from ..conversion.directory import convert
from ..conversion.loading import choose_device, load_model
from ..errors import InputError
from ..lambada.comparison import compare_paired
from ..lambada.passages import Document, read_texts
from ..lambada.protocol import (
    Result,
    collect,
    compare_results,
    default_batch_tokens,
    encode_world,
    score_converted,
    summarize,
)
from ..lambada.run import STRATEGIES, tf32
from ..paths import BUILD, RESULTS
from .checks import check_counts, check_output

MODELS = ("bundled", "0.1B")


@dataclass(frozen=True)
class Precision:
    """The dtype of the weights, and whether a GPU may round the inputs of fp32 products to 10 bits."""

    dtype: str
    tf32: bool = False
    datasheet: float | None = None  # TFLOP/s of dense products: NVIDIA H100 and H200 data sheets, SXM


PRECISIONS = {
    "cpu": (Precision("float32"), Precision("bfloat16")),
    "cuda": (
        Precision("float32", datasheet=67),
        Precision("float32", tf32=True, datasheet=494.7),
        Precision("bfloat16", datasheet=989.4),
        Precision("float16", datasheet=989.4),
    ),
}


class TimedSide:
    """One of the two sides: how to score documents, how long it took, and what came out."""

    def __init__(self, score: Callable[[list[Document]], list[Result]], documents: list[Document], device: str):
        self.score, self.documents, self.device = score, documents, device
        self.seconds: list[float] = []
        self.results: list[Result] = []

    def warm_up(self, count: int) -> None:
        self.score(self.documents[:count])

    def run(self) -> None:
        seconds, self.results = timed(lambda: self.score(self.documents), self.device)
        self.seconds.append(seconds)


def article_loop(oracle: Any, documents: list[Document]) -> list[Result]:
    """Score one passage after the other as the article's script does: softmax, and a ``log`` and an ``argmax`` a token.

    Source: check_lambda/lambda_pt.py of BBuf/RWKV-World-HF-Tokenizer.
    """
    results = []
    for document in documents:
        logits, _ = oracle.forward(document.context + document.target, None, full_output=True)
        logprob, correct = 0.0, True
        for position, target in enumerate(document.target, len(document.context) - 1):
            probabilities = F.softmax(logits[position].float(), dim=-1)
            logprob += math.log(max(probabilities[target].item(), 1e-38))  # in 16 bits it can be 0
            correct = correct and torch.argmax(probabilities).item() == target
        results.append(Result(logprob, correct))
    return results


def our_batches(model: Any, batch_tokens: int, documents: list[Document]) -> list[Result]:
    """Score passages as the command ``lambada`` does."""
    scores = score_converted(model, documents, batch_tokens)
    return collect(scores, len(documents), show=False)


def timed(function: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Return seconds and results; a GPU works on after a call has returned, so wait for it."""
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    results = function()
    synchronize()
    return time.perf_counter() - start, results


def matrix_rate(dtype: torch.dtype, device: str) -> float:
    """Return FLOP/s of a large square matrix product: what this machine can reach in this precision."""
    size = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = [timed(lambda: a @ b, device)[0] for _ in range(6)]
    return 2 * size**3 / min(seconds[1:])


def matrix_flops(model: Any, documents: list[Document]) -> float:
    """Return the FLOP of the linear layers: two a weight and token, in the head two a weight and token of a target."""
    head = model.get_output_embeddings()
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    read = sum(len(document.inputs) for document in documents)
    predicted = sum(len(document.target) for document in documents)
    return 2 * (read * sum(m.weight.numel() for m in layers) + predicted * head.weight.numel())


def measure(
    name: str,
    checkpoint: Path,
    folder: Path,
    documents: list[Document],
    device: str,
    loop_count: int | None,
    repeat: int,
    batch_tokens: int,
) -> list[dict]:
    """Return one row for each precision; the first is the reference that the others are compared with.

    Args:
        folder: for the converted model, and a copy of the checkpoint.
        loop_count: passages for the article's loop, None for all.
        repeat: runs of each side.
        batch_tokens: in a batch of ours.
    """
    converted = convert(checkpoint, folder / "converted", progress=False)
    rows: list[dict] = []
    loop = reference = None
    for precision in PRECISIONS[device]:
        with tf32(precision.tf32):
            dtype = getattr(torch, precision.dtype)
            if loop is None or device == "cuda":  # a CPU runs the loop once, in fp32
                oracle = load_oracle(fp32_copy(checkpoint, folder), f"{device} {STRATEGIES[precision.dtype]}")
                loop = TimedSide(partial(article_loop, oracle), documents[:loop_count], device)
                loop.warm_up(8)
            model = load_model(converted, dtype=dtype, device=device)
            ours = TimedSide(partial(our_batches, model, batch_tokens), documents, device)
            ours.warm_up(64)
            for _ in range(repeat):
                if len(loop.seconds) < repeat:
                    loop.run()
                ours.run()
            reference = reference or ours.results
            rows.append(
                row(name, precision, loop, ours)
                | matrix_shares(model, documents, ours, dtype, precision)
                | precision_cost(reference, ours.results)
                | {"max_abs_logprob_diff_to_loop": compare_results(ours.results[: len(loop.results)], loop.results)[0]}
            )
            print({key: value for key, value in rows[-1].items() if key != "runs"}, flush=True)
    return rows


def row(name: str, precision: Precision, loop: TimedSide, ours: TimedSide) -> dict:
    """Return medians, and all runs; the loop's seconds are scaled up to all documents."""
    scale = len(ours.documents) / len(loop.documents)
    loop_seconds = [seconds * scale for seconds in loop.seconds]
    theirs, our = statistics.median(loop_seconds), statistics.median(ours.seconds)
    tokens = sum(len(document.inputs) for document in ours.documents)
    return {
        "model": name,
        "dtype": precision.dtype,
        "tf32": precision.tf32,
        "documents": len(ours.documents),
        "loop_seconds": round(theirs, 3),
        "our_seconds": round(our, 3),
        "speedup": round(theirs / our, 2),
        "tokens_per_s": round(tokens / our),
        "runs": {"loop_seconds": loop_seconds, "our_seconds": ours.seconds},
    }


def matrix_shares(
    model: Any, documents: list[Document], ours: TimedSide, dtype: torch.dtype, precision: Precision
) -> dict:
    """Return how many matrix operations a second our side made, this machine can make, and the data sheet promises."""
    rate = matrix_flops(model, documents) / statistics.median(ours.seconds)
    shares = {
        "matrix_tflops_per_s": rate / 1e12,
        "machine_tflops_per_s": matrix_rate(dtype, ours.device) / 1e12,
    }
    return shares | ({"datasheet_tflops_per_s": precision.datasheet} if ours.device == "cuda" else {})


def precision_cost(reference: list[Result], results: list[Result]) -> dict:
    """Return perplexity and accuracy, and how they differ from those of the first precision."""
    perplexity, accuracy = summarize(results)
    c = compare_paired(reference, results, resamples=500)
    return {
        "ppl": perplexity,
        "acc": accuracy,
        "ppl_change_percent": 100 * math.expm1(0.0 - c.logprob_difference),  # 0.0 - x: no negative zero
        "ppl_change_interval_percent": [100 * math.expm1(0.0 - x) for x in reversed(c.logprob_interval)],
        "other_predictions": len(c.changed),
        "max_abs_logprob_diff": c.max_abs_logprob_difference,
    }


def machine(device: str) -> dict:
    info = {"system": platform.system(), "cpus": os.cpu_count(), "threads": torch.get_num_threads()}
    if device == "cuda":
        info["gpu"] = torch.cuda.get_device_name()
    return info | {package: version(package) for package in ("torch", "transformers", "rwkv")}


def run(
    data: str,
    device: str = "cpu",
    limit: int | None = None,
    loop_count: int | None = None,
    repeat: int = 3,
    threads: int = 2,
    batch_tokens: int | None = None,
    models: Sequence[str] = MODELS,
    out: Path | None = None,
) -> list[dict]:
    """Measure some models on the passages of ``data``; write and return the rows.

    Args:
        limit: passages; by default 300 on a CPU, all on a GPU.
        loop_count: passages for the article's loop; by default all on a CPU, 300 on a GPU.
        repeat: runs of each side, of which the median counts.
        threads: of a CPU.
        models: of ``MODELS``.
        out: by default ``lambada_speed_cpu.json`` or ``lambada_speed_cuda.json`` among the recorded results.

    Raises:
        InputError: there is no such model or device, a number is below 1, or the passages cannot be read.
    """
    if unknown := set(models) - set(MODELS):
        raise InputError(f"There is no model {min(unknown)}; choose of {', '.join(MODELS)}.")
    check_counts(limit=limit, loop=loop_count, repeat=repeat, threads=threads, batch_tokens=batch_tokens)
    out = out or RESULTS / f"lambada_speed_{device}.json"
    check_output(out)
    gpu = choose_device(device) == "cuda"
    torch.set_num_threads(threads)
    documents = encode_world(read_texts(data, limit or (None if gpu else 300)))
    BUILD.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in models:
        with scratch_folder(BUILD, "lambada-speed") as folder:
            checkpoint = bundled_checkpoint() if name == "bundled" else folder / "0.1B.pth"
            if name != "bundled":
                write_random_checkpoint(checkpoint, layers=12, hidden_size=768, head_size=64)
            tokens, loop = batch_tokens or default_batch_tokens(device), loop_count or (300 if gpu else None)
            rows += measure(name, checkpoint, folder, documents, device, loop, repeat, tokens)
        write_text(out, json.dumps({"machine": machine(device), "rows": rows}, indent=2) + "\n")
    return rows
