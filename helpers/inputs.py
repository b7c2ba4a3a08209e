"""What a user names as an input is looked at before it is used: reading a pipe may never end, and JSON may be odd."""

import os
import stat
from pathlib import Path
from typing import Any

from .errors import InputError

LARGEST_JSON = 64 << 20  # bytes; the World tokenizer.json has 1.4 MB


def check_regular(path: str | Path, what: str, remedy: str) -> None:
    """Raise InputError unless ``path`` is a regular file, or a link to one; ``what`` it is and a ``remedy`` are said.

    Whether its content can be read and is right, its reader has to say.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:  # ValueError: a NUL
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"Cannot read {what} {path}: {reason}; {remedy}.") from None
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "no regular file"
        raise InputError(f"Cannot read {what} {path}: it is {kind}; {remedy}.")


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON, for ``object_pairs_hook``: of a field that is there twice, Python would take the last.

    Raises:
        ValueError: a field is there twice.
    """
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError
    return fields


def refuse_huge(path: Path) -> None:
    """Raise InputError if a file is far too large for JSON of a model: reading it would fill the memory."""
    if (size := path.stat().st_size) > LARGEST_JSON:
        raise InputError(f"{path} has {size:,} bytes, and {LARGEST_JSON:,} is the most that is read; get it again.")
