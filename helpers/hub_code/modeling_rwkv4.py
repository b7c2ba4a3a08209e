"""RWKV-4: time-mix with one running average a channel, on the weights and the config of transformers' ``rwkv``.

For one channel (RWKV-4 paper, arXiv 2305.13048, equation 14), with ``w = -exp(time_decay)`` and ``u = time_first``::

             sum_{i<t} e^{(t-1-i) w + k_i} v_i + e^{u + k_t} v_t
    wkv_t = -----------------------------------------------------
             sum_{i<t} e^{(t-1-i) w + k_i}     + e^{u + k_t}

k can be large, so numerator and denominator are kept divided by e^max, with the running maximum beside them.
transformers' own ``RwkvForCausalLM`` loads the same directory; this class also decodes batches, heeds attention masks,
saves unchanged weights after a forward, and works with beam search and with a single layer.
"""

import math

import torch
from torch import Tensor, nn
from transformers import RwkvConfig
from transformers import initialization as init

from .rwkv_common import (
    RwkvForCausalLM,
    RwkvMixer,
    RwkvModel,
    at_least_fp32,
    last_token,
    mix,
    split_chunks,
    token_shift,
    tokens_in_chunks,
)

EMPTY = -1e38  # the maximum before the first token: e^EMPTY is 0, and differences stay finite in fp32


Sum = tuple[Tensor, Tensor, Tensor]  # sum of e^k v and sum of e^k, both divided by e^maximum; and that maximum


def add(a: Sum, b: Sum) -> Sum:
    """Add two sums. The maximum cancels out in whatever is done with the result, so it needs no gradient."""
    maximum = torch.maximum(a[2], b[2]).detach()
    from_a, from_b = torch.exp(a[2] - maximum), torch.exp(b[2] - maximum)
    return from_a * a[0] + from_b * b[0], from_a * a[1] + from_b * b[1], maximum


def decayed(state: Sum, log_decay: Tensor) -> Sum:
    """Multiply a sum by ``e^log_decay``."""
    return state[0], state[1], state[2] + log_decay


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
    state = state.unbind(1)
    one = torch.ones_like(state[1])
    outputs = []
    for t in range(k.shape[1]):
        numerator, denominator, _ = add(state, (v[:, t], one, u + k[:, t]))
        outputs.append(numerator / denominator)
        new_state = add(decayed(state, w), (v[:, t], one, k[:, t]))
        if lengths is not None:
            new_state = tuple(torch.where((t < lengths)[:, None], *pair) for pair in zip(new_state, state, strict=True))
        state = new_state
    return torch.stack(outputs, dim=1), torch.stack(state, dim=1)


def wkv4_chunked(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor, lengths: Tensor | None = None, size: int = 32
) -> tuple[Tensor, Tensor]:
    """The same as :func:`wkv4_recurrent` in about ``size + T / size`` steps instead of T.

    What a chunk adds to the state does not depend on the chunks before it: token j of ``count`` adds e^k_j, decayed
    ``count - 1 - j`` times. So the states before all chunks come from one pass over chunks, and then all chunks are
    read at once, side by side as if they were rows of a batch.
    """
    tokens = k.shape[1]
    count = tokens_in_chunks(tokens, size, lengths, k.device)[:, :, None]  # (B or 1, n, 1)
    k, v = split_chunks(k, size), split_chunks(v, size)  # (B, n, C, A)
    later = count[..., None] - 1 - torch.arange(size, device=k.device)[:, None]  # (B or 1, n, C, 1), < 0 in padding
    log_weight = torch.where(later >= 0, k + later * w, EMPTY)
    maximum = log_weight.amax(2).detach()
    weight = torch.exp(log_weight - maximum[:, :, None]) * (later >= 0)
    added = (weight * v).sum(2), weight.sum(2), maximum  # each (B, n, A)

    before = []
    state = state.unbind(1)
    for chunk in range(k.shape[1]):
        before.append(torch.stack(state, dim=1))
        state = add(decayed(state, count[:, chunk] * w), tuple(x[:, chunk] for x in added))
    before = torch.stack(before, dim=1).flatten(0, 1)  # (B n, 3, A)
    wkv, _ = wkv4_recurrent(k.flatten(0, 1), v.flatten(0, 1), w, u, before)
    return wkv.view(len(k), -1, k.shape[3])[:, :tokens], torch.stack(state, dim=1)


class Rwkv4TimeMix(RwkvMixer):
    """Time-mix of RWKV-4: ``output(sigmoid(R x') * wkv(K x', V x'))``; RWKV-4 paper, equations 11 to 15."""

    def __init__(self, config: RwkvConfig, layer: int):
        super().__init__(config, layer, inputs=("key", "value", "receptance"))
        hidden, width = config.hidden_size, config.attention_hidden_size
        for name in self.inputs:
            self.add_module(name, nn.Linear(hidden, width, bias=False))
        self.time_decay = nn.Parameter(torch.empty(width))
        self.time_first = nn.Parameter(torch.empty(width))
        self.output = nn.Linear(width, hidden, bias=False)

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
        return start.view(1, 3, 1).expand(batch_size, -1, len(self.time_decay))

    def forward(
        self, x: Tensor, last: Tensor, state: Tensor | None, lengths: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        previous = token_shift(x, last)
        r = torch.sigmoid(self.receptance(mix(x, previous, self.time_mix_receptance)))
        k = at_least_fp32(self.key(mix(x, previous, self.time_mix_key)))
        v = at_least_fp32(self.value(mix(x, previous, self.time_mix_value)))
        w, u = -torch.exp(at_least_fp32(self.time_decay)), at_least_fp32(self.time_first)
        wkv4 = wkv4_recurrent if x.shape[1] == 1 else wkv4_chunked
        wkv, state = wkv4(k, v, w, u, self.initial_wkv(len(x)) if state is None else state.to(k), lengths)
        return self.output(r * wkv.to(x.dtype) * scale), last_token(x, last, lengths), state


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
