# Copyright 2026 The RWKV World on Hugging Face authors
# SPDX-License-Identifier: Apache-2.0
"""WKV-6 and WKV-5 on a GPU, as two Triton kernels: for reading, without gradients.

As in ``wkv4_triton``, the tokens are cut into chunks. The first kernel finds what each chunk adds to a state, the
second one lets the initial state pass through all earlier chunks, and reads the tokens of its chunk from there. A
program keeps some columns of a head's matrix on the chip; columns do not depend on each other. The decays of RWKV-5 are
the same at all tokens, which is called STATIC here.
"""

import torch
from torch import Tensor

from .rwkv_triton import real_tokens, tl, tokens_of_chunk, triton

COLUMNS = 32  # of a state in one program
SHORTEST = 32  # tokens of a chunk, each of which writes a state to memory


@triton.jit
def _chunk_states(
    k_, v_, log_w_, lengths_, added_, total_, T, H, C, N: tl.constexpr, STATIC: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """Store what each chunk adds to S (B, H, n, N, N), and the logarithm of its decay (B, H, n, N)."""
    chunk, head = tl.program_id(0), tl.program_id(1)
    row, column = tl.arange(0, ROWS), tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    in_rows, in_columns = row < N, column < N
    start = chunk * C
    stop = tl.minimum(start + C, real_tokens(lengths_, head // H, T))
    at = (((head // H).to(tl.int64) * T + start) * H + head % H) * N
    decay_at = head % H * N if STATIC else at
    state, total = tl.zeros((ROWS, COLUMNS), tl.float32), tl.zeros((ROWS,), tl.float32)
    for _ in range(start, stop):
        k = tl.load(k_ + at + row, mask=in_rows, other=0.0)
        log_w = tl.load(log_w_ + decay_at + row, mask=in_rows, other=0.0)
        v = tl.load(v_ + at + column, mask=in_columns, other=0.0)
        state = tl.exp(log_w)[:, None] * state + k[:, None] * v[None, :]
        total += log_w
        at += H * N
        decay_at += 0 if STATIC else H * N
    to = (head.to(tl.int64) * tl.num_programs(0) + chunk) * N
    inside = in_rows[:, None] & in_columns[None, :]
    tl.store(added_ + (to + row[:, None]) * N + column[None, :], state, mask=inside)
    tl.store(total_ + to + row, total, mask=in_rows)  # the same from all programs of the chunk


@triton.jit
def _outputs(
    r_, k_, v_, log_w_, u_, lengths_, state_, added_, total_, y_, after_, T, H, C, N: tl.constexpr,
    STATIC: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Store y (B, T, H, N), and the state behind the last real token (B, H, N, N)."""
    chunk, head, chunks = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    row, column = tl.arange(0, ROWS), tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    in_rows, in_columns = row < N, column < N
    inside = in_rows[:, None] & in_columns[None, :]
    cell = row[:, None] * N + column[None, :]
    state = tl.load(state_ + head.to(tl.int64) * N * N + cell, mask=inside, other=0.0)
    of = head.to(tl.int64) * chunks * N
    for _ in range(0, chunk):
        total = tl.load(total_ + of + row, mask=in_rows, other=0.0)
        added = tl.load(added_ + of * N + cell, mask=inside, other=0.0)
        state = tl.exp(total)[:, None] * state + added
        of += N
    length = real_tokens(lengths_, head // H, T)
    start = chunk * C
    at = (((head // H).to(tl.int64) * T + start) * H + head % H) * N
    decay_at = head % H * N if STATIC else at
    u = tl.load(u_ + head % H * N + row, mask=in_rows, other=0.0)
    for t in range(start, tl.minimum(start + C, T)):
        r = tl.load(r_ + at + row, mask=in_rows, other=0.0)
        k = tl.load(k_ + at + row, mask=in_rows, other=0.0)
        log_w = tl.load(log_w_ + decay_at + row, mask=in_rows, other=0.0)
        v = tl.load(v_ + at + column, mask=in_columns, other=0.0)
        kv = k[:, None] * v[None, :]
        tl.store(y_ + at + column, tl.sum(r[:, None] * (u[:, None] * kv + state), 0), mask=in_columns)
        if t < length:  # nothing decays in padding
            state = tl.exp(log_w)[:, None] * state + kv
        at += H * N
        decay_at += 0 if STATIC else H * N
    if chunk == chunks - 1:
        tl.store(after_ + head.to(tl.int64) * N * N + cell, state, mask=inside)


def wkv6(
    r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor, state: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same as :func:`.modeling_rwkv6.wkv6_recurrent`, in fp32 and without gradients.

    With log_w (H, 1) or (H, N) it is the same as :func:`.modeling_rwkv5.wkv5_recurrent`.
    """
    r, k, v = (x.transpose(1, 2).contiguous() for x in (r, k, v))  # (B, T, H, N)
    batch, tokens, heads, channels = r.shape
    static = log_w.dim() == 2
    log_w = (log_w.expand(heads, channels) if static else log_w.transpose(1, 2)).contiguous()
    u, state = u.expand(heads, channels).contiguous(), state.contiguous()
    size = tokens_of_chunk(tokens, SHORTEST)
    chunks = -(-tokens // size)
    added = r.new_empty(batch, heads, chunks, channels, channels)
    total = r.new_empty(batch, heads, chunks, channels)
    y, after = torch.empty_like(r), torch.empty_like(state)
    grid = chunks, batch * heads, -(-channels // COLUMNS)
    rows = 1 << (channels - 1).bit_length()
    options = {"N": channels, "STATIC": static, "ROWS": rows, "COLUMNS": COLUMNS, "num_warps": 1}
    _chunk_states[grid](k, v, log_w, lengths, added, total, tokens, heads, size, **options)
    _outputs[grid](r, k, v, log_w, u, lengths, state, added, total, y, after, tokens, heads, size, **options)
    return y.transpose(1, 2), after
