# Copyright 2026 The RWKV World on Hugging Face authors
# SPDX-License-Identifier: Apache-2.0
"""Configuration of RWKV-5 models: 5.0, 5.1 and 5.2, which differ in three places.

=======  ================  =====================  ====================
version  decay             bonus                  gate
=======  ================  =====================  ====================
5.0      one a head        one a head             none
5.1      one a head        one a head             silu(gate), per channel
5.2      one a channel     one a channel          silu(gate), per channel
=======  ================  =====================  ====================
"""

from .rwkv_requirements import require_transformers

require_transformers()  # before the import that an older one would fail at

from transformers import PreTrainedConfig


class Rwkv5Config(PreTrainedConfig):
    """Sizes and version of an RWKV-5 model.

    Args:
        version: ``"5.0"``, ``"5.1"`` or ``"5.2"``.
        attention_hidden_size: width A of time-mix, heads x head size; ``hidden_size`` by default.
        intermediate_size: width of channel-mix; by default 4 D for 5.0 and ``int(3.5 D) // 32 * 32`` later.
        bonus_name: ``"time_first"`` if the checkpoint stores the logarithm of the bonus u, ``"time_faaaa"`` if u.
        decay_shape, bonus_shape: shapes of these tensors in the checkpoint, ``[H]``, ``[H, 1]`` or ``[H, N]``, kept so
            that a converted model can be written back unchanged.
        has_time_state: the checkpoint carries a trained initial state, ``time_state``.
        group_norm_epsilon: 64e-5 is BlinkDL's 1e-5 after division by 8, moved through the normalization.
    """

    model_type = "rwkv5"
    attribute_map = {"max_position_embeddings": "context_length", "num_attention_heads": "num_heads"}
    keys_to_ignore_at_inference = ["state"]

    version: str = "5.0"
    vocab_size: int = 65536
    context_length: int = 4096
    hidden_size: int = 768
    attention_hidden_size: int | None = None
    num_hidden_layers: int = 12
    head_size: int = 64
    intermediate_size: int | None = None
    bonus_name: str = "time_faaaa"
    decay_shape: list[int] | None = None
    bonus_shape: list[int] | None = None
    has_time_state: bool = False
    layer_norm_epsilon: float = 1e-5
    group_norm_epsilon: float = 64e-5
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 0
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = False
    use_cache: bool = True

    def __post_init__(self, **kwargs):
        if self.version not in ("5.0", "5.1", "5.2"):
            raise ValueError(f"version is {self.version!r}; Rwkv5Config knows '5.0', '5.1' and '5.2'")
        if self.attention_hidden_size is None:
            self.attention_hidden_size = self.hidden_size
        if self.attention_hidden_size % self.head_size:
            raise ValueError(f"attention_hidden_size {self.attention_hidden_size} is no multiple of {self.head_size=}")
        if self.intermediate_size is None:
            gated_width = int(3.5 * self.hidden_size) // 32 * 32
            self.intermediate_size = 4 * self.hidden_size if self.version == "5.0" else gated_width
        per_head = [self.num_heads, self.head_size] if self.version == "5.2" else [self.num_heads]
        self.decay_shape = list(self.decay_shape or per_head)
        self.bonus_shape = list(self.bonus_shape or per_head)
        super().__post_init__(**kwargs)

    @property
    def num_heads(self) -> int:
        assert self.attention_hidden_size is not None  # __post_init__ sets it first of all
        return self.attention_hidden_size // self.head_size


__all__ = ["Rwkv5Config"]
