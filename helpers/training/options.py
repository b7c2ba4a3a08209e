"""All that decides the result of a training run, and what a run was made from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import helpers

from ..checkpoints.versions import VERSIONS
from ..errors import InputError

MAX_SEED = 2**63 - 1
# what training/wkv_triton.py can do: tokens of a chunk, channels of a head, and channels in one program without heads
KERNEL_TOKENS, KERNEL_HEADS, KERNEL_CHANNELS = 16, (16, 32, 64), 32


def check_ranges(options: Any, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Raise InputError at the first field whose value is no number, or outside its range, both ends included."""
    for name, (low, high) in ranges.items():
        value = getattr(options, name)
        whole = isinstance(low, int)
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not low <= value <= high:
            allowed = f"a whole number from {low} to {high:,}" if whole else f"a number from {low:g} to {high:g}"
            raise InputError(f"{options.what}{name} is {value}; give {allowed}.")


@dataclass(frozen=True)
class WindowOptions:
    """How windows are made.

    Raises:
        InputError: a value is out of its range.
    """

    what = "The window's "

    length: int = 256  # T
    rename: bool = True
    styles: bool = True
    seed: int = 1

    def __post_init__(self) -> None:
        check_ranges(self, {"length": (2, 65536), "seed": (0, MAX_SEED)})


@dataclass(frozen=True)
class TrainOptions:
    """All that decides the result of a run. The defaults are the recipe of the shipped RWKV-5.0 checkpoint.

    Raises:
        InputError: a value is out of its range, there is no such version, or time-mix cannot be split into heads.
    """

    what = ""

    version: str = "5.0"  # a key of helpers.checkpoints.versions.VERSIONS
    layers: int = 14
    hidden: int = 128  # D
    attention: int = 128  # A
    ffn: int = 512
    windows: WindowOptions = field(default_factory=WindowOptions)
    batch: int = 256  # windows a step
    steps: int = 0  # how long to train: either so many steps,
    minutes: float = 0.0  # or so many minutes of training
    learning_rate: float = 3e-3
    warmup: int = 150  # steps
    cooldown: float = 0.4  # the last part of training, in which the learning rate falls to 2 %
    repeated_weight: float = 3.0  # in the loss, of content words that the window has seen before
    inserted_weight: float = 0.1  # of words that were put in, where they first occur
    tied: bool = True
    unigram_bias: bool = True
    head_rows: int = 16384
    table_bits: int = 5  # of the mantissa, kept in emb and head of the exported file; bf16 has 7
    seed: int = 1

    def __post_init__(self) -> None:
        if self.version not in VERSIONS:
            raise InputError(f"There is no version {self.version!r}; choose one of {', '.join(VERSIONS)}.")
        sizes = dict.fromkeys(("hidden", "attention", "ffn"), (4, 65536))
        counts = {"layers": (1, 1000), "batch": (1, 2**20), "head_rows": (1, 2**20), "table_bits": (0, 7)}
        length = {"steps": (0, 10**9), "minutes": (0.0, 1e6), "warmup": (1, 10**9), "cooldown": (1e-6, 1.0)}
        weights = {"learning_rate": (1e-9, 1.0), "repeated_weight": (0.0, 1e3), "inserted_weight": (0.0, 1e3)}
        check_ranges(self, {**sizes, **counts, **length, **weights, "seed": (0, MAX_SEED)})
        if VERSIONS[self.version].has_heads and self.attention % head_size(self.attention):
            raise InputError(
                f"attention is {self.attention}, which cannot be split into heads; give an even number below 128, "
                "or a multiple of 64."
            )

    def check_kernel(self) -> None:
        """Raise InputError if the kernel with which this version is trained on a GPU does not fit the sizes."""
        row, length = VERSIONS[self.version], self.windows.length
        if row.kernel is None:
            return
        if row.has_heads and length % KERNEL_TOKENS:
            raise InputError(f"The window's length is {length}; on a GPU give a multiple of {KERNEL_TOKENS}.")
        if row.has_heads and head_size(self.attention) not in KERNEL_HEADS:
            raise InputError(f"attention is {self.attention}; on a GPU give 32, 64, or a multiple of 64.")
        if self.attention % KERNEL_CHANNELS:
            raise InputError(f"attention is {self.attention}; on a GPU give a multiple of {KERNEL_CHANNELS}.")


def head_size(attention: int) -> int:
    """Return the number of channels of a head, for a width of time-mix: 64, or half of the width in tiny models."""
    return min(64, attention // 2)


def origin(options: TrainOptions, corpus: str, device: str) -> dict[str, Any]:
    """Return what a run is made from, as it is saved with it: a run goes on, or is finished, only if this is the same.

    Args:
        corpus: SHA-256 of its documents.
        device: its type, such as ``cpu``: another one rounds otherwise, and has random numbers of its own.
    """
    return {"package": helpers.__version__, "corpus": corpus, "device_type": device, "options": asdict(options)}


def difference(theirs: Any, ours: Mapping[str, Any]) -> str | None:
    """Say in a few words what a saved run has otherwise than this one, None if there is nothing."""
    for name, value in ours.items():
        other = theirs.get(name, "unknown") if isinstance(theirs, Mapping) else "unknown"
        if isinstance(value, Mapping):
            if found := difference(other, value):
                return found if name == "options" else f"{name}.{found}"
        elif other != value:
            shown = [text[:12] if len(text) == 64 else text for text in map(str, (other, value))]  # of a SHA-256
            return f"{name} {shown[0]}, not {shown[1]}"
    return None
