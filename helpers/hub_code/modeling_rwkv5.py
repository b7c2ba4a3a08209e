"""RWKV-5: time-mix with a matrix-valued state. One file for 5.0, 5.1 and 5.2.

For one head, with row vectors r_t, k_t, v_t of N channels and a state S of N x N numbers (Eagle in arXiv 2404.05892)::

    y_t = r_t (diag(u) k_t^T v_t + S_{t-1})        read: the state, and the current token with its bonus u
    S_t = diag(w) S_{t-1} + k_t^T v_t              write: forget by the decay w, then add the current token

with ``w = exp(-exp(time_decay))``. In 5.0 and 5.1, w and u are one number a head; in 5.2, one a channel. The decay
never depends on the text, which makes the chunked form below possible.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_rwkv5 import Rwkv5Config
from .rwkv_common import RwkvForCausalLM, RwkvMixer, RwkvModel, at_least_fp32, last_token, mix, token_shift


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
        outputs.append((r[:, :, t, None, :] @ (u * kv + state))[:, :, 0])
        new_state = w * state + kv
        state = new_state if lengths is None else torch.where((t < lengths).view(-1, 1, 1, 1), new_state, state)
    return torch.stack(outputs, dim=2), state


def wkv5_mask(log_w: Tensor, u: Tensor, size: int) -> Tensor:
    """Return how much token i hears of token j, (H, C, C, 1 or N): u on the diagonal, w^(i-j-1) below, 0 above.

    Only exponents of differences occur, which are never positive, so nothing overflows, however strong the decay.
    """
    step = torch.arange(size, device=log_w.device)
    gap = (step[:, None] - step[None, :] - 1)[None, :, :, None]
    below = torch.exp(log_w[:, None, None, :] * gap.clamp(min=0)) * (gap >= 0)
    return below + u[:, None, None, :] * (gap == -1)


def wkv5_chunked(
    r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor, state: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same as :func:`wkv5_recurrent`, C tokens at a time as matrix products.

    Inside a chunk, y = ((r k^T) * M) v with M from :func:`wkv5_mask`; what came before reaches token i through
    ``(r_i * w^i) S``. C is 64 for one decay a head, and 16 for one a channel, where M has N times as many numbers.
    """
    tokens = r.shape[2]
    per_head = log_w.shape[-1] == 1 and u.shape[-1] == 1
    size = min(64 if per_head else 16, tokens)
    mask = wkv5_mask(log_w, u, size)
    log_w = log_w[:, None, :]  # (H, 1, 1 or N), against (B, H, C, N)
    outputs = []
    for start in range(0, tokens, size):
        rc, kc, vc = (x[:, :, start : start + size] for x in (r, k, v))
        count = rc.shape[2]
        step = torch.arange(count, device=r.device)[:, None]
        if per_head:
            scores = (rc @ kc.mT) * mask[:, :count, :count, 0]
        else:
            scores = (rc[:, :, :, None] * kc[:, :, None] * mask[:, :count, :count]).sum(-1)
        outputs.append(scores @ vc + (rc * torch.exp(log_w * step)) @ state)

        real = torch.full_like(step[0], count) if lengths is None else (lengths - start).clamp(0, count)
        real = real.view(-1, 1, 1, 1)  # tokens of this chunk that each row has, the rest is padding
        kc = kc * torch.exp(log_w * (real - 1 - step).clamp(min=0)) * (step < real)
        state = torch.exp(log_w * real).mT * state + kc.mT @ vc
    return torch.cat(outputs, dim=2), state


class Rwkv5TimeMix(RwkvMixer):
    """Time-mix of RWKV-5: receptance, key, value (and gate), WKV, a norm for each head, output."""

    def __init__(self, config: Rwkv5Config, layer: int):
        gate = () if config.version == "5.0" else ("gate",)
        super().__init__(config, layer, inputs=("key", "value", "receptance", *gate))
        hidden, width = config.hidden_size, config.attention_hidden_size
        self.heads, self.head_size, self.eps = config.num_heads, config.head_size, config.group_norm_epsilon
        self.gated, self.bonus_name = bool(gate), config.bonus_name
        for name in self.inputs:
            self.add_module(name, nn.Linear(hidden, width, bias=False))
        self.time_decay = nn.Parameter(torch.empty(config.decay_shape))
        self.register_parameter(self.bonus_name, nn.Parameter(torch.empty(config.bonus_shape)))
        self.time_state = None
        if config.has_time_state:
            self.time_state = nn.Parameter(torch.zeros(self.heads, self.head_size, self.head_size))
        self.output = nn.Linear(width, hidden, bias=False)
        self.ln_x = nn.GroupNorm(self.heads, width, eps=self.eps)

    def initialize(self) -> None:
        """Initialize as BlinkDL/RWKV-LM does: decays from slow (head 0) to fast."""
        super().initialize()
        ladder = torch.linspace(0, 1, self.time_decay.numel()).view_as(self.time_decay)
        init.copy_(self.time_decay, -6 + 5 * ladder ** (0.7 + 1.3 * self.depth))
        bonus = getattr(self, self.bonus_name)
        init.constant_(bonus, -1.0 if self.bonus_name == "time_first" else 0.5)
        if self.time_state is not None:
            init.zeros_(self.time_state)

    def initial_wkv(self, batch_size: int) -> Tensor:
        """Return S before the first token, (B, H, N, N): zeros, or the checkpoint's trained state (stored as S^T)."""
        dtype = torch.promote_types(self.key.weight.dtype, torch.float32)
        if self.time_state is None:
            size = (batch_size, self.heads, self.head_size, self.head_size)
            return torch.zeros(size, dtype=dtype, device=self.key.weight.device)
        return self.time_state.to(dtype).mT.expand(batch_size, -1, -1, -1)

    def log_decay_and_bonus(self) -> tuple[Tensor, Tensor]:
        """Return log w and u, each (H, 1) or (H, N), in fp32."""
        log_w = -torch.exp(at_least_fp32(self.time_decay)).view(self.heads, -1)
        u = at_least_fp32(getattr(self, self.bonus_name)).view(self.heads, -1)
        return log_w, torch.exp(u) if self.bonus_name == "time_first" else u

    def forward(
        self, x: Tensor, last: Tensor, state: Tensor, lengths: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, tokens, _ = x.shape
        previous = token_shift(x, last)

        def heads(name: str) -> Tensor:  # (B, T, D) -> (B, H, T, N)
            mixed = mix(x, previous, getattr(self, f"time_mix_{name}"))
            projected = at_least_fp32(getattr(self, name)(mixed))
            return projected.view(batch, tokens, self.heads, self.head_size).transpose(1, 2)

        r, k, v = heads("receptance"), heads("key"), heads("value")
        y, state = wkv5_chunked(r, k, v, *self.log_decay_and_bonus(), state.to(r), lengths)

        y = y.transpose(1, 2).reshape(batch * tokens, -1)
        norm = self.ln_x
        y = F.group_norm(y, self.heads, at_least_fp32(norm.weight), at_least_fp32(norm.bias), self.eps)
        y = y.view(batch, tokens, -1).to(x.dtype)
        if self.gated:
            y = y * F.silu(self.gate(mix(x, previous, self.time_mix_gate)))
        return self.output(y * scale), last_token(x, last, lengths), state


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
