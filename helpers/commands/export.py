"""``python -m helpers export``: a converted directory back to a ``.pth`` file, or to the layout of fla."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="a directory made by convert, or in fla's layout")
    parser.add_argument("out", type=Path, metavar="OUT", help="a new file, OUT.pth; with --layout fla, a new directory")
    parser.add_argument(
        "--layout",
        choices=("pth", "fla"),
        default="pth",
        help="pth: BlinkDL's format (default); fla: a directory that flash-linear-attention, llama.cpp and mlx-lm read",
    )


def main(args: argparse.Namespace) -> int:
    from ..conversion.export import export
    from ..conversion.fla import export_fla

    if args.layout == "fla":
        out, limits = export_fla(args.folder, args.out)
        print(f"{out}: the same numbers in the layout of flash-linear-attention")
        for sentence in limits:
            print(f"note: {sentence}")
        return 0
    out = export(args.folder, args.out)
    print(f"{out}: {out.stat().st_size:,} bytes, in BlinkDL's format")
    return 0
