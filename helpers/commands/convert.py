"""``python -m helpers convert``: a checkpoint, from a file or from the Hub, into a model directory."""

import argparse
from pathlib import Path

from ..errors import InputError
from . import DTYPES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="CHECKPOINT.pth OUT_DIR, or only OUT_DIR with --repo-id"
    )
    parser.add_argument("--repo-id", help="download from this repository of the Hub, for example BlinkDL/rwkv-5-world")
    parser.add_argument("--checkpoint-file", help="name of the .pth file in that repository")
    parser.add_argument("--revision", help="branch, tag or commit of that repository")
    parser.add_argument("--dtype", choices=DTYPES, help="default: as in the checkpoint")
    parser.add_argument("--max-shard-size", default="5GB", help="largest weights file (default: 5GB)")


def main(args: argparse.Namespace) -> int:
    check_paths(args)
    import torch

    from ..checkpoints.inspection import oddities
    from ..conversion.directory import convert

    checkpoint, out_dir = source_and_target(args)
    dtype = getattr(torch, args.dtype) if args.dtype else None
    folder = convert(checkpoint, out_dir, dtype=dtype, max_shard_size=args.max_shard_size)
    print(f"{folder} is complete:")
    for file in sorted(folder.iterdir()):
        print(f"  {file.stat().st_size:>14,}  {file.name}")
    for sentence in oddities(checkpoint):
        print(f"note: {sentence}")
    return 0


def check_paths(args: argparse.Namespace) -> None:
    """Raise InputError unless the arguments name one checkpoint and one directory."""
    if bool(args.repo_id) != bool(args.checkpoint_file):
        raise InputError("--repo-id and --checkpoint-file belong together: give both, or neither.")
    if len(args.paths) != (1 if args.repo_id else 2):
        raise InputError("Give CHECKPOINT.pth and OUT_DIR, or --repo-id, --checkpoint-file and OUT_DIR.")


def source_and_target(args: argparse.Namespace) -> tuple[Path, Path]:
    """Return checkpoint and output directory, downloading the checkpoint if it is on the Hub."""
    from ..atomic import refuse_existing
    from ..conversion.hub import download_checkpoint

    out_dir = Path(args.paths[-1])
    refuse_existing(out_dir)  # before a long download
    if args.repo_id:
        return download_checkpoint(args.repo_id, args.checkpoint_file, args.revision), out_dir
    return Path(args.paths[0]), out_dir
