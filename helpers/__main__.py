"""``python -m helpers COMMAND``: the functions of this package from a shell. Each command parses, calls and prints."""

import argparse
import importlib
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
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

LONGEST = 2000  # characters of an error message
_handled: set[int] = set()  # signals that end a command in good order


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 if what was checked is not right, 2 after bad input.

    It is 128 plus the number of a signal that ended the command, as in a shell.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path may have characters that a terminal does not know
            stream.reconfigure(errors="backslashreplace")
    name = ""
    try:
        with orderly_end():
            args = parse(sys.argv[1:] if argv is None else argv)
            name = args.command
            code = command_module(name).main(args)
            sys.stdout.flush()
            return code
    except InputError as error:
        return refuse(str(error))
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith(__package__):
            raise
        return refuse(f"{name} needs the package {error.name}, which is not installed; "
                      "run pip install -r requirements.txt.")  # fmt: skip
    except BrokenPipeError:  # what reads the output has ended, such as head; nothing can be said to it
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return 128 + 13
    except MemoryError:
        return refuse("There is too little memory; end other programs, or use a machine that has more.")
    except OSError as error:  # of a disk or a folder, at a place that nobody thought of
        where = f" with {error.filename}" if error.filename else ""
        return refuse(f"The system refuses to work{where}: {error.strerror or error}; check the disk and the paths.")
    except KeyboardInterrupt as error:
        print("stopped", file=sys.stderr)
        return 128 + (error.args[0] if error.args else signal.SIGINT)


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the arguments of a command.

    Raises:
        InputError: one is empty, or holds what no program can be given.
    """
    for text in argv:
        if not text or (text.startswith("--") and text.partition("=")[1:] == ("=", "")):
            raise InputError(f"The argument {text!r} is empty; leave it out, or set the variable that it comes from.")
        if "\0" in text:
            raise InputError(f"The argument {text!r} holds a NUL, which no name has; give it without.")
    parser = argparse.ArgumentParser(prog="python -m helpers", description=__doc__.split(":", 1)[1].strip())
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        if name in argv[:1]:  # imported only when it is used
            command_module(name).add_arguments(command)
    return parser.parse_args(argv)


def refuse(sentence: str) -> int:
    """Print one line, in which names have no line breaks and say nothing to a terminal, and return exit code 2."""
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in sentence)
    if len(shown) > LONGEST:
        shown = f"{shown[: LONGEST // 2]} ... {shown[-LONGEST // 2 :]}"
    print(f"error: {shown}", file=sys.stderr)
    return 2


@contextmanager
def orderly_end() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end what goes on as Ctrl+C does, so that everything is cleaned up.

    Signals that are ignored stay so, as under nohup. A second one, a second later, ends the process on the spot.
    """
    first = 0.0

    def end(number: int, frame: object) -> None:
        nonlocal first
        now = time.monotonic()
        if not first:
            first = now
            raise KeyboardInterrupt(number)  # itself: asyncio and subprocess know no other kind
        if now - first > 1:  # some programs send theirs twice
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number and signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, end)
                _handled.add(number)
    try:
        yield
    finally:
        _default_signals()


def _default_signals() -> None:
    while _handled:
        signal.signal(_handled.pop(), signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_default_signals)  # what runs in a pool is ended at once


def command_module(name: str) -> ModuleType:
    """Return the module in ``commands/`` that a command is in."""
    return importlib.import_module(f".commands.{name.replace('-', '_')}", __package__)


if __name__ == "__main__":
    sys.exit(main())
