"""Read BlinkDL's ``.pth`` checkpoints: safely, without loading them into memory, and knowing what is in them."""

import hashlib
import lzma
import os
import pickle
import re
import shutil
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .errors import InputError
from .paths import BUILD, DATA, shown

ZIP = b"PK\x03\x04"  # how a file by torch.save begins
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9"  # the same before PyTorch 1.6
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
BUNDLED_SHA256 = {
    "rwkv5-world-mini": "022652c7b08da23e1bba4691a59a2b6ee8551eee3cab96df6ccd97c13aedb716",
    "rwkv4-world-mini": "b796af955d44ee5ce3872abb2bdead7c025f2d686dd541cf55cb724a025a574c",
}


def bundled_checkpoint(name: str = "rwkv5-world-mini") -> Path:
    """Return the path of a checkpoint that the project carries, unpacked from ``data/`` into ``build/`` when needed.

    Raises:
        InputError: no such checkpoint, or its contents do not have the recorded SHA-256.
    """
    if name not in BUNDLED_SHA256:
        raise InputError(f"There is no bundled checkpoint {name!r}; choose one of {', '.join(BUNDLED_SHA256)}.")
    path = BUILD / "checkpoints" / f"{name}.pth"
    if path.exists() and sha256(path) == BUNDLED_SHA256[name]:
        return path
    packed = DATA / f"{name}.pth.xz"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")  # two processes may unpack at once
    try:
        with lzma.open(packed) as source, open(partial, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        if sha256(partial) != BUNDLED_SHA256[name]:
            raise InputError(f"{shown(packed)} is not the file that was published; run git checkout -- data.")
        partial.replace(path)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise InputError(f"Cannot unpack {shown(packed)}: {error}; run git checkout -- data.") from None
    finally:
        partial.unlink(missing_ok=True)
    return path


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
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError, MemoryError):
        raise damaged from None
    check_named_tensors(weights, path)
    return weights


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


@dataclass(frozen=True)
class CheckpointInfo:
    """What the tensors of a checkpoint say about it. Sizes are numbers of channels, rows or blocks."""

    version: str  # "4", "5.0", "5.1" or "5.2"
    layers: int
    hidden_size: int  # D
    attention_size: int  # A
    heads: int  # H; 1 for RWKV-4, which has none
    ffn_size: int
    vocab_size: int
    decay_shape: tuple[int, ...]
    bonus_name: str  # time_first (a logarithm in RWKV-5) or time_faaaa
    bonus_shape: tuple[int, ...]
    has_time_state: bool
    dtypes: dict[str, int]  # number of tensors of each
    parameters: int

    @property
    def head_size(self) -> int:
        return self.attention_size // self.heads

    @property
    def main_dtype(self) -> torch.dtype:
        """The dtype of most tensors."""
        return getattr(torch, max(self.dtypes, key=self.dtypes.get))


def describe(weights: dict[str, Tensor], source: str = "the checkpoint") -> CheckpointInfo:
    """Infer version and sizes from tensors, never from a name, and check every tensor against them.

    Raises:
        InputError: not an RWKV checkpoint, an unsupported version, or a missing, unexpected or misshapen tensor.
    """
    refuse_other_models(weights, source)
    key = weights["blocks.0.att.key.weight"]
    gated = "blocks.0.att.gate.weight" in weights
    decay = weights["blocks.0.att.time_decay"]
    if "blocks.0.att.ln_x.weight" not in weights:
        version = "4"
    elif not gated:
        version = "5.0"
    else:
        version = "5.2" if decay.dim() > 1 and decay.shape[1] > 1 else "5.1"
    bonus_name = "time_faaaa" if "blocks.0.att.time_faaaa" in weights else "time_first"
    bonus = weights.get(f"blocks.0.att.{bonus_name}", decay)
    info = CheckpointInfo(
        version=version,
        layers=len({name.split(".")[1] for name in weights if re.match(r"blocks\.\d+\.", name)}),
        hidden_size=weights["emb.weight"].shape[1],
        attention_size=key.shape[0],
        heads=1 if version == "4" else decay.shape[0],
        ffn_size=weights["blocks.0.ffn.key.weight"].shape[0],
        vocab_size=weights["emb.weight"].shape[0],
        decay_shape=tuple(decay.shape),
        bonus_name=bonus_name,
        bonus_shape=tuple(bonus.shape),
        has_time_state="blocks.0.att.time_state" in weights,
        dtypes=dict(Counter(str(w.dtype).removeprefix("torch.") for w in weights.values())),
        parameters=sum(w.numel() for w in weights.values()),
    )
    check_shapes(weights, info, source)
    return info


def refuse_other_models(weights: dict[str, Tensor], source: str) -> None:
    """Raise InputError for files that are no RWKV-4 or RWKV-5 checkpoint, naming what they are if that is known."""
    names = " ".join(weights)
    if "emb.weight" in weights and "att.x_r" in names:
        raise InputError(f"{source} is an RWKV-7 checkpoint; this converter knows RWKV-4 and RWKV-5.")
    if "emb.weight" in weights and "time_maa" in names:
        raise InputError(f"{source} is an RWKV-6 checkpoint; this converter knows RWKV-4 and RWKV-5.")
    needed = ("emb.weight", "blocks.0.att.key.weight", "blocks.0.ffn.key.weight", "blocks.0.att.time_decay")
    missing = [name for name in needed if name not in weights]
    if "rwkv.embeddings.weight" in weights:
        raise InputError(f"{source} has the names of a converted model already; give its directory to refresh.")
    prefixed = next((name for name in weights if name.endswith(".emb.weight")), None)
    if missing and prefixed:
        prefix = prefixed.removesuffix("emb.weight")
        raise InputError(f"{source}: its names begin with {prefix!r}; save it again without that prefix.")
    if missing:
        raise InputError(
            f"{source} is not an RWKV checkpoint in BlinkDL's format: it has no {missing[0]}, "
            f"but for example {next(iter(weights))}; give the .pth file that BlinkDL or RWKV-LM wrote."
        )
    for name, dimensions in zip(needed, (2, 2, 2, 1), strict=True):
        if weights[name].dim() < dimensions:
            raise InputError(f"{source}: {name} has too few dimensions ({weights[name].dim()}); get the original file.")


def expected_shapes(info: CheckpointInfo) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor that a checkpoint of this kind has: the format, written down."""
    hidden, width, inner, vocab = info.hidden_size, info.attention_size, info.ffn_size, info.vocab_size
    block = {f"{norm}.{part}": (hidden,) for norm in ("ln1", "ln2") for part in ("weight", "bias")}
    inputs = {"k": "key", "v": "value", "r": "receptance"}
    if info.version in ("5.1", "5.2"):
        inputs["g"] = "gate"
    for letter, name in inputs.items():
        block[f"att.time_mix_{letter}"] = (1, 1, hidden)
        block[f"att.{name}.weight"] = (width, hidden)
    block["att.output.weight"] = (hidden, width)
    block["att.time_decay"] = info.decay_shape
    block[f"att.{info.bonus_name}"] = info.bonus_shape
    if info.version != "4":
        block |= {"att.ln_x.weight": (width,), "att.ln_x.bias": (width,)}
    if info.has_time_state:
        block["att.time_state"] = (info.heads, info.head_size, info.head_size)
    block |= {"ffn.time_mix_k": (1, 1, hidden), "ffn.time_mix_r": (1, 1, hidden)}
    block |= {"ffn.key.weight": (inner, hidden), "ffn.value.weight": (hidden, inner)}
    block["ffn.receptance.weight"] = (hidden, hidden)

    shapes = {"emb.weight": (vocab, hidden), "blocks.0.ln0.weight": (hidden,), "blocks.0.ln0.bias": (hidden,)}
    shapes |= {f"blocks.{i}.{name}": shape for i in range(info.layers) for name, shape in block.items()}
    return shapes | {"ln_out.weight": (hidden,), "ln_out.bias": (hidden,), "head.weight": (vocab, hidden)}


def check_shapes(weights: dict[str, Tensor], info: CheckpointInfo, source: str) -> None:
    """Raise InputError at the first tensor that is missing, unexpected, of a wrong shape, or not a float."""
    if info.attention_size % info.heads:
        raise InputError(f"{source}: {info.attention_size} channels cannot be split into {info.heads} heads.")
    per_head = {(info.heads,), (info.heads, 1), (info.heads, info.head_size)}
    allowed = {(info.attention_size,)} if info.version == "4" else per_head
    for name, shape in (("time_decay", info.decay_shape), (info.bonus_name, info.bonus_shape)):
        if shape not in allowed:
            raise InputError(f"{source}: blocks.0.att.{name} has shape {shape}, expected {min(allowed)}.")
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
        raise InputError(f"{source} has a tensor {unexpected[0]}, which RWKV-{info.version} does not know.")


def describe_checkpoint(path: str | Path) -> CheckpointInfo:
    """Return what is in a ``.pth`` file; see :func:`describe`."""
    return describe(load_checkpoint(path), str(path))
