# Copyright 2026 The RWKV World on Hugging Face authors
# SPDX-License-Identifier: Apache-2.0
"""Decoding on a GPU, where starting the many small kernels of a step takes longer than running them.

``compile_decoding`` records the step from one token of each row to the next, once for each batch size: torch.compile
joins small kernels, and a CUDA graph starts all of them at once. A graph reads and writes the same memory each time.
So a step copies tokens and state in, replays the graph, and copies logits and state out: what a caller is given, or
has given, is never overwritten, and any number of texts can be written in turn.

Prompts can be recorded, too, in pieces of a few fixed lengths: the last one is filled up with padding.

The step is the model's own forward. When something that it depends on has changed since, or a call asks for what was
not recorded, the model computes as if nothing had been recorded, and says so once.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from operator import attrgetter, is_
from threading import Lock
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils import logging

from .rwkv_inputs import State

logger = logging.get_logger(__name__)

DEVICE_TYPE = "cuda"  # what can be recorded
WARM_UPS = 3  # steps before recording, in which libraries allocate what they need and torch.compile compiles
# intermediate results are rounded to the model's dtype wherever the step without a compiler rounds them
COMPILER_OPTIONS: dict[str, Any] = {"emulate_precision_casts": True}

RECOMPILE_LIMIT = 256  # of torch.compile, which counts each batch size and each model of a process

Results = tuple[Tensor, ...]  # logits (B, 1, V), and the three tensors of the state
Function = Callable[..., Results]  # of ids (B, 1), or ids and mask of a piece, and the three tensors of the state
Capture = Callable[[Callable[[], Results]], tuple[Callable[[], None], Results]]  # see capture_graph


class RecordedStep:
    """A step for B rows in memory of its own.

    Args:
        function: computes the step.
        inputs: of ``function``, of the shapes, dtypes and device that count from now on.
        capture: see :func:`capture_graph`.
    """

    def __init__(self, function: Function, inputs: Results, capture: Capture):
        self.inputs = inputs
        self.replay, self.results = capture(lambda: function(*inputs))

    def fits(self, inputs: Results) -> bool:
        """Say whether these inputs have the recorded shapes; nothing is broadcast."""
        return all(x.shape == recorded.shape for x, recorded in zip(inputs, self.inputs, strict=True))

    def __call__(self, inputs: Results) -> Results:
        """Return the results as tensors of their own; ids and state may have other dtypes, and be elsewhere."""
        for recorded, x in zip(self.inputs, inputs, strict=True):
            recorded.copy_(x)
        self.replay()
        return tuple(x.clone() for x in self.results)


def capture_graph(function: Callable[[], Results], pool: Any) -> tuple[Callable[[], None], Results]:
    """Record what ``function`` starts on the GPU; return what starts it again, and its results, which that overwrites.

    Args:
        pool: of memory, shared by graphs that never run at the same time.
    """
    stream = recording_stream(torch.cuda.current_device())
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
        results = function()
    return graph.replay, results


@cache
def recording_stream(device: int) -> Any:
    """Return the stream of a GPU that all recordings use: cuBLAS keeps memory for each stream that it has seen."""
    return torch.cuda.Stream(device)


class Snapshot:
    """What a step depends on: modules, their weights, hooks and other attributes. Keeps the memory of the weights, too.

    A graph goes on reading the memory in which the weights were. So if they have been replaced, as by an adapter, or
    changed, the recorded step is no longer the model's.
    """

    def __init__(self, model: Any):
        modules = parts_of(model)
        contents = [value for m in modules for name, value in vars(m).items() if is_contents(name, value)]
        entries = [(model._modules, name) for name in model._modules]
        entries += [(vars(m), name) for m in modules for name in vars(m) if name not in BOOKKEEPING]
        entries += [(table, name) for table in contents for name in table]
        hooks = [table for m in modules for table in (m._forward_pre_hooks, m._forward_hooks)]
        self.tables, self.names = [table for table, _ in entries], [name for _, name in entries]
        self.values = list(map(dict.get, self.tables, self.names))
        self.sized = [*map(vars, modules), *contents, *hooks]
        self.weights = [x for m in modules for x in (*m._parameters.values(), *m._buffers.values()) if x is not None]
        self.counted = [x for x in self.weights if not x.is_inference()]  # the others do not count changes
        self.memory = [x.detach() for x in self.weights]  # it stays even if a weight gets another
        self.numbers = self.current_numbers()

    def current_numbers(self) -> list[Any]:
        """Return how many attributes, weights and hooks there are, and where weights are and how often they changed."""
        changes = map(attrgetter("_version"), self.counted)
        rounding = torch.backends.cuda.matmul.fp32_precision == "tf32"  # of the inputs of fp32 products
        return [*map(len, self.sized), *map(Tensor.data_ptr, self.weights), *changes, rounding]

    def holds(self) -> bool:
        """Say whether all is as it was. Quick, as it is asked at each step: about 0.1 ms."""
        return (
            self.current_numbers() == self.numbers
            and all(map(is_, map(dict.get, self.tables, self.names), self.values))
            and not torch.nn.modules.module._has_any_global_hook()
        )


BOOKKEEPING = frozenset(vars(nn.Module())) - {"training"}  # attributes that every module has


def is_contents(name: str, value: object) -> bool:
    """Say whether an attribute of a module holds weights, modules, or a dictionary of a layer's own."""
    own = isinstance(value, dict) and name not in BOOKKEEPING
    return own or name in ("_parameters", "_buffers", "_modules")


def parts_of(model: Any) -> list[nn.Module]:
    """Return all modules that a step runs, without the model itself, whose hooks run around it."""
    return [*model.rwkv.modules(), *model.head.modules()]


def is_hooked(model: Any) -> bool:
    """Say whether something besides the modules is to run in a step, such as the hooks of accelerate."""
    return any("forward" in vars(m) or m._forward_pre_hooks or m._forward_hooks for m in parts_of(model))


class Decoding:
    """The recorded steps and pieces of prompts of a model. They are used by one thread at a time.

    A copy of a model, by ``deepcopy`` or ``pickle``, has none.

    Args:
        steps: by batch size.
        pieces: by batch size, then by length, the shortest first.
        starts: the state of no tokens, by batch size.
    """

    def __init__(
        self,
        steps: dict[int, RecordedStep],
        pieces: dict[int, dict[int, RecordedStep]],
        starts: dict[int, State],
        snapshot: Snapshot,
        device: torch.device,
    ):
        self.steps, self.pieces, self.starts = steps, pieces, starts
        self.snapshot, self.device = snapshot, device
        self.lock = Lock()
        self.stream = current_stream(device)
        self.said: set[str] = set()

    def __deepcopy__(self, memo: dict) -> None:
        return None

    def __reduce__(self) -> tuple:
        return type(None), ()

    def obstacle(self, tokens: Tensor, state: State | None) -> str | None:
        """Return why these tokens cannot be answered by a recorded step now, or None."""
        if torch.is_grad_enabled():
            return "gradients are recorded, which torch.no_grad() prevents"
        if torch.is_autocast_enabled(self.device.type):
            return "autocast is on"
        if len(tokens) not in self.steps:
            return f"this batch has {len(tokens)} rows, and batch_sizes has {', '.join(map(str, self.steps))}"
        step, one = self.steps[len(tokens)], tokens[:, :1]
        if tokens.device != self.device or not step.fits((one, *(state or self.starts[len(tokens)]))):
            return "ids or state have another shape than the model's, or are on another device"
        return None

    def run(self, tokens: Tensor, state: State) -> tuple[Tensor, State] | None:
        """Return logits (B, 1, V) and the new state, or None if the model has changed.

        While the GPU works, there is time to look whether it has: so that comes second.
        """
        with self.lock:
            self.join_stream()
            logits, time_shift, wkv, channel_shift = self.steps[len(tokens)]((tokens, *state))
            return (logits, (time_shift, wkv, channel_shift)) if self.snapshot.holds() else None

    def read(self, tokens: Tensor, mask: Tensor | None, state: State | None) -> tuple[Tensor, State] | None:
        """Return the last logits (B, 1, V) and the state after a prompt, or None if the model has changed."""
        mask = torch.ones_like(tokens) if mask is None else mask
        time_shift, wkv, channel_shift = self.starts[len(tokens)] if state is None else state
        pieces = self.pieces[len(tokens)]
        with self.lock:
            self.join_stream()
            while tokens.shape[1]:
                size = next_piece(tokens.shape[1], pieces)
                padding = (max(size - tokens.shape[1], 0), 0)
                inputs = [F.pad(x[:, :size], padding) for x in (tokens, mask)]
                logits, time_shift, wkv, channel_shift = pieces[size]((*inputs, time_shift, wkv, channel_shift))
                tokens, mask = tokens[:, size:], mask[:, size:]
            return (logits, (time_shift, wkv, channel_shift)) if self.snapshot.holds() else None

    def join_stream(self) -> None:
        """Let the current stream wait for the one that used the memory last."""
        stream = current_stream(self.device)
        if stream != self.stream:
            stream.wait_stream(self.stream)
            self.stream = stream

    def say(self, sentence: str) -> None:
        """Warn, once."""
        if sentence not in self.said:
            self.said.add(sentence)
            logger.warning(sentence)


def next_piece(left: int, sizes: Iterable[int]) -> int:
    """Return how many tokens to read next: all, where less than half is padding then, or as many as fit at once."""
    shorter = [size for size in sizes if size <= left]
    fitting = [size for size in sizes if left <= size < 2 * left]
    return min(fitting) if fitting else max(shorter, default=min(sizes))


def current_stream(device: torch.device) -> Any:
    """Return the stream of a GPU; None of a CPU."""
    return torch.cuda.current_stream(device) if device.type == "cuda" else None


class RwkvDecodingMixin:
    """``compile_decoding`` for a model with its head."""

    _decoding: Decoding | None = None

    def compile_decoding(
        self, batch_sizes: Sequence[int] = (1,), fuse: bool = True, prompt_pieces: Sequence[int] = ()
    ) -> None:
        """Make single steps faster on an NVIDIA GPU, for ``generate`` and any other call with one token a row.

        Steps of these batch sizes are recorded now, which takes up to a minute each, and used wherever they fit: in
        evaluation mode, without gradients, mask and hooks. Every other call is computed as before. Where nothing can be
        recorded, a warning says why. Call it again after a change to the weights, to their dtype or place.

        Args:
            batch_sizes: how many rows decode together; with beams or several samples, each counts as a row.
            fuse: join small kernels with torch.compile, which is faster. Without it, each step is bit for bit what it
                was; with it, results differ by roundings, so two tokens of almost the same probability may swap.
            prompt_pieces: lengths in tokens, such as ``(64, 512)``: record the reading of prompts as well, in pieces of
                these lengths, with or without padding. Used where only the last logits are wanted, as in ``generate``.

        Raises:
            ValueError: a batch size or a length is below 1, or there is no batch size.
        """
        if not batch_sizes or min(batch_sizes) < 1:
            raise ValueError(f"batch_sizes is {batch_sizes}: give numbers of rows from 1 on")
        if prompt_pieces and min(prompt_pieces) < 1:
            raise ValueError(f"prompt_pieces is {prompt_pieces}: give numbers of tokens from 1 on")
        self._decoding = None
        if reason := self._no_recording():
            logger.warning(f"Decoding is not compiled: {reason}.")
            return
        try:
            with torch.inference_mode(False), torch.no_grad():
                self._decoding = record(self, sorted(set(batch_sizes)), fuse, sorted(set(prompt_pieces)))
        except RuntimeError as error:  # no memory is left, or a layer does what cannot be recorded
            logger.warning(f"Decoding is not compiled: {first_line(error)}.")

    def _no_recording(self) -> str | None:
        """Return why steps of this model cannot be recorded, or None."""
        model: Any = self
        devices = {x.device for x in model.parameters()}
        places = " and ".join(sorted(map(str, devices)))
        if any(device.type != DEVICE_TYPE for device in devices):
            return f"a CUDA graph needs an NVIDIA GPU, and this model is on {places}"
        if len(devices) > 1:
            return f"a CUDA graph has one GPU, and this model is on {places}"
        if model.training:
            return "the model is in training mode; call eval() first"
        if is_hooked(model):
            return "hooks run inside this model, which a CUDA graph would leave out"
        return None

    def _decode(
        self,
        tokens: Tensor,
        mask: Tensor | None,
        state: State | None,
        use_cache: bool | None,
        keep: int | Tensor,
        asked: dict[str, Any],
    ) -> tuple[Tensor, State] | None:
        """Return the last logits and the state after these tokens, or None if the model itself has to compute them.

        Args:
            use_cache, keep: ``use_cache`` and ``logits_to_keep`` of the call.
            asked: what a call may ask for beyond a step, by name; None or False if it does not.
        """
        decoding, model = self._decoding, cast(Any, self)
        if decoding is None or torch.compiler.is_compiling():
            return None
        is_step = tokens.shape[1] == 1 and state is not None
        if not is_step and not (decoding.pieces and isinstance(keep, int) and keep == 1):
            return None
        if is_step:
            asked = asked | {"attention_mask": mask}
        more = [name for name, value in asked.items() if value is not None and value is not False]
        reason: str | None
        if more or not isinstance(keep, int) or keep < 0:
            reason = f"this call has {more[0] if more else 'positions in logits_to_keep'}"
        elif model.training or not (model.config.use_cache if use_cache is None else use_cache):
            reason = "the model is in training mode" if model.training else "this call has use_cache=False"
        else:
            reason = decoding.obstacle(tokens, state)
        if reason:
            decoding.say(f"Decoding goes on without compile_decoding: {reason}.")
            return None
        results = decoding.run(tokens, state) if is_step and state else decoding.read(tokens, mask, state)
        if results is None:
            self._decoding = None
            decoding.say("Decoding goes on without compile_decoding: the model has changed since; call it again.")
        return results

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        """Forget the recorded steps when the model gets another dtype or place, so that their memory is free."""
        if self._decoding is not None:
            self._decoding.say("The model moves or gets another dtype: call compile_decoding again.")
            self._decoding = None
        return super()._apply(*args, **kwargs)  # type: ignore[misc]


def record(model: Any, batch_sizes: list[int], fuse: bool, prompt_pieces: list[int]) -> Decoding:
    """Record steps of a model on one GPU; all batch sizes share the memory for what is between inputs and results."""
    pool = torch.cuda.graph_pool_handle()
    with torch.cuda.device(model.device):
        return record_with(partial(capture_graph, pool=pool), model, batch_sizes, fuse, prompt_pieces)


def record_with(
    capture: Capture, model: Any, batch_sizes: list[int], fuse: bool, prompt_pieces: Sequence[int] = ()
) -> Decoding:
    """Record steps and pieces of prompts of a model by ``capture``."""

    def recorded(function: Function, *inputs: Tensor) -> RecordedStep:
        return RecordedStep(fused(function, inputs) if fuse else function, inputs, capture)

    steps, starts = {}, {}
    pieces: dict[int, dict[int, RecordedStep]] = {}
    for rows in batch_sizes:
        ids = torch.zeros(rows, 1, dtype=torch.int64, device=model.device)
        steps[rows] = recorded(step_of(model), ids, *(x.clone() for x in model.rwkv(ids, use_cache=True).state))
        starts[rows] = state_of_no_tokens(model, rows)
        if prompt_pieces:
            pieces[rows] = {}
        for length in prompt_pieces:
            ids, mask = (torch.ones(rows, length, dtype=torch.int64, device=model.device) for _ in range(2))
            state = model.rwkv(ids, use_cache=True).state
            pieces[rows][length] = recorded(piece_of(model), ids, mask, *(x.clone() for x in state))
    return Decoding(steps, pieces, starts, Snapshot(model), model.device)


def state_of_no_tokens(model: Any, rows: int) -> State:
    """Return the state in which every block starts by itself when it is given none."""
    wkv = torch.stack([block.attention.initial_wkv(rows) for block in model.rwkv.blocks], dim=1)
    shift = wkv.new_zeros(rows, wkv.shape[1], model.config.hidden_size)
    return shift, wkv, shift


def piece_of(model: Any) -> Function:
    """Return the model's own forward for a piece of a prompt, with a mask, as a function of tensors."""

    def piece(ids: Tensor, mask: Tensor, time_shift: Tensor, wkv: Tensor, channel_shift: Tensor) -> Results:
        state = time_shift, wkv, channel_shift
        output = model.rwkv(ids, attention_mask=mask, state=state, use_cache=True, output_hidden_states=False)
        return model.head(output.last_hidden_state[:, -1:]), *output.state

    return piece


def step_of(model: Any) -> Function:
    """Return the model's own forward for one token a row, as a function of tensors."""

    def step(ids: Tensor, time_shift: Tensor, wkv: Tensor, channel_shift: Tensor) -> Results:
        output = model.rwkv(ids, state=(time_shift, wkv, channel_shift), use_cache=True, output_hidden_states=False)
        return model.head(output.last_hidden_state), *output.state

    return step


def fused(function: Function, inputs: Results) -> Function:
    """Return ``function`` compiled for ``inputs``, or as it is, with a warning, if there is no compiler for it."""
    from torch._dynamo import config  # slow to import

    compiled = torch.compile(function, fullgraph=True, dynamic=False, options=COMPILER_OPTIONS)
    try:
        with config.patch(recompile_limit=RECOMPILE_LIMIT):
            compiled(*inputs)
    except Exception as error:  # whatever stands between torch and a working compiler
        logger.warning(f"Decoding is recorded without torch.compile, which does not work here: {first_line(error)}.")
        return function
    return compiled


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
