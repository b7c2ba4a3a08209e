"""Write tensors as safetensors files, one piece after the other: checked, cast, and split into shards.

``safetensors.torch.save_file`` would do for a single file, in as little memory. But it sorts the tensors, so that the
order of the checkpoint is lost, and it neither checks nor casts; here all of that is one pass over the numbers. For the
same reason shards are planned here: ``huggingface_hub`` moves a tensor that is larger than the limit out of its place.
"""

import hashlib
import json
import os
import struct
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..checkpoints.files import is_finite, read_pieces, sharing_memory
from ..checkpoints.names import hub_name
from ..checkpoints.versions import Layout
from ..errors import InputError

SAFETENSORS_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
INDEX = "model.safetensors.index.json"
PIECES_AHEAD = 8  # that may be written before they are hashed
Weights = dict[str, Tensor]


def write_weights(
    folder: Path,
    weights: Weights,
    layout: Layout | None,
    dtype: torch.dtype | None,
    limit: int,
    source: Path,
    progress: bool = True,
) -> dict[str, str]:
    """Write the weights files of a model directory, and their index if there is more than one.

    Return the SHA-256 of each file of numbers by its name.

    Args:
        weights: tensors by their names in the checkpoint; each is read once, in order.
        layout: of the names in the files; None if ``weights`` has these names already.
        dtype: of the written tensors; None keeps each its own.
        limit: bytes in a file, unless a single tensor is larger.
        source: where the tensors come from, for messages.
        progress: show a bar, in bytes.

    Raises:
        InputError: two tensors share memory, or a number is not finite, or too large for ``dtype``.
    """
    refuse_shared_memory(weights, source)
    shards = plan_shards(weights, dtype, limit)
    total = total_bytes(weights, dtype)
    index: dict[str, str] = {}
    hashes: dict[str, str] = {}
    with (
        tqdm(total=total, unit="B", unit_scale=True, desc="weights", disable=not progress) as bar,
        ThreadPoolExecutor(1) as hasher,
    ):
        writer = WeightsWriter(layout, dtype, source, bar, hasher)
        for number, names in enumerate(shards, start=1):
            only = len(shards) == 1
            file = "model.safetensors" if only else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            hashes[file] = writer.write(folder / file, weights, names)
            index |= {written_name(name, layout): file for name in names}
    if len(shards) > 1:
        (folder / INDEX).write_text(index_text(total, index), encoding="utf-8")
    return hashes


def written_name(name: str, layout: Layout | None) -> str:
    """Return the name of a tensor in the files."""
    return name if layout is None else hub_name(name, layout)


def index_text(total: int, index: dict[str, str]) -> str:
    """Return the index of several weights files: all bytes of numbers, and the file of each tensor."""
    return json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=2) + "\n"


def refuse_shared_memory(weights: Weights, source: Path) -> None:
    """Raise InputError if two tensors have bytes in common, which the converted files would not show."""
    if pair := sharing_memory(weights):
        raise InputError(f"{source}: {' and '.join(pair)} share memory; save the checkpoint with clones of both.")


def size_of(weight: Tensor, dtype: torch.dtype | None) -> int:
    """Return the bytes that a tensor takes when it is written with ``dtype``."""
    return weight.numel() * (dtype or weight.dtype).itemsize


def total_bytes(weights: Weights, dtype: torch.dtype | None) -> int:
    return sum(size_of(weight, dtype) for weight in weights.values())


def plan_shards(weights: Weights, dtype: torch.dtype | None, limit: int) -> list[list[str]]:
    """Split the names, in their order, into files of at most ``limit`` bytes."""
    shards: list[list[str]] = [[]]
    used = 0
    for name, weight in weights.items():
        size = size_of(weight, dtype)
        if shards[-1] and used + size > limit:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    return shards


def reserve(file: BinaryIO, size: int) -> None:
    """Reserve room on the disk for a file of ``size`` bytes, where that is possible: then writing takes less time."""
    with suppress(AttributeError, OSError):  # a system without it; a full disk is noticed when it is written to
        os.posix_fallocate(file.fileno(), 0, size)


class HashedFile:
    """A file being written, whose SHA-256 is taken of the same bytes by the one thread of ``hasher``."""

    def __init__(self, file: BinaryIO, hasher: ThreadPoolExecutor) -> None:
        self.file = file
        self.hasher = hasher
        self.digest = hashlib.sha256()
        self.waiting: deque[Future[None]] = deque()

    def write(self, data: bytes | memoryview) -> None:
        """Write ``data``, which must stay as it is afterwards."""
        self.waiting.append(self.hasher.submit(self.digest.update, data))
        self.file.write(data)
        while len(self.waiting) > PIECES_AHEAD:
            self.waiting.popleft().result()

    def sha256(self) -> str:
        """Return the SHA-256 of all that was written."""
        while self.waiting:
            self.waiting.popleft().result()
        return self.digest.hexdigest()


@dataclass(frozen=True)
class WeightsWriter:
    """Writes safetensors files of one model, tensor by tensor.

    Format: 8 bytes with the header's length, a JSON header with dtype, shape and offsets, then the numbers; see the
    README of huggingface/safetensors.
    """

    layout: Layout | None
    dtype: torch.dtype | None
    source: Path
    bar: "tqdm[NoReturn]"
    hasher: ThreadPoolExecutor

    def write(self, path: Path, weights: Weights, names: list[str]) -> str:
        """Write one file with the tensors of these names, and return its SHA-256."""
        header = self.header({name: weights[name] for name in names})
        with open(path, "wb") as opened:
            reserve(opened, 8 + len(header) + sum(size_of(weights[name], self.dtype) for name in names))
            file = HashedFile(opened, self.hasher)
            file.write(struct.pack("<Q", len(header)) + header)
            for name in names:
                for piece in read_pieces(weights, name):
                    data = self.prepare(name, piece)
                    file.write(data)
                    self.bar.update(data.nbytes)
            opened.truncate()  # never longer than what was written
            return file.sha256()

    def header(self, weights: Weights) -> bytes:
        """Return the JSON header."""
        entries: dict[str, dict[str, Any]] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for name, weight in weights.items():
            end = offset + size_of(weight, self.dtype)
            kind = SAFETENSORS_DTYPES[self.dtype or weight.dtype]
            entries[written_name(name, self.layout)] = {
                "dtype": kind,
                "shape": list(weight.shape),
                "data_offsets": [offset, end],
            }
            offset = end
        text = json.dumps(entries).encode()
        return text + b" " * (-len(text) % 8)  # the numbers start at a multiple of 8

    def prepare(self, name: str, piece: Tensor) -> memoryview:
        """Return the bytes of a piece, in the dtype that is wanted.

        Raises:
            InputError: a number is not finite, or too large for the dtype.
        """
        if not is_finite(piece):
            raise InputError(f"{self.source}: {name} has numbers that are not finite; get an intact checkpoint.")
        data = piece.to(self.dtype or piece.dtype)
        if data.dtype != piece.dtype and not is_finite(data):
            raise InputError(f"{self.source}: {name} has numbers too large for {data.dtype}; choose another --dtype.")
        return data.view(torch.uint8).numpy().data
