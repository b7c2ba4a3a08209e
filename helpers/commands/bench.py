"""``python -m helpers bench NAME``: measure speed or load, and record it under ``benchmarks/results/``."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    text = "convert checkpoints of the published sizes, against cp"
    add_conversion(names.add_parser("conversion", help=text, description=text))
    text = "score LAMBADA in batches, against the article's loop over the rwkv package"
    add_lambada(names.add_parser("lambada", help=text, description=text))
    text = "let many clients use serve at once: what is lost, and does its memory grow?"
    add_serving(names.add_parser("serving", help=text, description=text))


def add_conversion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", nargs="+", metavar="SIZE", help="for example 0.1B 0.4B (default: all up to 3B)")
    parser.add_argument("--folder", type=Path, help="on the disk to measure; what is in it stays (default: build/)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each side, of which the median counts")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="default: in benchmarks/results/")
    parser.set_defaults(run=run_conversion)


def add_lambada(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, help="a JSON Lines file with the field text, or: hub")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--limit", type=int, help="passages (default: 300 on a CPU, all on a GPU)")
    parser.add_argument(
        "--loop", type=int, help="passages for the article's loop (default: all on a CPU, 300 on a GPU)"
    )
    parser.add_argument("--repeat", type=int, default=3, help="runs of each side, of which the median counts")
    parser.add_argument("--threads", type=int, default=2, help="of a CPU")
    parser.add_argument("--batch-tokens", type=int, help="tokens in a batch")
    parser.add_argument("--models", nargs="+", metavar="MODEL", help="bundled, 0.1B (default: both)")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="default: in benchmarks/results/")
    parser.set_defaults(run=run_lambada)


def add_serving(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=int, default=50, help="how many ask at the same time")
    parser.add_argument("--minutes", type=float, default=10, help="how long they go on")
    parser.add_argument("--threads", type=int, default=1, help="of the server's model")
    parser.add_argument("--queue", type=int, default=64, help="requests that may wait, as of serve")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="a converted model (default: the bundled RWKV-5)")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="default: in benchmarks/results/")
    parser.set_defaults(run=run_serving)


def main(args: argparse.Namespace) -> int:
    return args.run(args) or 0


def given(args: argparse.Namespace, *names: str) -> dict:
    """Return the arguments of these names that were given; a benchmark has its own defaults for the others."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def run_conversion(args: argparse.Namespace) -> None:
    from ..bench import conversion

    conversion.run(**given(args, "sizes", "folder", "repeat", "out"))


def run_lambada(args: argparse.Namespace) -> None:
    from ..bench import lambada

    options = given(args, "data", "device", "limit", "repeat", "threads", "batch_tokens", "models", "out")
    lambada.run(**options, loop_count=args.loop)


def run_serving(args: argparse.Namespace) -> int:
    from ..bench import serving

    result = serving.run(**given(args, "clients", "minutes", "threads", "queue", "folder", "out"))
    for name, value in result.items():
        print(f"{name}: {value}")
    return 1 if result["faults"] else 0
