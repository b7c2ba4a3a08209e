"""Files of tensors: read them safely, without loading them into memory, and go through their numbers in pieces."""

import errno
import hashlib
import math
import mmap
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import LONGEST_NAME, InputError, printable
from .archive import Damage, Program
from .intact import CheckedFile, Identity, fill
from .layout import fault_of, read_archive, read_legacy
from .pickles import ForeignObject, Other, Storage, StoredTensor

ZIP = b"PK\x03\x04"  # how a file by torch.save begins
# how files begin that are often taken for a checkpoint: what they are, and what to do
OTHER_FILES = {
    b"version https://": "is a Git LFS pointer, not the file that it stands for; run git lfs pull",
    b"<": "is a web page, or what a server said instead of the file; download the file itself",
    b"GGUF": "is a GGUF file, the format of llama.cpp; give BlinkDL's .pth file",
    b"fmgg": "is a file of rwkv.cpp; give BlinkDL's .pth file",
    b"\x1f\x8b": "is compressed with gzip; unpack it first",
    b"\xfd7zXZ": "is compressed with xz; unpack it first",
    b"7z\xbc\xaf": "is compressed with 7-Zip; unpack it first",
}
NUMBERS_AT_ONCE = 1 << 18  # that are checked, cast and written in one go: 0.5 MB of bf16 fits a processor's cache


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Checkpoint(dict[str, Tensor]):
    """The tensors of a ``.pth`` file by name, and where each begins in ``file``, to be read by :func:`read_pieces`."""

    def __init__(self, tensors: dict[str, Tensor], file: CheckedFile, starts: dict[str, int]) -> None:
        super().__init__(tensors)
        self.file = file
        self.starts = starts

    def __reduce__(self) -> tuple[Any, ...]:
        """Be saved as what a ``state_dict`` is, which everyone can load."""
        return OrderedDict, (), None, None, iter(self.items())


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Return the tensors of a ``.pth`` file by name, memory-mapped: pages are read when they are used.

    Where a file cannot be mapped, it is read into memory. Nothing is unpickled: :mod:`.pickles` reads descriptions of
    tensors, so that a file from a stranger cannot run code, and :mod:`.archive` and :mod:`.layout` compare all that it
    says about itself with its size. The checksums of the numbers are compared by :func:`.intact.checked`.

    Raises:
        InputError: the file is missing, a directory, damaged, in another format, or holds anything but named tensors.
    """
    path = Path(path)
    start = first_bytes(path)
    if start[8:9] == b"{":
        raise InputError(f"{path} is a safetensors file; give BlinkDL's .pth file, the input of a conversion.")
    if other := next((text for sign, text in OTHER_FILES.items() if start.startswith(sign)), None):
        raise InputError(f"{path} {other}.")
    try:
        if not start.startswith((ZIP, b"\x80")):  # \x80 starts a pickle
            raise Damage("it begins as no such file does")
        with open(path, "rb", buffering=0) as file:
            return read_checkpoint(file, path, start)
    except Damage as error:
        raise InputError(f"{path} is not a PyTorch checkpoint, or is damaged: {error}; download it again.") from None
    except ForeignObject:
        raise InputError(f"{path} holds Python objects other than tensors, and loading them could run code; "
                         "get the original checkpoint.") from None  # fmt: skip
    except Program:
        raise InputError(f"{path} is a TorchScript program, not a checkpoint; give BlinkDL's .pth file.") from None
    except (MemoryError, OSError) as error:
        raise InputError(f"Cannot read {path}: {cause_of(error)}; the file itself may be intact.") from None


def read_checkpoint(file: FileIO, path: Path, start: bytes) -> Checkpoint:
    """Return the tensors of an open file that begins with ``start``."""
    identity = Identity.of(os.fstat(file.fileno()))
    is_archive = start.startswith(ZIP)
    layout = (read_archive if is_archive else read_legacy)(file, identity.size)
    found = named_tensors(layout.value, path, identity.size)
    mapped = map_file(file) if is_archive else None  # in an old file, numbers do not lie where a processor wants them
    storages = {tensor.storage for tensor in found.values()}
    flat = {storage.key: numbers_of(file, mapped, storage, layout.starts[storage.key]) for storage in storages}
    tensors = {
        name: flat[tensor.storage.key].as_strided(tensor.size, tensor.stride, tensor.offset)
        for name, tensor in found.items()
    }
    starts = {
        name: layout.starts[tensor.storage.key] + tensor.offset * tensor.storage.dtype.itemsize
        for name, tensor in found.items()
    }
    return Checkpoint(tensors, CheckedFile(path, identity, tuple(layout.records)), starts)


def map_file(file: FileIO) -> mmap.mmap | None:
    """Return the file as memory, or None where the system cannot do that: some network file systems map no files."""
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise
        return None


def numbers_of(file: FileIO, mapped: mmap.mmap | None, storage: Storage, start: int) -> Tensor:
    """Return all numbers of a storage, which begins at byte ``start``."""
    if mapped is not None and start % storage.dtype.itemsize == 0:
        return torch.frombuffer(mapped, dtype=storage.dtype, count=storage.count, offset=start)
    buffer = bytearray(storage.count * storage.dtype.itemsize)
    file.seek(start)
    fill(file, memoryview(buffer))
    return torch.frombuffer(buffer, dtype=storage.dtype)


def save_checkpoint(weights: dict[str, Tensor], path: Path) -> None:
    """Write tensors as :func:`load_checkpoint` reads them.

    Raises:
        OSError: the system refuses; torch reports a full disk as a RuntimeError.
    """
    try:
        torch.save(weights, path)
    except RuntimeError:
        raise OSError(errno.ENOSPC, "the disk may be full") from None


def cause_of(error: MemoryError | OSError) -> str:
    """Say in a few words what the system refused."""
    return (error.strerror or str(error)) if isinstance(error, OSError) else "there is too little memory"


def first_bytes(path: Path) -> bytes:
    """Return the beginning of a file, from which its format can be told.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    try:
        if path.is_dir():
            raise InputError(f"{path} is a directory; give the path of the .pth file itself.")
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is not a regular file; give the path of a .pth file.")
        with open(path, "rb") as file:
            return file.read(32)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last for a path with a NUL
        raise InputError(f"There is no file {path}; give the path of BlinkDL's .pth file.") from None
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}; give a .pth file that can be read.") from None


def named_tensors(value: object, path: Path, size: int) -> dict[str, StoredTensor]:
    """Return the ordinary tensors by name that a file of ``size`` bytes describes.

    Raises:
        InputError: it describes something else; the message says where else the tensors may be.
    """
    if not isinstance(value, dict) or not value:
        raise InputError(f"{path} does not hold tensors by name; give a checkpoint in BlinkDL's format.")
    if "_strategy" in value:  # rwkv/model.py, convert_and_save_and_exit
        raise InputError(
            f"{path} was made by the rwkv package for its strategy {printable(repr(value['_strategy']))}, with other "
            "numbers and shapes; give the .pth file that it was made from."
        )
    for name, inner in value.items():
        if isinstance(inner, dict) and any(isinstance(tensor, StoredTensor) for tensor in inner.values()):
            name = printable(repr(name))
            raise InputError(
                f"{path} does not hold tensors by name: it is a whole training state, with the tensors under {name}; "
                f"save only those, with torch.save(torch.load(FILE, weights_only=True)[{name}], NEW_FILE)."
            )
    for name, tensor in value.items():
        check_named(name, tensor, path)
    total = sum(math.prod(tensor.size) * tensor.storage.dtype.itemsize for tensor in value.values())
    if total > 2 * size:  # twice for tables that are tied
        raise InputError(
            f"{path} has {size:,} bytes, and claims {total:,} for its tensors; get the original checkpoint."
        )
    return value


def check_named(name: object, tensor: object, path: Path) -> None:
    """Raise InputError unless this is an ordinary tensor with its name."""
    fault = tensor.fault if isinstance(tensor, Other) else None
    if not isinstance(name, str) or not (isinstance(tensor, StoredTensor) or fault):
        kind = tensor.name if isinstance(tensor, Other) else type(tensor).__name__.replace("StoredTensor", "Tensor")
        pair = f"{printable(repr(name))}: {kind}"
        raise InputError(f"{path} does not hold tensors by name, but {pair}; save only the model's state_dict.")
    if len(name) > LONGEST_NAME:
        raise InputError(f"{path} has a tensor with a name of {len(name):,} characters; get the original checkpoint.")
    if fault := fault or (fault_of(tensor) if isinstance(tensor, StoredTensor) else None):
        raise InputError(f"{path}: {printable(name)} {fault}; get the original checkpoint.")


def is_finite(piece: Tensor) -> bool:
    """Say whether no number is infinite or NaN; ``aminmax`` carries both along, at the speed of reading memory."""
    return all(map(math.isfinite, torch.stack(torch.aminmax(piece)).tolist()))


def sharing_memory(weights: dict[str, Tensor]) -> tuple[str, str] | None:
    """Return the names of two tensors that have bytes in common, or None if there are none.

    Parts of one buffer, as DeepSpeed saves them, have none, even where the rows of one lie between those of another.
    """
    groups: list[list[str]] = []  # of tensors that begin before the last byte of an earlier one of their group
    end = 0
    for name in sorted(weights, key=lambda name: weights[name].data_ptr()):
        start, stop = byte_range(weights[name])
        if start >= end:
            groups.append([])
        groups[-1].append(name)
        end = max(end, stop)
    pairs = (first_overlap({name: weights[name] for name in group}) for group in groups if len(group) > 1)
    return next(filter(None, pairs), None)


def byte_range(weight: Tensor) -> tuple[int, int]:
    """Return where the first byte of a tensor lies in memory, and the end of the last one."""
    last = sum((size - 1) * stride for size, stride in zip(weight.shape, weight.stride(), strict=True))
    return weight.data_ptr(), weight.data_ptr() + (last + 1) * weight.element_size()


def first_overlap(group: dict[str, Tensor]) -> tuple[str, str] | None:
    """Return the names of the first two tensors of a group, sorted by their beginnings, that have bytes in common."""
    names, (first, second, *_) = list(group), group.values()
    if first.is_contiguous() and second.is_contiguous():
        return names[0], names[1]  # without gaps, the range of the one is in that of the other
    begin = first.data_ptr()
    owners = torch.zeros(max(byte_range(weight)[1] for weight in group.values()) - begin, dtype=torch.int16)
    for number, (name, weight) in enumerate(group.items(), start=1):
        width = weight.element_size()
        # a stride of 0 repeats the same bytes
        sizes = [size if stride else 1 for size, stride in zip(weight.shape, weight.stride(), strict=True)]
        strides = [stride * width for stride in weight.stride()]
        its_bytes = owners.as_strided((*sizes, width), (*strides, 1), weight.data_ptr() - begin)
        if other := int(its_bytes.max()):
            return names[other - 1], name
        its_bytes.fill_(number)
    return None


def pieces(weight: Tensor) -> Iterator[Tensor]:
    """Yield the numbers of a tensor in order, as flat tensors of at most ``NUMBERS_AT_ONCE`` numbers.

    They are cut at the same numbers in all tensors of a shape, whole rows wherever a row is not too long, so that one
    that does not lie in order never is in memory as a whole.
    """
    weight = weight.detach()
    if weight.is_contiguous():
        flat = weight.flatten()
        yield from (flat[start:stop] for start, stop in cuts(weight.shape))
    elif math.prod(weight.shape[1:]) > NUMBERS_AT_ONCE:
        for row in weight:
            yield from pieces(row)
    else:
        for rows in torch.split(weight, max(NUMBERS_AT_ONCE // math.prod(weight.shape[1:]), 1)):
            yield rows.contiguous().flatten()


def cuts(shape: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each piece of a tensor, counted in numbers."""
    total, row = math.prod(shape), math.prod(shape[1:])
    if row > NUMBERS_AT_ONCE:
        for number in range(shape[0]):
            yield from ((number * row + start, number * row + stop) for start, stop in cuts(shape[1:]))
    else:
        step = max(NUMBERS_AT_ONCE // row, 1) * row
        yield from ((start, min(start + step, total)) for start in range(0, total, step))


def read_pieces(weights: Mapping[str, Tensor], name: str) -> Iterator[Tensor]:
    """Like :func:`pieces` for a tensor of a checkpoint, which is read from its file, not through a map of it.

    So a file that is cut off meanwhile ends in an error, where the system would kill a process that reads a map.

    Raises:
        InputError: the file is not what it was when it was opened, or cannot be read.
    """
    weight = weights[name]
    if not isinstance(weights, Checkpoint) or not weight.is_contiguous():
        yield from pieces(weight)
        return
    with weights.file.open() as file:
        file.seek(weights.starts[name])
        for start, stop in cuts(weight.shape):
            piece = torch.empty(stop - start, dtype=weight.dtype)
            weights.file.read(file, piece.view(torch.uint8).numpy().data)
            yield piece
