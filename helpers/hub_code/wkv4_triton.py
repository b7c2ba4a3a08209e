# Copyright 2026 The RWKV World on Hugging Face authors
# SPDX-License-Identifier: Apache-2.0
"""WKV-4 on a GPU, as two Triton kernels, where ``wkv4_scan`` is hundreds: for reading, without gradients.

The tokens are cut into chunks. The first kernel sums up each chunk as if nothing had been before it. The second one
adds the sums of all earlier chunks to the initial state, and goes through the tokens of its chunk from there. So no
program takes more than about 3 sqrt(T) steps one after the other, and all chunks are computed at the same time.

``modeling_rwkv4`` takes it where it runs, and its own functions elsewhere. They are the reference that tests compare
with; Triton's interpreter (``TRITON_INTERPRET=1``) runs the kernels without a GPU.
"""

import torch
from torch import Tensor

from .rwkv_triton import real_tokens, tl, tokens_of_chunk, triton

BLOCK = 32  # channels of a program, one a thread


@triton.jit
def _add_decayed(a, b, p, log_decay, later_a, later_b, later_p):
    """Let earlier sums decay and add later ones; numerator a and denominator b are kept divided by e^p."""
    p += log_decay
    top = tl.maximum(p, later_p)
    old, new = tl.exp(p - top), tl.exp(later_p - top)
    return old * a + new * later_a, old * b + new * later_b, top


@triton.jit
def _chunk_sums(k_, v_, w_, lengths_, sums_, T, A, C, BLOCK: tl.constexpr):
    """Store the sums of each chunk (B, n, 3, A)."""
    chunk, row = tl.program_id(0), tl.program_id(1)
    channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < A
    w = tl.load(w_ + channel, mask=inside, other=0.0)
    a, b = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    p = tl.full((BLOCK,), -1e38, tl.float32)
    start = chunk * C
    stop = tl.minimum(start + C, real_tokens(lengths_, row, T))
    at = (row.to(tl.int64) * T + start) * A + channel
    for _ in range(start, stop):
        k, v = tl.load(k_ + at, mask=inside, other=0.0), tl.load(v_ + at, mask=inside, other=0.0)
        a, b, p = _add_decayed(a, b, p, w, v, 1.0, k)
        at += A
    to = (row * tl.num_programs(0) + chunk) * 3 * A + channel
    tl.store(sums_ + to, a, mask=inside)
    tl.store(sums_ + to + A, b, mask=inside)
    tl.store(sums_ + to + 2 * A, p, mask=inside)


@triton.jit
def _outputs(
    k_, v_, w_, u_, lengths_, state_, sums_, y_, after_, T, A, C, BLOCK: tl.constexpr
):  # fmt: skip
    """Store wkv (B, T, A), and the state behind the last real token (B, 3, A)."""
    chunk, row, chunks = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < A
    w = tl.load(w_ + channel, mask=inside, other=0.0)
    u = tl.load(u_ + channel, mask=inside, other=0.0)
    length = real_tokens(lengths_, row, T)
    at = row * 3 * A + channel
    a = tl.load(state_ + at, mask=inside, other=0.0)
    b = tl.load(state_ + at + A, mask=inside, other=0.0)
    p = tl.load(state_ + at + 2 * A, mask=inside, other=0.0)
    of = row * chunks * 3 * A + channel
    for earlier in range(0, chunk):
        tokens = tl.minimum(tl.maximum(length - earlier * C, 0), C)
        later_a = tl.load(sums_ + of, mask=inside, other=0.0)
        later_b = tl.load(sums_ + of + A, mask=inside, other=0.0)
        later_p = tl.load(sums_ + of + 2 * A, mask=inside, other=0.0)
        a, b, p = _add_decayed(a, b, p, w * tokens, later_a, later_b, later_p)
        of += 3 * A
    start = chunk * C
    token = (row.to(tl.int64) * T + start) * A + channel
    for t in range(start, tl.minimum(start + C, T)):
        k, v = tl.load(k_ + token, mask=inside, other=0.0), tl.load(v_ + token, mask=inside, other=0.0)
        numerator, denominator, _ = _add_decayed(a, b, p, 0.0, v, 1.0, u + k)
        tl.store(y_ + token, numerator / denominator, mask=inside)
        new_a, new_b, new_p = _add_decayed(a, b, p, w, v, 1.0, k)
        real = t < length  # padding adds nothing, and nothing decays in it
        a, b, p = tl.where(real, new_a, a), tl.where(real, new_b, b), tl.where(real, new_p, p)
        token += A
    if chunk == chunks - 1:
        tl.store(after_ + at, a, mask=inside)
        tl.store(after_ + at + A, b, mask=inside)
        tl.store(after_ + at + 2 * A, p, mask=inside)


def wkv4(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same as :func:`.modeling_rwkv4.wkv4_recurrent`, in fp32 and without gradients."""
    k, v, w, u, state = (x.contiguous() for x in (k, v, w, u, state))
    batch, tokens, width = k.shape
    size = tokens_of_chunk(tokens)
    chunks = -(-tokens // size)
    sums = k.new_empty(batch, chunks, 3, width)
    wkv, after = torch.empty_like(k), torch.empty_like(state)
    grid = chunks, batch, -(-width // BLOCK)
    options = {"BLOCK": BLOCK, "num_warps": 1}
    _chunk_sums[grid](k, v, w, lengths, sums, tokens, width, size, **options)
    _outputs[grid](k, v, w, u, lengths, state, sums, wkv, after, tokens, width, size, **options)
    return wkv, after
