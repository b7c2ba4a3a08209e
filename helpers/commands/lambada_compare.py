"""``python -m helpers lambada-compare``: two files of results, document by document."""

import argparse
from pathlib import Path

from ..errors import InputError

MOST_RESAMPLES = 10**6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", type=Path, metavar="A.jsonl", help="written by lambada --out")
    parser.add_argument("b", type=Path, metavar="B.jsonl", help="the same passages with another model or setting")
    parser.add_argument("--resamples", type=int, default=2000, metavar="N", help="of the bootstrap (default: 2000)")


def main(args: argparse.Namespace) -> int:
    if not 1 <= args.resamples <= MOST_RESAMPLES:
        raise InputError(f"--resamples is {args.resamples}; give a number from 1 to {MOST_RESAMPLES:,}.")
    from ..lambada.comparison import compare_paired, report
    from ..lambada.results import read_complete

    (header_a, a), (header_b, b) = read_complete(args.a), read_complete(args.b)
    if header_a.data != header_b.data:
        raise InputError(f"{args.a} and {args.b} are about other passages; run both with the same --data and --limit.")
    for name, header in (("A", header_a), ("B", header_b)):
        precision = f"{header.dtype}, TF32 {'on' if header.tf32 else 'off'}"
        made_with = ", ".join(f"{key} {value}" for key, value in header.made_with.items())
        print(f"{name}: {header.engine}, prefix {header.prefix}, {precision}; {made_with}")
    print(report(compare_paired(a, b, args.resamples), a, b))
    return 0
