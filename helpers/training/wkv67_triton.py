"""WKV-6 and WKV-7 as Triton kernels for training on an NVIDIA GPU: same numbers as the forms in ``hub_code``, faster.

As in :mod:`.wkv_triton`, texts start with an empty state and the final state is not returned. One program goes through
one head of one text, chunk by chunk, with the state on the chip. It stores the state before each chunk, so that the
gradient can be computed in one pass from the last chunk to the first.

The gradients follow from the docstrings of ``modeling_rwkv6.py`` and ``modeling_rwkv7.py``. That of a decay is the sum
over all that decays by it: each number that is multiplied by e^(L_i - L_j), L being the sum of the logarithms from the
chunk's start through a token, gives itself times its gradient to L_i, and takes as much from L_j.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .wkv_triton import CHUNK, STRONGEST, empty_like, register_gradient


@triton.jit
def _at(start, T, H, N: tl.constexpr, C: tl.constexpr):
    """Return the offsets (C, N) of a chunk's tokens in (B, T, H, N), for this program's text and head."""
    program = tl.program_id(0)
    token, channel = start + tl.arange(0, C)[:, None], tl.arange(0, N)[None, :]
    return ((program // H * T + token) * H + program % H) * N + channel


@triton.jit
def _state_at(start, T, N: tl.constexpr, C: tl.constexpr):
    """Return the offsets (N, N) of the state before a chunk."""
    row, column = tl.arange(0, N)[:, None], tl.arange(0, N)[None, :]
    return ((tl.program_id(0) * (T // C) + start // C) * N + row) * N + column


@triton.jit
def _read(x_, at):
    return tl.load(x_ + at).to(tl.float32)


@triton.jit
def _write(x_, at, x):
    tl.store(x_ + at, x.to(x_.dtype.element_ty))


@triton.jit
def _factors(log_w, C: tl.constexpr):
    """Return what decays from the chunk's middle to before each token, and from after it back to the middle;
    from the start to before each token, from after it to the end, (C, N) each; and in the whole chunk, (N,)."""
    row = tl.arange(0, C)[:, None]
    through, total = tl.cumsum(log_w, 0), tl.sum(log_w, 0)
    before, middle = through - log_w, tl.sum(tl.where(row < C // 2, log_w, 0.0), 0)[None, :]
    later, earlier = tl.exp(before - middle), tl.exp(middle - through)
    return later, earlier, tl.exp(before), tl.exp(total[None, :] - through), tl.exp(total)


@triton.jit
def _wkv6_forward(r_, k_, v_, log_w_, u_, y_, states_, T, H, N: tl.constexpr, C: tl.constexpr):
    row = tl.arange(0, C)
    below, diagonal = row[:, None] > row[None, :], row[:, None] == row[None, :]
    u = tl.load(u_ + tl.program_id(0) % H * N + tl.arange(0, N))
    state = tl.zeros((N, N), tl.float32)
    for start in range(0, T, C):
        at = _at(start, T, H, N, C)
        r, k, v = _read(r_, at), _read(k_, at), _read(v_, at)
        later, earlier, from_start, to_end, whole = _factors(tl.maximum(_read(log_w_, at), STRONGEST), C)
        own = tl.sum(r * u[None, :] * k, 1)
        scores = tl.dot(r * later, tl.trans(k * earlier))
        scores = tl.where(below, scores, tl.where(diagonal, own[:, None], 0.0))
        _write(y_, at, tl.dot(scores, v) + tl.dot(r * from_start, state))
        tl.store(states_ + _state_at(start, T, N, C), state)
        state = whole[:, None] * state + tl.dot(tl.trans(k * to_end), v)


@triton.jit
def _wkv6_backward(
    r_, k_, v_, log_w_, u_, states_, dy_, dr_, dk_, dv_, dw_, du_, T, H, N: tl.constexpr, C: tl.constexpr
):  # fmt: skip
    row = tl.arange(0, C)
    below = row[:, None] > row[None, :]
    u = tl.load(u_ + tl.program_id(0) % H * N + tl.arange(0, N))
    du = tl.zeros((N,), tl.float32)
    future = tl.zeros((N, N), tl.float32)  # the gradient of the state behind a chunk
    for back in range(C, T + 1, C):
        at = _at(T - back, T, H, N, C)
        r, k, v, dy = _read(r_, at), _read(k_, at), _read(v_, at), _read(dy_, at)
        log_w = _read(log_w_, at)
        later, earlier, from_start, to_end, whole = _factors(tl.maximum(log_w, STRONGEST), C)
        state = tl.load(states_ + _state_at(T - back, T, N, C))
        heard = tl.where(below, tl.dot(dy, tl.trans(v)), 0.0)
        scores = tl.where(below, tl.dot(r * later, tl.trans(k * earlier)), 0.0)
        own, bonus = tl.sum(dy * v, 1)[:, None], tl.sum(r * u[None, :] * k, 1)[:, None]
        dr = later * tl.dot(heard, k * earlier) + from_start * tl.dot(dy, tl.trans(state))
        written = to_end * tl.dot(v, tl.trans(future))
        dk = earlier * tl.dot(tl.trans(heard), r * later) + written
        dv = tl.dot(tl.trans(scores), dy) + tl.dot(k * to_end, future) + bonus * dy
        du += tl.sum(own * r * k, 0)
        _write(dr_, at, dr + own * u[None, :] * k)
        _write(dk_, at, dk + own * u[None, :] * r)
        _write(dv_, at, dv)
        end = whole * tl.sum(state * future, 1) + tl.sum(k * written, 0)  # what the state behind the chunk gives
        gives, takes = r * dr, k * dk
        dw = (tl.sum(gives - takes, 0) + end)[None, :] - tl.cumsum(gives - takes, 0) - takes
        _write(dw_, at, tl.where(log_w > STRONGEST, dw, 0.0))
        future = whole[:, None] * future + tl.dot(tl.trans(r * from_start), dy)
    tl.store(du_ + tl.program_id(0) * N + tl.arange(0, N), du)


@triton.jit
def _inverse(a, C: tl.constexpr):
    """Return (1 - a)^-1 for strictly lower a (C, C), C = 16 or 32: (1 + a)(1 + a^2)(1 + a^4)..., since a^C is 0."""
    one = (tl.arange(0, C)[:, None] == tl.arange(0, C)[None, :]).to(tl.float32)
    result, power = one + a, tl.dot(a, a, input_precision="ieee")
    result = tl.dot(result, one + power, input_precision="ieee")
    power = tl.dot(power, power, input_precision="ieee")
    result = tl.dot(result, one + power, input_precision="ieee")
    power = tl.dot(power, power, input_precision="ieee")
    result = tl.dot(result, one + power, input_precision="ieee")
    if C > 16:
        power = tl.dot(power, power, input_precision="ieee")
        result = tl.dot(result, one + power, input_precision="ieee")
    return result


@triton.jit
def _products(r, k, a, b, C: tl.constexpr):
    """Return the matrices (C, C) of a chunk: how tokens erase what b and k have written, and how they read it."""
    row = tl.arange(0, C)
    strictly, lower = row[:, None] > row[None, :], row[:, None] >= row[None, :]
    erase_b = tl.where(strictly, tl.dot(a, tl.trans(b)), 0.0)
    erase_k = tl.where(strictly, tl.dot(a, tl.trans(k)), 0.0)
    read_b = tl.where(lower, tl.dot(r, tl.trans(b)), 0.0)
    read_k = tl.where(lower, tl.dot(r, tl.trans(k)), 0.0)
    return _inverse(erase_b, C), erase_k, read_b, read_k


@triton.jit
def _wkv7_forward(r_, log_w_, k_, v_, a_, b_, y_, states_, T, H, N: tl.constexpr, C: tl.constexpr):
    state = tl.zeros((N, N), tl.float32)
    for start in range(0, T, C):
        at = _at(start, T, H, N, C)
        log_w, v = _read(log_w_, at), _read(v_, at)
        through = tl.cumsum(log_w, 0)
        r, a = _read(r_, at) * tl.exp(through), _read(a_, at) * tl.exp(through - log_w)
        k, b = _read(k_, at) * tl.exp(-through), _read(b_, at) * tl.exp(-through)
        inverse, erase_k, read_b, read_k = _products(r, k, a, b, C)
        u = tl.dot(inverse, tl.dot(a, state) + tl.dot(erase_k, v))
        _write(y_, at, tl.dot(r, state) + tl.dot(read_b, u) + tl.dot(read_k, v))
        tl.store(states_ + _state_at(start, T, N, C), state)
        state += tl.dot(tl.trans(k), v) + tl.dot(tl.trans(b), u)
        state *= tl.exp(tl.sum(log_w, 0))[:, None]


@triton.jit
def _wkv7_backward(
    r_, log_w_, k_, v_, a_, b_, states_, dy_, dr_, dw_, dk_, dv_, da_, db_, T, H, N: tl.constexpr, C: tl.constexpr
):  # fmt: skip
    row = tl.arange(0, C)
    strictly, lower = row[:, None] > row[None, :], row[:, None] >= row[None, :]
    future = tl.zeros((N, N), tl.float32)  # the gradient of the state behind a chunk
    for back in range(C, T + 1, C):
        at = _at(T - back, T, H, N, C)
        log_w, v, dy = _read(log_w_, at), _read(v_, at), _read(dy_, at)
        through = tl.cumsum(log_w, 0)
        decay, decay_before, growth = tl.exp(through), tl.exp(through - log_w), tl.exp(-through)
        r, a = _read(r_, at) * decay, _read(a_, at) * decay_before
        k, b = _read(k_, at) * growth, _read(b_, at) * growth
        inverse, erase_k, read_b, read_k = _products(r, k, a, b, C)
        state = tl.load(states_ + _state_at(T - back, T, N, C))
        u = tl.dot(inverse, tl.dot(a, state) + tl.dot(erase_k, v))
        future *= tl.exp(tl.sum(log_w, 0))[:, None]  # now of the sum that decays in the whole chunk

        du = tl.dot(tl.trans(inverse), tl.dot(tl.trans(read_b), dy) + tl.dot(b, future))
        dv = tl.dot(tl.trans(read_k), dy) + tl.dot(tl.trans(erase_k), du) + tl.dot(k, future)
        dread_b, dread_k = tl.dot(dy, tl.trans(u)), tl.dot(dy, tl.trans(v))
        dread_b, dread_k = tl.where(lower, dread_b, 0.0), tl.where(lower, dread_k, 0.0)
        derase_b, derase_k = tl.dot(du, tl.trans(u)), tl.dot(du, tl.trans(v))
        derase_b, derase_k = tl.where(strictly, derase_b, 0.0), tl.where(strictly, derase_k, 0.0)
        written_k, written_b = tl.dot(v, tl.trans(future)), tl.dot(u, tl.trans(future))
        dr = tl.dot(dy, tl.trans(state)) + tl.dot(dread_b, b) + tl.dot(dread_k, k)
        da = tl.dot(du, tl.trans(state)) + tl.dot(derase_b, b) + tl.dot(derase_k, k)
        dk = tl.dot(tl.trans(dread_k), r) + tl.dot(tl.trans(derase_k), a) + written_k
        db = tl.dot(tl.trans(dread_b), r) + tl.dot(tl.trans(derase_b), a) + written_b
        _write(dr_, at, dr * decay)
        _write(da_, at, da * decay_before)
        _write(dk_, at, dk * growth)
        _write(db_, at, db * growth)
        _write(dv_, at, dv)
        end = tl.sum(state * future, 1) + tl.sum(k * written_k + b * written_b, 0)
        through_gives, before_gives = r * dr - k * dk - b * db, a * da
        gives = through_gives + before_gives
        _write(dw_, at, (tl.sum(gives, 0) + end)[None, :] - tl.cumsum(gives, 0) + through_gives)
        future += tl.dot(tl.trans(r), dy) + tl.dot(tl.trans(a), du)


def _new_states(x: Tensor) -> Tensor:
    """Return an empty tensor for the states before the chunks of x (B, T, H, N)."""
    batch, tokens, heads, size = x.shape
    return x.new_empty((batch, heads, tokens // CHUNK, size, size), dtype=torch.float32)


def _run(kernel, like: Tensor, tensors: tuple[Tensor, ...]) -> None:
    """Run a kernel over the texts and heads of ``like`` (B, T, H, N)."""
    batch, tokens, heads, size = like.shape
    kernel[(batch * heads,)](*tensors, tokens, heads, size, CHUNK, num_warps=4)


@torch.library.custom_op("rwkv_training::wkv6", mutates_args=())
def wkv6_op(r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Return y and the states before the chunks, for r, k, v and log_w (B, T, H, N) and u (H, N) in fp32."""
    y, states = torch.empty_like(v), _new_states(v)
    _run(_wkv6_forward, v, (r, k, v, log_w, u, y, states))
    return y, states


@torch.library.custom_op("rwkv_training::wkv6_backward", mutates_args=())
def wkv6_backward_op(
    r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor, states: Tensor, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    dr, dk, dv, dw = empty_like(r, k, v, log_w)
    du = u.new_empty((len(r), *u.shape))
    _run(_wkv6_backward, v, (r, k, v, log_w, u, states, dy, dr, dk, dv, dw, du))
    return dr, dk, dv, dw, du.sum(0)


@torch.library.custom_op("rwkv_training::wkv7", mutates_args=())
def wkv7_op(r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return y and the states before the chunks, for six inputs (B, T, H, N)."""
    y, states = torch.empty_like(v), _new_states(v)
    _run(_wkv7_forward, v, (r, log_w, k, v, a, b, y, states))
    return y, states


@torch.library.custom_op("rwkv_training::wkv7_backward", mutates_args=())
def wkv7_backward_op(
    r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, states: Tensor, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    dr, dw, dk, dv, da, db = empty_like(r, log_w, k, v, a, b)
    _run(_wkv7_backward, v, (r, log_w, k, v, a, b, states, dy, dr, dw, dk, dv, da, db))
    return dr, dw, dk, dv, da, db


register_gradient(
    wkv6_op,
    wkv6_backward_op,
    lambda r, k, v, log_w, u: (torch.empty_like(v), _new_states(v)),
    lambda r, k, v, log_w, u, states, dy: empty_like(r, k, v, log_w, u),
    saved=lambda output: output[1:],
)
register_gradient(
    wkv7_op,
    wkv7_backward_op,
    lambda r, log_w, k, v, a, b: (torch.empty_like(v), _new_states(v)),
    lambda r, log_w, k, v, a, b, states, dy: empty_like(r, log_w, k, v, a, b),
    saved=lambda output: output[1:],
)


def _by_token(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return (B, H, T, N) as (B, T, H, N) one token after the other."""
    return x.transpose(1, 2).to(dtype).contiguous()


def wkv6(r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor, state: Tensor, lengths=None):
    """:func:`modeling_rwkv6.wkv6_chunked` from an empty state; returns no state. T is a multiple of 16."""
    short = torch.bfloat16 if r.is_cuda else r.dtype
    r, k, v = (_by_token(x, short) for x in (r, k, v))
    return wkv6_op(r, k, v, _by_token(log_w, log_w.dtype), u.contiguous())[0].transpose(1, 2).float(), state


def wkv7(r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor, lengths=None):
    """:func:`modeling_rwkv7.wkv7_chunked` from an empty state; returns no state. T is a multiple of 16."""
    short = torch.bfloat16 if r.is_cuda else r.dtype
    r, k, v, a, b = (_by_token(x, short) for x in (r, k, v, a, b))
    return wkv7_op(r, _by_token(log_w, log_w.dtype), k, v, a, b)[0].transpose(1, 2).float(), state
