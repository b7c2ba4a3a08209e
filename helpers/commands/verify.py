"""``python -m helpers verify``: the proof that a converted directory computes what its checkpoint does."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from ..proof.certificate import LENGTHS, SEEDS, TOLERANCE, Certificate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT.pth", help="the original")
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="the converted model; the certificate is written there"
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, metavar="TOKENS", help="of random ids")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, metavar="SEED", help="of random ids")
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, help=f"relative, of logits (default: {TOLERANCE})"
    )
    parser.add_argument("--data", metavar="FILE.jsonl", help="also compare on these LAMBADA passages, or: hub")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N passages")


def main(args: argparse.Namespace) -> int:
    from transformers.utils import logging

    from ..proof.verify import verify

    logging.set_verbosity_error()  # hints and bars of transformers would stand between ours
    logging.disable_progress_bar()
    certificate = verify(
        args.checkpoint, args.folder, tuple(args.lengths), tuple(args.seeds), args.tolerance, args.data, args.limit
    )
    print_certificate(certificate)
    verdict = "passed" if certificate.passed else "not passed"
    print(f"{verdict}: see {args.folder / 'parity.json'} and the model card, {args.folder / 'README.md'}")
    return 0 if certificate.passed else 1


def print_certificate(certificate: Certificate) -> None:
    runs, weights = certificate.runs, certificate.weights
    print(f"weights     {weights.identical} of {weights.tensors} tensors identical")
    print(f"logits      {len(runs)} comparisons, largest difference {certificate.worst.max_abs_logit_diff:.2g}")
    print(f"state       largest difference {certificate.max_state_diff:.2g} of the largest number")
    print(f"next token  the same at {certificate.argmax_agreement:.2%} of positions or more")
    print(f"tokenizers  {json.dumps(asdict(certificate.tokenizers))}")
    if certificate.lambada:
        print(f"LAMBADA     {json.dumps(asdict(certificate.lambada))}")
    for sentence in certificate.failures:
        print(f"FAILED: {sentence}")
