"""How a step runs: plainly on a CPU; on an NVIDIA GPU compiled, with the kernels for WKV, and as one CUDA graph.

A small model's step is a thousand short kernels. Launched one by one from Python they leave the GPU idle in between;
recorded once as a CUDA graph, the whole step, optimizer included, is one launch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..checkpoints.versions import VERSIONS
from ..hub_code.rwkv_common import RwkvModel
from .model import block_forward, blocks_of, weighted_loss

if TYPE_CHECKING:
    from .trainer import TrainingRun

COMPILING = 4  # steps that run before the recording: they compile, and let the optimizer make its state

Step = Callable[[Tensor, Tensor], Tensor]


@contextmanager
def use_kernel(model: RwkvModel, kernel: Callable[..., tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Let all blocks compute WKV with ``kernel``, see :func:`triton_kernel`, inside a ``with`` block."""
    blocks = blocks_of(model)
    own = [block.attention.wkv for block in blocks]
    for block in blocks:
        block.attention.wkv = kernel
    try:
        yield
    finally:
        for block, function in zip(blocks, own, strict=True):
            block.attention.wkv = function


@contextmanager
def fast_step(run: TrainingRun) -> Iterator[Step]:
    """Yield the function that makes one step of ``run``, see :meth:`helpers.training.trainer.TrainingRun.update`."""
    if run.device.type != "cuda":
        yield run.update
        return
    kernel = VERSIONS[run.options.version].kernel
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    run.model.run_block, run.model.run_loss = compiled(block_forward), compiled(weighted_loss)
    try:
        with use_kernel(run.model.model, triton_kernel(kernel)) if kernel else nullcontext():
            yield RecordedStep(run.update)
    finally:
        run.model.run_block, run.model.run_loss = block_forward, weighted_loss
        torch.set_float32_matmul_precision(precision)


def compiled(function: Callable) -> Callable:
    """Return ``function`` compiled, without the joined sums over rows and columns that torch has had since 2.10.

    They give a gradient of shape (1, 1, D) the shape (D,) in 2.11, which ends the training of RWKV-4, and wrong ones in
    2.10 (pytorch/pytorch, issues 178080 and 190796).
    """
    from torch._inductor import config  # slow to import

    options: dict[str, Any] = {}
    if hasattr(config.triton, "mix_order_reduction"):
        options["triton.mix_order_reduction"] = False
    return torch.compile(function, dynamic=False, options=options)


def triton_kernel(name: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return a function by the names of its module here and its own, such as ``wkv_triton.wkv5``. It needs Triton."""
    module, function = name.split(".")
    return getattr(import_module(f".{module}", __package__), function)


class RecordedStep:
    """Runs a step a few times, then records it as a CUDA graph and replays that from then on."""

    def __init__(self, update: Step):
        self.update, self.calls = update, 0
        self.graph, self.stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()

    def __call__(self, ids: Tensor, kinds: Tensor) -> Tensor:
        self.calls += 1
        if self.calls <= COMPILING:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                result = self.update(ids, kinds)
            torch.cuda.current_stream().wait_stream(self.stream)
            return result
        if self.calls == COMPILING + 1:
            self.inputs = ids.clone(), kinds.clone()
            with torch.cuda.graph(self.graph):
                self.result = self.update(*self.inputs)
        for static, new in zip(self.inputs, (ids, kinds), strict=True):
            static.copy_(new)
        self.graph.replay()
        return self.result
