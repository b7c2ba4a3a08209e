"""Say what is in a ``.pth`` checkpoint, and what about it is unlike the published World models."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .files import ZIP, Checkpoint, first_bytes, is_finite, load_checkpoint, read_pieces, sharing_memory
from .format import describe
from .intact import checked
from .versions import WORLD_IDS, WORLD_ROWS, CheckpointInfo

PILE_ROWS = 50277


@dataclass(frozen=True)
class Inspection:
    """What :func:`inspect` found: lines for people, and sentences on what is unusual."""

    rows: dict[str, str | int]
    odd: list[str]


def inspect(path: str | Path, quick: bool = False) -> Inspection:
    """Say what is in a checkpoint; unless ``quick``, look at every number, and compare the checksums of the file.

    Raises:
        InputError: the file is damaged, or was changed meanwhile; also see :func:`helpers.checkpoints.format.describe`.
    """
    weights = load_checkpoint(path)
    info = describe(weights, str(path))
    odd = oddities(weights, info, Path(path))
    if not quick:
        with checked(weights.file):
            odd += odd_numbers(weights)
    return Inspection(summary(info), odd)


def summary(info: CheckpointInfo) -> dict[str, str | int]:
    """Return what a checkpoint is, one line each."""
    return {
        "version": f"RWKV-{info.version}",
        "parameters": f"{info.parameters:,}",
        "layers": info.layers,
        "hidden size": info.hidden_size,
        "attention": f"{info.heads} x {info.head_size} (heads x channels)",
        "ffn size": info.ffn_size,
        "vocabulary": info.vocab_size,
        **info.row.summary(info),
        "tensors": ", ".join(f"{count} {dtype}" for dtype, count in info.dtypes.items()),
    }


def oddities(weights: dict[str, Tensor], info: CheckpointInfo, path: Path) -> list[str]:
    """Return sentences about what is unusual in the checkpoint at ``path``, from names, shapes and places alone."""
    found = list(odd_sizes(info)) + list(odd_storage(weights))
    if not first_bytes(path).startswith(ZIP):
        found.append(
            "The file has the format from before PyTorch 1.6, which must be read into memory as a whole and carries no "
            "checksums."
        )
    elif isinstance(weights, Checkpoint) and not weights.file.records:
        found.append("The file carries no checksums, so that damage to its numbers cannot be seen.")
    return found


def odd_sizes(info: CheckpointInfo) -> Iterator[str]:
    """Yield what is unusual about version and sizes."""
    if info.vocab_size == PILE_ROWS:
        yield "The vocabulary has 50,277 rows, as the Pile models do: the World tokenizer does not fit this model."
    elif info.vocab_size < WORLD_IDS:
        yield f"The vocabulary has {info.vocab_size:,} rows, not 65,536: World ids from there on have no row."
    elif info.vocab_size != WORLD_ROWS:
        yield f"The vocabulary has {info.vocab_size:,} rows, not 65,536; the largest World id is 65,529."
    if info.layers == 1:
        yield "It has one layer, which the rwkv package (RWKV-5) and transformers' own class (RWKV-4) cannot load."
    if info.row.has_heads and info.head_size != 64:
        yield f"A head has {info.head_size} channels, not 64."
    if info.attention_size != info.hidden_size:
        yield f"Time-mix is {info.attention_size} channels wide, the model {info.hidden_size}."
    if info.ffn_size != (usual := info.row.ffn_size(info.hidden_size)):
        yield f"Channel-mix is {info.ffn_size} channels wide; {usual} is usual for RWKV-{info.version} of this size."
    yield from info.row.oddities(info)
    if len(info.dtypes) > 1:
        yield f"It mixes dtypes: {', '.join(f'{count} {dtype}' for dtype, count in info.dtypes.items())}."
    if "float64" in info.dtypes:
        yield "It has numbers of 64 bits, twice what any published model has: convert with --dtype."


def odd_storage(weights: dict[str, Tensor]) -> Iterator[str]:
    """Yield what is unusual about how the numbers lie in the file."""
    storages = {w.untyped_storage().data_ptr(): w.untyped_storage().nbytes() for w in weights.values()}
    if pair := sharing_memory(weights):
        yield f"{' and '.join(pair)} share memory; convert refuses that: save the checkpoint with clones of both."
    unused = sum(storages.values()) - sum(weight.nbytes for weight in weights.values())
    if unused > 0:
        yield f"The file holds {unused:,} bytes that no tensor uses."
    if strided := [name for name, weight in weights.items() if not weight.is_contiguous()]:
        yield f"{len(strided)} tensors do not lie in order in the file, the first is {strided[0]}."


def odd_numbers(weights: dict[str, Tensor], progress: bool = True) -> Iterator[str]:
    """Read every number, and yield the tensors that have some that are not finite, or nothing but zeros."""
    total = sum(weight.nbytes for weight in weights.values())
    with tqdm(total=total, unit="B", unit_scale=True, desc="numbers", disable=not progress) as bar:
        for name, weight in weights.items():
            zeros = True
            for piece in read_pieces(weights, name):
                zeros = zeros and not torch.count_nonzero(piece)
                if not is_finite(piece):
                    yield f"{name} has numbers that are not finite; convert refuses that."
                    break
            if zeros and not name.endswith(".bias"):
                yield f"{name} is all zeros."
            bar.update(weight.nbytes)
