"""Say what is in a ``.pth`` checkpoint, and what about it is unlike the published World models."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .checkpoints import ZIP, CheckpointInfo, describe, first_bytes, load_checkpoint
from .conversion import is_finite, pieces

WORLD_ROWS, PILE_ROWS = 65536, 50277


def oddities(path: str | Path) -> list[str]:
    """Return sentences about what is unusual in a checkpoint, from names and shapes alone."""
    weights = load_checkpoint(path)
    info = describe(weights, str(path))
    found = list(odd_sizes(info)) + list(odd_storage(weights))
    if not first_bytes(Path(path)).startswith(ZIP):
        found.append("The file has the format from before PyTorch 1.6, which must be read into memory as a whole.")
    return found


def odd_sizes(info: CheckpointInfo) -> Iterator[str]:
    """Yield what is unusual about version and sizes."""
    if info.vocab_size == PILE_ROWS:
        yield "The vocabulary has 50,277 rows, as the Pile models do: the World tokenizer does not fit this model."
    elif info.vocab_size != WORLD_ROWS:
        yield f"The vocabulary has {info.vocab_size:,} rows, not 65,536: World ids from there on have no row."
    if info.layers == 1:
        yield "It has one layer, which the rwkv package (RWKV-5) and transformers' own class (RWKV-4) cannot load."
    if info.version != "4" and info.head_size != 64:
        yield f"A head has {info.head_size} channels, not 64."
    if info.attention_size != info.hidden_size:
        yield f"Time-mix is {info.attention_size} channels wide, the model {info.hidden_size}."
    if info.ffn_size != (usual := usual_ffn_size(info)):
        yield f"Channel-mix is {info.ffn_size} channels wide; {usual} is usual for RWKV-{info.version} of this size."
    if info.version == "5.0" and info.bonus_name == "time_faaaa":
        yield "The bonus is stored as it is (time_faaaa); RWKV-5.0 World stores its logarithm (time_first)."
    if info.version in ("5.1", "5.2") and info.bonus_name == "time_first":
        yield f"The bonus is stored as a logarithm (time_first); RWKV-{info.version} stores it as it is (time_faaaa)."
    if info.version in ("5.0", "5.1") and len(info.decay_shape) == 2:
        yield f"The decay has shape {list(info.decay_shape)}, not [{info.heads}]; the numbers are the same."
    if info.has_time_state:
        yield "It has a trained initial state (time_state, from state tuning); the converted model starts there too."
    if len(info.dtypes) > 1:
        yield f"It mixes dtypes: {', '.join(f'{count} {dtype}' for dtype, count in info.dtypes.items())}."
    if "float64" in info.dtypes:
        yield "It has numbers of 64 bits, which nobody needs: convert with --dtype."


def usual_ffn_size(info: CheckpointInfo) -> int:
    """Return the width of channel-mix in BlinkDL's training code."""
    return 4 * info.hidden_size if info.version in ("4", "5.0") else int(3.5 * info.hidden_size) // 32 * 32


def odd_storage(weights: dict[str, Tensor]) -> Iterator[str]:
    """Yield what is unusual about how the numbers lie in the file."""
    storages = {w.untyped_storage().data_ptr(): w.untyped_storage().nbytes() for w in weights.values()}
    if len(storages) < len(weights):
        yield "Some tensors share memory; convert refuses that: save the checkpoint with clones of them."
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
            for piece in pieces(weight):
                zeros = zeros and not torch.count_nonzero(piece)
                if not is_finite(piece):
                    yield f"{name} has numbers that are not finite; convert refuses that."
                    break
            if zeros and not name.endswith(".bias"):
                yield f"{name} is all zeros."
            bar.update(weight.nbytes)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT.pth")
    parser.add_argument("--quick", action="store_true", help="look at names and shapes only, not at every number")


def main(args: argparse.Namespace) -> int:
    weights = load_checkpoint(args.checkpoint)
    info = describe(weights, str(args.checkpoint))
    rows = {
        "version": f"RWKV-{info.version}",
        "parameters": f"{info.parameters:,}",
        "layers": info.layers,
        "hidden size": info.hidden_size,
        "attention": f"{info.heads} x {info.head_size} (heads x channels)",
        "ffn size": info.ffn_size,
        "vocabulary": info.vocab_size,
        "decay": f"time_decay {list(info.decay_shape)}",
        "bonus": f"{info.bonus_name} {list(info.bonus_shape)}",
        "initial state": "trained (time_state)" if info.has_time_state else "zeros",
        "tensors": ", ".join(f"{count} {dtype}" for dtype, count in info.dtypes.items()),
    }
    for name, value in rows.items():
        print(f"{name:<14} {value}")
    odd = oddities(args.checkpoint) + ([] if args.quick else list(odd_numbers(weights)))
    for sentence in odd:
        print(f"{'odd':<14} {sentence}")
    if not odd:
        print(f"{'odd':<14} nothing")
    return 0
