"""``python -m helpers lambada``: perplexity and accuracy of an original or a converted model."""

import argparse
from pathlib import Path

from ..lambada.passages import PREFIXES, SAMPLE
from . import DTYPES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, metavar="X.pth", help="the original, run by the rwkv package")
    source.add_argument("--model", type=Path, metavar="DIR", help="the converted model, run by transformers")
    parser.add_argument(
        "--data", default=str(SAMPLE), help="a JSON Lines file with the field text, or: hub (default: passages of ours)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N passages")
    parser.add_argument("--prefix", choices=PREFIXES, default="none", help="what stands before each passage")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.jsonl", help="append each document's result here; the same command goes on"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the weights (default: float32)")
    parser.add_argument("--tf32", action="store_true", help="let a GPU round the inputs of fp32 products to 10 bits")
    parser.add_argument("--device", help="for example cpu or cuda:1 (default: a GPU if there is one)")
    parser.add_argument("--device-map", choices=("auto",), help="spread a converted model over all GPUs")
    parser.add_argument("--batch-tokens", type=int, metavar="N", help="tokens that a converted model reads at once")
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="run code in DIR that is not this project's, in a process of "
        "its own; without it such a directory is refused"
    )  # fmt: skip


def main(args: argparse.Namespace) -> int:
    from ..lambada.run import RunOptions, evaluate

    options = {name: value for name, value in vars(args).items() if name != "command"}
    if line := evaluate(RunOptions(**options)):
        print(line)
    return 0
