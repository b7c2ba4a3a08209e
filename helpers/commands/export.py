"""``python -m helpers export``: a converted directory back to a ``.pth`` file."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="a directory made by convert")
    parser.add_argument("out", type=Path, metavar="OUT.pth", help="a new file")


def main(args: argparse.Namespace) -> int:
    from ..conversion.export import export

    out = export(args.folder, args.out)
    print(f"{out}: {out.stat().st_size:,} bytes, in BlinkDL's format")
    return 0
