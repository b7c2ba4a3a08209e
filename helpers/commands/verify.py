"""``python -m helpers verify``: the proof that a converted directory computes what its checkpoint does."""

import argparse
from pathlib import Path

from ..errors import LONGEST_MESSAGE, InputError, printable
from ..proof.certificate import LENGTHS, SEEDS, TOLERANCE, Certificate, read_certificate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", type=Path, nargs="+", metavar="PATH", help="CHECKPOINT.pth DIR: the original, and the converted "
        "model, into which the certificate is written; or only DIR with --check"
    )  # fmt: skip
    parser.add_argument(
        "--check", action="store_true", help="compute nothing: compare the files of DIR with the checksums in its "
        "certificate; exit code 1 if a file has changed, come or gone, or if the certificate says FAILED"
    )  # fmt: skip
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, metavar="TOKENS", help="of random ids")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, metavar="SEED", help="of random ids")
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, help=f"relative, of logits (default: {TOLERANCE}); with more, "
        "nothing is proved, and the certificate says so"
    )  # fmt: skip
    parser.add_argument("--data", metavar="FILE.jsonl", help="also compare on these LAMBADA passages, or: hub")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N passages")
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="judge modeling code in DIR that is not this project's, in "
        "a process of its own; without it such a directory is refused, and no code in DIR is ever run"
    )  # fmt: skip


def main(args: argparse.Namespace) -> int:
    if len(args.paths) != (1 if args.check else 2):
        raise InputError("Give CHECKPOINT.pth and DIR, or only DIR with --check.")
    folder: Path = args.paths[-1]
    return check(folder) if args.check else prove(args, folder)


def check(folder: Path) -> int:
    """Compare files with the certificate, and say what has changed."""
    from ..proof.changes import certificate_sentence, changed

    certificate = read_certificate(folder)
    if certificate is None:
        raise InputError(f"{folder} has no certificate; make one: python -m helpers verify CHECKPOINT.pth {folder}.")
    changes = changed(folder)
    for change in changes:
        print(f"FAILED: {change.sentence}")
    for name in certificate.contents.not_covered:
        print(f"not covered: {printable(name)}")
    if not changes:
        print(f"{len(certificate.files)} files are those that the certificate is about. {certificate_sentence(folder)}")
    return 0 if certificate.passed and not changes else 1


def prove(args: argparse.Namespace, folder: Path) -> int:
    """Make a certificate, and say what it says."""
    from transformers.utils import logging

    from ..proof.verify import verify

    logging.set_verbosity_error()  # hints and bars of transformers would stand between ours
    logging.disable_progress_bar()
    certificate = verify(
        args.paths[0],
        folder,
        tuple(args.lengths),
        tuple(args.seeds),
        args.tolerance,
        args.data,
        args.limit,
        trust_remote_code=args.trust_remote_code,
    )
    print_certificate(certificate)
    verdict = certificate.verdict if certificate.passed else "not passed"
    print(f"{verdict}: see {folder / 'parity.json'} and the model card, {folder / 'README.md'}")
    return 0 if certificate.passed else 1


def print_certificate(certificate: Certificate) -> None:
    """Print each figure with its limit, and the sentences on what is wrong."""
    from ..proof.tables import precision_sentences, precision_table, result_rows, tolerance_sentence

    print(f"checkpoint SHA-256 {certificate.original.sha256}")
    print(tolerance_sentence(certificate))
    for what, compared, result, limit in result_rows(certificate):
        print(printable(f"{what} ({compared}): {result}; limit {limit}", LONGEST_MESSAGE))
    rows = precision_table(certificate)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    for sentence in (*precision_sentences(certificate), *certificate.contents.remarks):
        print(f"note: {printable(sentence, LONGEST_MESSAGE)}")
    for name in certificate.contents.not_covered:
        print(f"not covered: {printable(name)}")
    for sentence in certificate.failures:
        print(f"FAILED: {printable(sentence, LONGEST_MESSAGE)}")
