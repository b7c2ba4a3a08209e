"""``python -m helpers inspect``: what is in a checkpoint, and what is odd about it."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT.pth")
    parser.add_argument(
        "--quick", action="store_true", help="look at names and shapes only, not at every number and checksum"
    )


def main(args: argparse.Namespace) -> int:
    from ..checkpoints.inspection import inspect

    found = inspect(args.checkpoint, args.quick)
    for name, value in found.rows.items():
        print(f"{name:<14} {value}")
    for sentence in found.odd or ["nothing"]:
        print(f"{'odd':<14} {sentence}")
    return 0
