"""What ``python -m helpers bench`` has recorded, as notebook 12 shows it: ours against another program."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from ..paths import RESULTS

Row = Mapping[str, Any]
work = itemgetter("size", "version", "way")  # rows of decode that are alike in these can be compared
PATTERNS = ("prefill_*", "decode_*", "tokenizer*", "lambada_speed_*", "conversion*")


@dataclass(frozen=True)
class Comparison:
    """Ours against another program.

    Attributes:
        other: the other program, and how it ran.
        ratio: how many times as fast ours is.
        share: what ours reaches of the roof of the machine; ``None`` if it was not recorded.
    """

    other: str
    ratio: float
    share: float | None = None


def recorded(pattern: str) -> dict[str, Any]:
    """Return the recorded results whose files match, by name; there may be none."""
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob(f"{pattern}.json"))}


def recorded_comparisons() -> dict[tuple[str, str, str], list[Comparison]]:
    """Return all comparisons by file, dtype and machine."""
    found = defaultdict(list)
    for pattern in PATTERNS:
        for file, results in recorded(pattern).items():
            machine = results["machine"]
            names = (machine.get(key) for key in ("gpu", "processor", "cpu"))
            where = next(filter(None, names), f"{machine['cpus']} CPU cores")
            for row in results["rows"]:
                if result := compared(row, results["rows"]):
                    found[file, row.get("dtype", ""), where].append(result)
    return dict(found)


def compared(row: Row, rows: Sequence[Row]) -> Comparison | None:
    """Return what ours is compared with in a row of a file; ``None`` if this row is no comparison of ours."""
    if "ratio" in row:  # prefill, and decode on a CPU
        return Comparison(f"rwkv, {row['package']}", row["ratio"])
    if "speedup" in row:  # lambada
        return Comparison(
            "the article's loop", row["speedup"], row["matrix_tflops_per_s"] / row["machine_tflops_per_s"]
        )
    if "cp_seconds" in row:  # conversion
        return Comparison("cp of the file", row["cp_seconds"] / row["convert_seconds"])
    if "megabytes_per_second" in row:  # tokenizer
        speeds = row["megabytes_per_second"]
        return Comparison("the Python trie", speeds["ours"]["median"] / speeds["TRIE_TOKENIZER"]["median"])
    if row.get("variant") != "fused" or row["way"] != "loop" or row["rows"] != 1:  # decode on a GPU
        return None
    others = (other for other in rows if work(other) == work(row) and "variant" not in other)  # ours have a variant
    peer = next(others, None)
    if peer is None:
        return None
    return Comparison("rwkv, fp16", row["tokens_per_s"] / peer["tokens_per_s"], row.get("roof_share"))
