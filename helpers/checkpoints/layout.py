"""Where the numbers of each tensor lie in a ``.pth`` file: in an archive, or in the format from before PyTorch 1.6.

Everything that a file says about itself is compared with its size before any number is read.
"""

import re
import sys
import zlib
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO

import torch

from ..errors import printable
from .archive import Damage, Program, Record, read_exactly, read_records
from .pickles import Pickle, Storage, StoredTensor, read_pickle

LARGEST_PICKLE = 16 << 20  # bytes; that of 2,500 tensors has 0.3 MB
SMALL = {  # records that torch.load reads beside the pickle and the numbers, and what it can read there
    "version": re.compile(rb"([1-9]|10)\s*"),
    ".data/version": re.compile(rb"([1-9]|10)\s*"),
    ".data/serialization_id": re.compile(rb"[ -~]{0,100}"),
    ".format_version": re.compile(rb"\d{1,4}\s*"),
    ".storage_alignment": re.compile(rb"\d{1,9}\s*"),
    "byteorder": re.compile(rb"little|big"),
}
LARGEST_SMALL = 100  # bytes
LEGACY_NUMBER, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # torch/serialization.py
QUANTIZED = (torch.qint8, torch.quint8, torch.qint32)


@dataclass(frozen=True)
class Layout:
    """What a file describes, and where the bytes of each storage begin, by its key.

    ``records`` have checksums. There are none in a file of the old format, and in one saved with
    ``torch.serialization.set_crc32_options(False)``.
    """

    value: Any
    starts: dict[str, int]
    records: list[Record]


def read_archive(file: BinaryIO, size: int) -> Layout:
    """Return the layout of an archive of ``size`` bytes.

    Raises:
        Damage, Program, ForeignObject: it is no checkpoint; see :mod:`.archive` and :mod:`.pickles`.
    """
    records = read_records(file, size)
    by_name = {record.name: record for record in records}
    if any(name.endswith("/constants.pkl") for name in by_name):
        raise Program
    pickles = [name for name in by_name if name.partition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise Damage("its archive has no data.pkl")
    root = pickles[0].removesuffix("data.pkl")
    if stranger := next((record for record in records if not record.name.startswith(root)), None):
        raise Damage(f"its record {stranger.label} is not in the folder of the others")
    numbers = {
        name.removeprefix(f"{root}data/"): record for name, record in by_name.items() if name.startswith(f"{root}data/")
    }
    has_checksums = any(record.crc for record in numbers.values() if record.size)
    described = by_name[pickles[0]]
    if described.size > LARGEST_PICKLE:
        raise Damage(f"its pickle has {described.size:,} bytes, and {LARGEST_PICKLE:,} is the most that is read")
    data = read_record(file, described, has_checksums)
    check_small(file, {record.name.removeprefix(root).lower(): record for record in records}, has_checksums)
    pickle = read_pickle(data)
    if pickle.end != len(data):
        raise Damage("its pickle is followed by something else")
    for storage in pickle.storages.values():
        check_size(storage, numbers.get(storage.key))
    starts = {key: numbers[key].start for key in pickle.storages}
    return Layout(pickle.value, starts, records if has_checksums else [])


def read_record(file: BinaryIO, record: Record, has_checksums: bool) -> bytes:
    """Return the bytes of a record, after a comparison of their checksum."""
    data = read_exactly(file, record.start, record.size)
    if (has_checksums or record.crc) and zlib.crc32(data) != record.crc:
        raise Damage(f"its record {record.label} has another checksum than it should")
    return data


def check_small(file: BinaryIO, records: dict[str, Record], has_checksums: bool) -> None:
    """Raise Damage if a small record says what torch cannot read, or that the numbers are in another byte order.

    Args:
        records: by names without their folder, in small letters, by which torch finds them.
    """
    if not records.keys() & {"version", ".data/version"}:
        raise Damage("its archive has no record version")
    for name in records.keys() & SMALL.keys():
        record = records[name]
        if record.size > LARGEST_SMALL or not SMALL[name].fullmatch(read_record(file, record, has_checksums)):
            raise Damage(f"its record {record.label} does not say what torch.save writes there")
    order = records.get("byteorder")
    if order and read_exactly(file, order.start, order.size) != sys.byteorder.encode():
        raise Damage(f"its numbers are not in the byte order of this computer, {sys.byteorder}")


def check_size(storage: Storage, record: Record | None) -> None:
    """Raise Damage unless a record is there and as large as the pickle says."""
    if record is None:
        raise Damage(f"it has no numbers under {printable(storage.key)}, which its pickle refers to")
    if record.size != bytes_of(storage):
        raise Damage(f"its record {record.label} has {record.size:,} bytes, and its pickle says {bytes_of(storage):,}")


def bytes_of(storage: Storage) -> int:
    return storage.count * storage.dtype.itemsize


def read_legacy(file: BinaryIO, size: int) -> Layout:
    """Return the layout of a file of ``size`` bytes in the format from before PyTorch 1.6.

    It is a row of pickles (a magic number, a version, the machine, the tensors, the keys of storages), then for each
    storage how many numbers it has, in 8 bytes, and the numbers. Source: ``_legacy_save`` in torch/serialization.py.

    Raises:
        Damage, ForeignObject: it is no checkpoint.
    """
    data = read_exactly(file, 0, min(size, LARGEST_PICKLE))
    magic, version, machine, pickle, keys = read_pickles(data, 5)
    if magic.value != LEGACY_NUMBER or version.value != LEGACY_PROTOCOL or type(machine.value) is not dict:
        raise Damage("its first pickles are not those of a checkpoint")
    if machine.value.get("little_endian") is not (sys.byteorder == "little"):
        raise Damage(f"its numbers are not in the byte order of this computer, {sys.byteorder}")
    if type(keys.value) is not list or any(type(key) is not str for key in keys.value):
        raise Damage("its list of storages is not one")
    if sorted(keys.value) != sorted(pickle.storages):
        raise Damage("its list of storages is not that of its tensors")
    starts, position = {}, keys.end
    for key in keys.value:
        storage = pickle.storages[key]
        if int.from_bytes(read_exactly(file, position, 8), "little") != storage.count:
            raise Damage("a storage is not as large as its pickle says")
        starts[key] = position + 8
        position += 8 + bytes_of(storage)
        if position > size:
            raise Damage("it is cut off")
    if position != size:
        raise Damage("it goes on after its last number")
    return Layout(pickle.value, starts, [])


def read_pickles(data: bytes, count: int) -> list[Pickle]:
    """Return pickles that follow each other."""
    found: list[Pickle] = []
    for _ in range(count):
        found.append(read_pickle(data, found[-1].end if found else 0))
    return found


def fault_of(tensor: StoredTensor) -> str | None:
    """Say why a tensor is not an ordinary one within its storage, or None if it is."""
    if tensor.fault:
        return tensor.fault
    if tensor.storage.dtype in QUANTIZED:
        return "is a quantized tensor"
    count = prod(tensor.size)
    if count == 0:
        return "is an empty tensor"
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.size, tensor.stride, strict=True))
    if last >= tensor.storage.count or count > tensor.storage.count:
        return f"claims {count:,} numbers where the file has fewer"
    return None
