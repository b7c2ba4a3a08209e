"""Measure reading and writing of models: ours against the ``rwkv`` package, in turn, on a CPU or an NVIDIA GPU.

    python -m helpers bench prefill --versions 5.2 --tokens 512 --rows 1 8
    python -m helpers bench prefill --device cuda --dtypes bfloat16 --tokens 512 4096 16384
    python -m helpers bench decode

Weights are random, of the shapes of published models, or those of an included model, by its name. Ours is the converted
directory as ``from_pretrained`` gives it. Both sides read the same ids into an empty state and return the last logits;
to decode, both continue from there with given ids, one token a step, without choosing. The package has no batches: it
takes one row after the other. Loading is not timed, and each side runs once before.
"""

import gc
import json
import os
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..atomic import scratch_folder, write_text
from ..checkpoints.bundled import BUNDLED_SHA256, bundled_checkpoint
from ..checkpoints.files import load_checkpoint
from ..checkpoints.format import describe
from ..checkpoints.oracle import fp32_copy, load_oracle, run_on
from ..checkpoints.synthetic import write_random_checkpoint
from ..checkpoints.versions import VERSIONS
from ..conversion.directory import convert
from ..conversion.loading import choose_device, load_model
from ..errors import InputError
from ..lambada.run import STRATEGIES
from ..paths import BUILD, RESULTS
from .checks import SIZES, check_counts, check_output, processor
from .decode import peer_kernels
from .lambada import machine, timed

WORKS = {"prefill": (64, 512, 4096), "decode": (32,)}  # and tokens a row, by default
RECORDED = ("no", "graph", "fused")
PIECES = (64, 512, 2048)  # of prompts that are recorded
FIRST = 16  # tokens that are read before some are written


@torch.inference_mode()
def ours_reads(model: Any, ids: Tensor) -> Tensor:
    """Return the last logits (B, V) for ids (B, T)."""
    return model(ids, use_cache=True, logits_to_keep=1).logits[:, -1]


@torch.inference_mode()
def ours_decodes(model: Any, ids: Tensor) -> Tensor:
    output = model(ids[:, :FIRST], use_cache=True, logits_to_keep=1)
    for step in range(FIRST, ids.shape[1]):
        output = model(ids[:, step : step + 1], state=output.state, use_cache=True, logits_to_keep=1)
    return output.logits[:, -1]


def package_reads(oracle: Any, rows: list[list[int]]) -> Tensor:
    return torch.stack([oracle.forward(row, None)[0] for row in rows])


def package_decodes(oracle: Any, rows: list[list[int]]) -> Tensor:
    last = []
    for row in rows:
        logits, state = oracle.forward(row[:FIRST], None)
        for index in row[FIRST:]:
            logits, state = oracle.forward([index], state)
        last.append(logits.clone())
    return torch.stack(last)


READERS: dict[str, tuple[Callable, Callable]] = {
    "prefill": (ours_reads, package_reads),
    "decode": (ours_decodes, package_decodes),
}


def time_package(oracle: Any, work: str, rows: list[list[int]], device: str, threads: int) -> tuple[float, Any]:
    """Return seconds, and the last logits as an array."""
    torch.set_num_threads(threads)
    seconds, logits = timed(partial(READERS[work][1], oracle, rows), device)
    return seconds, logits.float().cpu().numpy()


def measure(work: str, model: Any, oracle: Any, rows: int, tokens: int, repeat: int, device: str) -> dict:
    """Return tokens a second of both sides: medians of ``repeat`` runs in turn, and all runs."""
    count = tokens + FIRST if work == "decode" else tokens
    vocab = model.config.vocab_size
    ids = torch.randint(1, min(vocab, 65530), (rows, count), generator=torch.Generator().manual_seed(0)).to(device)
    threads = torch.get_num_threads()
    sides = {
        "ours": partial(timed, partial(READERS[work][0], model, ids), device),
        "package": partial(run_on, oracle, time_package, work, ids.tolist(), device, threads),
    }
    logits = {name: side()[1] for name, side in sides.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeat):
        for name, side in sides.items():
            seconds[name].append(side()[0])
    rate = {name: rows * count / statistics.median(runs) for name, runs in seconds.items()}
    ratios = [theirs / our for our, theirs in zip(seconds["ours"], seconds["package"], strict=True)]
    expected = torch.from_numpy(logits["package"])
    apart = (logits["ours"].float().cpu() - expected).norm() / expected.norm()
    return {
        "rows": rows,
        "tokens": tokens,
        "our_tokens_per_s": round(rate["ours"], 1),
        "package_tokens_per_s": round(rate["package"], 1),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_lowest": round(min(ratios), 2),
        "ratio_highest": round(max(ratios), 2),
        "relative_logit_difference": apart.item(),
        "runs": {f"{name}_seconds": runs for name, runs in seconds.items()},
    }


def checkpoint_of(version: str, size: str, folder: Path, dtype: torch.dtype) -> Path:
    """Return a checkpoint; the package needs one in fp32 to compute in fp32 from the first layer on."""
    if size in BUNDLED_SHA256:
        return fp32_copy(bundled_checkpoint(size), folder)
    layers, hidden = SIZES[size]
    shape = {"layers": layers, "hidden_size": hidden, "head_size": 64}
    return write_random_checkpoint(folder / f"{version}-{size}.pth", version, dtype=dtype, **shape)


def run(
    work: str = "prefill",
    versions: Sequence[str] = ("5.0", "5.2", "4"),
    sizes: Sequence[str] = ("0.1B",),
    rows: Sequence[int] = (1, 8),
    tokens: Sequence[int] | None = None,
    dtypes: Sequence[str] = ("float32", "bfloat16"),
    package_dtype: str | None = None,
    device: str = "cpu",
    threads: int = 2,
    repeat: int = 5,
    recorded: Sequence[str] = ("no",),
    out: Path | None = None,
) -> list[dict]:
    """Measure; write and return a row for each version, size, dtype, number of rows and of tokens.

    Args:
        work: ``prefill`` or ``decode``. rows: in a batch. tokens: of each row, read or written.
        package_dtype: by default float32 on a CPU, float16 on a GPU.
        threads: of a CPU. repeat: runs of each side.
        recorded: ``no``, ``graph`` or ``fused``: record prompts of ours with ``compile_decoding`` before, on a GPU.
        out: by default ``prefill_cpu.json`` and so on among the recorded results.

    Raises:
        InputError: a name is unknown, a number is below 1, or there is no such device.
    """
    known: dict[str, tuple[Sequence[str], Sequence[str]]] = {
        "--versions": (versions, tuple(VERSIONS)),
        "--sizes": (sizes, (*SIZES, *BUNDLED_SHA256)),
        "--dtypes": (dtypes, tuple(STRATEGIES)),
        "--recorded": (recorded, RECORDED),
        "--package-dtype": ([package_dtype] if package_dtype else [], tuple(STRATEGIES)),
    }
    for option, (given, choices) in known.items():
        if unknown := set(given) - set(choices):
            raise InputError(f"{option} has {min(unknown)}; choose of {', '.join(choices)}.")
    tokens = tokens or WORKS[work]
    check_counts(rows=min(rows), tokens=min(tokens), threads=threads, repeat=repeat)
    out = out or RESULTS / f"{work}_{device}.json"
    check_output(out)
    gpu = choose_device(device) == "cuda"
    kernels = gpu and peer_kernels()
    package_dtype = package_dtype or ("float16" if gpu else "float32")
    strategy, weights = STRATEGIES[package_dtype], getattr(torch, package_dtype if gpu else "float32")
    torch.set_num_threads(threads)
    BUILD.mkdir(parents=True, exist_ok=True)
    results: list[dict] = []
    info = machine(device) | {"processor": f"{processor()}, {os.cpu_count()} cores", "package_kernels": kernels}
    shapes = [(version, size) for version, size in product(versions, sizes) if size in SIZES]
    for version, size in shapes + [("", size) for size in sizes if size in BUNDLED_SHA256]:
        with scratch_folder(BUILD, "model-speed") as scratch:
            checkpoint = checkpoint_of(version, size, scratch, weights)
            version = describe(load_checkpoint(checkpoint)).version
            converted = convert(checkpoint, scratch / "converted", progress=False)
            oracle = load_oracle(checkpoint, f"{device} {strategy}", kernels=kernels)
            for dtype, variant in product(dtypes, recorded):
                model = load_model(converted, dtype=getattr(torch, dtype), device=device)
                if variant != "no":
                    model.compile_decoding(rows, fuse=variant == "fused", prompt_pieces=PIECES)
                for batch, count in product(rows, tokens):
                    label: dict[str, str | None] = {"version": version, "size": size, "dtype": dtype}
                    label["recorded"] = None if variant == "no" else variant
                    label["package"] = f"{device} {strategy}"
                    results.append(label | measure(work, model, oracle, batch, count, repeat, device))
                    write_text(out, json.dumps({"machine": info, "rows": results}, indent=2) + "\n")
                    print({key: value for key, value in results[-1].items() if key != "runs"}, flush=True)
                del model
                gc.collect()
            del oracle
    return results
