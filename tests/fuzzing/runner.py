"""Go through cases in forks of this process, so that a crash, a hang or a bomb is that of its case alone."""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from .judge import Fault, limit_addresses

IN_A_FORK = 500  # cases, after which a new one begins
ENDED_BY = {signal.SIGPROF: "hang", signal.SIGALRM: "hang", signal.SIGKILL: "memory"}


@dataclass(frozen=True)
class Case:
    """One thing to try: ``kind`` is a function of the subject, which makes it from what ``rng`` says."""

    subject: str
    kind: str
    seed: int

    def __str__(self) -> str:
        return f"{self.subject}:{self.kind}:{self.seed}"

    def rng(self) -> random.Random:
        return random.Random(str(self))


@dataclass(frozen=True)
class Verdict:
    """The outcome of a case: ``refused``, ``accepted``, or the class of a fault, with details."""

    case: str
    outcome: str
    details: str = ""
    seconds: float = 0.0

    @property
    def is_fault(self) -> bool:
        return self.outcome not in ("refused", "accepted")


class Kinds(dict[str, Callable[..., Any]]):
    """A table of kinds, filled by a decorator; a kind that takes long comes up less often."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[str] = []

    def __call__(self, weight: int = 4) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def add(function: Callable[..., Any]) -> Callable[..., Any]:
            self[function.__name__] = function
            self.order += [function.__name__] * weight
            random.Random(0).shuffle(self.order)
            return function

        return add


def cases(name: str, subject: ModuleType, count: int, first: int = 0) -> list[Case]:
    """Return ``count`` cases, in which the kinds take turns."""
    order = subject.KINDS.order
    return [Case(name, order[seed % len(order)], seed) for seed in range(first, first + count)]


def run_cases(subject: ModuleType, todo: list[Case]) -> Iterator[Verdict]:
    """Yield the verdict on each case, in order."""
    with tempfile.TemporaryDirectory(prefix="fuzzing-") as temporary:
        folder = Path(temporary) / "case"
        base = subject.prepare(Path(temporary))
        if getattr(subject, "IN_A_PROCESS_OF_ITS_OWN", False):
            yield from (verdict_on(subject, base, case, folder) for case in todo)
            yield from end_of(subject, base, todo[-1])
            return
        while todo:
            done = 0
            for verdict in in_fork(subject, base, todo[:IN_A_FORK], folder):
                done += 1
                yield verdict
            todo = todo[done:]


def end_of(subject: ModuleType, base: Any, last: Case) -> Iterator[Verdict]:
    """Finish what was prepared, and yield the verdict on the ``last`` case again if that fails."""
    try:
        subject.finish(base)
    except Fault as fault:
        yield Verdict(str(last), fault.kind, fault.details)


def in_fork(subject: ModuleType, base: Any, todo: list[Case], folder: Path) -> Iterator[Verdict]:
    """Yield verdicts that a fork reaches, and at the end, if it died, that on the case it died of."""
    sys.stdout.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            limit_addresses()
            with open(writing, "w") as pipe:
                for case in todo:
                    print(json.dumps(asdict(verdict_on(subject, base, case, folder))), file=pipe, flush=True)
            code = 0
        except BaseException:  # a fault of the fuzzer
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    done = 0
    try:
        with open(reading) as pipe:
            for line in pipe:
                if not line.endswith("\n"):
                    break
                done += 1
                yield Verdict(**json.loads(line))
    except GeneratorExit:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if done < len(todo):
        end = signal.Signals(-code) if code < 0 else None
        outcome = ENDED_BY.get(end, "crash") if end else "the fuzzer"
        yield Verdict(str(todo[done]), outcome, f"{end.name if end else code} in {stage_of(folder)}")


def verdict_on(subject: ModuleType, base: Any, case: Case, folder: Path) -> Verdict:
    """Make a case in an empty ``folder`` and judge it."""
    remove(folder)
    folder.mkdir()
    start = time.monotonic()
    try:
        outcome = subject.judge(base, case, folder), ""
    except Fault as fault:
        outcome = fault.kind, fault.details
    return Verdict(str(case), *outcome, time.monotonic() - start)


def remove(folder: Path) -> None:
    """Remove a folder with whatever a case made of it."""
    if folder.exists():
        for parent, folders, _ in os.walk(folder):
            for name in folders:
                if not os.path.islink(os.path.join(parent, name)):
                    os.chmod(os.path.join(parent, name), 0o700)
        shutil.rmtree(folder)


def enter(folder: Path, stage: str) -> None:
    """Note what is about to be done with a case, for the verdict if the process dies of it."""
    (folder.parent / "stage").write_text(stage)


def stage_of(folder: Path) -> str:
    file = folder.parent / "stage"
    return file.read_text() if file.exists() else "?"
