"""``python -m helpers COMMAND``: the functions of this package from a shell. Each command parses, calls and prints."""

import argparse
import importlib
import io
import sys
from types import ModuleType

from .errors import InputError

# command -> what it does; its arguments and its code are in the file of that name in commands/
COMMANDS = {
    "convert": "convert a .pth checkpoint into a Hugging Face model directory",
    "inspect": "say what is in a .pth checkpoint, and what is odd about it",
    "verify": "prove that a converted directory computes what its checkpoint does",
    "export": "write a converted directory back to a .pth checkpoint",
    "refresh": "bring an older converted directory up to today's code and format",
    "push": "upload a converted directory to the Hub",
    "serve": "serve a converted directory over HTTP, for clients of OpenAI's API",
    "lambada": "measure perplexity and accuracy on LAMBADA",
    "lambada-compare": "compare two files of LAMBADA results, document by document",
    "train": "train a small checkpoint from a text file",
    "bench": "measure speed, side by side with the same work done otherwise",
    "tutorial": "run the notebooks and print a table of their results",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 if what was checked is not right, 2 after bad input."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path may have characters that a terminal does not know
            stream.reconfigure(errors="backslashreplace")
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="python -m helpers", description=__doc__.split(":", 1)[1].strip())
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        if name in argv[:1]:  # imported only when it is used
            command_module(name).add_arguments(command)
    args = parser.parse_args(argv)
    try:
        return command_module(args.command).main(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith(__package__):
            raise
        print(f"error: {args.command} needs the package {error.name}, which is not installed; "
              "run pip install -r requirements.txt.", file=sys.stderr)  # fmt: skip
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def command_module(name: str) -> ModuleType:
    """Return the module in ``commands/`` that a command is in."""
    return importlib.import_module(f".commands.{name.replace('-', '_')}", __package__)


if __name__ == "__main__":
    sys.exit(main())
