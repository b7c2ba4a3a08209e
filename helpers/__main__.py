"""``python -m helpers COMMAND``: the functions of this package from a shell. Each command parses, calls and prints."""

import argparse
import importlib
import sys
from pathlib import Path

from .errors import InputError


def add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="CHECKPOINT.pth OUT_DIR, or only OUT_DIR with --repo-id"
    )
    parser.add_argument("--repo-id", help="download from this repository of the Hub, for example BlinkDL/rwkv-5-world")
    parser.add_argument("--checkpoint-file", help="name of the .pth file in that repository")
    parser.add_argument("--revision", help="branch, tag or commit of that repository")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: as in the checkpoint")
    parser.add_argument("--max-shard-size", default="5GB", help="largest weights file (default: 5GB)")


def run_convert(args: argparse.Namespace) -> int:
    import torch

    from .conversion import convert
    from .inspection import oddities

    checkpoint, out_dir = source_and_target(args)
    dtype = getattr(torch, args.dtype) if args.dtype else None
    folder = convert(checkpoint, out_dir, dtype=dtype, max_shard_size=args.max_shard_size)
    print(f"{folder} is complete:")
    for file in sorted(folder.iterdir()):
        print(f"  {file.stat().st_size:>14,}  {file.name}")
    for sentence in oddities(checkpoint):
        print(f"note: {sentence}")
    return 0


def source_and_target(args: argparse.Namespace) -> tuple[Path, Path]:
    """Return checkpoint and output directory of ``convert``, downloading the checkpoint if it is on the Hub."""
    from .atomic import refuse_existing
    from .hub import download_checkpoint

    if bool(args.repo_id) != bool(args.checkpoint_file):
        raise InputError("--repo-id and --checkpoint-file belong together: give both, or neither.")
    if len(args.paths) != (1 if args.repo_id else 2):
        raise InputError("Give CHECKPOINT.pth and OUT_DIR, or --repo-id, --checkpoint-file and OUT_DIR.")
    out_dir = Path(args.paths[-1])
    refuse_existing(out_dir)  # before a long download
    if args.repo_id:
        return download_checkpoint(args.repo_id, args.checkpoint_file, args.revision), out_dir
    return Path(args.paths[0]), out_dir


# command -> (what it does, function that adds its arguments, function that runs it)
OWN_COMMANDS = {
    "convert": ("convert a .pth checkpoint into a Hugging Face model directory", add_convert, run_convert),
}
# command -> (what it does, module with add_arguments and main), imported only when used
MODULE_COMMANDS = {
    "inspect": ("say what is in a .pth checkpoint, and what is odd about it", "inspection"),
    "verify": ("prove that a converted directory computes what its checkpoint does", "verify"),
    "export": ("write a converted directory back to a .pth checkpoint", "export"),
    "refresh": ("bring an older converted directory up to today's code and format", "refresh"),
    "push": ("upload a converted directory to the Hub", "hub"),
    "serve": ("serve a converted directory over HTTP, for clients of OpenAI's API", "serve"),
    "lambada": ("measure perplexity and accuracy on LAMBADA", "lambada_run"),
    "lambada-compare": ("compare two files of LAMBADA results, document by document", "lambada_compare"),
    "train": ("train a small checkpoint from a text file", "training.command"),
    "tutorial": ("run the notebooks and print a table of their results", "series"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, or 2 after bad input."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="python -m helpers", description=__doc__.split(":", 1)[1].strip())
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    runners = {}
    for name, (text, add_arguments, run) in OWN_COMMANDS.items():
        add_arguments(commands.add_parser(name, help=text, description=text))
        runners[name] = run
    for name, (text, module_name) in MODULE_COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        if name in argv[:1]:
            module = importlib.import_module(f".{module_name}", __package__)
            module.add_arguments(command)
            runners[name] = module.main
    args = parser.parse_args(argv)
    try:
        return runners[args.command](args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
