# Copyright 2026 The RWKV World on Hugging Face authors
# SPDX-License-Identifier: Apache-2.0
"""WKV-7 on a GPU, as three Triton kernels: for reading, without gradients.

The tokens are cut into chunks. What a chunk makes of the state before it is ``K S + A``, and each column of S goes
through all tokens by itself. So the first kernel lets the columns of the unit matrix go through each chunk without
writing, which gives K, and then writes into columns of zeros, which gives A. The second one applies the chunks one
after the other, and the third one reads the tokens of all chunks at the same time, each from the state before it.
"""

import torch
from torch import Tensor

from .rwkv_triton import real_tokens, tl, tokens_of_chunk, triton

COLUMNS = 32  # of a state in one program
SHORTEST = 32  # tokens of a chunk, each of which writes three matrices to memory


@triton.jit
def _step(state, log_w_, k_, a_, b_, v, at_row, in_rows):
    """Return the state (ROWS, COLUMNS) after one more token: decay, erase, write v (COLUMNS,)."""
    log_w = tl.load(log_w_ + at_row, mask=in_rows, other=0.0)
    k = tl.load(k_ + at_row, mask=in_rows, other=0.0)
    a = tl.load(a_ + at_row, mask=in_rows, other=0.0)
    b = tl.load(b_ + at_row, mask=in_rows, other=0.0)
    erased = tl.sum(a[:, None] * state, 0)
    return tl.exp(log_w)[:, None] * state + b[:, None] * erased[None, :] + k[:, None] * v[None, :]


@triton.jit
def _chunk_maps(
    log_w_, k_, v_, a_, b_, lengths_, kept_, added_, T, H, C, N: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """Store K and A of each chunk, (B, H, n, N, N) each. The first half of the programs is there for K."""
    chunk, head, blocks = tl.program_id(0), tl.program_id(1), tl.num_programs(2) // 2
    is_kept = tl.program_id(2) < blocks
    row, column = tl.arange(0, ROWS), tl.program_id(2) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    in_rows, in_columns = row < N, column < N
    start = chunk * C
    stop = tl.minimum(start + C, real_tokens(lengths_, head // H, T))
    at = (((head // H).to(tl.int64) * T + start) * H + head % H) * N
    state = tl.where(is_kept & (row[:, None] == column[None, :]), 1.0, 0.0)
    for _ in range(start, stop):
        v = tl.load(v_ + at + column, mask=in_columns & (not is_kept), other=0.0)
        state = _step(state, log_w_, k_, a_, b_, v, at + row, in_rows)
        at += H * N
    to = (head.to(tl.int64) * tl.num_programs(0) + chunk) * N * N + row[:, None] * N + column[None, :]
    inside = in_rows[:, None] & in_columns[None, :]
    tl.store(kept_ + to, state, mask=inside & is_kept)
    tl.store(added_ + to, state, mask=inside & (not is_kept))


@triton.jit
def _chunk_states(
    state_, kept_, added_, states_, after_, chunks, N: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    """Store the states before the chunks (B, H, n, N, N), and the one behind the last (B, H, N, N)."""
    head = tl.program_id(0).to(tl.int64)
    row, column = tl.arange(0, ROWS), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < N)[:, None] & (column < N)[None, :]
    in_square = (row < N)[:, None] & (row < N)[None, :]
    cell, square = row[:, None] * N + column[None, :], row[:, None] * N + row[None, :]
    state = tl.load(state_ + head * N * N + cell, mask=inside, other=0.0)
    at = head * chunks * N * N
    for _ in range(0, chunks):
        kept = tl.load(kept_ + at + square, mask=in_square, other=0.0)
        added = tl.load(added_ + at + cell, mask=inside, other=0.0)
        tl.store(states_ + at + cell, state, mask=inside)
        state = tl.dot(kept, state, added, input_precision="tf32x3")  # as exact as fp32
        at += N * N
    tl.store(after_ + head * N * N + cell, state, mask=inside)


@triton.jit
def _outputs(
    r_, log_w_, k_, v_, a_, b_, lengths_, states_, y_, T, H, C, N: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """Store y (B, T, H, N). Padding reads the state behind the last real token."""
    chunk, head = tl.program_id(0), tl.program_id(1)
    row, column = tl.arange(0, ROWS), tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    in_rows, in_columns = row < N, column < N
    of = (head.to(tl.int64) * tl.num_programs(0) + chunk) * N * N + row[:, None] * N + column[None, :]
    state = tl.load(states_ + of, mask=in_rows[:, None] & in_columns[None, :], other=0.0)
    length = real_tokens(lengths_, head // H, T)
    start = chunk * C
    at = (((head // H).to(tl.int64) * T + start) * H + head % H) * N
    for t in range(start, tl.minimum(start + C, T)):
        r = tl.load(r_ + at + row, mask=in_rows, other=0.0)
        v = tl.load(v_ + at + column, mask=in_columns, other=0.0)
        if t < length:
            state = _step(state, log_w_, k_, a_, b_, v, at + row, in_rows)
        tl.store(y_ + at + column, tl.sum(r[:, None] * state, 0), mask=in_columns)
        at += H * N


def wkv7(
    r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same as :func:`.modeling_rwkv7.wkv7_recurrent`, in fp32 and without gradients."""
    r, log_w, k, v, a, b = (x.transpose(1, 2).contiguous() for x in (r, log_w, k, v, a, b))  # (B, T, H, N)
    state = state.contiguous()
    batch, tokens, heads, channels = r.shape
    size = tokens_of_chunk(tokens, SHORTEST)
    chunks, blocks = -(-tokens // size), -(-channels // COLUMNS)
    kept, added, states = r.new_empty(3, batch, heads, chunks, channels, channels)
    y, after = torch.empty_like(r), torch.empty_like(state)
    rows = max(16, 1 << (channels - 1).bit_length())  # 16: the least of a matrix product
    options = {"N": channels, "ROWS": rows, "COLUMNS": COLUMNS}
    grid = chunks, batch * heads
    _chunk_maps[*grid, 2 * blocks](log_w, k, v, a, b, lengths, kept, added, tokens, heads, size, **options, num_warps=1)
    _chunk_states[batch * heads, blocks](state, kept, added, states, after, chunks, **options, num_warps=4)
    _outputs[*grid, blocks](r, log_w, k, v, a, b, lengths, states, y, tokens, heads, size, **options, num_warps=1)
    return y.transpose(1, 2), after
