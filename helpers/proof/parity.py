"""Compare two models on the same ids: the ``rwkv`` package on the original, transformers on the converted one.

Each side gives a trace: logits (T, V) in fp32, and the state after the last token in the layout of ``rwkv_common``.
Traces can be made one side after the other, so that a large model need not be in memory twice.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.oracle import oracle_state

State = tuple[Tensor, Tensor, Tensor]
Trace = tuple[Tensor, State]


@dataclass(frozen=True)
class Parity:
    """How far two traces are apart. Differences of states are relative to the largest number in that state."""

    tokens: int
    max_abs_logit_diff: float
    mean_abs_logit_diff: float
    max_abs_logit: float  # of the original, the size that differences have to be seen against
    argmax_agreement: float  # share of positions with the same most probable next token
    state_diff: list[tuple[float, float, float]]  # a block: time-mix input, WKV, channel-mix input

    def first_different_block(self, tolerance: float = 1e-4) -> int | None:
        """Return the first block whose state differs, or None. A block's state shows the output of the one before."""
        agrees = [all(diff <= tolerance for diff in diffs) for diffs in self.state_diff]  # NaN never does
        return next((block for block, good in enumerate(agrees) if not good), None)

    @property
    def max_state_diff(self) -> float:
        """The largest of all differences of states; NaN if one is."""
        return torch.tensor(self.state_diff).max().item()

    def within(self, tolerance: float) -> bool:
        """Say whether logits, relative to the largest one if it is over 1, and all states agree."""
        logits = self.max_abs_logit_diff <= tolerance * max(1.0, self.max_abs_logit)
        return logits and self.first_different_block(tolerance) is None

    def where(self, tolerance: float) -> str | None:
        """Say where the two models begin to differ, by the first part of the first state that does; None if nowhere."""
        if self.within(tolerance):
            return None
        block = self.first_different_block(tolerance)
        if block is None:
            return f"after the state of block {len(self.state_diff) - 1}: its channel-mix, ln_out, or the head"
        part = next(i for i, diff in enumerate(self.state_diff[block]) if not diff <= tolerance)
        before = "the embedding or pre_ln" if block == 0 else f"the channel-mix of block {block - 1}"
        return (
            f"{before}, or ln1 of block {block}",
            f"block {block}, inside its time-mix: key, value, decay, or their mixing ratios",
            f"block {block}, the output of its time-mix: receptance, bonus, gate, ln_x, output; or ln2",
        )[part]


@torch.inference_mode()
def original_prefill(oracle: Any, ids: list[int], state: Any = None) -> Trace:
    """Let the ``rwkv`` package read ``ids`` at once, by default from the beginning of a text on."""
    logits, state = oracle.forward(ids, state, full_output=True)
    return logits.reshape(len(ids), -1).float(), oracle_state(state)


@torch.inference_mode()
def original_decode(oracle: Any, ids: list[int]) -> Trace:
    """Let the ``rwkv`` package read ``ids`` one by one."""
    rows: list[Tensor] = []
    state: Any = None
    for index in ids:
        logits, state = oracle.forward([index], state)
        rows.append(logits.float().clone())
    return torch.stack(rows), oracle_state(state)


@torch.inference_mode()
def converted_prefill(model: Any, ids: list[int]) -> Trace:
    """Let a transformers model read ``ids`` at once."""
    output = model(torch.tensor([ids], device=model.device), use_cache=True)
    return output.logits[0].float().cpu(), common_state(output.state)


@torch.inference_mode()
def converted_decode(model: Any, ids: list[int]) -> Trace:
    """Let a transformers model read ``ids`` one by one."""
    rows: list[Tensor] = []
    state: Any = None
    for index in ids:
        output = model(torch.tensor([[index]], device=model.device), state=state, use_cache=True)
        state = output.state
        rows.append(output.logits[0, -1].float().cpu())
    return torch.stack(rows), common_state(state)


def common_state(state: State | list[Tensor]) -> State:
    """Return a model's state; that of transformers' native RWKV-4, five tensors (B, D, L), in our layout."""
    parts = [part.cpu() for part in state]
    if len(parts) == 3:
        return parts[0], parts[1], parts[2]
    channel_shift, time_shift, *wkv = (part.transpose(1, 2) for part in parts)
    return time_shift, torch.stack(wkv, dim=2), channel_shift


def compare_traces(ours: Trace, theirs: Trace) -> Parity:
    """Return how far our trace is from the original's: infinitely, if it has other shapes."""
    pairs = zip((ours[0], *ours[1]), (theirs[0], *theirs[1]), strict=True)
    if any(a.shape != b.shape for a, b in pairs):
        nowhere = [(math.inf,) * 3] * theirs[1][0].shape[1]
        return Parity(len(theirs[0]), math.inf, math.inf, theirs[0].abs().max().item(), 0.0, nowhere)
    difference = (ours[0] - theirs[0]).abs()
    return Parity(
        tokens=len(difference),
        max_abs_logit_diff=difference.max().item(),
        mean_abs_logit_diff=difference.mean().item(),
        max_abs_logit=theirs[0].abs().max().item(),
        argmax_agreement=(ours[0].argmax(-1) == theirs[0].argmax(-1)).float().mean().item(),
        state_diff=compare_states(ours[1], theirs[1]),
    )


def compare_states(ours: State, theirs: State) -> list[tuple[float, float, float]]:
    """Return for each block the largest difference in each part of its state, relative to the largest number there."""
    blocks = []
    for layer in range(ours[0].shape[1]):
        pairs = [(a[0, layer].double(), b[0, layer].double()) for a, b in zip(ours, theirs, strict=True)]
        time_mix, wkv, channel_mix = (((a - b).abs().max() / b.abs().max().clamp(min=1e-6)).item() for a, b in pairs)
        blocks.append((time_mix, wkv, channel_mix))
    return blocks


def compare_prefill(oracle: Any, model: Any, ids: list[int]) -> Parity:
    """Compare all logits and the final state after reading ``ids`` at once."""
    return compare_traces(converted_prefill(model, ids), original_prefill(oracle, ids))


def compare_decode(oracle: Any, model: Any, ids: list[int]) -> Parity:
    """Compare logits and the final state after reading ``ids`` one by one, each side with its own state."""
    return compare_traces(converted_decode(model, ids), original_decode(oracle, ids))
