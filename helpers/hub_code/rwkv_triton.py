# Copyright 2026 The RWKV World on Hugging Face authors
# SPDX-License-Identifier: Apache-2.0
"""What the Triton kernels for reading share. Only they import it: Triton is slow to import, and is not everywhere."""

import math

try:  # in here, transformers does not refuse to load the model where it is missing
    import triton
    import triton.language as tl
except ImportError:
    raise


@triton.jit
def real_tokens(lengths_, row, T):
    """Return how many of a row's T tokens are no padding: all, if there are no lengths."""
    if lengths_ is None:
        return T
    else:
        return tl.minimum(tl.load(lengths_ + row).to(tl.int32), T)


def tokens_of_chunk(tokens: int, shortest: int = 1) -> int:
    """Return how long a chunk is, and so about how many there are: a power of two, 1 to 2 times sqrt(T)."""
    return max(1 << math.isqrt(tokens - 1).bit_length(), shortest)


__all__ = ["real_tokens", "tl", "tokens_of_chunk", "triton"]
