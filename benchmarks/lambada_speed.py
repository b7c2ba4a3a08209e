"""Measure the LAMBADA check: our batches against the article's loop over the ``rwkv`` package, in turn.

    python benchmarks/lambada_speed.py --data lambada_test.jsonl                  # CPU: 300 passages, 2 threads
    python benchmarks/lambada_speed.py --data lambada_test.jsonl --device cuda    # GPU: all passages, four precisions

Both sides get token ids and return a log-probability and a hit for each passage. Loading and encoding are not timed,
and both sides first run a few passages to warm up. On a GPU the loop runs in each precision, on some passages, and its
time is scaled up; on a CPU it runs in fp32 only. The model of 0.1B shape (12 layers, 768) has random weights; the
bundled one is trained, so its perplexity says what a precision costs. Results go to
``benchmarks/results/lambada_speed_cpu.json`` or ``lambada_speed_cuda.json``, which notebook 05 shows.
"""

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F

from helpers import lambada
from helpers.checkpoints import bundled_checkpoint
from helpers.conversion import convert
from helpers.lambada import Document, Result
from helpers.lambada_compare import compare_paired
from helpers.lambada_run import STRATEGIES, encode_world
from helpers.oracle import fp32_copy, load_oracle
from helpers.paths import BUILD, ROOT
from helpers.synthetic import write_random_checkpoint

WORK = BUILD / "lambada_speed"
CPU = (("float32", False), ("bfloat16", False))  # precisions: dtype of the weights, TF32
CUDA = (("float32", False), ("float32", True), ("bfloat16", False), ("float16", False))
DATASHEET = {  # dense matrix products, TFLOP/s: NVIDIA H100 and H200 data sheets, SXM
    "float32": 67, "float32 TF32": 494.7, "bfloat16": 989.4, "float16": 989.4,
}  # fmt: skip


def article_loop(oracle, documents: list[Document]) -> list[Result]:
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


def ours(model, documents: list[Document], batch_tokens: int) -> list[Result]:
    scores = lambada.score_converted(model, documents, batch_tokens)
    return lambada.collect(scores, len(documents), show=False)


def timed(function: Callable[[], list[Result]], device: str) -> tuple[float, list[Result]]:
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


def matrix_flops(model, documents: list[Document]) -> float:
    """Return the FLOP of the linear layers: two a weight and token, in the head two a weight and token of a target."""
    head = model.get_output_embeddings()
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    read = sum(len(document.ids) for document in documents)
    predicted = sum(len(document.target) for document in documents)
    return 2 * (read * sum(m.weight.numel() for m in layers) + predicted * head.weight.numel())


def measure(name: str, checkpoint: Path, documents: list[Document], args: argparse.Namespace) -> list[dict]:
    """Return one row for each precision; the first is the reference that the others are compared with."""
    folder = convert(checkpoint, WORK / f"{name}-converted", progress=False)
    batch_tokens = args.batch_tokens or lambada.default_batch_tokens(args.device)
    rows, reference = [], None
    for dtype, tf32 in CPU if args.device == "cpu" else CUDA:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        weights = getattr(torch, dtype)
        if args.device == "cuda" or reference is None:
            oracle = load_oracle(fp32_copy(checkpoint, WORK), f"{args.device} {STRATEGIES[dtype]}")
            loop, loop_seconds = partial(article_loop, oracle, documents[: args.loop]), []
            article_loop(oracle, documents[:8])
        model = lambada.load_model(folder, dtype=weights, device=args.device)
        run, our_seconds = partial(ours, model, documents, batch_tokens), []
        ours(model, documents[:64], batch_tokens)
        for _ in range(args.repeat):
            if len(loop_seconds) < args.repeat:
                seconds, theirs = timed(loop, args.device)
                loop_seconds.append(seconds * len(documents) / len(theirs))
            seconds, results = timed(run, args.device)
            our_seconds.append(seconds)
        reference = reference or results
        flops, rate = matrix_flops(model, documents), matrix_rate(weights, args.device)
        rows.append(
            summarize(name, dtype, tf32, loop_seconds, our_seconds, documents)
            | {
                "matrix_tflops_per_s": flops / statistics.median(our_seconds) / 1e12,
                "machine_tflops_per_s": rate / 1e12,
            }
            | precision_cost(reference, results)
            | {"max_abs_logprob_diff_to_loop": lambada.compare(results[: len(theirs)], theirs)[0]}
        )
        if args.device == "cuda":
            rows[-1]["datasheet_tflops_per_s"] = DATASHEET[dtype + " TF32" * tf32]
        print({key: value for key, value in rows[-1].items() if key != "runs"}, flush=True)
    return rows


def summarize(
    name: str, dtype: str, tf32: bool, loop_seconds: list[float], our_seconds: list[float], documents: list[Document]
) -> dict:
    """Return medians, and all runs."""
    loop, our = statistics.median(loop_seconds), statistics.median(our_seconds)
    tokens = sum(len(document.ids) for document in documents)
    return {
        "model": name,
        "dtype": dtype,
        "tf32": tf32,
        "documents": len(documents),
        "loop_seconds": round(loop, 3),
        "our_seconds": round(our, 3),
        "speedup": round(loop / our, 2),
        "tokens_per_s": round(tokens / our),
        "runs": {"loop_seconds": loop_seconds, "our_seconds": our_seconds},
    }


def precision_cost(reference: list[Result], results: list[Result]) -> dict:
    """Return perplexity and accuracy, and how they differ from those of the first precision."""
    perplexity, accuracy = lambada.summarize(results)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a JSON Lines file with the field text, or: hub")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--limit", type=int, help="passages (default: 300 on a CPU, all on a GPU)")
    parser.add_argument(
        "--loop", type=int, help="passages for the article's loop (default: all on a CPU, 300 on a GPU)"
    )
    parser.add_argument("--repeat", type=int, default=3, help="runs of each side, of which the median counts")
    parser.add_argument("--threads", type=int, default=2, help="of a CPU")
    parser.add_argument("--batch-tokens", type=int, help="tokens in a batch")
    parser.add_argument("--models", nargs="+", choices=("bundled", "0.1B"), default=["bundled", "0.1B"])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    gpu = args.device == "cuda"
    args.loop = args.loop or (300 if gpu else None)
    torch.set_num_threads(args.threads)
    texts = lambada.read_texts(args.data, args.limit or (None if gpu else 300))
    documents = encode_world(texts, "none")
    out = args.out or ROOT / "benchmarks" / "results" / f"lambada_speed_{args.device}.json"
    rows = []
    for name in args.models:
        shutil.rmtree(WORK, ignore_errors=True)
        checkpoint = bundled_checkpoint() if name == "bundled" else WORK / "0.1B.pth"
        if name != "bundled":
            write_random_checkpoint(checkpoint, layers=12, hidden_size=768, head_size=64)
        rows += measure(name, checkpoint, documents, args)
        out.write_text(json.dumps({"machine": machine(args.device), "rows": rows}, indent=2) + "\n")
    shutil.rmtree(WORK, ignore_errors=True)


if __name__ == "__main__":
    main()
