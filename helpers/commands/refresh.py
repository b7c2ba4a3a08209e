"""``python -m helpers refresh``: an older converted directory, up to date."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="an older converted directory; it is replaced")
    parser.add_argument("--max-shard-size", default="5GB", help="largest weights file (default: 5GB)")


def main(args: argparse.Namespace) -> int:
    from ..conversion.refresh import refresh

    folder = refresh(args.folder, args.max_shard_size)
    print(f"{folder} is up to date; now prove it: python -m helpers verify CHECKPOINT.pth {folder}")
    return 0
