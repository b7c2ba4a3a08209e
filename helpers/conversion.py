"""Convert a ``.pth`` checkpoint into a complete Hugging Face model directory, one tensor at a time.

No tensor is transposed, merged or split: only names change. So memory does not grow with the model, every tensor of the
source is used exactly once, and the way back is the same table read in the other direction.
"""

import json
import math
import re
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import GenerationConfig, PreTrainedConfig, RwkvConfig

from . import fast_tokenizer
from .atomic import new_directory, refuse_existing
from .checkpoints import CheckpointInfo, describe, load_checkpoint
from .errors import InputError
from .hub_code.configuration_rwkv5 import Rwkv5Config
from .model_card import model_card
from .paths import HUB_CODE

# part of a name in the .pth file -> the same in Hugging Face's, as in the published RWKV/rwkv-*-world repositories
RENAMES = {
    "emb": "embeddings",
    "ln0": "pre_ln",
    "att": "attention",
    "ffn": "feed_forward",
    "time_mix_k": "time_mix_key",
    "time_mix_v": "time_mix_value",
    "time_mix_r": "time_mix_receptance",
    "time_mix_g": "time_mix_gate",
}
TOKENIZER_BYTES = 3 * 10**6  # both tokenizers and the code
OLD_NAMES = {new: old for old, new in RENAMES.items()}
SAFETENSORS_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
PIECE = 1 << 19  # numbers that are checked, cast and written at once: 1 MB of bf16 fits a processor's cache


def hub_name(name: str) -> str:
    """Return the Hugging Face name of a checkpoint's tensor: ``blocks.3.att.time_mix_k`` is
    ``rwkv.blocks.3.attention.time_mix_key``."""
    renamed = ".".join(RENAMES.get(part, part) for part in name.split("."))
    return renamed if name.startswith("head.") else f"rwkv.{renamed}"


def pth_name(name: str) -> str:
    """Return the checkpoint's name of a Hugging Face tensor: the inverse of :func:`hub_name`."""
    return ".".join(OLD_NAMES.get(part, part) for part in name.removeprefix("rwkv.").split("."))


def model_config(info: CheckpointInfo, dtype: torch.dtype, context_length: int = 4096) -> PreTrainedConfig:
    """Return the configuration of the converted model, with ``architectures`` and ``auto_map``."""
    sizes = {
        "vocab_size": info.vocab_size,
        "context_length": context_length,
        "hidden_size": info.hidden_size,
        "attention_hidden_size": info.attention_size,
        "num_hidden_layers": info.layers,
        "intermediate_size": info.ffn_size,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "dtype": dtype,
    }
    if info.version == "4":
        # rescale_every > 0 makes the native class divide weights in place, and save the divided ones
        config = RwkvConfig(**sizes, rescale_every=0, architectures=["RwkvForCausalLM"])
        code = "modeling_rwkv4.Rwkv4"
    else:
        config = Rwkv5Config(
            **sizes,
            version=info.version,
            head_size=info.head_size,
            bonus_name=info.bonus_name,
            decay_shape=list(info.decay_shape),
            bonus_shape=list(info.bonus_shape),
            has_time_state=info.has_time_state,
            architectures=["Rwkv5ForCausalLM"],
        )
        code = "modeling_rwkv5.Rwkv5"
    config.auto_map = {"AutoModel": f"{code}Model", "AutoModelForCausalLM": f"{code}ForCausalLM"}
    if info.version != "4":
        config.auto_map["AutoConfig"] = "configuration_rwkv5.Rwkv5Config"
    return config


def code_files(version: str) -> list[Path]:
    """Return the modeling code that travels with a model of this version."""
    names = ["modeling_rwkv4.py"] if version == "4" else ["configuration_rwkv5.py", "modeling_rwkv5.py"]
    return [HUB_CODE / name for name in [*names, "rwkv_common.py"]]


def convert(
    checkpoint: str | Path,
    out_dir: str | Path,
    dtype: torch.dtype | None = None,
    max_shard_size: str = "5GB",
    progress: bool = True,
) -> Path:
    """Convert ``checkpoint`` (.pth) into the new directory ``out_dir`` and return it.

    Args:
        dtype: of the written tensors; by default each keeps its own.
        max_shard_size: a weights file holds at most this much, unless a single tensor is larger.
        progress: show a bar, in bytes.

    Raises:
        InputError: the checkpoint is unusable (see :mod:`helpers.checkpoints`), has a number that is not finite or two
            tensors in the same memory, or ``out_dir`` is not empty. Nothing appears under ``out_dir`` then.
    """
    checkpoint, out_dir = Path(checkpoint), Path(out_dir)
    refuse_existing(out_dir)
    weights = load_checkpoint(checkpoint)
    info = describe(weights, str(checkpoint))
    limit = parse_size(max_shard_size)
    with new_directory(out_dir) as folder:
        write_model(folder, weights, info, checkpoint, dtype=dtype, shard_limit=limit, progress=progress)
    return out_dir


def write_model(
    folder: Path,
    weights: dict[str, Tensor],
    info: CheckpointInfo,
    source: Path,
    dtype: torch.dtype | None = None,
    shard_limit: int = 5 * 10**9,
    context_length: int = 4096,
    progress: bool = True,
) -> None:
    """Write everything that a model directory holds into ``folder``.

    Args:
        weights: tensors by their names in the checkpoint; each is read once, in order.
        source: the file or directory that they come from, for messages and for the model card.
        shard_limit: bytes.

    Raises:
        InputError: two tensors share memory, a number is not finite, or the disk has too little room.
    """
    refuse_shared_memory(weights, source)
    refuse_small_disk(folder, total_bytes(weights, dtype) + TOKENIZER_BYTES)
    shards = plan_shards(weights, dtype, shard_limit)
    with tqdm(total=total_bytes(weights, dtype), unit="B", unit_scale=True, disable=not progress) as bar:
        bar.set_description("weights")
        write_shards(weights, shards, folder, dtype, bar, source)
    model_config(info, dtype or info.main_dtype, context_length).save_pretrained(folder)
    GenerationConfig(bos_token_id=0, eos_token_id=0, pad_token_id=0).save_pretrained(folder)
    fast_tokenizer.save_tokenizers(folder)
    for file in code_files(info.version):
        shutil.copy(file, folder)
    (folder / "README.md").write_text(model_card(info, source.name), encoding="utf-8")


def refuse_shared_memory(weights: dict[str, Tensor], source: Path) -> None:
    """Raise InputError if two tensors are views of the same memory, which safetensors cannot express."""
    owners: dict[int, str] = {}
    for name, weight in weights.items():
        other = owners.setdefault(weight.untyped_storage().data_ptr(), name)
        if other != name:
            raise InputError(f"{source}: {other} and {name} share memory; save the checkpoint with clones of both.")


def refuse_small_disk(folder: Path, needed: int) -> None:
    """Raise InputError if it is certain before the start that ``needed`` bytes do not fit."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"The disk of {folder.parent} has {free / 1e9:.2f} GB free, and {needed / 1e9:.2f} GB are needed; "
            "make room, or write elsewhere."
        )


def parse_size(text: str) -> int:
    """Return the number of bytes of a size such as ``5GB``, ``200MB`` or ``1000``."""
    match = re.fullmatch(r"(\d+)\s*([KMGT]?)B?", text.strip(), re.IGNORECASE)
    if not match or int(match[1]) == 0:
        raise InputError(f"The shard size {text!r} is not a size; write for example 5GB or 200MB.")
    return int(match[1]) * {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}[match[2].upper()]


def size_of(weight: Tensor, dtype: torch.dtype | None) -> int:
    """Return the bytes that a tensor takes when it is written with ``dtype``."""
    return weight.numel() * (dtype or weight.dtype).itemsize


def total_bytes(weights: dict[str, Tensor], dtype: torch.dtype | None) -> int:
    return sum(size_of(weight, dtype) for weight in weights.values())


def plan_shards(weights: dict[str, Tensor], dtype: torch.dtype | None, limit: int) -> list[list[str]]:
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


def write_shards(
    weights: dict[str, Tensor],
    shards: list[list[str]],
    folder: Path,
    dtype: torch.dtype | None,
    bar: tqdm,
    source: Path,
) -> None:
    """Write the weights files, and their index if there is more than one."""
    index = {}
    for number, names in enumerate(shards, start=1):
        only = len(shards) == 1
        file = "model.safetensors" if only else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(folder / file, {name: weights[name] for name in names}, dtype, bar, source)
        index |= {hub_name(name): file for name in names}
    if len(shards) > 1:
        content = {"metadata": {"total_size": total_bytes(weights, dtype)}, "weight_map": index}
        (folder / "model.safetensors.index.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_safetensors(
    path: Path, weights: dict[str, Tensor], dtype: torch.dtype | None, bar: tqdm, source: Path
) -> None:
    """Write one safetensors file piece by piece (the library's own writer holds the whole file in memory).

    Format: 8 bytes with the header's length, a JSON header with dtype, shape and offsets, then the numbers; see the
    README of huggingface/safetensors.
    """
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, weight in weights.items():
        end = offset + size_of(weight, dtype)
        kind = SAFETENSORS_DTYPES[dtype or weight.dtype]
        header[hub_name(name)] = {"dtype": kind, "shape": list(weight.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the numbers start at a multiple of 8
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, weight in weights.items():
            for piece in pieces(weight):
                data = prepare(name, piece, dtype or weight.dtype, source)
                file.write(data)
                bar.update(data.nbytes)


def prepare(name: str, piece: Tensor, dtype: torch.dtype, source: Path) -> memoryview:
    """Return the bytes of a piece in ``dtype``.

    Raises:
        InputError: a number is not finite, or too large for ``dtype``.
    """
    if not is_finite(piece):
        raise InputError(f"{source}: {name} has numbers that are not finite; get an intact checkpoint.")
    data = piece.to(dtype)
    if data.dtype != piece.dtype and not is_finite(data):
        raise InputError(f"{source}: {name} has numbers too large for {dtype}; choose another --dtype.")
    return memoryview(data.view(torch.uint8).numpy())


def is_finite(piece: Tensor) -> bool:
    """Say whether no number is infinite or NaN; ``aminmax`` carries both along, at the speed of reading memory."""
    return all(map(math.isfinite, torch.stack(torch.aminmax(piece)).tolist()))


def pieces(weight: Tensor) -> Iterator[Tensor]:
    """Yield the numbers of a tensor in order, as flat tensors of at most ``PIECE`` numbers."""
    flat = weight.detach().contiguous().flatten()
    for start in range(0, len(flat), PIECE):
        yield flat[start : start + PIECE]
