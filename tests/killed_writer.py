"""Convert, refresh or export many times, each time in a process that dies at another moment, and say what is left.

    python tests/killed_writer.py convert CHECKPOINT TARGET RUNS

It is a process of its own, so that imports are paid once and its forks have no other threads. Every file that is
opened, renamed or removed, and every piece of a tensor, is a moment at which a fork can die; an alarm kills at others.
"""

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from helpers.checkpoints import files
from helpers.conversion import directory, weights
from helpers.conversion.export import export
from helpers.conversion.refresh import refresh
from helpers.errors import InputError
from helpers.tokenizer import fast

WORK = {
    "convert": lambda source, target: directory.convert(source, target, progress=False),
    "refresh": lambda source, target: refresh(target, progress=False),
    "export": lambda source, target: export(source, target),
}
FULL_DISKS = (0, 1000, 100_000, 250_000)  # largest size of a file in bytes


def listing(path: Path) -> dict[str, int]:
    """Return names and sizes of what is at ``path``: nothing, a file, or a folder."""
    found = [path] if path.is_file() else sorted(path.rglob("*"))
    return {inner.relative_to(path).as_posix(): inner.stat().st_size for inner in found}


def in_fork(work: Callable[[], object], before: Callable[[], object] = lambda: None) -> int:
    """Run ``before`` and ``work`` in a fork. Return its exit code, or minus the number of the signal that killed it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            before()
            work()
            code = 0
        except InputError:
            code = 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def at_every_moment(do: Callable[[int], object]) -> None:
    """Call ``do`` with the number of each moment of this process, from 1 on."""
    number = 0

    def moment(event: str, arguments: tuple) -> None:
        nonlocal number
        if event.startswith(("open", "os.", "shutil.", "piece")):
            number += 1
            do(number)

    is_finite = weights.is_finite
    weights.is_finite = lambda piece: (moment("piece", ()), is_finite(piece))[1]
    sys.addaudithook(moment)


def count_moments(work: Callable[[], object], count_file: Path) -> int:
    """Run ``work`` in a fork and return how many moments it has."""
    descriptor = os.open(count_file, os.O_WRONLY | os.O_CREAT)
    assert in_fork(work, lambda: at_every_moment(lambda number: os.pwrite(descriptor, b"%9d" % number, 0))) == 0
    return int(count_file.read_text())


def killed_at(wanted: int) -> None:
    at_every_moment(lambda number: number == wanted and os.kill(os.getpid(), signal.SIGKILL))


def killed_after(seconds: float) -> None:
    signal.setitimer(signal.ITIMER_REAL, seconds)  # SIGALRM ends the process on the spot, as SIGKILL does


def on_full_disk(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def main(kind: str, source: Path, target: Path, runs: int) -> dict:
    """Return how many runs were killed and which of them left something half-made, and the same for full disks."""
    torch.set_num_threads(1)
    files.NUMBERS_AT_ONCE = 2000  # many pieces even in a small model
    fast.save_tokenizers(source.parent / "warm")  # builds the vocabulary before the forks
    earlier_copy = source.parent / "earlier"
    if target.exists():
        shutil.copytree(target, earlier_copy)

    def reset() -> None:
        shutil.rmtree(target, ignore_errors=True)
        target.unlink(missing_ok=True)
        if earlier_copy.exists():
            shutil.copytree(earlier_copy, target)

    def work() -> None:
        WORK[kind](source, target)

    neighbours = set(os.listdir(target.parent)) | {target.name}
    earlier = listing(target)
    start = time.monotonic()
    moments = count_moments(work, source.parent / "count")
    seconds = time.monotonic() - start
    complete = listing(target)
    reset()

    report: dict = {"moments": moments, "killed": 0, "half_made": [], "full_disks": []}
    rng = random.Random(0)
    chosen = rng.sample(range(1, moments + 1), min(moments, runs * 3 // 4))
    ends = [("moment", at) for at in chosen]
    ends += [("second", rng.uniform(0, seconds)) for _ in range(runs - len(chosen))]
    for unit, at in ends:
        code = in_fork(work, lambda at=at, unit=unit: killed_at(at) if unit == "moment" else killed_after(at))
        report["killed"] += code < 0
        if listing(target) not in (earlier, complete):
            report["half_made"].append((unit, at))
        if listing(target) != earlier:
            reset()
    report["again"] = in_fork(work) == 0 and listing(target) == complete
    reset()
    for size in FULL_DISKS:
        code = in_fork(work, lambda size=size: on_full_disk(size))
        report["full_disks"].append(code == 2 and listing(target) == earlier)
    report["left_over"] = sorted(set(os.listdir(target.parent)) - neighbours)
    return report


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))))
