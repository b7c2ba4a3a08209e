# Copyright 2026 The RWKV World on Hugging Face authors
# SPDX-License-Identifier: Apache-2.0
"""Linear layers as fast as a CPU can compute them, where nothing but their numbers is wanted.

On x86, PyTorch gives products of fp32 matrices to MKL, which uses half the width of the registers on processors that
are not Intel's. oneDNN, which PyTorch has as well, uses all of it: twice the speed with many tokens, and with one token
on several cores. On Intel's, MKL is faster with one token: two cores read 27 GB of weights a second, with oneDNN 17.

Products of bf16 matrices go to oneDNN anyway. Where a CPU has no instructions for them, or slow ones, many tokens are
multiplied faster in fp32, with a copy of the weight that lives as long as the product does.
"""

import math
import platform
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HALF = (torch.bfloat16, torch.float16)
ONEDNN_FROM = 2**18  # multiplications: with fewer, a call of oneDNN takes longer than it saves
WIDEN_FROM = (
    8  # tokens: with fewer, copying the weight takes longer than it saves, on a CPU without products in 16 bits
)
WIDEN_FROM_ON_INTEL = 48  # tokens, on one that has them, but slow ones: see widen_from


@lru_cache(maxsize=1)
def has_onednn() -> bool:
    """Say whether oneDNN can be called for fp32: by PyTorch for x86."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return x86 and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@lru_cache(maxsize=2)
def has_products_of(dtype: torch.dtype) -> bool:
    """Say whether this CPU has instructions for products of bf16 or fp16 matrices; a guess where PyTorch can't tell."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    kinds = ("amx_tile", "avx512_bf16") if dtype == torch.bfloat16 else ("amx_fp16",)
    return any(map(has_instructions, kinds))


def has_instructions(kind: str) -> bool:
    """Say whether PyTorch knows that this CPU has some kind of instructions."""
    return getattr(torch.cpu, f"_is_{kind}_supported", bool)()


@lru_cache(maxsize=2)
def widen_from(dtype: torch.dtype) -> float:
    """Return from how many tokens on a product of this CPU is faster in fp32, with a copy of the weight.

    AVX512-BF16 is fast on AMD's processors. On an Intel Xeon without AMX, 512 tokens and a matrix of 768 x 768 took one
    thread 7.1 ms with it, and 3.8 in fp32, or 4.0 with the copy; 32 tokens 0.49, 0.34 and 0.50.
    """
    if not has_products_of(dtype):
        return WIDEN_FROM
    is_slow = dtype == torch.bfloat16 and is_intel() and not has_instructions("amx_tile")
    return WIDEN_FROM_ON_INTEL if is_slow else math.inf


@lru_cache(maxsize=1)
def is_intel() -> bool:
    """Say whether Intel made this CPU, as Linux knows it, or Python elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    return "GenuineIntel" in (cpuinfo.read_text() if cpuinfo.is_file() else platform.processor())


class RwkvLinear(nn.Linear):
    """``nn.Linear``, but faster on a CPU in evaluation mode; the weight stays as it is.

    In training mode it is the same with gradients and without: gradient checkpointing computes a block in both ways.
    """

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if is_compiled_token(x) and weight.shape[0] == weight.shape[1]:
            return vector_product(x, weight, bias)
        if self.training or not only_numbers(x, weight):
            return F.linear(x, weight, bias)
        if x.dtype == torch.float32:
            return fp32_linear(x, weight, bias)
        if x.dtype in HALF and x.numel() >= widen_from(x.dtype) * x.shape[-1]:
            return fp32_linear(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)
        return F.linear(x, weight, bias)


def is_compiled_token(x: Tensor) -> bool:
    """Say whether torch.compile is reading a step of a single token on a GPU, without gradients."""
    return torch.compiler.is_compiling() and x.is_cuda and x.numel() == x.shape[-1] and not torch.is_grad_enabled()


def vector_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the product with one token, written as a sum, which torch.compile joins with what is around it.

    So products that read the same token become one kernel. For square matrices that is faster than products by a
    library, 15 us instead of 23 for four of 2048 x 2048 in fp16 on an H200; for others it is not.
    """
    y = (weight.float() * x.flatten().float()).sum(-1).to(x.dtype)
    return (y if bias is None else y + bias).view(*x.shape[:-1], -1)


def only_numbers(x: Tensor, weight: Tensor) -> bool:
    """Say whether a product is computed on a CPU, and without gradient, mixed precision, tracing or quantization."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype
        and type(weight) in (nn.Parameter, Tensor)
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


def fp32_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the product with fp32 weights, by whichever library is faster: with one token on Intel's CPUs, MKL."""
    is_small = x.numel() * weight.shape[0] < ONEDNN_FROM
    if is_small or not has_onednn() or (x.numel() == x.shape[-1] and is_intel()):
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
