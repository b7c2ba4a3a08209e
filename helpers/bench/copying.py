"""Count how often the bundled model finds a word that its passage has said before; it takes a minute on a CPU.

    python -m helpers bench copying --data hub

The counts, without any text, are what notebook 09 draws: its own 150 passages are too few for some groups.
"""

import json
import re
from pathlib import Path

import torch

from ..atomic import scratch_folder, write_text
from ..checkpoints.bundled import bundled_checkpoint
from ..conversion.directory import convert
from ..conversion.loading import load_model
from ..lambada.passages import read_texts
from ..lambada.protocol import Result, collect, encode_world, score_converted
from ..paths import BUILD, RESULTS
from .checks import check_counts, check_output
from .lambada import machine

GROUPS = {"0": range(1), "1": range(1, 2), "2": range(2, 3), "3 or more": range(3, 10**6)}


def times_said(text: str) -> int:
    """Return how often the last word of a passage occurs before, in small or capital letters."""
    context, _, word = text.rpartition(" ")
    return re.findall(r"[\w'-]+", context.lower()).count(word.lower())


def count_groups(texts: list[str], results: list[Result]) -> list[dict]:
    """Return a row for each group of passages: how many there are, and how many of them are right."""
    rows = []
    for name, counts in GROUPS.items():
        hits = [r.correct for text, r in zip(texts, results, strict=True) if times_said(text) in counts]
        rows.append({"said": name, "passages": len(hits), "right": sum(hits)})
    return rows


def run(data: str, limit: int | None = None, threads: int = 2, out: Path | None = None) -> list[dict]:
    """Score the passages of ``data`` with the bundled RWKV-5 in fp32; write and return the counts.

    Raises:
        InputError: a number is below 1, or the passages cannot be read.
    """
    check_counts(limit=limit, threads=threads)
    out = out or RESULTS / "lambada_copying.json"
    check_output(out)
    torch.set_num_threads(threads)
    texts = read_texts(data, limit)
    BUILD.mkdir(parents=True, exist_ok=True)
    with scratch_folder(BUILD, "lambada-copying") as scratch:
        model = load_model(convert(bundled_checkpoint(), scratch / "converted", progress=False))
        results = collect(score_converted(model, encode_world(texts)), len(texts))
    rows = count_groups(texts, results)
    write_text(out, json.dumps({"machine": machine("cpu"), "model": "rwkv5-world-mini", "rows": rows}, indent=2) + "\n")
    return rows
