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

from .rwkv_common import RwkvForCausalLM, RwkvMixer, RwkvModel, at_least_fp32, last_token, mix, token_shift

EMPTY = -1e38  # the maximum before the first token: e^EMPTY is 0, and differences stay finite in fp32


def wkv4_recurrent(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The definition, one token after the other. Slow; tests compare with it.

    Args:
        k, v: (B, T, A), fp32 or fp64.
        w, u: (A,), the logarithm of the decay (negative) and the bonus.
        state: (B, 3, A): numerator and denominator, both divided by e^maximum, and maximum.
        lengths: (B,) real tokens in each row, the rest is padding behind them; all by default.

    Returns:
        wkv (B, T, A) and the state after the last real token.
    """
    outputs = []
    for t in range(k.shape[1]):
        outputs.append(_average(state, u + k[:, t], v[:, t]))
        new_state = _add(state, w, k[:, t], v[:, t])
        state = new_state if lengths is None else torch.where((t < lengths).view(-1, 1, 1), new_state, state)
    return torch.stack(outputs, dim=1), state


def _average(state: Tensor, weight: Tensor, v: Tensor) -> Tensor:
    """Average the state and one more value that has the logarithm of its weight given."""
    numerator, denominator, maximum = state.unbind(1)
    top = torch.maximum(maximum, weight)
    old, new = torch.exp(maximum - top), torch.exp(weight - top)
    return (old * numerator + new * v) / (old * denominator + new)


def _add(state: Tensor, w: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Let the state decay by one token and add the value v with weight e^k."""
    numerator, denominator, maximum = state.unbind(1)
    top = torch.maximum(maximum + w, k)
    old, new = torch.exp(maximum + w - top), torch.exp(k - top)
    return torch.stack([old * numerator + new * v, old * denominator + new, top], dim=1)


def wkv4_chunked(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor, lengths: Tensor | None = None, size: int = 16
) -> tuple[Tensor, Tensor]:
    """The same as :func:`wkv4_recurrent`, C = ``size`` tokens at a time.

    Every token averages over its sources at once: the tokens of its chunk and, as one more source, the state. The log
    weight of source j for token i is (i-1-j) w + k_j before it, u + k_i for itself, and i w + maximum for the state.
    """
    outputs = []
    for start in range(0, k.shape[1], size):
        kc, vc = k[:, start : start + size], v[:, start : start + size]
        numerator, denominator, maximum = (s[:, None] for s in state.unbind(1))  # (B, 1, A)
        values = torch.cat([vc, numerator], dim=1)
        counts = torch.cat([torch.ones_like(vc), denominator], dim=1)

        step = torch.arange(vc.shape[1], device=k.device)
        gap = (step[:, None] - step - 1)[..., None]  # (C, C, 1)
        from_tokens = torch.where(gap >= 0, gap * w, torch.where(gap == -1, u, EMPTY)) + kc[:, None]
        from_state = (step[:, None] * w + maximum)[:, :, None]
        weights, _ = _normalized(torch.cat([from_tokens, from_state], dim=2))
        outputs.append((weights * values[:, None]).sum(2) / (weights * counts[:, None]).sum(2))

        count = torch.full_like(step[:1], len(step)) if lengths is None else (lengths - start).clamp(0, len(step))
        left = (count[:, None] - 1 - step)[..., None]  # (B or 1, C, 1) tokens that follow in this chunk
        log_weights = torch.cat(
            [torch.where(left >= 0, left * w + kc, EMPTY), count[:, None, None] * w + maximum], dim=1
        )
        weights, top = _normalized(log_weights, dim=1)
        weights = weights * torch.cat([left >= 0, torch.ones_like(left[:, :1], dtype=torch.bool)], dim=1)
        state = torch.stack([(weights * values).sum(1), (weights * counts).sum(1), top[:, 0]], dim=1)
    return torch.cat(outputs, dim=1), state


def _normalized(log_weights: Tensor, dim: int = 2) -> tuple[Tensor, Tensor]:
    """Return e^(log_weights - top) and top, the maximum along ``dim``; it cancels out, so it needs no gradient."""
    top = log_weights.amax(dim, keepdim=True).detach()
    return torch.exp(log_weights - top), top


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
        dtype = torch.promote_types(self.key.weight.dtype, torch.float32)
        start = torch.tensor([0.0, 0.0, EMPTY], dtype=dtype, device=self.key.weight.device)
        return start.view(1, 3, 1).expand(batch_size, -1, len(self.time_decay))

    def forward(
        self, x: Tensor, last: Tensor, state: Tensor, lengths: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        previous = token_shift(x, last)
        r = torch.sigmoid(self.receptance(mix(x, previous, self.time_mix_receptance)))
        k = at_least_fp32(self.key(mix(x, previous, self.time_mix_key)))
        v = at_least_fp32(self.value(mix(x, previous, self.time_mix_value)))
        w, u = -torch.exp(at_least_fp32(self.time_decay)), at_least_fp32(self.time_first)
        wkv, state = wkv4_chunked(k, v, w, u, state.to(k), lengths)
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
