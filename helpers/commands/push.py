"""``python -m helpers push``: a converted directory to the Hub."""

import argparse
from pathlib import Path

from ..errors import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="a directory made by convert")
    parser.add_argument("repo_id", metavar="REPO", help="for example your-name/rwkv-5-world-0.1b")
    parser.add_argument("--private", action="store_true", help="create a private repository")
    parser.add_argument("--dry-run", action="store_true", help="only list what would be uploaded, and what would not")
    parser.add_argument(
        "--also", action="append", default=[], metavar="PATTERN", help="upload files that are not the model's, too, "
        "for example 'figures/*.png'; may be given several times; hidden files are never uploaded"
    )  # fmt: skip


def main(args: argparse.Namespace) -> int:
    from ..conversion.hub import files_to_push, left_out, push
    from ..proof.changes import certificate_sentence, refuse_changed

    files = files_to_push(args.folder, tuple(args.also))
    others = left_out(args.folder, files)
    changes = refuse_changed(args.folder, [file.relative_to(args.folder).as_posix() for file in files])
    sentence = certificate_sentence(args.folder)
    push(args.folder, args.repo_id, args.private, args.dry_run, tuple(args.also))
    size = sum(file.stat().st_size for file in files)
    kind = "private" if args.private else "public"
    print(f"{f'would upload ({kind})' if args.dry_run else 'uploaded'} to {args.repo_id}, {size:,} bytes:")
    for file in files:
        print(f"  {file.stat().st_size:>14,}  {printable(file.relative_to(args.folder).as_posix())}")
    for name in others:
        print(f"  {'left out':>14}  {printable(name)}")
    if others:
        print("What is left out does not belong to a model; add it with --also PATTERN.")
    for change in changes:
        print(f"note: {change.sentence}")
    print(sentence)
    return 0
