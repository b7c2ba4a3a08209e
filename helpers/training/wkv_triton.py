"""WKV-4 and WKV-5 as Triton kernels for training on an NVIDIA GPU: same numbers as the forms in ``hub_code``, faster.

The chunked forms of ``hub_code`` write tables of T x C numbers a channel to memory; here they stay on the chip.
Texts start with an empty state, and the final state is not returned: that is all that training needs.
:func:`helpers.training.fast.use_kernel` puts them in the place of the models' own functions.

The gradients follow from the definitions in ``modeling_rwkv4.py`` and ``modeling_rwkv5.py``; tests compare both with
autograd through those. Triton's interpreter (``TRITON_INTERPRET=1``) runs them without a GPU.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

CHUNK = 16  # tokens of WKV-5 that are computed as matrix products
STRONGEST = tl.constexpr(-8.0)  # stronger log decays count as e^-8 within a chunk, so that w^-9 stays in fp32's range


@triton.jit
def _chunk_factors(log_w, C: tl.constexpr):
    """Return w^(i-1-m), w^(m-j) and w^i, w^(C-1-j) for the tokens of a chunk, m its middle: (C, N) each."""
    step = tl.arange(0, C).to(tl.float32)[:, None]
    clamped = tl.maximum(log_w, STRONGEST)[None, :]
    later = tl.exp(clamped * (step - 1 - C // 2))
    earlier = tl.exp(clamped * (C // 2 - step))
    return later, earlier, tl.exp(log_w[None, :] * step), tl.exp(log_w[None, :] * (C - 1 - step))


@triton.jit
def _wkv5_forward(r_, k_, v_, log_w_, u_, y_, T, H, N: tl.constexpr, C: tl.constexpr):
    program = tl.program_id(0)
    b, h = program // H, program % H
    channel, row = tl.arange(0, N), tl.arange(0, C)
    log_w, u = tl.load(log_w_ + h * N + channel), tl.load(u_ + h * N + channel)
    later, earlier, from_start, to_end = _chunk_factors(log_w, C)
    below = row[:, None] > row[None, :]
    diagonal = row[:, None] == row[None, :]
    whole = tl.exp(log_w * C)
    at = (b * T * H + h) * N + row[:, None] * H * N + channel[None, :]
    state = tl.zeros((N, N), tl.float32)
    for _ in range(0, T, C):
        r, k, v = tl.load(r_ + at).to(tl.float32), tl.load(k_ + at).to(tl.float32), tl.load(v_ + at).to(tl.float32)
        scores = tl.dot(r * later, tl.trans(k * earlier))
        own = tl.sum(r * u[None, :] * k, 1)
        scores = tl.where(below, scores, tl.where(diagonal, own[:, None], 0.0))
        y = tl.dot(scores, v) + tl.dot(r * from_start, state)
        tl.store(y_ + at, y.to(y_.dtype.element_ty))
        state = whole[:, None] * state + tl.dot(tl.trans(k * to_end), v)
        at += C * H * N


@triton.jit
def _wkv5_backward(
    r_, k_, v_, log_w_, u_, dy_, dr_, dk_, dv_, dw_, du_, T, H, N: tl.constexpr, C: tl.constexpr
):  # fmt: skip
    program = tl.program_id(0)
    b, h = program // H, program % H
    channel, row = tl.arange(0, N), tl.arange(0, C)
    log_w, u = tl.load(log_w_ + h * N + channel), tl.load(u_ + h * N + channel)
    later, earlier, from_start, to_end = _chunk_factors(log_w, C)
    below = row[:, None] > row[None, :]
    whole = tl.exp(log_w * C)
    at = (b * T * H + h) * N + row[:, None] * H * N + channel[None, :]
    dw, du = tl.zeros((N,), tl.float32), tl.zeros((N,), tl.float32)

    state = tl.zeros((N, N), tl.float32)
    for start in range(0, T, C):  # forwards: what r and u get needs the state before each chunk
        r, k, v = tl.load(r_ + at).to(tl.float32), tl.load(k_ + at).to(tl.float32), tl.load(v_ + at).to(tl.float32)
        dy = tl.load(dy_ + at).to(tl.float32)
        heard = tl.where(below, tl.dot(dy, tl.trans(v)), 0.0)
        own = tl.sum(dy * v, 1)
        dr = later * tl.dot(heard, k * earlier) + from_start * tl.dot(dy, tl.trans(state))
        du += tl.sum(own[:, None] * r * k, 0)
        dw += tl.sum((start + row - 1).to(tl.float32)[:, None] * r * dr, 0)
        tl.store(dr_ + at, (dr + own[:, None] * u[None, :] * k).to(dr_.dtype.element_ty))
        state = whole[:, None] * state + tl.dot(tl.trans(k * to_end), v)
        at += C * H * N

    future = tl.zeros((N, N), tl.float32)  # the gradient of the state behind each chunk
    for back in range(0, T, C):
        at -= C * H * N
        r, k, v = tl.load(r_ + at).to(tl.float32), tl.load(k_ + at).to(tl.float32), tl.load(v_ + at).to(tl.float32)
        dy = tl.load(dy_ + at).to(tl.float32)
        heard = tl.where(below, tl.dot(dy, tl.trans(v)), 0.0)
        scores = tl.where(below, tl.dot(r * later, tl.trans(k * earlier)), 0.0)
        own = tl.sum(dy * v, 1)
        dk = earlier * tl.dot(tl.trans(heard), r * later) + to_end * tl.dot(v, tl.trans(future))
        dv = tl.dot(tl.trans(scores), dy) + tl.dot(k * to_end, future)
        dv += tl.sum(r * u[None, :] * k, 1)[:, None] * dy
        dw -= tl.sum((T - C - back + row).to(tl.float32)[:, None] * k * dk, 0)
        tl.store(dk_ + at, (dk + own[:, None] * u[None, :] * r).to(dk_.dtype.element_ty))
        tl.store(dv_ + at, dv.to(dv_.dtype.element_ty))
        future = whole[:, None] * future + tl.dot(tl.trans(r * from_start), dy)
    tl.store(dw_ + program * N + channel, dw)
    tl.store(du_ + program * N + channel, du)


@torch.library.custom_op("rwkv_training::wkv5", mutates_args=())
def wkv5_op(r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor) -> Tensor:
    """Return y (B, T, H, N) for r, k, v of that shape, and log_w and u (H, N) in fp32."""
    batch, tokens, heads, size = r.shape
    y = torch.empty_like(v)
    _wkv5_forward[(batch * heads,)](r, k, v, log_w, u, y, tokens, heads, size, CHUNK, num_warps=4)
    return y


@torch.library.custom_op("rwkv_training::wkv5_backward", mutates_args=())
def wkv5_backward_op(
    r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, tokens, heads, size = r.shape
    dr, dk, dv = torch.empty_like(r), torch.empty_like(k), torch.empty_like(v)
    dw, du = (torch.empty(batch, heads, size, device=r.device) for _ in range(2))
    _wkv5_backward[(batch * heads,)](
        r, k, v, log_w, u, dy, dr, dk, dv, dw, du, tokens, heads, size, CHUNK, num_warps=4
    )  # fmt: skip
    return dr, dk, dv, dw.sum(0), du.sum(0)


@triton.jit
def _wkv4_forward(k_, v_, w_, u_, y_, a_, b_, p_, T, A, BLOCK: tl.constexpr):
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    w, u = tl.load(w_ + channel), tl.load(u_ + channel)
    a, b = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    p = tl.full((BLOCK,), -1e38, tl.float32)  # numerator a and denominator b are kept divided by e^p
    at = tl.program_id(0) * T * A + channel
    for _ in range(T):
        k, v = tl.load(k_ + at).to(tl.float32), tl.load(v_ + at).to(tl.float32)
        tl.store(a_ + at, a)
        tl.store(b_ + at, b)
        tl.store(p_ + at, p)
        top = tl.maximum(p, u + k)
        old, new = tl.exp(p - top), tl.exp(u + k - top)
        tl.store(y_ + at, ((old * a + new * v) / (old * b + new)).to(y_.dtype.element_ty))
        top = tl.maximum(p + w, k)
        old, new = tl.exp(p + w - top), tl.exp(k - top)
        a, b, p = old * a + new * v, old * b + new, top
        at += A


@triton.jit
def _wkv4_backward(
    k_, v_, w_, u_, a_, b_, p_, dy_, dk_, dv_, dw_, du_, T, A, BLOCK: tl.constexpr
):  # fmt: skip
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    w, u = tl.load(w_ + channel), tl.load(u_ + channel)
    da, db = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    o = tl.full((BLOCK,), -1e38, tl.float32)  # gradients of the state behind a token, kept divided by e^o
    dw, du = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    at = tl.program_id(0) * T * A + (T - 1) * A + channel
    for _ in range(T):
        k, v, dy = tl.load(k_ + at).to(tl.float32), tl.load(v_ + at).to(tl.float32), tl.load(dy_ + at).to(tl.float32)
        a, b, p = tl.load(a_ + at), tl.load(b_ + at), tl.load(p_ + at)
        top = tl.maximum(p, u + k)
        old, new = tl.exp(p - top), tl.exp(u + k - top)
        below = old * b + new
        y = (old * a + new * v) / below
        through = tl.exp(tl.minimum(k + o, 0.0))  # k + o is never positive, up to rounding
        bonus = new / below * dy
        tl.store(dk_ + at, (bonus * (v - y) + through * (v * da + db)).to(dk_.dtype.element_ty))
        tl.store(dv_ + at, (bonus + through * da).to(dv_.dtype.element_ty))
        du += bonus * (v - y)
        dw += tl.exp(tl.minimum(w + p + o, 0.0)) * (a * da + b * db)
        above = tl.maximum(o + w, -top)
        keep, add = tl.exp(o + w - above), tl.exp(-top - above) * dy / below
        da, db, o = keep * da + add, keep * db - add * y, above
        at -= A
    tl.store(dw_ + tl.program_id(0) * A + channel, dw)
    tl.store(du_ + tl.program_id(0) * A + channel, du)


BLOCK = 32  # channels of WKV-4 in one program


@torch.library.custom_op("rwkv_training::wkv4", mutates_args=())
def wkv4_op(k: Tensor, v: Tensor, w: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return y (B, T, A) for k, v of that shape and w, u (A,) in fp32, and the state before each token."""
    batch, tokens, width = k.shape
    y = torch.empty_like(v)
    a, b, p = (torch.empty(k.shape, device=k.device) for _ in range(3))
    _wkv4_forward[(batch, width // BLOCK)](k, v, w, u, y, a, b, p, tokens, width, BLOCK, num_warps=1)
    return y, a, b, p


@torch.library.custom_op("rwkv_training::wkv4_backward", mutates_args=())
def wkv4_backward_op(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, a: Tensor, b: Tensor, p: Tensor, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, tokens, width = k.shape
    dk, dv = torch.empty_like(k), torch.empty_like(v)
    dw, du = (torch.empty(batch, width, device=k.device) for _ in range(2))
    _wkv4_backward[(batch, width // BLOCK)](
        k, v, w, u, a, b, p, dy, dk, dv, dw, du, tokens, width, BLOCK, num_warps=1
    )  # fmt: skip
    return dk, dv, dw.sum(0), du.sum(0)


def register_gradient(op, backward_op, fake, backward_fake, saved) -> None:
    """Tell torch.compile the shapes of the outputs, and autograd the gradient."""
    op.register_fake(fake)
    backward_op.register_fake(backward_fake)

    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs, *saved(output))

    def backward(ctx, dy, *_):
        return backward_op(*ctx.saved_tensors, dy.contiguous())

    op.register_autograd(backward, setup_context=setup_context)


def empty_like(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(x) for x in tensors)


register_gradient(
    wkv5_op,
    wkv5_backward_op,
    lambda r, k, v, log_w, u: torch.empty_like(v),
    lambda r, k, v, log_w, u, dy: empty_like(r, k, v, log_w, u),
    saved=lambda output: (),
)
register_gradient(
    wkv4_op,
    wkv4_backward_op,
    lambda k, v, w, u: (torch.empty_like(v), *(k.new_empty(k.shape, dtype=torch.float32) for _ in range(3))),
    lambda k, v, w, u, a, b, p, dy: empty_like(k, v, w, u),
    saved=lambda output: output[1:],
)


def wkv5(r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, u: Tensor, state: Tensor, lengths=None):
    """:func:`modeling_rwkv5.wkv5_chunked` from an empty state; returns no state. T is a multiple of 16."""
    r, k, v = (x.transpose(1, 2).to(torch.bfloat16 if x.is_cuda else x.dtype).contiguous() for x in (r, k, v))
    shape = (r.shape[2], r.shape[3])
    y = wkv5_op(r, k, v, log_w.expand(shape).contiguous(), u.expand(shape).contiguous())
    return y.transpose(1, 2).float(), state


def wkv4(k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor, lengths=None):
    """:func:`modeling_rwkv4.wkv4_scan` from an empty state; returns no state. A is a multiple of 32."""
    k, v = k.contiguous(), v.contiguous()
    return wkv4_op(k, v, w.contiguous(), u.contiguous())[0], state
