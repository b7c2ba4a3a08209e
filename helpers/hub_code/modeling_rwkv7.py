# Copyright 2026 The RWKV World on Hugging Face authors
# SPDX-License-Identifier: Apache-2.0
"""RWKV-7 (Goose): a state that erases before it writes.

For one head, with row vectors of N channels and a state S of N x N numbers, rows of keys, columns of values (RWKV-7
paper, arXiv 2503.14456; ``x070`` in BlinkDL/RWKV-LM)::

    S_t = diag(w_t) S_{t-1} + b_t^T (a_t S_{t-1}) + k_t^T v_t       decay, erase, write
    y_t = r_t S_t                                                   read

With the normalized key kk, ``a = -kk`` and ``b = kk * eta``: what S remembers under the key kk, the row ``kk S``, is
taken off again by the share eta, channel by channel, before the new value is written. The text sets the decay, eta, the
gate, and how much of the first block's value replaces a block's own::

    w = exp(-e^-0.5 sigmoid(w0 + tanh(x_w w1) w2))        eta = sigmoid(a0 + (x_a a1) a2)
    g = sigmoid(x_g g1) g2                                v = v + (v_first - v) sigmoid(v0 + (x_v v1) v2)
    kk = normalize(k * k_k)                               k = k (1 + (eta - 1) k_a)

A head's output also gets ``(r * k * r_k) v`` of the token itself, the bonus. Channel-mix is ``V(relu(K x')^2)``.
"""

from .configuration_rwkv7 import Rwkv7Config  # first: it says which transformers is needed

# isort: split
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .rwkv_common import (
    Fp32GroupNorm,
    RwkvBlock,
    RwkvForCausalLM,
    RwkvMixer,
    RwkvModel,
    RwkvTimeMix,
    at_least_fp32,
    is_real,
    last_token,
    scaled,
    split_chunks,
    token_shift,
    without_autocast,
)
from .rwkv_linear import RwkvLinear
from .rwkv_requirements import TritonKernel

STEEPEST = math.exp(-0.5)  # the largest -log w: no channel forgets more than 1 - e^-0.61 = 46 % at a token


def wkv7_recurrent(
    r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The definition: one token after the other, exactly the two equations above. Slow; tests compare with it.

    Args:
        r, log_w, k, v, a, b: (B, H, T, N), fp32 or fp64; log_w is the logarithm of the decay, not positive.
        state: (B, H, N, N), rows belong to k and columns to v.
        lengths: (B,) real tokens in each row, the rest is padding behind them; all by default.

    Returns:
        y (B, H, T, N) and the state after the last real token.
    """
    w = torch.exp(log_w)
    outputs = []
    for t in range(r.shape[2]):
        r_t, w_t, k_t, v_t, a_t, b_t = (x[:, :, t, None, :] for x in (r, w, k, v, a, b))  # rows, (B, H, 1, N)
        new_state = w_t.mT * state + b_t.mT * (a_t @ state) + k_t.mT * v_t
        state = new_state if lengths is None else torch.where((t < lengths).view(-1, 1, 1, 1), new_state, state)
        outputs.append((r_t @ state)[:, :, 0])
    return torch.stack(outputs, dim=2), state


def wkv7_chunked(
    r: Tensor,
    log_w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor,
    lengths: Tensor | None = None,
    size: int = 32,
) -> tuple[Tensor, Tensor]:
    """The same as :func:`wkv7_recurrent` as matrix products, in chunks of C = ``size`` tokens.

    Let W_t be the product of the decays from the start of a chunk through token t, and u_t = a_t S_{t-1} the row that
    token t erases with. Unrolled from the chunk's first state S,

        S_t = diag(W_t) (S + sum_{s<=t} diag(1/W_s) (k_s^T v_s + b_s^T u_s)).

    Put into u_t = a_t S_{t-1}, that is a triangular system for all u of the chunk, with strictly lower matrices

        A_ts = (a_t W_{t-1}) (b_s / W_s)^T,   K_ts = (a_t W_{t-1}) (k_s / W_s)^T,   s < t:
        (1 - A) U = (a W_{t-1}) S + K V.

    With U known, outputs and the next chunk's state are matrix products. No channel forgets more than 46 % at a token,
    so that W is at least e^-19.4 after 32 tokens, and 1/W does not overflow in fp32.
    """
    tokens = r.shape[2]
    if lengths is not None:  # padding writes and erases nothing, and nothing decays in it
        real = is_real(tokens, lengths)[:, None, :, None]
        log_w, k, b = (torch.where(real, x, 0) for x in (log_w, k, b))
    r, log_w, k, v, a, b = (split_chunks(x, size) for x in (r, log_w, k, v, a, b))  # (B, H, n, C, N)
    log_through = log_w.cumsum(-2)  # log W_t
    whole = torch.exp(log_through[..., -1:, :])
    r, a = r * torch.exp(log_through), a * torch.exp(log_through - log_w)
    k, b = k * torch.exp(-log_through), b * torch.exp(-log_through)
    lower = torch.ones(size, size, dtype=torch.bool, device=r.device).tril()
    strictly = lower.tril(-1)
    system = torch.eye(size, dtype=r.dtype, device=r.device) - (a @ b.mT) * strictly
    right = torch.cat([a, ((a @ k.mT) * strictly) @ v], dim=-1)  # what multiplies S, and what does not
    solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    of_state, of_values = solved.tensor_split(2, dim=-1)  # U = of_state S + of_values
    reads_b, reads_k = (r @ b.mT) * lower, (r @ k.mT) * lower
    to_output, output = r + reads_b @ of_state, reads_b @ of_values + reads_k @ v  # y = to_output S + output
    keeps = torch.eye(k.shape[-1], dtype=r.dtype, device=r.device) + b.mT @ of_state
    kept, added = whole.mT * keeps, whole.mT * (b.mT @ of_values + k.mT @ v)  # S <- kept S + added
    states = running_states(kept, torch.cat([state[:, :, None], added], dim=2))
    y = to_output @ states[:, :, :-1] + output
    return y.flatten(2, 3)[:, :, :tokens], states[:, :, -1]


def running_states(kept: Tensor, states: Tensor) -> Tensor:
    """Return S_0, S_1 = K_1 S_0 + A_1, S_2 = K_2 S_1 + A_2, ...: a parallel prefix sum, as of RWKV-4.

    Two steps are one: ``K_2 (K_1 S + A_1) + A_2``. Neighbors are joined so, which leaves half as many; those give every
    second state, and one more step each gives the others. So log2(n) rounds do what takes n steps one after the other.

    Args:
        kept: (B, H, n, N, N), the matrices K_1, K_2, ...
        states: (B, H, n + 1, N, N): S_0, A_1, A_2, ...
    """
    steps = kept.shape[2]
    if steps == 0:
        return states
    first, added = states[:, :, 0::2], states[:, :, 1::2]  # S_0, A_2, A_4, ... and A_1, A_3, ...
    kept_odd, kept_even = kept[:, :, 0::2], kept[:, :, 1::2]  # K_1, K_3, ... and K_2, K_4, ...
    pairs = kept_even.shape[2]
    joined = kept_even @ torch.cat([kept_odd[:, :, :pairs], added[:, :, :pairs]], dim=-1)
    two_kept, two_added = joined.tensor_split(2, dim=-1)
    even = running_states(two_kept, torch.cat([first[:, :, :1], two_added + first[:, :, 1:]], dim=2))
    odd = kept_odd @ even[:, :, : kept_odd.shape[2]] + added
    if odd.shape[2] < even.shape[2]:
        odd = torch.cat([odd, odd[:, :, :1]], dim=2)  # fills the last pair up, and is cut off
    return torch.stack([even, odd], dim=3).flatten(2, 3)[:, :, : steps + 1]


def wkv7(
    r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same as :func:`wkv7_recurrent`: by a Triton kernel where one can run, or else by :func:`wkv7_chunked`."""
    return (KERNEL.to_read(r) or wkv7_chunked)(r, log_w, k, v, a, b, state, lengths)


def load_kernel() -> Callable[..., tuple[Tensor, Tensor]]:
    from .wkv7_triton import wkv7

    return wkv7


def kernel_example(device: torch.device) -> tuple[Tensor, ...]:
    tokens = torch.zeros(1, 1, 2, 8, device=device)
    return *[tokens] * 6, torch.zeros(1, 1, 8, 8, device=device)


KERNEL = TritonKernel("wkv7", load_kernel, kernel_example)


class Rwkv7TimeMix(RwkvTimeMix):
    """Time-mix of RWKV-7: six mixtures, what the text sets, WKV, a norm for each head, bonus, gate, output."""

    receptance: RwkvLinear
    key: RwkvLinear
    value: RwkvLinear
    w0: nn.Parameter
    g1: nn.Parameter
    g2: nn.Parameter
    k_k: nn.Parameter
    k_a: nn.Parameter

    def __init__(self, config: Rwkv7Config, layer: int):
        ratios = tuple(f"x_{letter}" for letter in "rwkvag")
        super().__init__(config, layer, inputs=("receptance", "key", "value"), ratios=ratios)
        hidden, heads = config.hidden_size, config.num_heads
        assert heads is not None  # the configuration fills it in
        self.heads, self.head_size, self.layer = heads, config.head_dim, layer
        ranks = {"w": config.decay_low_rank_dim, "a": config.a_low_rank_dim, "g": config.gate_low_rank_dim}
        if layer > 0 or config.has_first_value_mix:
            ranks["v"] = config.v_low_rank_dim
        for letter, rank in ranks.items():
            self.register_parameter(f"{letter}1", nn.Parameter(torch.empty(hidden, rank)))
            self.register_parameter(f"{letter}2", nn.Parameter(torch.empty(rank, hidden)))
        self.low_ranks = tuple(ranks)
        self.biases = tuple(f"{letter}0" for letter in ranks if letter != "g")
        for name in (*self.biases, "k_k", "k_a"):
            self.register_parameter(name, nn.Parameter(torch.empty(1, 1, hidden)))
        self.r_k = nn.Parameter(torch.empty(self.heads, self.head_size))
        for name in self.inputs:
            self.add_module(name, RwkvLinear(hidden, hidden, bias=False))
        self.output = RwkvLinear(hidden, hidden, bias=False)
        self.wkv = wkv7
        self.ln_x = Fp32GroupNorm(self.heads, hidden, eps=config.group_norm_epsilon)

    def initialize(self) -> None:
        """Initialize as BlinkDL/RWKV-LM does: at first the text sets nothing."""
        channels = torch.linspace(0, 1, self.w0.numel())
        powers = {"r": 0.2, "w": 0.9, "k": 0.7, "v": 0.7, "a": 0.9, "g": 0.2}
        for letter, power in powers.items():
            init.copy_(getattr(self, f"x_{letter}")[0, 0], 1 - channels ** (power * self.rise))
        in_head = torch.linspace(-1, 1, self.head_size).repeat(self.heads)
        zigzag = in_head * in_head.abs()  # within each head, from its slowest channel to its fastest
        starts = {
            "w0": -5.5 + 6 * channels ** (1 + self.depth**0.3) + 2.5 * zigzag,
            "a0": -0.19 + 0.3 * zigzag + 0.4 * (channels - 0.5),
            "v0": 0.73 - 0.4 * (channels - 0.5),
        }
        for name in self.biases:
            init.copy_(getattr(self, name)[0, 0], starts[name])
        for letter in self.low_ranks:
            init.zeros_(getattr(self, f"{letter}1"))
            init.orthogonal_(getattr(self, f"{letter}2"), gain=0.1)
        init.copy_(self.k_k[0, 0], 0.71 - 0.1 * (channels - 0.5))
        init.constant_(self.k_a, 1.02)
        init.constant_(self.r_k, -0.04)

    def initial_wkv(self, batch_size: int) -> Tensor:
        """Return S before the first token, (B, H, N, N): zeros."""
        return at_least_fp32(self.w0).new_zeros(batch_size, self.heads, self.head_size, self.head_size)

    def start_decays(self, ladder: Callable[[Tensor], Tensor]) -> None:
        steepness = torch.exp(ladder(self.w0)) / STEEPEST
        self.w0.data.copy_(torch.logit(steepness))

    def set_by_text(self, letter: str, x: Tensor) -> Tensor:
        """Return ``(x l1) l2`` for one of the letters, plus its bias ``l0``, in fp32."""
        hint = getattr(self, f"{letter}1")
        hint = torch.tanh(x @ hint) if letter == "w" else x @ hint
        return at_least_fp32(getattr(self, f"{letter}0")) + hint @ getattr(self, f"{letter}2")

    def split_heads(self, x: Tensor) -> Tensor:
        """Return (B, T, D) as (B, H, T, N), in fp32."""
        return at_least_fp32(x).unflatten(-1, (self.heads, self.head_size)).transpose(1, 2)

    def forward(
        self,
        x: Tensor,
        before: Tensor,
        state: Tensor | None,
        lengths: Tensor | None,
        scale: float,
        first_value: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        previous = token_shift(x, before)
        x_r, x_w, x_k, x_v, x_a, x_g = (
            torch.lerp(x, previous, getattr(self, name).to(x.dtype)) for name in self.ratios
        )
        key, value = at_least_fp32(self.key(x_k)), self.value(x_v)
        log_w = -STEEPEST * torch.sigmoid(self.set_by_text("w", x_w))
        erased = torch.sigmoid(self.set_by_text("a", x_a))
        if first_value is None:
            first_value = value
        else:
            share = torch.sigmoid(self.set_by_text("v", x_v)).to(value.dtype)
            value = torch.lerp(value, first_value.to(value), share)
        r, v, log_w, erased_by_head = map(self.split_heads, (self.receptance(x_r), value, log_w, erased))
        # in fp32, the squares of small numbers are not 0: no division by zero
        direction = F.normalize(self.split_heads(key * at_least_fp32(self.k_k)), dim=-1)
        k = self.split_heads(torch.lerp(key, key * erased, at_least_fp32(self.k_a)))

        state = self.initial_wkv(len(x)) if state is None else state.to(r)
        read = wkv7_recurrent if x.shape[1] == 1 else self.wkv
        with without_autocast(x):
            y, state = read(r, log_w, k, v, -direction, direction * erased_by_head, state, lengths)
            bonus = (r * k * at_least_fp32(self.r_k)[:, None]).sum(-1, keepdim=True) * v

        def join(heads: Tensor) -> Tensor:  # (B, H, T, N) -> (B, T, D)
            return heads.transpose(1, 2).flatten(2)

        y = self.ln_x(join(y).flatten(0, 1)).view_as(x) + join(bonus)
        y = y.to(x.dtype) * (torch.sigmoid(x_g @ self.g1) @ self.g2)
        return self.output(scaled(y, scale)), last_token(x, before, lengths), state, first_value


class Rwkv7ChannelMix(RwkvMixer):
    """Channel-mix of RWKV-7: ``V(relu(K x')^2)``, without a receptance."""

    x_k: nn.Parameter

    def __init__(self, config: Rwkv7Config, layer: int):
        super().__init__(config, layer, inputs=("key",), ratios=("x_k",))
        assert config.intermediate_size is not None  # the configuration fills it in
        self.key = RwkvLinear(config.hidden_size, config.intermediate_size, bias=False)
        self.value = RwkvLinear(config.intermediate_size, config.hidden_size, bias=False)

    def initialize(self) -> None:
        init.copy_(self.x_k[0, 0], 1 - torch.linspace(0, 1, self.x_k.numel()) ** (self.rise**4))

    def forward(self, x: Tensor, before: Tensor, lengths: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
        k = torch.relu(self.key(torch.lerp(x, token_shift(x, before), self.x_k.to(x.dtype)))) ** 2
        return self.value(scaled(k, scale)), last_token(x, before, lengths)


class Rwkv7Block(RwkvBlock):
    """A block whose parts have BlinkDL's names, and which also hands on the first block's value."""

    names = ("ln0", "att", "ffn")
    ln0: nn.LayerNorm
    att: Rwkv7TimeMix
    ffn: RwkvMixer

    @property
    def pre_ln(self) -> nn.LayerNorm:
        return self.ln0

    @property
    def attention(self) -> Rwkv7TimeMix:
        return self.att

    @property
    def feed_forward(self) -> RwkvMixer:
        return self.ffn

    def mix_time(
        self,
        x: Tensor,
        before: Tensor,
        state: Tensor | None,
        lengths: Tensor | None,
        scale: float,
        first_value: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        return self.att(x, before, state, lengths, scale, first_value)


class Rwkv7Model(RwkvModel):
    config_class = Rwkv7Config
    base_model_prefix = "rwkv7"
    embeddings_name = "emb"
    emb: nn.Embedding
    block_class = Rwkv7Block
    time_mix_class = Rwkv7TimeMix
    channel_mix_class = Rwkv7ChannelMix
    _no_split_modules = ["Rwkv7Block"]
    _keep_in_fp32_modules_strict = ["w0", "ln_x"]

    @property
    def embeddings(self) -> nn.Embedding:
        return self.emb


class Rwkv7ForCausalLM(RwkvForCausalLM):
    config_class = Rwkv7Config
    base_model_prefix = "rwkv7"
    model_class = Rwkv7Model
    rwkv7: Rwkv7Model
    _no_split_modules = ["Rwkv7Block"]
    _keep_in_fp32_modules_strict = Rwkv7Model._keep_in_fp32_modules_strict
    _tied_weights_keys = {"head.weight": "rwkv7.emb.weight"}

    @property
    def rwkv(self) -> Rwkv7Model:
        return self.rwkv7


Rwkv7Config.register_for_auto_class()
Rwkv7Model.register_for_auto_class("AutoModel")
Rwkv7ForCausalLM.register_for_auto_class("AutoModelForCausalLM")

__all__ = ["Rwkv7ForCausalLM", "Rwkv7Model"]
