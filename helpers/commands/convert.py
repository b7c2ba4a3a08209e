"""``python -m helpers convert``: a checkpoint, from a file or from the Hub, into a model directory."""

import argparse
from pathlib import Path

from ..conversion.sizes import SHARD_LIMIT, parse_size
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
    parser.add_argument("--max-shard-size", default=SHARD_LIMIT, help="largest weights file (default: %(default)s)")
    add_tokenizer_argument(parser, "refuse a model that has not as many rows as World models")


def add_tokenizer_argument(parser: argparse.ArgumentParser, default: str) -> None:
    """Add ``--tokenizer`` and ``--no-tokenizer``, of which ``default`` says what happens without either."""
    parser.add_argument(
        "--tokenizer",
        action=argparse.BooleanOptionalAction,
        help=f"write the World tokenizers, whatever the vocabulary, or do not (default: {default})",
    )


def main(args: argparse.Namespace) -> int:
    check_arguments(args)
    import torch

    from ..checkpoints.inspection import oddities
    from ..conversion.directory import Source, convert, refuse_other_vocabulary

    checkpoint, out_dir = source_and_target(args)
    source = Source.checkpoint(checkpoint)
    if args.tokenizer is None:
        refuse_other_vocabulary(source.info, checkpoint)
    notes = oddities(source.weights, source.info, checkpoint)
    dtype = getattr(torch, args.dtype) if args.dtype else None
    folder = convert(source, out_dir, dtype, args.max_shard_size, with_tokenizer=args.tokenizer is not False)
    print(f"{folder} is complete:")
    for file in sorted(folder.iterdir()):
        print(f"  {file.stat().st_size:>14,}  {file.name}")
    for sentence in notes:
        print(f"note: {sentence}")
    return 0


def check_arguments(args: argparse.Namespace) -> None:
    """Raise InputError unless the arguments name one checkpoint, one directory and a size."""
    if bool(args.repo_id) != bool(args.checkpoint_file):
        raise InputError("--repo-id and --checkpoint-file belong together: give both, or neither.")
    if args.revision and not args.repo_id:
        raise InputError("--revision is of a repository of the Hub: give --repo-id and --checkpoint-file, too.")
    if len(args.paths) != (1 if args.repo_id else 2):
        raise InputError("Give CHECKPOINT.pth and OUT_DIR, or --repo-id, --checkpoint-file and OUT_DIR.")
    parse_size(args.max_shard_size)  # before a long download


def source_and_target(args: argparse.Namespace) -> tuple[Path, Path]:
    """Return checkpoint and output directory, downloading the checkpoint if it is on the Hub."""
    from ..atomic import refuse_existing
    from ..conversion.hub import download_checkpoint

    out_dir = Path(args.paths[-1])
    refuse_existing(out_dir)  # before a long download
    if args.repo_id:
        return download_checkpoint(args.repo_id, args.checkpoint_file, args.revision), out_dir
    return Path(args.paths[0]), out_dir
