# Copyright 2026 The RWKV World on Hugging Face authors
# SPDX-License-Identifier: Apache-2.0
"""RWKV-6 (Finch): RWKV-5.2 whose text sets its own mixing ratios and decays.

For one head, with row vectors r_t, k_t, v_t, w_t of N channels and a state S of N x N numbers (arXiv 2404.05892)::

    y_t = r_t (diag(u) k_t^T v_t + S_{t-1})        read, as in 5.2
    S_t = diag(w_t) S_{t-1} + k_t^T v_t            write, as in 5.2; but w_t is of this token

Each of the five inputs c = w, k, v, r, g is a mixture of a token and the one before it, d_t = x_{t-1} - x_t, in a ratio
that the two of them set; and so is the decay::

    x_c = x_t + d_t * (maa_c + tanh((x_t + d_t * maa_x) A_c) B_c)
    w_t = exp(-exp(time_decay + tanh(x_w C) D))

A ratio here counts what comes from the token *before*: 1 minus the ratio of RWKV-4 and RWKV-5.
"""

from .configuration_rwkv6 import Rwkv6Config  # first: it says which transformers is needed

# isort: split
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .rwkv_common import (
    Fp32GroupNorm,
    RwkvChannelMix,
    RwkvForCausalLM,
    RwkvMatrixTimeMix,
    RwkvModel,
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

CHUNKS_AT_ONCE = 64  # whose states are one matrix product, of a size that grows with the square of this number
LETTERS = "wkvrg"  # of the inputs, in the order of time_maa_w1 and time_maa_w2


def wkv6_recurrent(
    r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor, state: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The definition: one token after the other, exactly the two equations above. Slow; tests compare with it.

    Args:
        r, k, v, log_w: (B, H, T, N), fp32 or fp64; log_w is the logarithm of the decay, not positive.
        u: (H, N), the bonus.
        state: (B, H, N, N), rows belong to k and columns to v.
        lengths: (B,) real tokens in each row, the rest is padding behind them; all by default.

    Returns:
        y (B, H, T, N) and the state after the last real token.
    """
    w = torch.exp(log_w)
    outputs = []
    for t in range(r.shape[2]):
        kv = k[:, :, t, :, None] * v[:, :, t, None, :]
        outputs.append((r[:, :, t, None, :] @ (u[..., None] * kv + state))[:, :, 0])
        new_state = w[:, :, t, :, None] * state + kv
        state = new_state if lengths is None else torch.where((t < lengths).view(-1, 1, 1, 1), new_state, state)
    return torch.stack(outputs, dim=2), state


def wkv6_scores(r: Tensor, k: Tensor, log_w: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return how much of v_j reaches y_i inside each chunk, and how much decays before, after and in it.

    The scores across the middle of a block are computed for blocks of 2, 4, ... C tokens. There, token i of the second
    half reads token j of the first one through all decays between them: those of the first half after j, which go into
    k_j, and those of the second half before i, which go into r_i. Logarithms of decays are only ever added, never
    subtracted, so no exponent is positive and none loses digits.

    Args:
        r, k, log_w: (B, H, n, C, N): n chunks of C tokens, C a power of two.
        u: (H, N).

    Returns:
        scores (B, H, n, C, C), and logarithms: of the decay in a chunk before each token, after each token (both
        (B, H, n, C, N)), and of all its tokens (B, H, n, 1, N).
    """
    size, half, total = r.shape[3], 1, log_w
    scores = torch.diag_embed((r * u[:, None, None] * k).sum(-1))
    before, after = torch.zeros_like(log_w), torch.zeros_like(log_w)  # in blocks of one token
    while half < size:
        r2, before2 = halves(r, half)[1], halves(before, half)[1]
        k1, after1 = halves(k, half)[0], halves(after, half)[0]
        across = (r2 * torch.exp(before2)) @ (k1 * torch.exp(after1)).mT
        blocks = scores.unflatten(4, (-1, 2, half)).unflatten(3, (-1, 2, half))[:, :, :, :, 1, :, :, 0]
        blocks.diagonal(dim1=3, dim2=5).copy_(across.movedim(3, -1))  # rows and columns of the same block
        total1, total2 = halves(total, 1)  # (B, H, n, blocks, 1, N)
        before2 += total1
        after1 += total2
        total, half = (total1 + total2).flatten(3, 4), 2 * half
    return scores, before, after, total


def halves(x: Tensor, half: int) -> tuple[Tensor, Tensor]:
    """Return views of the first and the second half of each block of tokens: (B, H, n, blocks, half, N)."""
    pairs = x.unflatten(3, (-1, 2, half))
    return pairs.select(4, 0), pairs.select(4, 1)


def wkv6_states(added: Tensor, total: Tensor, state: Tensor) -> Tensor:
    """Return S before each chunk and after the last one, (B, H, n + 1, N, N), as one matrix product.

    What chunk m added has decayed by all chunks since when chunk n begins, and so has the initial state, which stands
    here as a chunk of its own, the first::

        S_n = sum_{m<n} w_{m+1} ... w_{n-1} A_m        with w_m the decay in all of chunk m

    Args:
        added: (B, H, n, N, N), what each chunk adds, A.
        total: (B, H, n, 1, N), the logarithm of the decay in all of each chunk.
        state: (B, H, N, N), the initial state.
    """
    parts = torch.cat([state[:, :, None], added], dim=2)
    decays = F.pad(total[..., 0, :].mT, (1, 0))[..., None]  # (B, H, N, n + 1, 1)
    later = torch.ones(parts.shape[2], parts.shape[2], dtype=torch.bool, device=added.device).tril(-1)
    since = torch.where(later, decays, 0).cumsum(-2)  # added up over the chunks behind m, through n; never subtracted
    return (torch.exp(since).tril() @ parts.transpose(2, 3)).transpose(2, 3)


def wkv6_chunked(
    r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor, state: Tensor, lengths: Tensor | None = None, size=None
) -> tuple[Tensor, Tensor]:
    """The same as :func:`wkv6_recurrent` as matrix products, in chunks of C = ``size`` tokens, a power of two."""
    tokens = r.shape[2]
    size = size or (32 if tokens <= 96 else 64)
    if lengths is not None:  # padding writes nothing, and nothing decays in it
        real = is_real(tokens, lengths)[:, None, :, None]
        k, log_w = k * real, log_w * real
    r, k, v, log_w = (split_chunks(x, size) for x in (r, k, v, log_w))
    scores, before, after, total = wkv6_scores(r, k, log_w, u)
    added = (k * torch.exp(after)).mT @ v  # what a chunk adds to S
    earlier = []
    for part, decays in zip(added.split(CHUNKS_AT_ONCE, 2), total.split(CHUNKS_AT_ONCE, 2), strict=True):
        states = wkv6_states(part, decays, state)
        earlier.append(states[:, :, :-1])
        state = states[:, :, -1]
    y = scores @ v + (r * torch.exp(before)) @ torch.cat(earlier, dim=2)
    return y.flatten(2, 3)[:, :, :tokens], state


def wkv6(
    r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor, state: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same as :func:`wkv6_recurrent`: by a Triton kernel where one can run, or else by :func:`wkv6_chunked`."""
    return (KERNEL.to_read(r) or wkv6_chunked)(r, k, v, log_w, u, state, lengths)


def load_kernel() -> Callable[..., tuple[Tensor, Tensor]]:
    from .wkv6_triton import wkv6

    return wkv6


def kernel_example(device: torch.device) -> tuple[Tensor, ...]:
    tokens = torch.zeros(1, 1, 2, 8, device=device)
    return tokens, tokens, tokens, tokens, tokens[0, :, 0], torch.zeros(1, 1, 8, 8, device=device)


KERNEL = TritonKernel("wkv6", load_kernel, kernel_example)


class Rwkv6TimeMix(RwkvMatrixTimeMix):
    """Time-mix of RWKV-6: mixtures and decay set by the text, WKV, a norm for each head, gate, output."""

    receptance: RwkvLinear
    key: RwkvLinear
    value: RwkvLinear
    gate: RwkvLinear
    time_maa_x: nn.Parameter

    def __init__(self, config: Rwkv6Config, layer: int):
        ratios = tuple(f"time_maa_{letter}" for letter in "x" + LETTERS)
        super().__init__(config, layer, inputs=("receptance", "key", "value", "gate"), ratios=ratios)
        hidden, width = config.hidden_size, config.attention_hidden_size
        mix_rank, decay_rank = config.mix_rank, config.decay_rank
        assert width is not None  # the configuration fills in what is not given, here and below
        assert mix_rank is not None
        assert decay_rank is not None
        self.heads, self.head_size = config.num_heads, config.head_size
        self.time_maa_w1 = nn.Parameter(torch.empty(hidden, len(LETTERS) * mix_rank))
        self.time_maa_w2 = nn.Parameter(torch.empty(len(LETTERS), mix_rank, hidden))
        self.time_decay = nn.Parameter(torch.empty(1, 1, width))
        self.time_decay_w1 = nn.Parameter(torch.empty(hidden, decay_rank))
        self.time_decay_w2 = nn.Parameter(torch.empty(decay_rank, width))
        self.time_faaaa = nn.Parameter(torch.empty(self.heads, self.head_size))
        self.add_time_state(config)
        for name in self.inputs:
            self.add_module(name, RwkvLinear(hidden, width, bias=False))
        self.output = RwkvLinear(width, hidden, bias=False)
        self.wkv = wkv6
        self.ln_x = Fp32GroupNorm(self.heads, width, eps=config.group_norm_epsilon)

    def initialize(self) -> None:
        """Initialize as BlinkDL/RWKV-LM does: at first the text changes neither ratios nor decays."""
        channels = torch.linspace(0, 1, self.time_maa_x.shape[-1])
        for name in self.ratios:
            power = 0.5 * self.rise if name[-1] in "rg" else self.rise
            init.copy_(getattr(self, name)[0, 0], 1 - channels**power - (0.3 * self.depth if name[-1] == "v" else 0))
        width = self.time_decay.numel()
        ladder = torch.linspace(0, 1, width)
        init.copy_(self.time_decay[0, 0], -6 + 5 * ladder ** (0.7 + 1.3 * self.depth))
        zigzag = 0.1 * ((torch.arange(width) + 1) % 3 - 1)
        init.copy_(self.time_faaaa.flatten(), self.depth * (1 - ladder) + zigzag)
        for name in ("time_maa", "time_decay"):
            init.zeros_(getattr(self, f"{name}_w1"))
            init.uniform_(getattr(self, f"{name}_w2"), -0.01, 0.01)
        self.initialize_time_state()

    def mixtures(self, x: Tensor, difference: Tensor) -> dict[str, Tensor]:
        """Return the five inputs by their letters, each (B, T, D), mixed in ratios that the text sets."""
        hints = torch.tanh(torch.addcmul(x, difference, self.time_maa_x.to(x.dtype)) @ self.time_maa_w1)
        by_letter = hints.flatten(0, 1).unflatten(-1, (len(LETTERS), -1)).transpose(0, 1)  # (5, B T, rank)
        ratios = torch.cat([getattr(self, f"time_maa_{letter}") for letter in LETTERS]).to(x.dtype)  # (5, 1, D)
        ratios = torch.baddbmm(ratios, by_letter, self.time_maa_w2).unflatten(1, x.shape[:2])  # (5, B, T, D)
        mixed = torch.addcmul(x, difference, ratios)
        return dict(zip(LETTERS, mixed.unbind(0), strict=True))

    def forward(
        self, x: Tensor, before: Tensor, state: Tensor | None, lengths: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, tokens, _ = x.shape
        inputs = self.mixtures(x, token_shift(x, before) - x)

        def heads(projected: Tensor) -> Tensor:  # (B, T, A) -> (B, H, T, N)
            return at_least_fp32(projected).view(batch, tokens, self.heads, self.head_size).transpose(1, 2)

        r, k, v = heads(self.receptance(inputs["r"])), heads(self.key(inputs["k"])), heads(self.value(inputs["v"]))
        w, *decays = map(at_least_fp32, (inputs["w"], self.time_decay, self.time_decay_w1, self.time_decay_w2))
        log_w = -torch.exp(heads(decays[0] + torch.tanh(w @ decays[1]) @ decays[2]))
        state = self.initial_wkv(batch) if state is None else state.to(r)
        read = wkv6_recurrent if tokens == 1 else self.wkv
        with without_autocast(x):
            y, state = read(r, k, v, log_w, at_least_fp32(self.time_faaaa), state, lengths)

        y = self.ln_x(y.transpose(1, 2).reshape(batch * tokens, -1)).view(batch, tokens, -1).to(x.dtype)
        y = y * F.silu(self.gate(inputs["g"]))
        return self.output(scaled(y, scale)), last_token(x, before, lengths), state


class Rwkv6ChannelMix(RwkvChannelMix):
    """Channel-mix as in RWKV-5; only its ratios count what comes from the token before."""

    ratio_names = ("time_maa_k", "time_maa_r")

    def initialize(self) -> None:
        for name in self.ratios:
            ratio = getattr(self, name)
            init.copy_(ratio, 1 - torch.linspace(0, 1, ratio.shape[-1]).view_as(ratio) ** self.rise)

    def mixed(self, x: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        key, receptance = (torch.lerp(x, previous, getattr(self, name).to(x.dtype)) for name in self.ratios)
        return key, receptance


class Rwkv6Model(RwkvModel):
    config_class = Rwkv6Config
    time_mix_class = Rwkv6TimeMix
    channel_mix_class = Rwkv6ChannelMix
    # time_decay stands for time_decay_w1 and time_decay_w2, too
    _keep_in_fp32_modules_strict = ["time_decay", "time_faaaa", "time_state", "ln_x"]


class Rwkv6ForCausalLM(RwkvForCausalLM):
    config_class = Rwkv6Config
    model_class = Rwkv6Model
    _keep_in_fp32_modules_strict = Rwkv6Model._keep_in_fp32_modules_strict


Rwkv6Config.register_for_auto_class()
Rwkv6Model.register_for_auto_class("AutoModel")
Rwkv6ForCausalLM.register_for_auto_class("AutoModelForCausalLM")

__all__ = ["Rwkv6ForCausalLM", "Rwkv6Model"]
