"""Every option of every command, read from its parser, with values of every wrong kind.

A command takes a value, or refuses it with exit code 2 and one sentence (argparse prints its usage before it), at once,
without a traceback, and without having written anything. The work itself is left out: where it would begin, a stand-in
raises what Ctrl+C does, so exit code 130 means that all arguments were taken.
"""

import argparse
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from helpers import __main__ as cli
from helpers.bench import conversion as bench_conversion
from helpers.bench import lambada as bench_lambada
from helpers.checkpoints.synthetic import write_random_checkpoint
from helpers.conversion import directory, export, refresh
from helpers.generation import serve
from helpers.lambada import run as lambada_run
from helpers.lambada.passages import Document, read_texts
from helpers.proof import verify
from helpers.series import run as series_run
from helpers.training import run as training_run
from helpers.training import windows as training_windows

SECONDS = 60  # after which a case hangs
WORK = [  # where each command begins what takes long, or writes
    (directory, "write_model"),
    (refresh, "write_model"),
    (export, "save_checkpoint"),
    (verify, "compare_weights"),
    (serve, "start"),
    (lambada_run, "load_model"),
    (lambada_run, "fp32_copy"),
    (training_windows, "deal"),
    (bench_conversion, "measure"),
    (bench_lambada, "measure"),
    (series_run, "execute"),
]
COMMANDS = {  # arguments that are right
    "convert": ["m.pth", "out"],
    "convert --repo-id": ["--repo-id=a/b", "--checkpoint-file=c.pth", "out"],
    "inspect": ["m.pth"],
    "verify": ["m.pth", "model", "--data=data.jsonl"],
    "export": ["model", "out"],
    "refresh": ["model"],
    "push": ["model", "me/model", "--dry-run"],
    "serve": ["model", "--device=cpu", "--port=0"],
    "lambada": ["--model=model", "--data=data.jsonl", "--device=cpu"],
    "lambada --checkpoint": ["--checkpoint=m.pth", "--data=data.jsonl", "--device=cpu"],
    "lambada-compare": ["a.jsonl", "b.jsonl"],
    "train": ["--corpus=corpus.txt", "--out=out", "--device=cpu", "--processes=0", "--steps=1"],
    "train --minutes": ["--corpus=corpus.txt", "--out=out", "--device=cpu", "--processes=0", "--minutes=1"],
    "bench conversion": ["--out=out.json", "--folder=empty"],
    "bench lambada": ["--out=out.json", "--data=data.jsonl", "--models=bundled"],
    "tutorial": ["01"],
}
NUMBERS = ("-1", "0", "1", "1.5", "300", "1e9", "1e400", "nan", "inf", "-inf", "x", "", "9" * 30, "9" * 5000, "\0")
TEXTS = ("", " ", "x", "a b", "../..", "nul\0", "n" * 300, "line\nbreak", "\x1b[2J", "-1", "9" * 30, "\udcff")
PATHS = (
    "", " ", ".", "..", "/", "missing", "folder", "empty", "text", "text/inside", "empty file", "fifo", "link to fifo",
    "socket", "loop", "loop/inside", "broken link", "nul\0", "n" * 300, "n/" * 3000, "dots/./x/../y", "missing/../y",
    "line\nbreak", "\x1b[2J", "\udcff", "/dev/null", "/dev/full", "/proc/self/mem", "~", "-", "unreadable",
)  # fmt: skip
LIKE_PATHS = {"paths", "data"}  # arguments that are kept as text, since they may be other things, too
ENDS = {"convert --repo-id": (2,)}  # without a network
NEVER = {  # taken by nothing: numbers that are none, and what can be neither read nor made
    "", "nul\0", "\0", "nan", "1e400", "inf", "-inf", "9" * 5000, "loop/inside", "text/inside", "n/" * 3000,
    "fifo", "link to fifo", "/dev/full", "missing/../y",
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the commands need, and with things that are not what they seem."""
    place = tmp_path_factory.mktemp("options")
    sizes = {"hidden_size": 16, "head_size": 8, "dtype": torch.float32}
    checkpoint = write_random_checkpoint(place / "m.pth", **sizes)
    directory.convert(checkpoint, place / "model", progress=False)
    passages = "\n\n".join(read_texts(limit=40))
    (place / "corpus.txt").write_text(passages, encoding="utf-8")
    (place / "data.jsonl").write_text('{"text": "Anna saw the boat, and she took the boat"}\n')
    header = {"model": "", "data": "", "documents": 1, "prefix": "none", "engine": "rwkv", "dtype": "float32"}
    header |= {"tf32": False, "made_with": {"rwkv": "1"}}
    for name in "ab":
        lines = (header, {"document": 0, "logprob": -1.0, "correct": True})
        (place / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (place / "folder").mkdir()
    (place / "folder" / "precious").write_text("mine")
    (place / "empty").mkdir()
    (place / "text").write_text("mine")
    (place / "empty file").touch()
    os.mkfifo(place / "fifo")
    (place / "link to fifo").symlink_to("fifo")
    (place / "loop").symlink_to("loop")
    (place / "broken link").symlink_to("nowhere")
    (place / "unreadable").write_text("mine")
    (place / "unreadable").chmod(0)
    return place


def listing(place: Path) -> dict[str, tuple]:
    """Return what is there, with sizes and times."""
    found = {}
    for path in place.rglob("*"):
        status = path.lstat()
        found[path.relative_to(place).as_posix()] = (status.st_mode, status.st_size, status.st_ino, status.st_mtime_ns)
    return found


def arguments_of(command: str) -> list[argparse.Action]:
    """Return the options and positional arguments of a command that have values."""
    name, *rest = command.split()
    parser = argparse.ArgumentParser()
    cli.command_module(name).add_arguments(parser)
    if name == "bench":
        parser = next(action for action in parser._actions if action.dest == "name").choices[rest[0]]
    return [action for action in parser._actions if action.nargs != 0]


def cases(command: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield an argument, a value, and the whole command line with it."""
    base = COMMANDS[command]
    name = [part for part in command.split() if not part.startswith("--")]
    places = [index for index, text in enumerate(base) if not text.startswith("--")]
    for action in arguments_of(command):
        number = action.type in (int, float)
        values = NUMBERS if number else PATHS if action.type is Path or action.dest in LIKE_PATHS else TEXTS
        if action.option_strings:
            option = action.option_strings[0]
            rest = [text for text in base if not text.startswith(f"{option}=")]
            exclusive = {"--minutes": "--steps=1", "--steps": "--minutes=1", "--checkpoint": "--model=model"}
            rest = [text for text in rest if text != exclusive.get(option)]
            for value in values:
                yield option, value, [*name, *rest, f"{option}={value}"]
        else:
            for place in places if action.dest == "paths" else [places.pop(0)]:
                for value in values:
                    yield f"{action.dest} {place}", value, [*name, *base[:place], value, *base[place + 1 :]]


class Hangs(BaseException):
    """A case took too long; not an Exception, which something might catch."""


def run(arguments: list[str]) -> int | str | None:
    """Return the exit code, or a traceback's last line."""

    def hangs(*_: object) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(SECONDS)
    try:
        return cli.main(arguments)
    except SystemExit as error:
        return error.code
    except Hangs:
        return "hangs"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:100]}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def what_is_wrong(code: int | str | None, error: str, same: bool) -> str | None:
    """Say what is wrong with how a case ended, None if nothing is."""
    if code in (0, 130):
        return None
    if code != 2:
        return str(code)
    lines = error.splitlines()
    if error.startswith("usage: "):
        lines = [line for line in lines if " error: " in line]
    elif len(error) > cli.LONGEST + 100:
        return "a long line"
    if len(lines) != 1 or not lines[0].isprintable():
        return f"not one line: {error[:300]!r}"
    return None if same else "something was written"


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_values(command, place, monkeypatch, capsys):
    def work(*args, **kwargs):
        raise KeyboardInterrupt

    for module, function in WORK:
        monkeypatch.setattr(module, function, work)
    for module in (lambada_run, training_run, bench_lambada):
        monkeypatch.setattr(module, "encode_world", lambda *_: [Document([1], [2])])  # slow, and of no option
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(place)
    name = [part for part in command.split() if not part.startswith("--")]
    assert run([*name, *COMMANDS[command]]) in ENDS.get(command, (0, 130)), capsys.readouterr().err
    capsys.readouterr()
    before, wrong, taken, count = listing(place), [], set(), 0
    for option, value, arguments in cases(command):
        code = run(arguments)
        after = listing(place)
        if fault := what_is_wrong(code, capsys.readouterr().err, after == before):
            wrong.append(f"{option} {value[:30]!r}: {fault}")
        if code in (0, 130):
            taken.add((option, value))
        assert after.keys() >= before.keys(), f"{option} {value[:30]!r} removed {before.keys() - after.keys()}"
        for made in sorted(after.keys() - before.keys(), reverse=True):
            path = place / made
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        before = listing(place)
        count += 1
    print(f"{command}: {count} cases, {len(wrong)} wrong")
    assert not wrong
    assert count >= 10
    assert not [(option, value) for option, value in taken if value in NEVER]
