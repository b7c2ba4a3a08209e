"""Write tensors as safetensors files, one piece after the other: checked, cast, and split into shards.

``safetensors.torch.save_file`` would do for a single file, in as little memory. But it sorts the tensors, so that the
order of the checkpoint is lost, and it neither checks nor casts; here all of that is one pass over the numbers. For the
same reason shards are planned here: ``huggingface_hub`` moves a tensor that is larger than the limit out of its place.
"""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..checkpoints.files import is_finite, read_pieces, sharing_memory
from ..checkpoints.names import hub_name
from ..checkpoints.versions import Layout
from ..errors import InputError

SAFETENSORS_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
INDEX = "model.safetensors.index.json"
Weights = dict[str, Tensor]


def write_weights(
    folder: Path,
    weights: Weights,
    layout: Layout,
    dtype: torch.dtype | None,
    limit: int,
    source: Path,
    progress: bool = True,
    written: Callable[[Path], object] = lambda path: None,
) -> None:
    """Write the weights files of a model directory, and their index if there is more than one.

    Args:
        weights: tensors by their names in the checkpoint; each is read once, in order.
        layout: of the names in the files.
        dtype: of the written tensors; None keeps each its own.
        limit: bytes in a file, unless a single tensor is larger.
        source: where the tensors come from, for messages.
        progress: show a bar, in bytes.
        written: is called with each file of numbers when it is complete.

    Raises:
        InputError: two tensors share memory, or a number is not finite, or too large for ``dtype``.
    """
    refuse_shared_memory(weights, source)
    shards = plan_shards(weights, dtype, limit)
    total = total_bytes(weights, dtype)
    index: dict[str, str] = {}
    with tqdm(total=total, unit="B", unit_scale=True, desc="weights", disable=not progress) as bar:
        writer = WeightsWriter(layout, dtype, source, bar)
        for number, names in enumerate(shards, start=1):
            only = len(shards) == 1
            file = "model.safetensors" if only else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            writer.write(folder / file, weights, names)
            written(folder / file)
            index |= {hub_name(name, layout): file for name in names}
    if len(shards) > 1:
        (folder / INDEX).write_text(index_text(total, index), encoding="utf-8")


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


@dataclass(frozen=True)
class WeightsWriter:
    """Writes safetensors files of one model, tensor by tensor.

    Format: 8 bytes with the header's length, a JSON header with dtype, shape and offsets, then the numbers; see the
    README of huggingface/safetensors.
    """

    layout: Layout
    dtype: torch.dtype | None
    source: Path
    bar: "tqdm[NoReturn]"

    def write(self, path: Path, weights: Weights, names: list[str]) -> None:
        """Write one file with the tensors of these names."""
        header = self.header({name: weights[name] for name in names})
        with open(path, "wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            for name in names:
                for piece in read_pieces(weights, name):
                    data = self.prepare(name, piece)
                    file.write(data)
                    self.bar.update(data.nbytes)

    def header(self, weights: Weights) -> bytes:
        """Return the JSON header."""
        entries: dict[str, dict[str, Any]] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for name, weight in weights.items():
            end = offset + size_of(weight, self.dtype)
            kind = SAFETENSORS_DTYPES[self.dtype or weight.dtype]
            entries[hub_name(name, self.layout)] = {
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
