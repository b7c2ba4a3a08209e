"""Check that a ``.pth`` file is what it was when it was saved, and stays so while it is read.

Every record of the archive carries its CRC-32. It is compared in a thread of its own that reads the file from begin to
end, beside what else is done with the numbers, and can take the SHA-256 of the same bytes.
"""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import BinaryIO

from ..errors import InputError
from .archive import Record

try:
    from isal.isal_zlib import crc32  # at the speed of memory, many times that of zlib
except ImportError:  # there is none for this processor
    from zlib import crc32

PIECE = 1 << 20  # bytes that are read at once: they fit a processor's cache


@dataclass(frozen=True)
class Identity:
    """What tells whether a path still leads to the same file with the same content."""

    device: int
    inode: int
    size: int
    changed: int  # nanoseconds

    @classmethod
    def of(cls, status: os.stat_result) -> "Identity":
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class CheckedFile:
    """A file as it was when it was opened, and the records whose checksums it carries, in their order."""

    path: Path
    identity: Identity
    records: tuple[Record, ...] = ()

    @classmethod
    def plain(cls, path: Path) -> "CheckedFile":
        """Return a file without records, as it is now."""
        try:
            return cls(path, Identity.of(path.stat()))
        except OSError as error:
            raise InputError(f"Cannot read {path}: {error.strerror}; the file itself may be intact.") from None

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the file for reading, without a buffer.

        Raises:
            InputError: it is not what it was, or cannot be read.
        """
        try:
            with open(self.path, "rb", buffering=0) as file:
                if Identity.of(os.fstat(file.fileno())) != self.identity:
                    raise self.changed()
                yield file
        except FileNotFoundError:
            raise self.changed() from None
        except OSError as error:
            raise InputError(f"Cannot read {self.path}: {error.strerror}; the file itself may be intact.") from None

    def refuse_change(self) -> None:
        """Raise InputError if the path leads to another file by now, or this one was written to."""
        with self.open():
            pass

    def changed(self) -> InputError:
        return InputError(f"{self.path} was changed while it was read; wait until it is complete, and try again.")

    def read(self, file: BinaryIO, buffer: memoryview) -> None:
        """Fill ``buffer`` with the next bytes of the file.

        Raises:
            InputError: it has fewer, so that it was cut off since it was opened.
        """
        if not fill(file, buffer):
            raise self.changed()

    def check(self, stopped: Event | None = None, hashed: bool = False) -> str:
        """Read the whole file, and compare the checksums of its records. Return its SHA-256 if it is ``hashed``, or "".

        Args:
            stopped: once this is set, the rest is left.

        Raises:
            InputError: a record has another checksum than it should, or the file was changed meanwhile.
        """
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(PIECE))
        with self.open() as file:
            for record, length in self.parts():
                if not record and not hashed:
                    file.seek(length, os.SEEK_CUR)
                    continue
                crc = 0
                for start in range(0, length, PIECE):
                    if stopped and stopped.is_set():
                        return ""
                    piece = buffer[: min(PIECE, length - start)]
                    self.read(file, piece)
                    if hashed:
                        digest.update(piece)
                    if record:
                        crc = crc32(piece, crc)
                if record and crc != record.crc:
                    raise InputError(
                        f"{self.path} is damaged: its record {record.label} has another checksum than when it was "
                        "saved; download it again."
                    )
        self.refuse_change()
        return digest.hexdigest() if hashed else ""

    def parts(self) -> Iterator[tuple[Record | None, int]]:
        """Yield records and lengths, in the order of the file; None stands for what is between two records."""
        position = 0
        for record in self.records:
            yield None, record.start - position
            yield record, record.size
            position = record.end
        yield None, self.identity.size - position


def fill(file: BinaryIO, buffer: memoryview) -> bool:
    """Fill ``buffer`` with the next bytes of an open file without a buffer; return False if it has fewer."""
    while len(buffer):
        count = file.readinto(buffer)  # type: ignore[attr-defined]  # a raw file has it
        if not count:
            return False
        buffer = buffer[count:]
    return True


class Checks:
    """Files that are being checked in threads beside other work."""

    def __init__(self, pool: ThreadPoolExecutor, hashed: bool) -> None:
        self.pool = pool
        self.hashed = hashed
        self.stopped = Event()
        self.results: dict[CheckedFile, Future[str]] = {}

    def add(self, file: CheckedFile) -> None:
        self.results[file] = self.pool.submit(file.check, self.stopped, self.hashed)

    def wait(self) -> None:
        """Raise what :meth:`CheckedFile.check` raised, or if a file was changed since it was checked."""
        for file, result in self.results.items():
            result.result()
            file.refuse_change()

    def sha256(self, file: CheckedFile) -> str:
        """Return the SHA-256 of one of the files, if they are hashed."""
        return self.results[file].result()


@contextmanager
def checked(*files: CheckedFile, hashed: bool = False) -> Iterator[Checks]:
    """Check files beside what the block does, and wait for that at its end. After an error in it, the rest is left.

    Raises:
        InputError: a file is damaged, or was changed meanwhile.
    """
    with ThreadPoolExecutor(2 if cores() > 2 else 1) as pool:
        checks = Checks(pool, hashed)
        try:
            for file in files:
                checks.add(file)
            yield checks
            checks.wait()
        finally:
            checks.stopped.set()


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
