"""The independent reference: BlinkDL's own inference code, the ``rwkv`` package."""

import gc
import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..atomic import replaced_file
from ..errors import InputError
from ..paths import BUILD
from .files import Checkpoint, load_checkpoint, read_pieces, save_checkpoint
from .format import describe
from .versions import CheckpointInfo


def fp32_copy(path: str | Path, out_dir: Path = BUILD / "fp32") -> Path:
    """Return an fp32 copy of a checkpoint, made once in ``out_dir``, or the file itself if it is in fp32.

    The package normalizes the embedding with ln0 *in the file's dtype*. For a bf16 file that rounding alone moves
    logits by up to 1e-2, so a comparison of mathematics has to start from an fp32 file. The values are the same.

    Raises:
        InputError: the checkpoint is unusable, the package cannot run its model, or the disk is full.
    """
    weights = load_checkpoint(path)
    refuse_without_reference(describe(weights, str(path)), path)
    digest = weights.file.check(hashed=True)
    if Path(path).suffix == ".pth" and all(weight.dtype == torch.float32 for weight in weights.values()):
        return Path(path)
    out = out_dir / f"{Path(path).stem}-{digest[:12]}.pth"
    if not out.exists():
        out_dir.mkdir(parents=True, exist_ok=True)
        with replaced_file(out) as partial:
            save_checkpoint({name: in_fp32(weights, name) for name in weights}, partial)
            weights.file.refuse_change()
    return out


def in_fp32(weights: Checkpoint, name: str) -> Tensor:
    return torch.cat([piece.float() for piece in read_pieces(weights, name)]).view(weights[name].shape)


def load_oracle(
    path: str | Path, strategy: str = "cpu fp32", kernels: bool = False, process: "OracleApart | None" = None
) -> Any:
    """Return ``rwkv.model.RWKV`` for a ``.pth`` file.

    With ``kernels``, the package compiles its CUDA kernels, which takes a compiler and minutes. The first call decides.
    With the ``process`` of an earlier model, RWKV-7 is loaded there, in its place, which saves starting one.

    ``oracle.forward(ids, state, full_output)`` gives logits (T, V) or (V,) in fp32, and the state.

    Raises:
        InputError: the checkpoint is unusable, the package cannot run its model or does not know the strategy, or the
            name does not end in ``.pth``.
    """
    weights = load_checkpoint(path)
    info = describe(weights, str(path))  # clear errors instead of the package's
    refuse_without_reference(info, path)
    weights.file.check()  # which the package does not
    if Path(path).suffix != ".pth":
        raise InputError(f"The rwkv package reads files that end in .pth only, and {path} does not; rename it.")
    if info.row.oracle_apart:
        process = process or OracleApart(kernels)
        process.load(Path(path).absolute(), strategy)
        return process
    os.environ["RWKV_JIT_ON"] = "1"
    os.environ["RWKV_CUDA_ON"] = str(int(kernels))
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    from rwkv.model import RWKV  # reads the two variables above, and turns TF32 on for the whole process

    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32
    gc.freeze()  # it collects garbage after each block, and need not look for it in tokenizers with 65,536 tokens
    try:
        # an absolute path, since the package strips white space from both ends
        return RWKV(model=str(Path(path).absolute()), strategy=strategy, verbose=False)
    except (RuntimeError, ValueError, LookupError, AttributeError, AssertionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(f"The rwkv package cannot load {path} with the strategy {strategy!r}: {reason}.") from None
    finally:
        gc.unfreeze()


def refuse_without_reference(info: CheckpointInfo, source: str | Path) -> None:
    """Raise InputError for the few models that the ``rwkv`` package cannot run."""
    for limit in info.row.oracle_limits(info):
        raise InputError(f"The model in {source} is {limit}, which the rwkv package cannot run: no reference.")


def oracle_state(state: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the package's state in the layout of ``rwkv_common``, with a batch of one."""
    if len(state[1].shape) == 1:  # RWKV-4: five tensors a block
        time_shift, channel_shift = state[0::5], state[4::5]
        wkv = [torch.stack(parts) for parts in zip(state[1::5], state[2::5], state[3::5], strict=True)]
    else:
        time_shift, wkv, channel_shift = state[0::3], state[1::3], state[2::3]
    return torch.stack(time_shift)[None], torch.stack(wkv)[None], torch.stack(channel_shift)[None]


class OracleApart:
    """The ``rwkv`` package in a process of its own, for RWKV-7.

    A switch that it reads when it is imported, ``RWKV_V7_ON``, decides whether it runs RWKV-7 or all other versions.
    """

    def __init__(self, kernels: bool = False):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve_oracle, args=(theirs, kernels), daemon=True)
        self.process.start()
        theirs.close()

    def load(self, path: Path, strategy: str) -> None:
        """Load a model, in the place of an earlier one."""
        self.exchange(f"load {path} with the strategy {strategy!r}", None, (str(path.with_suffix("")), strategy))

    def forward(
        self, ids: list[int], state: list[Tensor] | None, full_output: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Return logits (T, V) or (V,), and the state, as :meth:`rwkv.model.RWKV.forward` does."""
        before = None if state is None else [part.numpy() for part in state]
        logits, *parts = self.run(forward_apart, ids, before, full_output)
        return torch.from_numpy(logits), [torch.from_numpy(part) for part in parts]

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return ``function(model, *arguments)``, run in that process: a function of a module, and no tensors."""
        return self.exchange("run", function, arguments)

    def exchange(self, action: str, function: Callable[..., Any] | None, arguments: tuple[Any, ...]) -> Any:
        """Return an answer of the process, which loads a model if there is no function to run.

        Raises:
            InputError: it has none to give.
        """
        try:
            self.connection.send((function, arguments))
            answer = self.connection.recv()
        except (EOFError, OSError):
            answer = "its process ended"
        if isinstance(answer, str):
            raise InputError(f"The rwkv package cannot {action}: {answer}.")
        return answer

    def __del__(self) -> None:
        self.connection.close()  # upon which the process ends


def process_of(oracle: Any) -> OracleApart | None:
    """Return the process that the package's model is in, if it is in one of its own."""
    return oracle if isinstance(oracle, OracleApart) else None


def run_on(oracle: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return ``function(model, *arguments)`` for the package's model, in the process in which it is."""
    return oracle.run(function, *arguments) if isinstance(oracle, OracleApart) else function(oracle, *arguments)


def serve_oracle(connection: Any, kernels: bool) -> None:
    """Answer the requests of an :class:`OracleApart` until it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the process that asks; this one ends with it
    os.environ |= {"RWKV_V7_ON": "1", "RWKV_JIT_ON": "1", "RWKV_CUDA_ON": str(int(kernels))}
    model: Any = None
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        answer: Any
        try:
            if function is None:
                model = None  # so that memory holds only one
                model, answer = load_apart(*arguments), []
            else:
                with torch.no_grad():
                    answer = function(model, *arguments)
        except Exception as error:  # whatever the package raises
            answer = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        connection.send(answer)


def load_apart(path: str, strategy: str) -> Any:
    with redirect_stdout(StringIO()):  # it prints what it loads
        from rwkv.model import RWKV

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        return RWKV(model=path, strategy=strategy)


def forward_apart(model: Any, ids: list[int], state: list[Any] | None, full_output: bool) -> list[Any]:
    """Return logits and state as arrays in fp32. The state's matrices have rows of keys outside."""
    before = None
    if state is not None:
        parts = transposed([torch.from_numpy(part.copy()) for part in state])
        before = [part.to(own) for part, own in zip(parts, model.generate_zero_state(), strict=True)]
    logits, after = model.forward(ids, before, full_output)
    return [x.float().cpu().numpy() for x in [logits, *transposed(after)]]


def transposed(state: list[Tensor]) -> list[Tensor]:
    """Return a state with the matrix of each block, every third tensor from the second on, transposed."""
    return [part.mT.contiguous() if number % 3 == 1 else part for number, part in enumerate(state)]
