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
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import RwkvConfig
from transformers import initialization as init

from .rwkv_common import RwkvForCausalLM, RwkvMixer, RwkvModel, at_least_fp32, last_token, mix, token_shift

EMPTY = -1e38  # the maximum before the first token: e^EMPTY is 0, and differences stay finite in fp32


def add(state: Tensor, log_decay: Tensor | float, later: Tensor) -> Tensor:
    """Let a state decay, times e^log_decay, and add a later one; a state is (..., 3, A), see :func:`wkv4_recurrent`.

    The new maximum cancels out in whatever is done with the result, so it needs no gradient.
    """
    numerator, denominator, maximum = state.unbind(-2)
    later_numerator, later_denominator, later_maximum = later.unbind(-2)
    maximum = maximum + log_decay
    top = torch.maximum(maximum, later_maximum).detach()
    old, new = torch.exp(maximum - top), torch.exp(later_maximum - top)
    return torch.stack(
        [old * numerator + new * later_numerator, old * denominator + new * later_denominator, top], dim=-2
    )


def alone(k: Tensor, v: Tensor) -> Tensor:
    """Return the state of one token alone, which has weight e^k and value v: (..., A) to (..., 3, A)."""
    return torch.stack([v, torch.ones_like(v), k], dim=-2)


def nothing(like: Tensor) -> Tensor:
    """Return the state before the first token, (3, 1), with dtype and device of ``like``."""
    return like.new_tensor([0.0, 0.0, EMPTY])[:, None]


def average(state: Tensor) -> Tensor:
    """Return numerator / denominator of a state: (..., 3, A) to (..., A)."""
    return state[..., 0, :] / state[..., 1, :]


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
    outputs = []
    for t in range(k.shape[1]):
        outputs.append(average(add(state, 0.0, alone(u + k[:, t], v[:, t]))))
        new_state = add(state, w, alone(k[:, t], v[:, t]))
        state = new_state if lengths is None else torch.where((t < lengths)[:, None, None], new_state, state)
    return torch.stack(outputs, dim=1), state


def wkv4_scan(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same as :func:`wkv4_recurrent`, for all tokens at once: see :func:`running_states`."""
    tokens = k.shape[1]
    log_decay, written = w.expand(1, tokens, -1), alone(k, v)
    if lengths is not None:  # padding adds nothing, and nothing decays in it
        real = (torch.arange(tokens, device=k.device) < lengths[:, None])[..., None]  # (B, T, 1)
        log_decay, written = log_decay * real, torch.where(real[..., None], written, nothing(k))
    log_decay = torch.cat([torch.zeros_like(log_decay[:, :1]), log_decay], dim=1)
    states = running_states(torch.cat([state[:, None], written], dim=1), log_decay)  # (B, 1 + T, 3, A)
    return average(add(states[:, :-1], 0.0, alone(u + k, v))), states[:, -1]


def running_states(states: Tensor, log_decay: Tensor) -> Tensor:
    """Return the sum of each state and all before it, each decayed on its way: a parallel prefix sum.

    Neighbours are added in pairs, which gives half as many states. Their running states are those after every second
    token, and one more addition each gives the others. After log2(T) rounds, one state is left.

    Args:
        states: (B, T, 3, A).
        log_decay: (B or 1, T, A), by which all that is earlier decays at each of them.
    """
    tokens = states.shape[1]
    if tokens == 1:
        return states
    if tokens % 2:
        states, log_decay = F.pad(states, (0, 0, 0, 0, 0, 1)), F.pad(log_decay, (0, 0, 0, 1))
    first, second = states[:, 0::2], states[:, 1::2]
    first_decay, second_decay = log_decay[:, 0::2], log_decay[:, 1::2]
    after_second = running_states(add(first, second_decay, second), first_decay + second_decay)
    after_first = add(after_second[:, :-1], first_decay[:, 1:], first[:, 1:])
    after_first = torch.cat([first[:, :1], after_first], dim=1)
    return torch.stack([after_first, after_second], dim=2).flatten(1, 2)[:, :tokens]


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
        return nothing(at_least_fp32(self.time_decay)).expand(batch_size, 3, len(self.time_decay))

    def forward(
        self, x: Tensor, last: Tensor, state: Tensor | None, lengths: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        previous = token_shift(x, last)
        r = torch.sigmoid(self.receptance(mix(x, previous, self.time_mix_receptance)))
        k = at_least_fp32(self.key(mix(x, previous, self.time_mix_key)))
        v = at_least_fp32(self.value(mix(x, previous, self.time_mix_value)))
        w, u = -torch.exp(at_least_fp32(self.time_decay)), at_least_fp32(self.time_first)
        wkv4 = wkv4_recurrent if x.shape[1] == 1 else wkv4_scan
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
