"""``python -m helpers train``: a small checkpoint from a text file."""

import argparse
import sys
from pathlib import Path

from ..checkpoints.versions import VERSIONS
from ..training.options import TrainOptions, WindowOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = TrainOptions()
    parser.add_argument("--corpus", type=Path, required=True, help="UTF-8 text, or .xz; <|doc|> between documents")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="log, saved state, model.pth")
    parser.add_argument("--version", choices=tuple(VERSIONS), default=default.version)
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--steps", type=int, default=0, help="train so many steps,")
    length.add_argument("--minutes", type=float, default=0.0, help="or so long")
    for name in ("layers", "hidden", "attention", "ffn", "batch"):
        parser.add_argument(f"--{name}", type=int, default=getattr(default, name), help="default: %(default)s")
    parser.add_argument("--window", type=int, default=default.windows.length, help="tokens (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=default.learning_rate, help="default: %(default)s")
    parser.add_argument("--head-rows", type=int, default=default.head_rows, help="of the softmax in a step")
    parser.add_argument("--table-bits", type=int, default=default.table_bits, help="of emb and head in the file")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--processes", type=int, default=4, help="that prepare text (default: %(default)s)")
    parser.add_argument("--save-every", type=int, default=1000, help="steps between saved states")
    parser.add_argument("--lambada", type=Path, metavar="FILE", help="measure on this JSON Lines file meanwhile")
    parser.add_argument("--device", help="for example cpu or cuda:0 (default: a GPU if there is one)")
    tricks = parser.add_argument_group("tricks to leave out, for ablations")
    tricks.add_argument("--no-rename", action="store_true", help="keep the names of the corpus")
    tricks.add_argument("--no-styles", action="store_true", help="keep its quotes, dashes and paragraph breaks")
    tricks.add_argument("--untied", action="store_true", help="start the head independently of the embedding")
    tricks.add_argument("--no-unigram-bias", action="store_true", help="no bias in the head")
    tricks.add_argument("--repeated-weight", type=float, default=default.repeated_weight, help="default: %(default)s")


def options_from(args: argparse.Namespace) -> TrainOptions:
    names = ("version", "steps", "minutes", "layers", "hidden", "attention", "ffn", "batch", "learning_rate")
    return TrainOptions(
        **{name: getattr(args, name) for name in (*names, "head_rows", "table_bits", "seed", "repeated_weight")},
        windows=WindowOptions(args.window, not args.no_rename, not args.no_styles, args.seed),
        tied=not args.untied,
        unigram_bias=not args.no_unigram_bias,
    )


def main(args: argparse.Namespace) -> int:
    from ..training.run import train_from_text

    path = train_from_text(
        args.corpus,
        args.out,
        options_from(args),
        passages=args.lambada,
        processes=args.processes,
        save_every=args.save_every,
        device=args.device,
        progress=sys.stderr.isatty(),
    )
    print(f"{path} is complete")
    return 0
