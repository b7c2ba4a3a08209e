"""How a step runs: plainly on a CPU; on an NVIDIA GPU compiled, with the kernels for WKV, and as one CUDA graph.

A small model's step is a thousand short kernels. Launched one by one from Python they leave the GPU idle in between;
recorded once as a CUDA graph, the whole step, optimizer included, is one launch.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch import Tensor

from ..hub_code import modeling_rwkv4, modeling_rwkv5
from .model import block_forward, weighted_loss

COMPILING = 4  # steps that run before the recording: they compile, and let the optimizer make its state

REPLACED = {"wkv5": (modeling_rwkv5, "wkv5_chunked"), "wkv4": (modeling_rwkv4, "wkv4_scan")}  # by kernel

Step = Callable[[Tensor, Tensor], Tensor]


@contextmanager
def use_kernels() -> Iterator[None]:
    """Let the models compute WKV with the kernels of :mod:`.wkv_triton` inside a ``with`` block."""
    from . import wkv_triton

    with ExitStack() as stack:
        for kernel, (module, name) in REPLACED.items():
            stack.enter_context(mock.patch.object(module, name, getattr(wkv_triton, kernel)))
        yield


@contextmanager
def fast_step(run) -> Iterator[Step]:
    """Yield the function that makes one step of ``run``, see :meth:`helpers.training.trainer.Run.update`."""
    if run.device.type != "cuda":
        yield run.update
        return
    torch.set_float32_matmul_precision("high")
    run.model.run_block = torch.compile(block_forward, dynamic=False)
    run.model.run_loss = torch.compile(weighted_loss, dynamic=False)
    recorded = RecordedStep(run.update)

    def step(ids: Tensor, kinds: Tensor) -> Tensor:
        with use_kernels():
            return recorded(ids, kinds)

    try:
        yield step
    finally:
        run.model.run_block, run.model.run_loss = block_forward, weighted_loss


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
