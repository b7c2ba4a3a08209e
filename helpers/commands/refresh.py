"""``python -m helpers refresh``: an older converted directory, up to date."""

import argparse
from pathlib import Path

from ..conversion.sizes import SHARD_LIMIT
from .convert import add_tokenizer_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="an older converted directory; it is replaced")
    parser.add_argument("--max-shard-size", default=SHARD_LIMIT, help="largest weights file (default: %(default)s)")
    add_tokenizer_argument(parser, "if the model has as many rows as World models")


def main(args: argparse.Namespace) -> int:
    from ..conversion.refresh import refresh

    folder = refresh(args.folder, args.max_shard_size, with_tokenizer=args.tokenizer)
    print(f"{folder} is up to date; now prove it: python -m helpers verify CHECKPOINT.pth {folder}")
    return 0
