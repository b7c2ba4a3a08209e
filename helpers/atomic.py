"""Files and directories that appear under their name only when they are complete, whatever happens on the way."""

import ctypes
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType

from .errors import InputError

try:
    fcntl: ModuleType | None = import_module("fcntl")
except ImportError:  # Windows, where two processes writing the same target are not told apart
    fcntl = None


MARK = ".rwkv-world-hf"  # a file in each folder that this project may clear
MARK_TEXT = "Made by rwkv-world-hf (python -m helpers), which may remove what it wrote here.\n"
NEW, OLD = "new", "old"  # in a working folder: what is being made, and what it takes the place of
_locks: set[int] = set()  # descriptors of this process, which its forks must not keep


def refuse_existing(target: Path) -> None:
    """Raise InputError unless ``target`` can be made anew: it does not exist, or is an empty directory."""
    if resolved(target) == Path.cwd():
        raise InputError(f"{target} is the current directory; give the path of a new one.")
    try:
        if target.is_dir() and not any(target.iterdir()):
            return
        exists = target.exists() or target.is_symlink()
    except OSError as error:
        raise InputError(f"Cannot write {target}: {error.strerror}; give another path.") from None
    if exists:
        raise InputError(f"{target} already exists; give a new path, or remove that one first.")


def resolved(target: Path) -> Path:
    """Return the absolute path of what is to be written, with links followed.

    Raises:
        InputError: nothing can have this path: it holds a NUL, links in a circle, or goes up from what does not exist.
    """
    try:
        for number, part in enumerate(target.parts):
            if part == ".." and not Path(*target.parts[:number]).is_dir():
                raise InputError(f"Cannot write {target}: {Path(*target.parts[:number])} is no directory; "
                                 "give the path without \"..\".")  # fmt: skip
        return target.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle, before Python 3.13
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"Cannot write {target}: {reason}; give another path.") from None


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``target`` that takes its name when the block ends without an error.

    After an error nothing is left. A process that is killed leaves the folder ``.NAME.partial`` with our mark in it,
    and the next one that writes the same target clears it. Of two at once the second is refused.

    Raises:
        InputError: ``target`` exists and is not empty, another process is writing it, there is a ``.NAME.partial`` that
            is not ours, or the disk is full.
    """
    refuse_existing(target)
    with working_folder(target) as folder:
        yield folder
        final = resolved(target)
        if os.name == "nt" and final.exists():
            final.rmdir()  # elsewhere a rename replaces an empty directory
        folder.replace(final)


@contextmanager
def replaced_directory(target: Path) -> Iterator[Path]:
    """Like :func:`new_directory` for a ``target`` that exists: the old and the new directory change places at the end.

    Raises:
        InputError: ``target`` is no directory, another process is writing it, there is a ``.NAME.partial`` that is not
            ours, or the disk is full.
    """
    final = resolved(target)
    no_directory = InputError(f"{target} is not a directory; give one that convert made.")
    if not final.is_dir() and not (working_path(final) / OLD).is_dir():
        raise no_directory
    if Path.cwd().is_relative_to(final):
        raise InputError(
            f"{target} holds the current directory, and cannot be replaced from there; go elsewhere first."
        )
    with working_folder(target) as folder:
        if not final.is_dir():
            raise no_directory
        yield folder
        if not exchange(folder, final):
            final.replace(folder.with_name(OLD))
            folder.replace(final)


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """Like :func:`new_directory`, but for a file; it yields the path to write to.

    Raises:
        InputError: ``target`` exists, another process is writing it, there is a ``.NAME.partial`` that is not ours, or
            the disk is full.
    """
    refuse_existing(target)
    if target.is_dir():
        raise InputError(f"{target} is a directory; give the path of a new file.")
    with working_folder(target) as folder:
        yield folder / target.name
        (folder / target.name).replace(resolved(target))


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


def working_path(final: Path) -> Path:
    """Return the folder in which what shall be ``final`` is made: beside it, so that it is on the same disk."""
    return final.with_name(f".{final.name}.partial")


@contextmanager
def working_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder in a locked and marked one beside ``target``; remove what is left of both at the end.

    Raises:
        InputError: another process has it, it is not ours, or the system refuses to write.
    """
    final = resolved(target)
    folder = working_path(final)
    missing = [parent for parent in final.parents if not parent.exists()]
    try:
        with locked(folder, target):
            claim(folder)
            try:
                clear(folder, final)  # what a process left that was killed
                (folder / NEW).mkdir()
                yield folder / NEW
            finally:
                clear(folder, final)
                remove_mark(folder)
                remove_empty([folder])
    except OSError as error:
        raise InputError(f"Cannot write {target}: {error.strerror or error}; nothing was left there.") from None
    finally:
        if not final.exists():
            remove_empty(missing)


def clear(folder: Path, final: Path) -> None:
    """Empty a marked working folder; if ``final`` was about to be replaced and is gone, the old one returns first."""
    if (folder / OLD).is_dir() and not final.exists():
        (folder / OLD).replace(final)
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != MARK:
            path.unlink()


@contextmanager
def owned_folder(target: Path) -> Iterator[Path]:
    """Make a folder, or take one that is there, for as long as the block lasts; a second process is refused.

    Nothing in it is touched. At the end, our mark does not stay if nothing else was put there, nor an empty new folder.

    Raises:
        InputError: another process has it, or the system refuses.
    """
    folder = resolved(target)
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        remove_empty(missing)
        raise InputError(f"Cannot write into {target}: {error.strerror}; give another folder.") from None
    try:
        with locked(folder, target):
            before = set(os.listdir(folder))
            try:
                yield folder
            finally:
                if set(os.listdir(folder)) - before == {MARK}:
                    (folder / MARK).unlink()
    finally:
        remove_empty(missing)


@contextmanager
def scratch_folder(parent: Path, name: str) -> Iterator[Path]:
    """Yield an empty folder in ``parent`` that is removed at the end; those that killed processes left go first.

    Raises:
        InputError: the system refuses to write.
    """
    final = resolved(parent) / name
    for left in final.parent.glob(f".{name}-*.partial"):
        if left.is_dir() and has_mark(left):
            with suppress(InputError, OSError), locked(left, left):  # refused while its process lives
                clear(left, final)
                remove_mark(left)
                left.rmdir()
    with working_folder(final.with_name(f"{name}-{os.getpid()}")) as folder:
        yield folder


def claim(folder: Path, names: Iterable[str] = ("*",)) -> None:
    """Mark a folder as one that this project may clear, unless it carries the mark already.

    Raises:
        InputError: without the mark there is something in it that fits one of the patterns ``names``, and that could be
            overwritten, or the system refuses to write.
    """
    if has_mark(folder):
        return
    try:
        if (folder / MARK).is_file() and not (folder / MARK).stat().st_size:
            (folder / MARK).unlink()  # a process was killed before it had written the line
        for name in names:
            if found := next(folder.glob(name), None):
                raise InputError(
                    f"{folder} holds {found.relative_to(folder)}, which this program did not put there; "
                    "give another path, or move it."
                )
        (folder / MARK).write_text(MARK_TEXT, encoding="utf-8", newline="\n")
    except OSError as error:
        raise InputError(f"Cannot write into {folder}: {error.strerror}; give another path.") from None


def has_mark(folder: Path) -> bool:
    """Say whether a folder carries the mark of this project."""
    mark = folder / MARK
    try:
        return mark.is_file() and not mark.is_symlink() and mark.read_bytes()[: len(MARK_TEXT)] == MARK_TEXT.encode()
    except OSError:
        return False


def remove_mark(folder: Path) -> None:
    """Take back the mark, last of all, if nothing else is in a folder."""
    with suppress(OSError):
        if os.listdir(folder) == [MARK] and has_mark(folder):
            (folder / MARK).unlink()


@contextmanager
def locked(folder: Path, target: Path) -> Iterator[None]:
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
        _locks.add(descriptor)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"Another process is writing {target}; wait for it, or give another path.") from None
            if is_same(folder, descriptor):  # or else its owner has just renamed or removed it
                yield
                return
        finally:
            if descriptor in _locks:  # a fork has closed its copy
                _locks.remove(descriptor)
                os.close(descriptor)


def _forget_locks() -> None:
    """Close a fork's copies of the locks, which would hold them after the death of the process that took them."""
    while _locks:
        os.close(_locks.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)


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
