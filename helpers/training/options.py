"""All that decides the result of a training run."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class WindowOptions:
    """How windows are made."""

    length: int = 256  # T
    rename: bool = True
    styles: bool = True
    seed: int = 1


@dataclass(frozen=True)
class TrainOptions:
    """All that decides the result of a run. The defaults are the recipe of the shipped RWKV-5.0 checkpoint."""

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
