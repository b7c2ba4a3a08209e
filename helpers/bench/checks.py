"""What benchmarks share: the models' sizes, the machine's name, and checks, so that nothing fails at the end."""

import os
import platform
from pathlib import Path

from ..atomic import resolved
from ..errors import InputError

MOST_THREADS = 4096


SIZES = {"0.1B": (12, 768), "0.4B": (24, 1024), "1.5B": (24, 2048)}  # layers and hidden size of published models


def processor() -> str:
    """Return the name of the CPU, as Linux gives it, or Python elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def check_counts(**counts: int | None) -> None:
    """Raise InputError for a number that is given and below 1, under the name of its argument."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise InputError(f"--{name.replace('_', '-')} is {count}; give a number from 1 on.")
    if (threads := counts.get("threads")) and threads > MOST_THREADS:
        raise InputError(f"--threads is {threads}; give a number from 1 to {MOST_THREADS:,}.")


def make_folder(path: Path, of: str) -> None:
    """Make a folder for an argument named ``of``, unless it is there.

    Raises:
        InputError: the system refuses.
    """
    path = resolved(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Cannot write into {path}: {error.strerror}; give another {of}.") from None
    if not os.access(path, os.W_OK):
        raise InputError(f"Cannot write into {path}: it is read-only; give another {of}.")


def check_output(out: Path) -> None:
    """Make the folder of a file of results; raise InputError if the file cannot be written there."""
    make_folder(out.parent, "--out")
    if out.exists() and not out.is_file():
        kind = "a directory" if out.is_dir() else "no regular file"
        raise InputError(f"--out {out} is {kind}; give the name of a file.")
