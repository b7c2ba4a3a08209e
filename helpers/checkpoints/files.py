"""Files of tensors: read them safely, without loading them into memory, and go through their numbers in pieces."""

import errno
import hashlib
import math
import os
import pickle
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..errors import InputError

ZIP = b"PK\x03\x04"  # how a file by torch.save begins
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9"  # the same before PyTorch 1.6
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
NUMBERS_AT_ONCE = 1 << 19  # that are checked, cast and written in one go: 1 MB of bf16 fits a processor's cache


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a ``.pth`` file by name, memory-mapped: pages are read when they are used.

    Where a file cannot be mapped, it is read into memory. Only tensors are unpickled (``weights_only=True``), so that a
    file from a stranger cannot run code.

    Raises:
        InputError: the file is missing, a directory, damaged, in another format, or holds anything but named tensors.
    """
    path = Path(path)
    start = first_bytes(path)
    damaged = InputError(f"{path} is not a PyTorch checkpoint, or is damaged; download it again.")
    if start[8:9] == b"{":
        raise InputError(f"{path} is a safetensors file; give BlinkDL's .pth file, the input of a conversion.")
    if other := next((text for sign, text in OTHER_FILES.items() if start.startswith(sign)), None):
        raise InputError(f"{path} {other}.")
    if not start.startswith((ZIP, LEGACY, b"\x80")):  # \x80 starts a pickle, which torch.load explains below
        raise damaged
    try:
        with warnings.catch_warnings(action="ignore"):  # about pickle protocols and TorchScript: refused below
            # a name that ends so makes torch read the file as safetensors, whatever it is
            mapped = start.startswith(ZIP) and path.suffix != ".safetensors"
            weights = load_mapped(path) if mapped else load_whole(path)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error).lower() or "Unsupported" in str(error):
            raise InputError(f"{path} holds Python objects other than tensors, and loading them could run code; "
                             "get the original checkpoint.") from None  # fmt: skip
        raise damaged from None
    except (MemoryError, OSError) as error:
        raise InputError(f"Cannot read {path}: {cause_of(error)}; the file itself may be intact.") from None
    except RuntimeError as error:
        if cause := system_cause(error):
            raise InputError(f"Cannot read {path}: {cause}; the file itself may be intact.") from None
        if "TorchScript" in str(error):
            raise InputError(f"{path} is a TorchScript program, not a checkpoint; give BlinkDL's .pth file.") from None
        raise damaged from None
    except (EOFError, ValueError, LookupError, AttributeError, TypeError):
        raise damaged from None
    check_named_tensors(weights, path)
    return cast(dict[str, Tensor], weights)


def load_mapped(path: Path) -> Any:
    """Return what :func:`torch.save` wrote, memory-mapped, or read into memory where the system cannot map it.

    Some network and cloud file systems map no files, and torch passes no name on that is not UTF-8.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UnicodeEncodeError:
        return load_whole(path)
    except RuntimeError as error:
        if number_of(error, "mmap") in (None, errno.ENOMEM):
            raise
        return load_whole(path)


def load_whole(path: Path) -> Any:
    """Return what :func:`torch.save` wrote, read into memory: files from before PyTorch 1.6 cannot be mapped."""
    with open(path, "rb") as file:  # by Python, which knows more names of files than torch
        return torch.load(file, map_location="cpu", weights_only=True, mmap=False)


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


def system_cause(error: RuntimeError) -> str | None:
    """Say what the system refused if that is why torch could not read a file, None if the file is at fault."""
    if number := number_of(error, "mmap") or number_of(error, "open file"):
        return os.strerror(number)
    return "there is too little memory" if "can't allocate memory" in str(error) else None


def number_of(error: RuntimeError, action: str) -> int | None:
    """Return the system's number of an error, with which torch ends its message that it is "unable to" do something."""
    found = re.search(rf"unable to {action} .*\((\d+)\)\s*$", str(error).splitlines()[0])
    return int(found[1]) if found else None


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
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"There is no file {path}; give the path of BlinkDL's .pth file.") from None
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}; give a .pth file that can be read.") from None


def check_named_tensors(weights: object, path: Path) -> None:
    """Raise InputError unless ``weights`` maps names to ordinary tensors, saying where else the tensors may be."""
    if not isinstance(weights, dict) or not weights:
        raise InputError(f"{path} does not hold tensors by name; give a checkpoint in BlinkDL's format.")
    if "_strategy" in weights:  # rwkv/model.py, convert_and_save_and_exit
        raise InputError(
            f"{path} was made by the rwkv package for its strategy {weights['_strategy']!r}, with other numbers and "
            "shapes; give the .pth file that it was made from."
        )
    for name, value in weights.items():
        if isinstance(value, dict) and any(isinstance(tensor, Tensor) for tensor in value.values()):
            raise InputError(
                f"{path} does not hold tensors by name: it is a whole training state, with the tensors under {name!r}; "
                f"save only those, with torch.save(torch.load(FILE, weights_only=True)[{name!r}], NEW_FILE)."
            )
    for name, value in weights.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            pair = f"{name!r}: {type(value).__name__}"
            raise InputError(f"{path} does not hold tensors by name, but {pair}; save only the model's state_dict.")
        if value.layout != torch.strided or value.device.type != "cpu" or value.numel() == 0:
            raise InputError(f"{path}: {name} is a sparse, empty or missing tensor; get the original checkpoint.")


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
    """Yield the numbers of a tensor in order, as flat tensors of at most ``NUMBERS_AT_ONCE`` numbers."""
    flat = weight.detach().contiguous().flatten()
    for start in range(0, len(flat), NUMBERS_AT_ONCE):
        yield flat[start : start + NUMBERS_AT_ONCE]
