# Copyright 2026 The RWKV World on Hugging Face authors
# SPDX-License-Identifier: Apache-2.0
"""RWKV-5: time-mix with a matrix-valued state. One file for 5.0, 5.1 and 5.2.

For one head, with row vectors r_t, k_t, v_t of N channels and a state S of N x N numbers (Eagle in arXiv 2404.05892)::

    y_t = r_t (diag(u) k_t^T v_t + S_{t-1})        read: the state, and the current token with its bonus u
    S_t = diag(w) S_{t-1} + k_t^T v_t              write: forget by the decay w, then add the current token

with ``w = exp(-exp(time_decay))``. In 5.0 and 5.1, w and u are one number per head; in 5.2, one per channel. Each step
is linear in S, which makes the chunked form below possible. As w never depends on the text, all texts share one mask.
"""

from .configuration_rwkv5 import Rwkv5Config  # first: it says which transformers is needed

# isort: split
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .rwkv_common import (
    Fp32GroupNorm,
    RwkvForCausalLM,
    RwkvMatrixTimeMix,
    RwkvModel,
    at_least_fp32,
    last_token,
    mix,
    scaled,
    split_chunks,
    token_shift,
    without_autocast,
)
from .rwkv_linear import RwkvLinear
from .rwkv_requirements import TritonKernel

CHUNKS_AT_ONCE = 64  # whose states are one matrix product, of a size that grows with the square of this number


def wkv5_recurrent(
    r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor, state: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The definition: one token after the other, exactly the two equations above. Slow; tests compare with it.

    Args:
        r, k, v: (B, H, T, N), fp32 or fp64.
        log_w, u: (H, 1) or (H, N), the logarithm of the decay (not positive) and the bonus.
        state: (B, H, N, N), rows belong to k and columns to v.
        lengths: (B,) real tokens in each row, the rest is padding behind them; all by default.

    Returns:
        y (B, H, T, N) and the state after the last real token.
    """
    w, u = torch.exp(log_w)[..., None], u[..., None]
    outputs = []
    for t in range(r.shape[2]):
        kv = k[:, :, t, :, None] * v[:, :, t, None, :]
        outputs.append((r[:, :, t, None, :] @ torch.addcmul(state, u, kv))[:, :, 0])
        new_state = torch.addcmul(kv, w, state)
        state = new_state if lengths is None else torch.where((t < lengths).view(-1, 1, 1, 1), new_state, state)
    return torch.stack(outputs, dim=2), state


def wkv5_mask(log_w: Tensor, u: Tensor, size: int) -> Tensor:
    """Return with what factor token i reads token j, (H, C, C, 1 or N): u on the diagonal, w^(i-j-1) below, 0 above.

    Only exponents of differences occur, which are never positive, so nothing overflows, however strong the decay.
    """
    step = torch.arange(size, device=log_w.device)
    gap = (step[:, None] - step[None, :] - 1)[None, :, :, None]
    below = torch.exp(log_w[:, None, None, :] * gap.clamp(min=0)) * (gap >= 0)
    return below + u[:, None, None, :] * (gap == -1)


def wkv5_scores(r: Tensor, k: Tensor, log_w: Tensor, u: Tensor) -> Tensor:
    """Return how much of v_j reaches y_i inside each chunk, (B, H, n, C, C): r_i k_j mask_ij, summed over channels.

    With one decay a head, the mask M leaves the sum: the scores are (r k^T) * M. With one a channel, the scores across
    the middle of a block are computed for blocks of 2, 4, ... C tokens. There, token p of the second half reads token q
    of the first with w^p w^(half-1-q). No exponent is negative, so one factor goes into r, one into k, and a matrix
    product is left.

    Args:
        r, k: (B, H, n, C, N): n chunks of C tokens, C a power of two.
        log_w, u: (H, 1) or (H, N).
    """
    size = r.shape[3]
    if log_w.shape[1] == u.shape[1] == 1:
        return (r @ k.mT) * wkv5_mask(log_w, u, size)[:, None, :, :, 0]
    scores = torch.diag_embed((r * u[:, None, None] * k).sum(-1))
    power = torch.exp(log_w[:, None, None] * torch.arange(max(size // 2, 1), device=r.device)[:, None])  # w^p
    reversed_power = power.flip(2)
    half = 1
    while half < size:
        second = r.unflatten(3, (-1, 2, half))[..., 1, :, :]  # (B, H, n, blocks, half, N)
        first = k.unflatten(3, (-1, 2, half))[..., 0, :, :]
        across = (second * power[:, :, None, :half]) @ (first * reversed_power[:, :, None, -half:]).mT
        blocks = scores.unflatten(4, (-1, 2, half)).unflatten(3, (-1, 2, half))[:, :, :, :, 1, :, :, 0]
        blocks.diagonal(dim1=3, dim2=5).copy_(across.movedim(3, -1))  # rows and columns of the same block
        half *= 2
    return scores


def tokens_in_chunks(tokens: int, size: int, lengths: Tensor | None, device: torch.device) -> Tensor:
    """Return how many real tokens each chunk of each row has, (B, n); (1, n) if all rows have all ``tokens``."""
    starts = torch.arange(0, tokens, size, device=device)
    end = torch.full_like(starts, tokens)[None] if lengths is None else lengths[:, None]
    return (end - starts).clamp(0, size)


def wkv5_states(added: Tensor, count: Tensor, log_w: Tensor, state: Tensor) -> Tensor:
    """Return S before each chunk and after the last one, (B, H, n + 1, N, N), as one matrix product.

    What chunk m added has decayed by all tokens read since when chunk n begins, and so has the initial state::

        S_n = sum_{m<n} w^(c_n - c_{m+1}) A_m + w^(c_n) S_0        with c_n the tokens before chunk n

    Args:
        added: (B, H, n, N, N), what each chunk adds, A.
        count: (B or 1, n), tokens of each chunk. log_w: (H, 1) or (H, N).
        state: (B, H, N, N), the initial state, S_0.
    """
    read = F.pad(count.cumsum(1), (1, 0))  # c, (B or 1, n + 1)
    gap = (read[:, :, None] - read[:, None, :]).clamp(min=0)[:, None, None]  # no exponent is negative
    factor = torch.exp(log_w[..., None, None] * gap).tril()  # (B or 1, H, 1 or N, n + 1, n + 1)
    parts = torch.cat([state[:, :, None], added], dim=2)
    if factor.shape[2] == 1:
        return (factor[:, :, 0] @ parts.flatten(3)).view_as(parts)
    return (factor @ parts.transpose(2, 3)).transpose(2, 3)


def wkv5_chunked(
    r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor, state: Tensor, lengths: Tensor | None = None, size=None
) -> tuple[Tensor, Tensor]:
    """The same as :func:`wkv5_recurrent` as matrix products, in chunks of C = ``size`` tokens, a power of two.

    Inside all chunks at once, y = scores v. What came before a chunk reaches its token i through ``(r_i * w^i) S``.
    """
    tokens = r.shape[2]
    size = size or (16 if tokens <= 16 else 32 if tokens <= 96 else 64)  # measured; a chunk should not be mostly empty
    count = tokens_in_chunks(tokens, size, lengths, r.device)  # (B or 1, n)
    r, k, v = (split_chunks(x, size).contiguous() for x in (r, k, v))  # (B, H, n, C, N)
    inside = wkv5_scores(r, k, log_w, u) @ v

    step = torch.arange(size, device=r.device)[:, None]
    left = count[:, None, :, None, None] - 1 - step  # tokens of the chunk behind this one; negative for padding
    written = k * torch.exp(log_w[:, None, None] * left.clamp(min=0)) * (left >= 0)
    before = []
    for chunks, counts in zip((written.mT @ v).split(CHUNKS_AT_ONCE, 2), count.split(CHUNKS_AT_ONCE, 1), strict=True):
        states = wkv5_states(chunks, counts, log_w, state)
        before.append(states[:, :, :-1])
        state = states[:, :, -1]
    y = inside + (r * torch.exp(log_w[:, None, None] * step)) @ torch.cat(before, dim=2)
    return y.flatten(2, 3)[:, :, :tokens], state


def wkv5(
    r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor, state: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same as :func:`wkv5_recurrent`: by the Triton kernel of RWKV-6 where it runs, or by :func:`wkv5_chunked`."""
    return (KERNEL.to_read(r) or wkv5_chunked)(r, k, v, log_w, u, state, lengths)


def load_kernel() -> Callable[..., tuple[Tensor, Tensor]]:
    from .wkv6_triton import wkv6

    return wkv6


def kernel_example(device: torch.device) -> tuple[Tensor, ...]:
    tokens = torch.zeros(1, 1, 2, 8, device=device)
    return tokens, tokens, tokens, tokens[0, :, 0], tokens[0, :, 0], torch.zeros(1, 1, 8, 8, device=device)


KERNEL = TritonKernel("wkv6", load_kernel, kernel_example)


class Rwkv5TimeMix(RwkvMatrixTimeMix):
    """Time-mix of RWKV-5: receptance, key, value (and gate), WKV, a norm for each head, output."""

    gate: RwkvLinear
    time_mix_gate: nn.Parameter

    def __init__(self, config: Rwkv5Config, layer: int):
        gate = () if config.version == "5.0" else ("gate",)
        super().__init__(config, layer, inputs=("key", "value", "receptance", *gate))
        hidden, width = config.hidden_size, config.attention_hidden_size
        decay_shape, bonus_shape = config.decay_shape, config.bonus_shape
        assert width is not None  # the configuration fills in what is not given, here and below
        assert decay_shape is not None
        assert bonus_shape is not None
        self.heads, self.head_size = config.num_heads, config.head_size
        self.gated, self.bonus_name = bool(gate), config.bonus_name
        for name in self.inputs:
            self.add_module(name, RwkvLinear(hidden, width, bias=False))
        self.time_decay = nn.Parameter(torch.empty(decay_shape))
        self.register_parameter(self.bonus_name, nn.Parameter(torch.empty(bonus_shape)))
        self.add_time_state(config)
        self.output = RwkvLinear(width, hidden, bias=False)
        self.wkv = wkv5
        self.ln_x = Fp32GroupNorm(self.heads, width, eps=config.group_norm_epsilon)

    def initialize(self) -> None:
        """Initialize as BlinkDL/RWKV-LM does: decays from slow (head 0) to fast."""
        super().initialize()
        ladder = torch.linspace(0, 1, self.time_decay.numel()).view_as(self.time_decay)
        init.copy_(self.time_decay, -6 + 5 * ladder ** (0.7 + 1.3 * self.depth))
        bonus = getattr(self, self.bonus_name)
        init.constant_(bonus, -1.0 if self.bonus_name == "time_first" else 0.5)
        self.initialize_time_state()

    def log_decay_and_bonus(self) -> tuple[Tensor, Tensor]:
        """Return log w and u, each (H, 1) or (H, N), in fp32."""
        log_w = -torch.exp(at_least_fp32(self.time_decay)).view(self.heads, -1)
        u = at_least_fp32(getattr(self, self.bonus_name)).view(self.heads, -1)
        return log_w, torch.exp(u) if self.bonus_name == "time_first" else u

    def forward(
        self, x: Tensor, before: Tensor, state: Tensor | None, lengths: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, tokens, _ = x.shape
        previous = token_shift(x, before)

        def heads(name: str) -> Tensor:  # (B, T, D) -> (B, H, T, N)
            mixed = mix(x, previous, getattr(self, f"time_mix_{name}"))
            projected = at_least_fp32(getattr(self, name)(mixed))
            return projected.view(batch, tokens, self.heads, self.head_size).transpose(1, 2)

        r, k, v = heads("receptance"), heads("key"), heads("value")
        state = self.initial_wkv(batch) if state is None else state.to(r)
        read = wkv5_recurrent if tokens == 1 else self.wkv
        with without_autocast(x):
            y, state = read(r, k, v, *self.log_decay_and_bonus(), state, lengths)

        y = self.ln_x(y.transpose(1, 2).reshape(batch * tokens, -1)).view(batch, tokens, -1).to(x.dtype)
        if self.gated:
            y = y * F.silu(self.gate(mix(x, previous, self.time_mix_gate)))
        return self.output(scaled(y, scale)), last_token(x, before, lengths), state


class Rwkv5Model(RwkvModel):
    config_class = Rwkv5Config
    time_mix_class = Rwkv5TimeMix
    _keep_in_fp32_modules_strict = ["time_decay", "time_first", "time_faaaa", "time_state", "ln_x"]


class Rwkv5ForCausalLM(RwkvForCausalLM):
    config_class = Rwkv5Config
    model_class = Rwkv5Model
    _keep_in_fp32_modules_strict = Rwkv5Model._keep_in_fp32_modules_strict


Rwkv5Config.register_for_auto_class()
Rwkv5Model.register_for_auto_class("AutoModel")
Rwkv5ForCausalLM.register_for_auto_class("AutoModelForCausalLM")

__all__ = ["Rwkv5ForCausalLM", "Rwkv5Model"]
