"""BlinkDL's checkpoint format: infer version and sizes from tensors, and check every tensor against them."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, printable
from .files import load_checkpoint
from .versions import SUPPORTED, UNSUPPORTED, VERSIONS, CheckpointInfo, Shape

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
# what LoRA (with PiSSA and DoRA), Bone and DiSHA train beside a model's own tensors: PEFT and JL-er/RWKV-PEFT
ADAPTER = re.compile(r"\.(init_)?lora_|\.bone$|\.disha$")


def describe_checkpoint(path: str | Path) -> CheckpointInfo:
    """Return what is in a ``.pth`` file; see :func:`describe`."""
    return describe(load_checkpoint(path), str(path))


def describe(weights: dict[str, Tensor], source: str = "the checkpoint") -> CheckpointInfo:
    """Infer version and sizes from tensors, never from a name, and check every tensor against them.

    Raises:
        InputError: not an RWKV checkpoint, an unsupported version, or a missing, unexpected or misshapen tensor.
    """
    refuse_other_models(weights, source)
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    row = next((row for row in VERSIONS.values() if row.recognize(shapes)), None)
    if row is None:
        raise InputError(f"{source} is of a version of RWKV that is not known here; this converter knows {SUPPORTED}.")
    attention_size, heads = shapes["blocks.0.att.key.weight"][0], row.count_heads(shapes)
    if attention_size % heads:
        raise InputError(f"{source}: {attention_size} channels cannot be split into {heads} heads.")
    info = CheckpointInfo(
        version=row.name,
        layers=len({name.split(".")[1] for name in weights if re.match(r"blocks\.\d+\.", name)}),
        hidden_size=shapes["emb.weight"][1],
        attention_size=attention_size,
        heads=heads,
        ffn_size=shapes["blocks.0.ffn.key.weight"][0],
        vocab_size=shapes["emb.weight"][0],
        details=row.read_details(shapes, heads, attention_size // heads),
        dtypes=dict(Counter(str(weight.dtype).removeprefix("torch.") for weight in weights.values())),
        parameters=sum(weight.numel() for weight in weights.values()),
    )
    check_shapes(weights, info, source)
    return info


def refuse_other_models(weights: dict[str, Tensor], source: str) -> None:
    """Raise InputError for files that are no checkpoint of a supported version, naming what they are if it is known."""
    if not weights:
        raise InputError(f"{source} has no tensors; give the .pth file that BlinkDL or RWKV-LM wrote.")
    if adapter := next(filter(ADAPTER.search, weights), None):
        raise InputError(
            f"{source} has tensors of an adapter, such as {printable(adapter)}; merge them into their model first."
        )
    if all(name.endswith(".time_state") for name in weights):
        raise InputError(
            f"{source} has only initial states, from state tuning (time_state); put them into one file with their "
            "model's tensors, with torch.save({**torch.load(MODEL), **torch.load(STATES)}, NEW_FILE)."
        )
    names = " ".join(weights)
    for version, sign in UNSUPPORTED.items():
        if "emb.weight" in weights and sign in names:
            raise InputError(f"{source} is an {version} checkpoint; this converter knows {SUPPORTED}.")
    decay = next((name for name in ("blocks.0.att.w0", "blocks.0.att.time_decay") if name in weights), None)
    needed = ("emb.weight", "blocks.0.att.key.weight", "blocks.0.ffn.key.weight", decay or "blocks.0.att.time_decay")
    missing = [name for name in needed if name not in weights]
    if "rwkv.embeddings.weight" in weights or "rwkv7.emb.weight" in weights:
        raise InputError(f"{source} has the names of a converted model already; give its directory to refresh.")
    prefixed = next((name for name in weights if name.endswith(".emb.weight")), None)
    if missing and prefixed:
        prefix = prefixed.removesuffix("emb.weight")
        raise InputError(
            f"{source}: its names begin with {printable(repr(prefix))}; save it again without that prefix."
        )
    if missing and len(missing) < len(needed):
        raise InputError(f"{source} has no tensor {missing[0]}, which every RWKV model has; get the original file.")
    if missing:
        raise InputError(
            f"{source} is not an RWKV checkpoint in BlinkDL's format: it has no {missing[0]}, "
            f"but for example {printable(next(iter(weights)))}; give the .pth file that BlinkDL or RWKV-LM wrote."
        )
    for name, dimensions in zip(needed, (2, 2, 2, 1), strict=True):
        if weights[name].dim() < dimensions:
            raise InputError(f"{source}: {name} has too few dimensions ({weights[name].dim()}); get the original file.")


def expected_shapes(info: CheckpointInfo) -> dict[str, Shape]:
    """Return name and shape of every tensor that a checkpoint of this kind has: the format, written down."""
    hidden, vocab = info.hidden_size, info.vocab_size
    shapes: dict[str, Shape] = {"emb.weight": (vocab, hidden)}
    shapes |= {"blocks.0.ln0.weight": (hidden,), "blocks.0.ln0.bias": (hidden,)}
    for layer in range(info.layers):
        shapes |= {f"blocks.{layer}.{name}": shape for name, shape in info.row.block(info, layer).items()}
    return shapes | {"ln_out.weight": (hidden,), "ln_out.bias": (hidden,), "head.weight": (vocab, hidden)}


def check_shapes(weights: dict[str, Tensor], info: CheckpointInfo, source: str) -> None:
    """Raise InputError at the first tensor that is missing, unexpected, of a wrong shape, or not a float."""
    expected = expected_shapes(info)
    for name, shape in expected.items():
        if name not in weights:
            raise InputError(f"{source} has no tensor {name}; an RWKV-{info.version} checkpoint needs it.")
        if tuple(weights[name].shape) != shape:
            raise InputError(f"{source}: {name} has shape {tuple(weights[name].shape)}, expected {shape}.")
        if weights[name].dtype not in DTYPES:
            raise InputError(
                f"{source}: {name} is {weights[name].dtype}, expected floating-point numbers of 16, 32 or 64 bits."
            )
    unexpected = [name for name in weights if name not in expected]
    if unexpected:
        raise InputError(f"{source} has a tensor {printable(unexpected[0])}, which RWKV-{info.version} does not know.")


def checkpoint_info(
    version: str,
    layers: int,
    hidden_size: int,
    head_size: int = 64,
    vocab_size: int = 65536,
    ffn_size: int | None = None,
    attention_size: int | None = None,
    **details: Any,
) -> CheckpointInfo:
    """Describe a checkpoint of these sizes, without its tensors.

    Args:
        version: a key of :data:`helpers.checkpoints.versions.VERSIONS`.
        ffn_size, attention_size: by default as in BlinkDL's training code.
        details: what is unlike BlinkDL's files of that version: see the row's ``usual_details``.

    Raises:
        TypeError: the version has no such detail.
    """
    row = VERSIONS[version]
    width = attention_size or hidden_size
    heads = width // head_size if row.has_heads else 1
    usual = row.usual_details(heads, width // heads)
    if unknown := details.keys() - usual.keys():
        raise TypeError(f"RWKV-{version} has no detail {min(unknown)!r}; it has {', '.join(usual)}")
    return CheckpointInfo(
        version=version,
        layers=layers,
        hidden_size=hidden_size,
        attention_size=width,
        heads=heads,
        ffn_size=ffn_size or row.ffn_size(hidden_size),
        vocab_size=vocab_size,
        details=usual | details,
        dtypes={},
        parameters=0,
    )
