"""Directories that appear under their name only when they are complete, whatever happens on the way."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError

try:
    import fcntl
except ImportError:  # Windows, where two processes writing the same directory are not told apart
    fcntl = None


def refuse_existing(target: Path) -> None:
    """Raise InputError unless ``target`` can be made anew: it does not exist, or is an empty directory."""
    if target.resolve() == Path.cwd():
        raise InputError(f"{target} is the current directory; give the path of a new one.")
    try:
        if target.is_dir() and not any(target.iterdir()):
            return
        exists = target.exists() or target.is_symlink()
    except OSError as error:
        raise InputError(f"Cannot write {target}: {error.strerror}; give another directory.") from None
    if exists:
        raise InputError(f"{target} already exists; give a new directory, or remove that one first.")


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``target`` that takes its name when the block ends without an error.

    After an error nothing is left. A process that is killed leaves the folder, ``.NAME.partial``, and the next one that
    writes the same target clears it. Two at once do not disturb each other: the second is refused.

    Raises:
        InputError: ``target`` exists and is not empty, another process is writing it, or the disk is full.
    """
    refuse_existing(target)
    final = target.resolve()
    partial = final.with_name(f".{final.name}.partial")
    missing = [parent for parent in final.parents if not parent.exists()]
    try:
        with locked_folder(partial, target):
            try:
                for left in partial.iterdir():  # by a process that was killed
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
                yield partial
                if os.name == "nt" and final.exists():
                    final.rmdir()  # elsewhere a rename replaces an empty directory
                partial.replace(final)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise InputError(f"Cannot write {target}: {error.strerror or error}; nothing was left there.") from None
    finally:
        if not final.exists():
            remove_empty(missing)


@contextmanager
def locked_folder(folder: Path, target: Path) -> Iterator[None]:
    """Make ``folder`` and hold a lock on it, which the system releases even if this process is killed.

    Raises:
        InputError: another process holds it.
    """
    if fcntl is None:
        folder.mkdir(parents=True, exist_ok=True)
        yield
        return
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"Another process is writing {target}; wait for it, or give another one.") from None
            if is_same(folder, descriptor):  # or else its owner has just renamed or removed it
                yield
                return
        finally:
            os.close(descriptor)


def is_same(folder: Path, descriptor: int) -> bool:
    """Say whether ``folder`` still is the directory that was opened as ``descriptor``."""
    try:
        return os.path.samestat(os.stat(folder), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def remove_empty(folders: list[Path]) -> None:
    """Remove those of ``folders``, innermost first, that are there and empty."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return
