"""The zip archive that a ``.pth`` file is: every entry of its directory is checked before any of them is read.

Records are stored as they are, never compressed, so that their places in the file are those of the numbers. Format:
PKWARE's APPNOTE, sections 4.3 and 4.5.3; what :func:`torch.save` makes of it is in PyTorch's ``inline_container.cc``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import BinaryIO

from ..errors import printable

LARGEST_DIRECTORY = 16 << 20  # bytes; one of 2,500 tensors has 0.2 MB
MOST_RECORDS = 50_000
LONGEST_RECORD_NAME = 511  # bytes; torch reads no more of one
LATEST_VERSION = 63  # of the format, 6.3, which a reader needs to know
FLAGS = 0x080E  # those that change nothing: how well it is compressed, that sizes come later, that names are UTF-8

END = Struct("<4s4H2LH")
END_64_PLACE = Struct("<4sLQL")
END_64 = Struct("<4sQ2H2L4Q")
ENTRY = Struct("<4s6H3L5H2L")
LOCAL = Struct("<4s5H3L2H")
EXTRA = Struct("<2H")
WIDE_NUMBER = Struct("<Q")
FULL = 0xFFFFFFFF  # stands for a number of 64 bits among the extra fields
FOLDER = 0x10  # among the attributes of a record: one without content, which torch does not read
WIDE, OTHER_NAME = 1, 0x7075  # kinds of extra fields


class Damage(Exception):
    """What is wrong with a file that should be a checkpoint: a part of a sentence."""


class Program(Exception):
    """The archive is one of TorchScript."""


@dataclass(frozen=True)
class Record:
    """One file in the archive: where its bytes lie, and their CRC-32."""

    name: str
    start: int
    size: int
    crc: int

    @property
    def end(self) -> int:
        return self.start + self.size

    @property
    def label(self) -> str:
        return printable(self.name)


def read_records(file: BinaryIO, size: int) -> list[Record]:
    """Return the records of an archive of ``size`` bytes, in the order in which they lie in the file.

    Raises:
        Program: it is one of TorchScript.
        Damage: the directory is not one, or a record is compressed, encrypted, there twice (torch does not distinguish
            capital and small letters), outside of the file, in the place of another one, or called otherwise in its own
            header.
    """
    start, length, count = find_directory(file, size)
    directory = read_exactly(file, start, length)
    records = [check_local(file, entry) for entry in read_directory(directory, count)]
    records.sort(key=lambda found: found[0])
    names: set[str] = set()
    free_from = 0
    for begin, record in records:
        if record.name.lower() in names:
            raise Damage(f"its record {record.label} is there twice")
        if begin < free_from or record.end > start:
            raise Damage(f"its record {record.label} lies in the place of something else")
        names.add(record.name.lower())
        free_from = record.end
    return [record for _, record in records]


def read_exactly(file: BinaryIO, start: int, length: int) -> bytes:
    """Return some bytes of a file.

    Raises:
        Damage: it has no bytes there, or fewer.
    """
    if start < 0:
        raise Damage("it is cut off")
    file.seek(start)
    data = file.read(length)
    if len(data) != length:
        raise Damage("it is cut off")
    return data


def find_directory(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """Return where the directory starts, its length in bytes, and its number of entries."""
    end = size - END.size
    sign, disk, first_disk, here, count, length, start, comment = END.unpack(read_exactly(file, end, END.size))
    if sign != b"PK\x05\x06" or comment:
        raise Damage("it has no directory of an archive at its end")
    if end >= END_64_PLACE.size:
        sign, disk_64, place, disks = END_64_PLACE.unpack(
            read_exactly(file, end - END_64_PLACE.size, END_64_PLACE.size)
        )
        if sign == b"PK\x06\x07":
            if place != end - END_64_PLACE.size - END_64.size or disk_64 or disks != 1:
                raise Damage("the end of its archive is not where it should be")
            end = place
            sign, own, _, _, disk, first_disk, here, count, length, start = END_64.unpack(
                read_exactly(file, place, END_64.size)
            )
            if sign != b"PK\x06\x06" or own != END_64.size - 12:
                raise Damage("the end of its archive is not where it should be")
    if disk or first_disk or here != count:
        raise Damage("it is a part of an archive")
    if count > MOST_RECORDS or length > LARGEST_DIRECTORY:
        raise Damage(f"its archive claims {count:,} records, and {MOST_RECORDS:,} is the most that is read")
    if start + length != end:
        raise Damage("the directory of its archive is not where it should be")
    return start, length, count


def read_directory(directory: bytes, count: int) -> Iterator[tuple[int, int, Record]]:
    """Yield for each entry the place of its own header, its flags, and what it says; ``start`` is not known yet."""
    position = 0
    for _ in range(count):
        if position + ENTRY.size > len(directory):
            raise Damage("the directory of its archive is cut off")
        sign, _, version, flags, method, _, _, crc, packed, size, *lengths, disk, _, kind, place = ENTRY.unpack_from(
            directory, position
        )
        position += ENTRY.size
        name_bytes, extra, comment = (directory[a:b] for a, b in spans(position, lengths))
        position += sum(lengths)
        if sign != b"PK\x01\x02" or position > len(directory) or version & 0xFF > LATEST_VERSION or disk:
            raise Damage("the directory of its archive is damaged")
        name = name_of(name_bytes)
        if size and (kind & FOLDER or name.endswith("/")):
            raise Damage(f"its record {printable(name)} is a folder with content")
        if flags & 1:
            raise Damage(f"its record {printable(name)} is encrypted")
        if flags & ~FLAGS:
            raise Damage(f"its record {printable(name)} has flags of an archive that is no checkpoint")
        if comment:
            raise Damage(f"its record {printable(name)} has a comment")
        size, packed, place = wide_numbers(extra, (size, packed, place))
        if method and "/code/" in name:
            raise Program
        if method or packed != size:
            raise Damage(f"its record {printable(name)} is compressed, and a checkpoint's are not")
        yield place, flags, Record(name, 0, size, crc)
    if position != len(directory):
        raise Damage("the directory of its archive has more entries than it says")


def name_of(data: bytes) -> str:
    """Return the name of a record."""
    if len(data) > LONGEST_RECORD_NAME:
        raise Damage(f"it has a record with a name of {len(data):,} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Damage("it has a record with a name that is not UTF-8") from None


def spans(position: int, lengths: list[int]) -> Iterator[tuple[int, int]]:
    """Yield beginnings and ends of parts that follow each other."""
    for length in lengths:
        yield position, position + length
        position += length


def wide_numbers(extra: bytes, numbers: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return numbers of a directory's entry, those of 64 bits from its extra fields."""
    fields = dict(extra_fields(extra))
    if OTHER_NAME in fields:
        raise Damage("it has a record with two names")
    wide = iter([number for (number,) in WIDE_NUMBER.iter_unpack(fields.get(WIDE, b""))])
    a, b, c = (next(wide, FULL) if number == FULL else number for number in numbers)
    return a, b, c


def extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield kinds and contents of extra fields."""
    position = 0
    while position < len(extra):
        if position + EXTRA.size > len(extra):
            raise Damage("the directory of its archive is damaged")
        kind, length = EXTRA.unpack_from(extra, position)
        position += EXTRA.size + length
        if position > len(extra) or (kind == WIDE and length % WIDE_NUMBER.size):
            raise Damage("the directory of its archive is damaged")
        yield kind, extra[position - length : position]


def check_local(file: BinaryIO, entry: tuple[int, int, Record]) -> tuple[int, Record]:
    """Return where a record's own header begins, and the record with its place, after a comparison of the two."""
    place, flags, record = entry
    sign, _, local_flags, method, _, _, crc, packed, size, name_length, extra_length = LOCAL.unpack(
        read_exactly(file, place, LOCAL.size)
    )
    name = name_of(read_exactly(file, place + LOCAL.size, name_length))
    if sign != b"PK\x03\x04" or name != record.name or method or local_flags != flags:
        raise Damage(f"its record {record.label} is not what its directory says")
    says = crc, packed, size
    if not flags & 8 and FULL not in says and says != (record.crc, record.size, record.size):  # else they come later
        raise Damage(f"its record {record.label} is not as large as its directory says, or has another checksum")
    start = place + LOCAL.size + name_length + extra_length
    return place, Record(record.name, start, record.size, record.crc)
