"""``python -m helpers bench NAME``: measure speed or load, and record it under ``benchmarks/results/``."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    text = "convert checkpoints of the published sizes, against cp"
    add_conversion(names.add_parser("conversion", help=text, description=text))
    text = "score LAMBADA in batches, against the article's loop over the rwkv package"
    add_lambada(names.add_parser("lambada", help=text, description=text))
    text = "count LAMBADA's words that the bundled model finds, by how often their passage has said them"
    add_copying(names.add_parser("copying", help=text, description=text))
    text = "let many clients use serve at once: what is lost, and does its memory grow?"
    add_serving(names.add_parser("serving", help=text, description=text))
    text = "encode texts on one thread, against BlinkDL's tokenizer, GPT-2's BPE, and WordPiece over whole texts"
    add_tokenizer(names.add_parser("tokenizer", help=text, description=text))
    text = "read prompts, against the rwkv package"
    add_prefill(names.add_parser("prefill", help=text, description=text))
    text = "write token by token, against the rwkv package; on a GPU also after compile_decoding"
    add_decode(names.add_parser("decode", help=text, description=text))
    text = "judge random models in bf16 and fp16 as verify does: how much of its limits do right ones use?"
    add_precision(names.add_parser("precision", help=text, description=text))


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--versions", nargs="+", metavar="VERSION", help="of RWKV (default: 5.0 5.2 4)")
    parser.add_argument("--sizes", nargs="+", metavar="SIZE", help="0.1B, 0.4B, 1.5B, rwkv5-world-mini (default: 0.1B)")
    parser.add_argument(
        "--rows", nargs="+", type=int, metavar="N", help="in a batch (default: 1 8; 1 64 to decode on a GPU)"
    )
    parser.add_argument("--tokens", nargs="+", type=int, metavar="N", help="of each row")
    parser.add_argument("--dtypes", nargs="+", metavar="DTYPE", help="of ours (default: float32 bfloat16)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, help="of a CPU (default: 2)")
    parser.add_argument("--repeat", type=int, help="runs of each side, of which the median counts (default: 5)")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="default: in benchmarks/results/")


def add_prefill(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--package-dtype", help="default: float32 on a CPU, float16 on a GPU")
    parser.add_argument(
        "--recorded", nargs="+", metavar="VARIANT", help="no, or on a GPU after compile_decoding: graph, fused"
    )
    parser.set_defaults(run=run_prefill)


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


def add_copying(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, help="a JSON Lines file with the field text, or: hub")
    parser.add_argument("--limit", type=int, help="passages (default: all)")
    parser.add_argument("--threads", type=int, default=2, help="of a CPU")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="default: in benchmarks/results/")
    parser.set_defaults(run=run_copying)


def add_decode(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--variants", nargs="+", metavar="VARIANT", help="on a GPU: eager, graph, fused (default: all)")
    parser.set_defaults(run=run_decode)


def add_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", type=int, default=20, help="of each version (default: 20)")
    parser.add_argument("--versions", nargs="+", metavar="VERSION", help="of RWKV (default: all)")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="default: 0")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="default: in benchmarks/results/")
    parser.set_defaults(run=run_precision)


def add_serving(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=int, default=50, help="how many ask at the same time")
    parser.add_argument("--minutes", type=float, default=10, help="how long they go on")
    parser.add_argument("--threads", type=int, default=1, help="of the server's model")
    parser.add_argument("--queue", type=int, default=64, help="requests that may wait, as of serve")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="a converted model (default: the bundled RWKV-5)")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="default: in benchmarks/results/")
    parser.set_defaults(run=run_serving)


def add_tokenizer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, metavar="FILE", help="a text to measure beside those of this project")
    parser.add_argument("--documents", type=int, default=1000, help="of 2,000 characters, of each kind of text")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each side, of which the median counts")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="default: in benchmarks/results/")
    parser.set_defaults(run=run_tokenizer)


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


def run_copying(args: argparse.Namespace) -> None:
    from ..bench import copying

    for row in copying.run(**given(args, "data", "limit", "threads", "out")):
        print(row)


def run_precision(args: argparse.Namespace) -> None:
    from ..bench import precision

    rows = precision.run(**given(args, "models", "versions", "first", "threads", "out"))
    for name, share in precision.worst(rows).items():
        print(f"{name:15} at most {share:.0%} of the limit, in {len(rows)} models and dtypes")


def run_decode(args: argparse.Namespace) -> None:
    from ..bench import decode, model

    if args.device == "cuda":
        options = given(args, "sizes", "versions", "rows", "variants", "tokens", "dtypes", "repeat", "out")
        decode.run(**options)
    else:
        model.run("decode", **given(args, "versions", "sizes", "rows", "tokens", "dtypes", "threads", "repeat", "out"))


def run_serving(args: argparse.Namespace) -> int:
    from ..bench import serving

    result = serving.run(**given(args, "clients", "minutes", "threads", "queue", "folder", "out"))
    for name, value in result.items():
        print(f"{name}: {value}")
    return 1 if result["faults"] else 0


def run_tokenizer(args: argparse.Namespace) -> None:
    from ..bench import tokenizer

    tokenizer.run(count=args.documents, **given(args, "data", "repeat", "out"))


def run_prefill(args: argparse.Namespace) -> None:
    from ..bench import model

    names = (
        "versions",
        "sizes",
        "rows",
        "tokens",
        "dtypes",
        "package_dtype",
        "device",
        "threads",
        "repeat",
        "recorded",
    )
    model.run("prefill", **given(args, *names, "out"))
