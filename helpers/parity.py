"""Prove a conversion: the ``rwkv`` package on the original and transformers on the converted model, side by side."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .oracle import oracle_state


@dataclass(frozen=True)
class Parity:
    """How far two models are apart on the same ids; differences of logits, and of states relative to their size."""

    max_abs_logit_diff: float
    mean_abs_logit_diff: float
    argmax_agreement: float
    state_diff_by_block: list[float]

    def first_different_block(self, tolerance: float = 1e-4) -> int | None:
        """Return the first block whose state differs, or None. A block's state shows the output of the one before."""
        return next((i for i, diff in enumerate(self.state_diff_by_block) if not diff <= tolerance), None)


def compare_states(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> list[float]:
    """Return for each block the largest difference in its state, relative to the largest number there."""
    blocks = []
    for layer in range(ours[0].shape[1]):
        relative = []
        for a, b in zip(ours, theirs, strict=True):
            a, b = a[0, layer].double(), b[0, layer].double()
            relative.append(((a - b).abs().max() / b.abs().max().clamp(min=1e-6)).item())
        blocks.append(max(relative))
    return blocks


@torch.inference_mode()
def compare_prefill(oracle, model, ids: list[int]) -> Parity:
    """Compare all logits and the final state after reading ``ids`` at once."""
    theirs, state = oracle.forward(ids, None, full_output=True)
    output = model(torch.tensor([ids], device=model.device), use_cache=True)
    ours = output.logits[0].float().cpu()
    return summarize(ours, theirs.reshape(ours.shape), compare_states(output.state, oracle_state(state)))


@torch.inference_mode()
def compare_decode(oracle, model, ids: list[int]) -> Parity:
    """Compare logits and the final state after reading ``ids`` one token at a time, each side with its own state."""
    ours, theirs, our_state, their_state = [], [], None, None
    for index in ids:
        logits, their_state = oracle.forward([index], their_state)
        output = model(torch.tensor([[index]], device=model.device), state=our_state, use_cache=True)
        our_state = output.state
        ours.append(output.logits[0, -1].float().cpu())
        theirs.append(logits.clone())
    return summarize(torch.stack(ours), torch.stack(theirs), compare_states(our_state, oracle_state(their_state)))


def summarize(ours: Tensor, theirs: Tensor, blocks: list[float]) -> Parity:
    """Return the differences of two tables of logits, (T, V)."""
    difference = (ours - theirs).abs()
    return Parity(
        max_abs_logit_diff=difference.max().item(),
        mean_abs_logit_diff=difference.mean().item(),
        argmax_agreement=(ours.argmax(-1) == theirs.argmax(-1)).float().mean().item(),
        state_diff_by_block=blocks,
    )
