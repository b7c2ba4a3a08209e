"""``python -m helpers lambada-compare``: two files of results, document by document."""

import argparse
import math
from pathlib import Path

from ..errors import LONGEST_MESSAGE, InputError, printable

MOST_RESAMPLES = 10**6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", type=Path, metavar="A.jsonl", help="written by lambada --out")
    parser.add_argument("b", type=Path, metavar="B.jsonl", help="the same passages with another model or setting")
    parser.add_argument(
        "--max-difference", type=float, metavar="X", help="exit code 1 if a document's log-probability differs by more "
        "(default: 0.001 if the original and the converted model both ran in fp32 with the same prefix, else no limit)"
    )  # fmt: skip
    parser.add_argument("--resamples", type=int, default=2000, metavar="N", help="of the bootstrap (default: 2000)")


def main(args: argparse.Namespace) -> int:
    if not 1 <= args.resamples <= MOST_RESAMPLES:
        raise InputError(f"--resamples is {args.resamples}; give a number from 1 to {MOST_RESAMPLES:,}.")
    if args.max_difference is not None and not 0 <= args.max_difference < math.inf:
        raise InputError(f"--max-difference is {args.max_difference}; give a finite number from 0 on.")
    from ..lambada.comparison import compare_paired, fault_of, report, usual_limit
    from ..lambada.results import read_complete

    (header_a, a), (header_b, b) = read_complete(args.a), read_complete(args.b)
    if (header_a.data, header_a.documents) != (header_b.data, header_b.documents):
        raise InputError(f"{args.a} and {args.b} are about other passages; run both with the same --data and --limit.")
    for name, header, results in (("A", header_a, a), ("B", header_b, b)):
        precision = f"{header.dtype}, TF32 {'on' if header.tf32 else 'off'}"
        made_with = ", ".join(f"{key} {value}" for key, value in header.made_with.items())
        words = f"{header.engine}, prefix {header.prefix}, {precision}; {made_with}"
        print(f"{name}: {printable(words, LONGEST_MESSAGE)}")
        if fault := fault_of(results, name):
            print(f"FAILED: {fault}.")
            return 1
    comparison = compare_paired(a, b, args.resamples)
    print(report(comparison, a, b))
    limit = usual_limit(header_a, header_b) if args.max_difference is None else args.max_difference
    if limit is not None and comparison.max_abs_logprob_difference > limit:
        print(f"FAILED: a document's log-probability differs by more than {limit:g}.")
        return 1
    return 0
