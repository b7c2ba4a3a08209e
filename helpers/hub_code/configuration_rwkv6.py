# Copyright 2026 The RWKV World on Hugging Face authors
# SPDX-License-Identifier: Apache-2.0
"""Configuration of RWKV-6 models (Finch)."""

from .rwkv_requirements import require_transformers

require_transformers()  # before the import that an older one would fail at

from transformers import PreTrainedConfig


class Rwkv6Config(PreTrainedConfig):
    """Sizes of an RWKV-6 model.

    Args:
        attention_hidden_size: width A of time-mix, heads x head size; ``hidden_size`` by default.
        intermediate_size: width of channel-mix; by default ``int(3.5 D) // 32 * 32``.
        mix_rank: rank of what the text adds to each mixing ratio; by default 32, or 64 from 4,096 channels on.
        decay_rank: rank of what the text adds to the decay; by default 64, or 128 from 4,096 channels on.
        has_time_state: the checkpoint carries a trained initial state, ``time_state``.
        group_norm_epsilon: 64e-5 is BlinkDL's 1e-5 after division by 8, moved through the normalization.
    """

    model_type = "rwkv6"
    attribute_map = {"max_position_embeddings": "context_length", "num_attention_heads": "num_heads"}
    keys_to_ignore_at_inference = ["state"]

    vocab_size: int = 65536
    context_length: int = 4096
    hidden_size: int = 2048
    attention_hidden_size: int | None = None
    num_hidden_layers: int = 24
    head_size: int = 64
    intermediate_size: int | None = None
    mix_rank: int | None = None
    decay_rank: int | None = None
    has_time_state: bool = False
    layer_norm_epsilon: float = 1e-5
    group_norm_epsilon: float = 64e-5
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 0
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = False
    use_cache: bool = True

    def __post_init__(self, **kwargs):
        if self.attention_hidden_size is None:
            self.attention_hidden_size = self.hidden_size
        if self.attention_hidden_size % self.head_size:
            raise ValueError(f"attention_hidden_size {self.attention_hidden_size} is no multiple of {self.head_size=}")
        if self.intermediate_size is None:
            self.intermediate_size = int(3.5 * self.hidden_size) // 32 * 32
        wide = self.hidden_size >= 4096
        self.mix_rank = self.mix_rank or (64 if wide else 32)
        self.decay_rank = self.decay_rank or (128 if wide else 64)
        super().__post_init__(**kwargs)

    @property
    def num_heads(self) -> int:
        assert self.attention_hidden_size is not None  # __post_init__ sets it first of all
        return self.attention_hidden_size // self.head_size


__all__ = ["Rwkv6Config"]
