"""Files and directories that appear under their name only when they are complete, whatever happens on the way."""

import ctypes
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType

from .errors import InputError

try:
    fcntl: ModuleType | None = import_module("fcntl")
except ImportError:  # Windows, where two processes writing the same target are not told apart
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
        raise InputError(f"Cannot write {target}: {error.strerror}; give another path.") from None
    if exists:
        raise InputError(f"{target} already exists; give a new path, or remove that one first.")


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``target`` that takes its name when the block ends without an error.

    After an error nothing is left. A process that is killed leaves the folder, ``.NAME.partial``, and the next one that
    writes the same target clears it. Two at once do not disturb each other: the second is refused.

    Raises:
        InputError: ``target`` exists and is not empty, another process is writing it, or the disk is full.
    """
    refuse_existing(target)
    with working_folder(target) as folder:
        yield folder
        final = target.resolve()
        if os.name == "nt" and final.exists():
            final.rmdir()  # elsewhere a rename replaces an empty directory
        folder.replace(final)


@contextmanager
def replaced_directory(target: Path) -> Iterator[Path]:
    """Like :func:`new_directory` for a ``target`` that exists: the old and the new directory change places at the end.

    Raises:
        InputError: ``target`` is no directory, another process is writing it, or the disk is full.
    """
    final = target.resolve()
    old = final.with_name(f".{final.name}.old")
    if old.is_dir() and not final.exists():
        old.replace(final)  # a process was killed between the two renames below
    if not final.is_dir():
        raise InputError(f"{target} is not a directory; give one that convert made.")
    if Path.cwd().is_relative_to(final):
        raise InputError(
            f"{target} holds the current directory, and cannot be replaced from there; go elsewhere first."
        )
    with locked(final, target), working_folder(target) as folder:
        yield folder
        if exchange(folder, final):
            shutil.rmtree(folder)
        else:
            shutil.rmtree(old, ignore_errors=True)
            final.replace(old)
            folder.replace(final)
            shutil.rmtree(old)


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """Like :func:`new_directory`, but for a file; it yields the path to write to.

    Raises:
        InputError: ``target`` exists, another process is writing it, or the disk is full.
    """
    refuse_existing(target)
    if target.is_dir():
        raise InputError(f"{target} is a directory; give the path of a new file.")
    with working_folder(target) as folder:
        yield folder / target.name
        (folder / target.name).replace(target.resolve())


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; the file takes the place of ``path`` when the block ends without error.

    For files that a program may make again and again: nothing is locked, and of two writers at once the last one wins.

    Raises:
        InputError: the system refuses to write. Then ``path`` is as it was.
    """
    partial_path = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial_path
        partial_path.replace(path)
    except OSError as error:
        raise InputError(f"Cannot write {path}: {error.strerror or error}; nothing was changed there.") from None
    finally:
        with suppress(OSError):
            partial_path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    r"""Write a small file so that it is complete when it appears; one of that name is replaced.

    Names of files may have bytes that are no text: they are written as escapes, such as ``\udcff``, which JSON knows.

    Raises:
        InputError: the system refuses to write.
    """
    with replaced_file(path) as partial_path:
        partial_path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Make ``target`` a second name of the file ``source``, or a copy where that is not possible."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


@contextmanager
def working_folder(target: Path) -> Iterator[Path]:
    """Yield an empty, locked folder beside ``target``, on the same disk; remove what is left of it at the end.

    Raises:
        InputError: another process has it, or the system refuses to write.
    """
    final = target.resolve()
    folder = final.with_name(f".{final.name}.partial")
    missing = [parent for parent in final.parents if not parent.exists()]
    try:
        with locked(folder, target) as is_ours:
            try:
                for left in folder.iterdir():  # by a process that was killed
                    shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
                yield folder
            finally:
                if is_ours():  # if it was renamed, the next process may be using its name already
                    shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise InputError(f"Cannot write {target}: {error.strerror or error}; nothing was left there.") from None
    finally:
        if not final.exists():
            remove_empty(missing)


@contextmanager
def locked(folder: Path, target: Path) -> Iterator[Callable[[], bool]]:
    """Make ``folder`` and hold a lock on it, which the system releases even if this process is killed.

    Yields a function that says whether the locked directory still has the name ``folder``.

    Raises:
        InputError: another process holds it.
    """
    if fcntl is None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder.exists
        return
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"Another process is writing {target}; wait for it, or give another path.") from None
            if is_same(folder, descriptor):  # or else its owner has just renamed or removed it
                yield partial(is_same, folder, descriptor)
                return
        finally:
            os.close(descriptor)


def is_same(folder: Path, descriptor: int) -> bool:
    """Say whether ``folder`` still is the directory that was opened as ``descriptor``."""
    try:
        return os.path.samestat(os.stat(folder), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def exchange(one: Path, other: Path) -> bool:
    """Let two directories change names in a single step; return False where the system cannot."""
    a, b, swap = os.fsencode(one), os.fsencode(other), 2  # RENAME_EXCHANGE on Linux, RENAME_SWAP on macOS
    if sys.platform == "linux":
        here = -100  # AT_FDCWD
        renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
        return renameat2 is not None and renameat2(here, a, here, b, swap) == 0
    elif sys.platform == "darwin":
        renamex_np = getattr(ctypes.CDLL(None), "renamex_np", None)
        return renamex_np is not None and renamex_np(a, b, swap) == 0
    else:
        return False


def remove_empty(folders: list[Path]) -> None:
    """Remove those of ``folders``, innermost first, that are there and empty."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return
