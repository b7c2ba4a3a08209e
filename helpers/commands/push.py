"""``python -m helpers push``: a converted directory to the Hub."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="a directory made by convert")
    parser.add_argument("repo_id", metavar="REPO", help="for example your-name/rwkv-5-world-0.1b")
    parser.add_argument("--private", action="store_true", help="create a private repository")
    parser.add_argument("--dry-run", action="store_true", help="only list what would be uploaded")


def main(args: argparse.Namespace) -> int:
    from ..conversion.hub import push
    from ..proof.card import certificate_sentence

    files = push(args.folder, args.repo_id, args.private, args.dry_run)
    size = sum(file.stat().st_size for file in files)
    kind = "private" if args.private else "public"
    print(f"{f'would upload ({kind})' if args.dry_run else 'uploaded'} to {args.repo_id}, {size:,} bytes:")
    for file in files:
        print(f"  {file.stat().st_size:>14,}  {file.relative_to(args.folder)}")
    print(certificate_sentence(args.folder))
    return 0
