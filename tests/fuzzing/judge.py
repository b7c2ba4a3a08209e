"""Run a command as a user would, inside this process, and say what is wrong with how it ended."""

import hashlib
import os
import re
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from helpers import __main__ as cli

MEMORY = 256 << 20  # bytes that a command may take above what the process had when it started
ADDRESSES = 4 << 30  # bytes of addresses above that: from there on, the system refuses
CPU_SECONDS, SECONDS = (
    10,
    120,
)  # of a command; a process that takes longer is ended by a signal, and its case is at fault
LARGE = 64 << 20  # bytes of a file that is not read to see whether it changed
LONGEST = 500  # characters of a message
BAR = re.compile(r"^(\w+: +)?\d+%\|.*\|.*$")  # a progress bar is no message


class Fault(Exception):
    """What is wrong with an outcome: its class, for the table, and the details."""

    def __init__(self, kind: str, details: str):
        super().__init__(kind, details)
        self.kind, self.details = kind, details


@dataclass(frozen=True)
class Ending:
    """How a command ended: exit code, what it printed, and by how many bytes the process grew meanwhile."""

    code: int
    out: str
    err: str
    grown: int

    @property
    def messages(self) -> list[str]:
        """What stands on the standard error, without progress bars."""
        lines = (line.strip(" \r") for line in re.split(r"[\r\n]", self.err))
        return [line for line in lines if line and not BAR.match(line)]


def run(*arguments: str | Path, cpu: float = CPU_SECONDS) -> Ending:
    """Run ``python -m helpers ARGUMENTS`` in this process; see :func:`call`."""
    return call(lambda: cli.main([str(argument) for argument in arguments]), cpu)


def call(work: Callable[[], int], cpu: float = CPU_SECONDS) -> Ending:
    """Call ``work`` with its output caught, whoever writes it, and its time and memory limited and measured."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, redirected(1, out), redirected(2, err):
        before = start_of_memory()
        limit_time(cpu, SECONDS)
        code = 70
        try:
            code = work()
        except SystemExit as error:  # by argparse
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            limit_time(0, 0)
        grown = peak_of_memory() - before
        sys.stdout.flush()
        sys.stderr.flush()
        return Ending(code, text_of(out), text_of(err), grown)


class redirected:
    """Let a descriptor of this process write to a file, for a while."""

    def __init__(self, descriptor: int, file: BinaryIO):
        self.descriptor, self.file = descriptor, file

    def __enter__(self) -> None:
        self.saved = os.dup(self.descriptor)
        os.dup2(self.file.fileno(), self.descriptor)

    def __exit__(self, *error: object) -> None:
        os.dup2(self.saved, self.descriptor)
        os.close(self.saved)


def text_of(file: BinaryIO) -> str:
    file.seek(0)
    return file.read(1 << 20).decode(errors="surrogateescape")


def limit_time(cpu: float, seconds: float) -> None:
    """Let the system end this process after so many seconds of work, or of anything; 0 lifts the limit.

    Both signals act where Python does not look, in a loop of C or a wait for a pipe.
    """
    signal.setitimer(signal.ITIMER_PROF, cpu)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def start_of_memory() -> int:
    """Forget the largest size of this process so far, and return its size in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return status_of_memory("VmRSS")


def peak_of_memory() -> int:
    return status_of_memory("VmHWM")


def status_of_memory(field: str, process: str = "self") -> int:
    """Return a number of bytes from what Linux says about a process."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    assert found, field
    return int(found[1]) << 10


def limit_addresses() -> None:
    """Let the system refuse what a bomb asks for, before the machine has no memory left."""
    limit = status_of_memory("VmSize") + ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def refused(ending: Ending, *other_codes: int) -> bool:
    """Say whether a command refused its input in one sentence: its exit code is 2.

    Args:
        other_codes: beside 0 and 2, those that the command may end with.

    Raises:
        Fault: it ended in another way, or said too little or too much.
    """
    if "Traceback (most recent call last)" in ending.err:
        raise Fault("traceback", cause_of_traceback(ending.err))
    if ending.code not in (0, 2, *other_codes):
        raise Fault("exit code", f"{ending.code}, {ending.err[-300:]!r}")
    if ending.grown > MEMORY:
        raise Fault("memory", f"{ending.grown >> 20} MB")
    if ending.code == 2:
        if len(ending.messages) != 1 or not ending.messages[0].startswith("error: "):
            raise Fault("message", f"not one sentence: {ending.messages!r:.600}")
        check_sentence(ending.messages[0].removeprefix("error: "))
        return True
    if ending.messages:
        raise Fault("message", f"in spite of success: {ending.messages!r:.600}")
    if strange := strange_characters(ending.out.replace("\n", "")):
        raise Fault("message", f"printed raw: {strange!r}")
    if len(ending.out) > 20_000:
        raise Fault("message", f"{len(ending.out)} characters of output")
    return False


def check_sentence(text: str) -> None:
    """Raise Fault unless ``text`` is one sentence that a terminal can show."""
    if len(text) > LONGEST:
        raise Fault("message", f"{len(text)} characters: {text[:200]!r}")
    if strange := strange_characters(text):
        raise Fault("message", f"raw characters {strange!r}: {text!r}")
    if not text.endswith(".") or re.search(r"[.!?]\s+[A-Z]", text):
        raise Fault("message", f"not one sentence: {text!r}")


def strange_characters(text: str) -> str:
    """Return what a terminal would not print as it is."""
    return "".join(sorted({character for character in text if not character.isprintable()}))[:20]


def cause_of_traceback(text: str) -> str:
    """Return the last line of a traceback and the innermost place in ``helpers``, so that equal faults look equal."""
    places = re.findall(r'File "[^"]*?(helpers/[^"]+)", line \d+, in (\w+)', text)
    lines = [
        line for line in text.splitlines() if re.match(r"^[\w.]+(Error|Exception|Exit|Interrupt)\b|^\w+\.\w+:", line)
    ]
    last = (lines or text.strip().splitlines())[-1]
    return f"{last[:200]} in {':'.join(places[-1]) if places else '?'}"


def listing(folder: Path) -> dict[str, str]:
    """Return what is in a folder, by name: kinds of files, and hashes of contents."""
    found = {}
    for parent, folders, names in os.walk(folder):
        for name in folders + names:
            path = Path(parent, name)
            found[str(path.relative_to(folder))] = fingerprint(path)
    return found


def fingerprint(path: Path) -> str:
    if path.is_symlink():
        return f"link to {os.readlink(path)}"
    if path.is_file():
        if (size := path.stat().st_size) > LARGE:
            return f"{size} bytes"
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return "folder" if path.is_dir() else "special"


def check_unchanged(before: dict[str, str], folder: Path) -> None:
    """Raise Fault if anything in ``folder`` is new, gone or changed since ``before``."""
    now = listing(folder)
    changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if changed:
        raise Fault("left over", f"changed: {changed[:5]}")
