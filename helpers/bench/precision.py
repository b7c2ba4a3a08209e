"""How much of the limits in bf16 and fp16 right models use: random ones of all versions, judged as ``verify`` does.

    python -m helpers bench precision --models 20

The limits of :mod:`helpers.proof.precision` must not fail a model that is right, whatever its sizes, and should leave
little room for one that is wrong. A row of the result is one model in one dtype: for each of the four limits, the share
of it that the model used. Above 1 a right model would fail.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm.auto import tqdm

from ..atomic import scratch_folder, write_text
from ..checkpoints.oracle import fp32_copy, load_oracle, process_of
from ..checkpoints.synthetic import write_random_checkpoint
from ..checkpoints.versions import VERSIONS
from ..conversion.directory import convert
from ..conversion.loading import load_model
from ..errors import InputError
from ..paths import BUILD, RESULTS
from ..proof.precision import LOWER, TOKENS, precision_result, read_by_package, read_twice
from ..proof.questions import Question, answer, expected
from ..proof.results import Deviation, PrecisionResult
from ..proof.verify import random_ids
from .checks import check_counts, check_output, processor
from .lambada import machine

FILES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}  # dtypes of checkpoints


def random_sizes(rng: random.Random) -> dict[str, int]:
    """Return sizes of a small model: shallow and deep ones, narrow and wide heads."""
    layers, head_size = rng.choice((2, 3, 6, 7, 12, 24)), rng.choice((8, 16, 32, 64))
    heads = rng.choice((2, 3)) if layers > 6 else rng.choice((2, 3, 4, 6))
    return {
        "layers": layers,
        "hidden_size": heads * head_size,
        "head_size": head_size,
        "vocab_size": rng.choice((100, 300, 2000)),
    }


def shares(name: str, off: Deviation, limit: Deviation | None) -> dict[str, float | None]:
    """Return what share of a limit was used, by the largest and by the usual deviation; None if there is no limit."""
    used = limit and (off.largest / limit.largest, off.usual / limit.usual)
    largest, usual = (round(share, 3) for share in used) if used else (None, None)
    return {f"{name}_largest": largest, f"{name}_median": usual}


def measure(version: str, seed: int, folder: Path) -> list[dict]:
    """Make a random model, convert it, and return a row for each dtype."""
    rng = random.Random(f"{version}, {seed}")
    sizes, file = random_sizes(rng), rng.choice(list(FILES))
    checkpoint = write_random_checkpoint(folder / "model.pth", version, **sizes, dtype=FILES[file], seed=seed)
    converted = convert(checkpoint, folder / "converted", progress=False)
    reference = fp32_copy(checkpoint, folder)
    question = Question("prefill", "random ids", [random_ids(sizes["vocab_size"], seed, TOKENS)])
    oracle = load_oracle(reference)
    exact = expected(oracle, question)["0.logits"]
    packages = {name: read_by_package(reference, name, question, process_of(oracle)) for name in LOWER}
    rows = []
    for name, dtype in LOWER.items():
        model = load_model(converted, "ours", dtype)
        ours = read_twice(lambda q, model=model: answer(model, q.kind, q.rows), question)  # type: ignore[misc]
        result = precision_result(type(model).__name__, name, question, ours, packages, exact, 0.0)
        rows.append({"version": version, "seed": seed, **sizes, "file": file, "dtype": name, **row_of(result)})
    return rows


def row_of(result: PrecisionResult) -> dict[str, float | None]:
    """Return the shares, and the package's largest deviation from itself in fp32 as a share of the largest logit."""
    package = result.package_to_fp32
    return {
        **shares("fp32", result.to_fp32, result.limit),
        **shares("steps", result.in_steps, result.steps_limit),
        "package_of_logit": round(package.largest / result.max_abs_logit, 4) if package else None,
    }


def run(
    models: int = 20,
    versions: Sequence[str] | None = None,
    first: int = 0,
    threads: int = 1,
    out: Path | None = None,
) -> list[dict]:
    """Measure ``models`` random models of each version, with seeds from ``first`` on; write and return the rows.

    Raises:
        InputError: a number is below 1, or there is no such version.
    """
    check_counts(models=models, threads=threads)
    if first < 0:
        raise InputError(f"--first is {first}; give a number from 0 on.")
    versions = list(VERSIONS) if versions is None else versions
    if unknown := [version for version in versions if version not in VERSIONS]:
        raise InputError(f"There is no version {unknown[0]}; choose from {', '.join(VERSIONS)}.")
    out = out or RESULTS / "precision.json"
    check_output(out)
    torch.set_num_threads(threads)
    BUILD.mkdir(parents=True, exist_ok=True)
    rows = []
    for version, seed in tqdm([(v, s) for v in versions for s in range(first, first + models)], unit="model"):
        with scratch_folder(BUILD, "precision") as scratch:
            rows += measure(version, seed, scratch)
    content = {"machine": machine("cpu") | {"processor": processor()}, "worst": worst(rows), "rows": rows}
    write_text(out, json.dumps(content, indent=2) + "\n")
    return rows


def worst(rows: list[dict]) -> dict[str, float]:
    """Return the largest share of each limit that any model used."""
    names = ("fp32_largest", "fp32_median", "steps_largest", "steps_median")
    return {name: max((row[name] for row in rows if row[name] is not None), default=0.0) for name in names}
