# Copyright 2026 The RWKV World on Hugging Face authors
# SPDX-License-Identifier: Apache-2.0
"""What this code needs of others: a transformers that is new enough, and Triton, if kernels are to run.

Every file that travels with a model asks for transformers before it imports anything newer.
"""

import logging
from collections.abc import Callable

import torch
import transformers
from torch import Tensor

logger = logging.getLogger(__name__)

OLDEST = (5, 15)  # before, beam search gave other texts without an error
KERNEL_DEVICE = "cuda"  # whose tensors kernels read


def require_transformers() -> None:
    """Raise ImportError, in one sentence, if transformers is too old for the code beside this file."""
    installed = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    if installed < OLDEST:
        needed = ".".join(map(str, OLDEST))
        raise ImportError(
            f"this model's code needs transformers >= {needed}, this is {transformers.__version__}: "
            f"run pip install 'transformers>={needed}'"
        )


class TritonKernel:
    """A function that runs kernels of Triton, for reading on a GPU, where it runs at all.

    Args:
        name: of the function, for the user.
        load: returns it; imports Triton, which is slow and not everywhere, and which needs a C compiler.
        example: returns small inputs on a device, to see whether it runs.
    """

    def __init__(self, name: str, load: Callable[[], Callable], example: Callable[[torch.device], tuple[Tensor, ...]]):
        self.name, self.load, self.example = name, load, example
        self.tried = False
        self.function: Callable[..., tuple[Tensor, Tensor]] | None = None

    def to_read(self, x: Tensor) -> Callable[..., tuple[Tensor, Tensor]] | None:
        """Return the function if it can take tensors like this one: of a GPU, in fp32 and without gradients."""
        if x.device.type != KERNEL_DEVICE or x.dtype != torch.float32 or torch.is_grad_enabled():
            return None
        if not self.tried and not torch.compiler.is_compiling():
            self.try_on(x.device)
        return self.function

    def try_on(self, device: torch.device) -> None:
        self.tried = True
        try:
            function = self.load()
            function(*self.example(device))
            self.function = function
        except Exception as error:  # whatever stands between Triton and this GPU
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            logger.warning(
                f"Prompts are read without the Triton kernel {self.name}, which does not run here: {reason}."
            )
