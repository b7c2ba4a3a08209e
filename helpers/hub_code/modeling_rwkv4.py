# Copyright 2026 The RWKV World on Hugging Face authors
# SPDX-License-Identifier: Apache-2.0
"""RWKV-4: time-mix with one running average a channel, on the weights and the config of transformers' ``rwkv``.

For one channel (RWKV-4 paper, arXiv 2305.13048, equation 14), with ``w = -exp(time_decay)`` and ``u = time_first``::

             sum_{i<t} e^{(t-1-i) w + k_i} v_i + e^{u + k_t} v_t
    wkv_t = -----------------------------------------------------
             sum_{i<t} e^{(t-1-i) w + k_i}     + e^{u + k_t}

k can be large, so numerator and denominator are kept divided by e^max, with the running maximum beside them.
transformers' own ``RwkvForCausalLM`` loads the same directory; this class also decodes batches, respects attention
masks, saves unchanged weights after a forward, and works with beam search and with a single layer.
"""

from .rwkv_requirements import TritonKernel, require_transformers

require_transformers()  # before the imports that an older one would fail at

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import RwkvConfig
from transformers import initialization as init

from .rwkv_common import (
    RwkvForCausalLM,
    RwkvModel,
    RwkvTimeMix,
    at_least_fp32,
    is_real,
    last_token,
    mix,
    scaled,
    token_shift,
)
from .rwkv_linear import RwkvLinear

EMPTY = -1e38  # the maximum before the first token: e^EMPTY is 0, and differences stay finite in fp32

Sums = tuple[Tensor, ...]  # three: numerator and denominator, both divided by e^maximum, and maximum


def add_decayed(earlier: Sums, log_decay: Tensor | float, later: Sums) -> Sums:
    """Let earlier sums decay, times e^log_decay, and add later ones.

    The new maximum cancels out in whatever is done with the result, so it needs no gradient.
    """
    numerator, denominator, maximum = earlier
    later_numerator, later_denominator, later_maximum = later
    maximum = maximum + log_decay
    top = torch.maximum(maximum, later_maximum).detach()
    old, new = torch.exp(maximum - top), torch.exp(later_maximum - top)
    numerator = torch.addcmul(new * later_numerator, old, numerator)
    return numerator, torch.addcmul(new * later_denominator, old, denominator), top


def wkv4_recurrent(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The definition, one token after the other. Slow for long texts; tests compare with it.

    Args:
        k, v: (B, T, A), fp32 or fp64.
        w, u: (A,), the logarithm of the decay (negative) and the bonus.
        state: (B, 3, A): numerator and denominator, both divided by e^maximum, and maximum.
        lengths: (B,) real tokens in each row, the rest is padding behind them; all by default.

    Returns:
        wkv (B, T, A) and the state after the last real token.
    """
    sums, one = state.unbind(1), torch.ones_like(k[:, 0])
    outputs = []
    for t in range(k.shape[1]):
        numerator, denominator, _ = add_decayed(sums, 0.0, (v[:, t], one, u + k[:, t]))
        outputs.append(numerator / denominator)
        after = add_decayed(sums, w, (v[:, t], one, k[:, t]))
        if lengths is not None:
            after = tuple(torch.where((t < lengths)[:, None], x, old) for x, old in zip(after, sums, strict=True))
        sums = after
    return torch.stack(outputs, dim=1), torch.stack(sums, dim=1)


def wkv4_scan(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same as :func:`wkv4_recurrent`, for all tokens at once: see :func:`running_sums`."""
    one = torch.ones_like(k)
    log_decay, written = w.expand(1, *k.shape[1:]), (v, one, k)
    if lengths is not None:  # padding adds nothing, and nothing decays in it
        real = is_real(k.shape[1], lengths)[..., None]  # (B, T, 1)
        log_decay, written = log_decay * real, (v * real, one * real, torch.where(real, k, EMPTY))
    log_decay = torch.cat([torch.zeros_like(log_decay[:, :1]), log_decay], dim=1)
    with_state = zip(state[:, :, None].unbind(1), written, strict=True)
    sums = running_sums(tuple(torch.cat(pair, dim=1) for pair in with_state), log_decay)  # each (B, 1 + T, A)
    numerator, denominator, _ = add_decayed(tuple(x[:, :-1] for x in sums), 0.0, (v, one, u + k))
    return numerator / denominator, torch.stack([x[:, -1] for x in sums], dim=1)


def running_sums(sums: Sums, log_decay: Tensor) -> Sums:
    """Add to each token's sums those of all tokens before it, decayed on their way: a parallel prefix sum.

    Neighbours are added in pairs, which leaves half as many. Their running sums are those after every second token,
    and one more addition each gives the others. So log2(T) rounds do what takes T steps one after the other.

    Args:
        sums: three times (B, T, A).
        log_decay: (B or 1, T, A), by which all that is earlier decays at each token.
    """
    tokens = log_decay.shape[1]
    if tokens == 1:
        return sums
    if tokens % 2:
        sums, log_decay = tuple(F.pad(x, (0, 0, 0, 1)) for x in sums), F.pad(log_decay, (0, 0, 0, 1))
    first, second = (tuple(x[:, start::2] for x in sums) for start in (0, 1))
    first_decay, second_decay = log_decay[:, 0::2], log_decay[:, 1::2]
    after_second = running_sums(add_decayed(first, second_decay, second), first_decay + second_decay)
    rest = add_decayed(tuple(x[:, :-1] for x in after_second), first_decay[:, 1:], tuple(x[:, 1:] for x in first))
    after_first = (torch.cat([x[:, :1], others], dim=1) for x, others in zip(first, rest, strict=True))
    pairs = zip(after_first, after_second, strict=True)
    return tuple(torch.stack(pair, dim=2).flatten(1, 2)[:, :tokens] for pair in pairs)


def wkv4(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same as :func:`wkv4_recurrent`: by a Triton kernel where one can run, or else by :func:`wkv4_scan`."""
    return (KERNEL.to_read(k) or wkv4_scan)(k, v, w, u, state, lengths)


def load_kernel() -> Callable[..., tuple[Tensor, Tensor]]:
    from .wkv4_triton import wkv4

    return wkv4


def kernel_example(device: torch.device) -> tuple[Tensor, ...]:
    tokens, channel = torch.zeros(1, 2, 1, device=device), torch.zeros(1, device=device)
    return tokens, tokens, channel, channel, torch.zeros(1, 3, 1, device=device)


KERNEL = TritonKernel("wkv4", load_kernel, kernel_example)


class Rwkv4TimeMix(RwkvTimeMix):
    """Time-mix of RWKV-4: ``output(sigmoid(R x') * wkv(K x', V x'))``; RWKV-4 paper, equations 11 to 15."""

    key: RwkvLinear
    value: RwkvLinear
    receptance: RwkvLinear
    time_mix_key: nn.Parameter
    time_mix_value: nn.Parameter
    time_mix_receptance: nn.Parameter

    def __init__(self, config: RwkvConfig, layer: int):
        super().__init__(config, layer, inputs=("key", "value", "receptance"))
        hidden, width = config.hidden_size, config.attention_hidden_size
        assert width is not None  # the configuration fills it in
        for name in self.inputs:
            self.add_module(name, RwkvLinear(hidden, width, bias=False))
        self.time_decay = nn.Parameter(torch.empty(width))
        self.time_first = nn.Parameter(torch.empty(width))
        self.output = RwkvLinear(width, hidden, bias=False)
        self.wkv = wkv4

    def initialize(self) -> None:
        """Initialize as BlinkDL/RWKV-LM does: decays from slow (channel 0) to fast."""
        super().initialize()
        width = len(self.time_decay)
        init.copy_(self.time_decay, -5 + 8 * torch.linspace(0, 1, width) ** (0.7 + 1.3 * self.depth))
        zigzag = (torch.arange(width) + 1) % 3 - 1
        init.copy_(self.time_first, math.log(0.3) + 0.5 * zigzag)

    def initial_wkv(self, batch_size: int) -> Tensor:
        """Return numerator, denominator and maximum before the first token, (B, 3, A)."""
        start = at_least_fp32(self.time_decay).new_tensor([0.0, 0.0, EMPTY])
        return start[:, None].expand(batch_size, 3, len(self.time_decay))

    def forward(
        self, x: Tensor, before: Tensor, state: Tensor | None, lengths: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        previous = token_shift(x, before)
        r = torch.sigmoid(self.receptance(mix(x, previous, self.time_mix_receptance)))
        k = at_least_fp32(self.key(mix(x, previous, self.time_mix_key)))
        v = at_least_fp32(self.value(mix(x, previous, self.time_mix_value)))
        w, u = -torch.exp(at_least_fp32(self.time_decay)), at_least_fp32(self.time_first)
        read = wkv4_recurrent if x.shape[1] == 1 else self.wkv
        wkv, state = read(k, v, w, u, self.initial_wkv(len(x)) if state is None else state.to(k), lengths)
        return self.output(scaled(r * wkv.to(x.dtype), scale)), last_token(x, before, lengths), state


class Rwkv4Model(RwkvModel):
    config_class = RwkvConfig
    time_mix_class = Rwkv4TimeMix
    _keep_in_fp32_modules_strict = ["time_decay", "time_first"]


class Rwkv4ForCausalLM(RwkvForCausalLM):
    config_class = RwkvConfig
    model_class = Rwkv4Model
    _keep_in_fp32_modules_strict = Rwkv4Model._keep_in_fp32_modules_strict


Rwkv4Model.register_for_auto_class("AutoModel")
Rwkv4ForCausalLM.register_for_auto_class("AutoModelForCausalLM")

__all__ = ["Rwkv4ForCausalLM", "Rwkv4Model"]
