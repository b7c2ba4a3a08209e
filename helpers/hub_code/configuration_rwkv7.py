# Copyright 2026 The RWKV World on Hugging Face authors
# SPDX-License-Identifier: Apache-2.0
"""Configuration of RWKV-7 models (Goose), with the field names that the published ``RWKV/RWKV7-*`` repositories use."""

from .rwkv_requirements import require_transformers

require_transformers()  # before the import that an older one would fail at

from transformers import PreTrainedConfig


class Rwkv7Config(PreTrainedConfig):
    """Sizes of an RWKV-7 model.

    Args:
        intermediate_size: width of channel-mix; 4 D by default.
        decay_low_rank_dim, a_low_rank_dim, v_low_rank_dim, gate_low_rank_dim: ranks of what the text sets: the decay,
            how much is erased, how much of the first block's value is taken, and the gate.
        has_first_value_mix: the checkpoint has ``v0``, ``v1`` and ``v2`` in block 0 as well, where nothing reads them.
        group_norm_epsilon: 64e-5 is BlinkDL's 1e-5 after division by 8, moved through the normalization.
    """

    model_type = "rwkv7"
    attribute_map = {
        "context_length": "max_position_embeddings",
        "num_attention_heads": "num_heads",
        "head_size": "head_dim",
        "layer_norm_epsilon": "norm_eps",
    }
    keys_to_ignore_at_inference = ["state"]

    vocab_size: int = 65536
    max_position_embeddings: int = 4096
    hidden_size: int = 768
    num_hidden_layers: int = 12
    head_dim: int = 64
    num_heads: int | None = None
    intermediate_size: int | None = None
    decay_low_rank_dim: int = 64
    a_low_rank_dim: int = 64
    v_low_rank_dim: int = 32
    gate_low_rank_dim: int = 128
    has_first_value_mix: bool = True
    norm_eps: float = 1e-5
    norm_bias: bool = True
    group_norm_epsilon: float = 64e-5
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 0
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = False
    use_cache: bool = True

    def __post_init__(self, **kwargs):
        if self.hidden_size % self.head_dim:
            raise ValueError(f"hidden_size {self.hidden_size} is no multiple of {self.head_dim=}")
        self.num_heads = self.num_heads or self.hidden_size // self.head_dim
        if self.num_heads * self.head_dim != self.hidden_size:
            raise ValueError(f"hidden_size {self.hidden_size} is not {self.num_heads=} x {self.head_dim=}")
        if not self.norm_bias:
            raise ValueError("norm_bias is False; Rwkv7Config knows layer norms with a bias only")
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        super().__post_init__(**kwargs)


__all__ = ["Rwkv7Config"]
