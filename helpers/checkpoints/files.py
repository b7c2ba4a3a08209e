"""Files of tensors: read them safely, without loading them into memory, and go through their numbers in pieces."""

import hashlib
import math
import os
import pickle
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from ..errors import InputError

ZIP = b"PK\x03\x04"  # how a file by torch.save begins
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9"  # the same before PyTorch 1.6
NUMBERS_AT_ONCE = 1 << 19  # that are checked, cast and written in one go: 1 MB of bf16 fits a processor's cache


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a ``.pth`` file by name, memory-mapped: pages are read when they are used.

    Only tensors are unpickled (``weights_only=True``), so that a file from a stranger cannot run code.

    Raises:
        InputError: the file is missing, a directory, damaged, in another format, or holds anything but named tensors.
    """
    path = Path(path)
    start = first_bytes(path)
    damaged = InputError(f"{path} is not a PyTorch checkpoint, or is damaged; download it again.")
    if start[8:9] == b"{":
        raise InputError(f"{path} is a safetensors file; give BlinkDL's .pth file, the input of a conversion.")
    if start.startswith(b"version https://"):
        raise InputError(f"{path} is a Git LFS pointer, not the file that it stands for; run git lfs pull.")
    if not start.startswith((ZIP, LEGACY, b"\x80")):  # \x80 starts a pickle, which torch.load explains below
        raise damaged
    try:
        with warnings.catch_warnings(action="ignore"):  # about pickle protocols and TorchScript: refused below
            # files from before PyTorch 1.6 are plain pickles, which cannot be memory-mapped
            weights = torch.load(path, map_location="cpu", weights_only=True, mmap=start.startswith(ZIP))
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
        raise damaged from None
    except (EOFError, ValueError, LookupError, AttributeError, TypeError):
        raise damaged from None
    check_named_tensors(weights, path)
    return cast(dict[str, Tensor], weights)


def cause_of(error: MemoryError | OSError) -> str:
    """Say in a few words what the system refused."""
    return (error.strerror or str(error)) if isinstance(error, OSError) else "there is too little memory"


def system_cause(error: RuntimeError) -> str | None:
    """Say what the system refused if that is why torch could not map a file, None if the file is at fault.

    torch reports both as RuntimeError. For a failed mapping, the message ends in the system's number of the error.
    """
    found = re.search(r"unable to (?:mmap|open file).*\((\d+)\)\s*$", str(error).splitlines()[0])
    if found:
        return os.strerror(int(found[1]))
    return "there is too little memory" if "can't allocate memory" in str(error) else None


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


def pieces(weight: Tensor) -> Iterator[Tensor]:
    """Yield the numbers of a tensor in order, as flat tensors of at most ``NUMBERS_AT_ONCE`` numbers."""
    flat = weight.detach().contiguous().flatten()
    for start in range(0, len(flat), NUMBERS_AT_ONCE):
        yield flat[start : start + NUMBERS_AT_ONCE]
