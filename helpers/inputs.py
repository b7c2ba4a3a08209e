"""What a user names as an input is looked at before it is read: reading a pipe or a device may never end."""

import os
import stat
from pathlib import Path

from .errors import InputError


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
