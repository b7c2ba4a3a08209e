"""Write small random checkpoints in BlinkDL's format, of every supported version: for tests and demonstrations."""

import math
import re
from pathlib import Path
from typing import Any

import torch

from .format import checkpoint_info, expected_shapes


def write_random_checkpoint(
    path: str | Path,
    version: str = "5.0",
    layers: int = 2,
    hidden_size: int = 64,
    head_size: int = 32,
    vocab_size: int = 65536,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
    **details: Any,
) -> Path:
    """Write a checkpoint with random weights whose sizes keep activations near 1, and return its path.

    Args: as of :func:`helpers.checkpoints.format.checkpoint_info`.
    """
    info = checkpoint_info(version, layers, hidden_size, head_size, vocab_size, **details)
    generator = torch.Generator().manual_seed(seed)
    weights = {name: random_tensor(name, shape, generator) for name, shape in expected_shapes(info).items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: weight.to(dtype) for name, weight in weights.items()}, path)
    return path


def random_tensor(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Return fp32 values of a size that is usual for the tensor of that name."""
    noise = torch.randn(shape, generator=generator)
    if re.search(r"time_mix|time_maa_[a-z]$|\.x_[a-z]$", name):
        return torch.rand(shape, generator=generator)
    if re.search(r"time_(maa|decay)_w[12]$|\.[wavg][12]$", name):
        return noise / math.sqrt(shape[-2])
    if re.search(r"\.([wav]0|k_k|k_a|r_k)$", name):
        return 0.5 + 0.5 * noise
    if name.endswith("time_decay"):
        return -4 + 2.5 * noise
    if name.endswith(("time_first", "time_faaaa")):
        return -1 + 0.5 * noise
    if name.endswith("time_state"):
        return noise
    if ".ln" in name or name.startswith("ln_out"):
        return (1 if name.endswith("weight") else 0) + 0.1 * noise
    return noise * (0.5 if name == "emb.weight" else shape[-1] ** -0.5)
