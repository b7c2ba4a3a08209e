"""Write small random checkpoints in BlinkDL's format, of every supported version: for tests and demonstrations."""

from pathlib import Path

import torch

from .checkpoints import CheckpointInfo, expected_shapes


def write_random_checkpoint(
    path: str | Path,
    version: str = "5.0",
    layers: int = 2,
    hidden_size: int = 64,
    head_size: int = 32,
    vocab_size: int = 65536,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
    **details,
) -> Path:
    """Write a checkpoint with random weights whose sizes keep activations near 1, and return its path.

    Args: as of :func:`checkpoint_info`.
    """
    info = checkpoint_info(version, layers, hidden_size, head_size, vocab_size, **details)
    generator = torch.Generator().manual_seed(seed)
    weights = {name: random_tensor(name, shape, generator) for name, shape in expected_shapes(info).items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: weight.to(dtype) for name, weight in weights.items()}, path)
    return path


def checkpoint_info(
    version: str,
    layers: int,
    hidden_size: int,
    head_size: int = 64,
    vocab_size: int = 65536,
    bonus_name: str | None = None,
    decay_shape: tuple[int, ...] | None = None,
    ffn_size: int | None = None,
    attention_size: int | None = None,
    time_state: bool = False,
) -> CheckpointInfo:
    """Describe a checkpoint of these sizes, without its tensors.

    Args:
        version: ``"4"``, ``"5.0"``, ``"5.1"`` or ``"5.2"``.
        bonus_name: ``"time_first"`` or ``"time_faaaa"``; by default what BlinkDL's files of that version use.
        decay_shape: ``(H,)``, ``(H, 1)`` or, for 5.2, ``(H, N)``.
        ffn_size, attention_size: by default as in BlinkDL's training code.
        time_state: with a trained initial state.
    """
    width = attention_size or hidden_size
    heads = 1 if version == "4" else width // head_size
    per_head = {"4": (width,), "5.2": (heads, head_size)}.get(version, (heads,))
    gated_width = int(3.5 * hidden_size) // 32 * 32
    return CheckpointInfo(
        version=version,
        layers=layers,
        hidden_size=hidden_size,
        attention_size=width,
        heads=heads,
        ffn_size=ffn_size or (4 * hidden_size if version in ("4", "5.0") else gated_width),
        vocab_size=vocab_size,
        decay_shape=decay_shape or per_head,
        bonus_name=bonus_name or ("time_first" if version in ("4", "5.0") else "time_faaaa"),
        bonus_shape=per_head,
        has_time_state=time_state,
        dtypes={},
        parameters=0,
    )


def random_tensor(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Return fp32 values of a size that is usual for the tensor of that name."""
    noise = torch.randn(shape, generator=generator)
    if "time_mix" in name:
        return torch.rand(shape, generator=generator)
    if name.endswith("time_decay"):
        return -4 + 2.5 * noise
    if name.endswith(("time_first", "time_faaaa")):
        return -1 + 0.5 * noise
    if name.endswith("time_state"):
        return noise
    if ".ln" in name or name.startswith("ln_out"):
        return (1 if name.endswith("weight") else 0) + 0.1 * noise
    return noise * (0.5 if name == "emb.weight" else shape[-1] ** -0.5)
