"""bf16 and fp16: how far a converted model is off there, beside how far the ``rwkv`` package itself is off.

Both sides read the same tokens, all at once, and the first of them one by one, too. Both are compared with the package
in fp32. In all three precisions the package loads the same file, the fp32 copy, with the strategies ``cpu fp32``,
``cpu bf16`` and ``cpu fp16``; of RWKV-7 it rounds the embedding before ln0, of the others after. The converted model is
loaded from its directory in the dtype, and applies ln0 in it.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checkpoints.oracle import load_oracle
from ..errors import InputError
from .questions import Answer, Question, expected
from .results import Deviation, PrecisionResult, largest_first

LOWER = {"bf16": torch.bfloat16, "fp16": torch.float16}  # by the names that the package has for them
TOKENS, STEPS = 200, 48  # that are read at once, and the first of them, one by one

# Of the package's own deviation. Ours is rounded in other places, and chance is large where the output of a head is
# nearly 0, which ln_x makes as large as any other: so the largest deviation, of a single token, has far more room than
# the median over the tokens. ``bench precision`` measures what right models use of it. A fixed share of the largest
# logit would not do: in some random models the package itself is off by more than all of it in bf16.
LARGEST_FACTOR, USUAL_FACTOR = 10.0, 2.0
WITHOUT_PACKAGE = 0.1  # of the largest logit, where the package runs neither dtype


class Reading(NamedTuple):
    """Logits (T, V) of a text that was read at once, and (S, V) of its beginning, read one by one; both in fp32."""

    once: Tensor
    steps: Tensor


def read_twice(ask: Callable[[Question], Answer], question: Question) -> Reading:
    """Let a model read a text at once, and its beginning one by one."""
    nothing = torch.empty(0)
    beginning = replace(question, kind="decode", rows=[question.rows[0][:STEPS]])
    return Reading(*(ask(q).get("0.logits", nothing) for q in (replace(question, kind="prefill"), beginning)))


def read_by_package(reference: Path, dtype: str, question: Question, process: Any) -> Reading | None:
    """Return what the ``rwkv`` package reads in a dtype on the CPU; None if it cannot."""
    try:
        oracle = load_oracle(reference, f"cpu {dtype}", process=process)
        return read_twice(lambda q: expected(oracle, q), question)
    except (InputError, RuntimeError):  # of torch: an operation that a CPU does not have in this dtype
        return None


def deviation(ours: Tensor, theirs: Tensor) -> Deviation:
    """Return how far logits (T, V) are apart: infinitely, if they have other shapes."""
    if ours.shape != theirs.shape or not ours.numel():
        return Deviation(math.inf, math.inf)
    off = (ours - theirs).abs().amax(-1)
    return Deviation(off.max().item(), off.median().item())


def same_next_token(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        return 0.0
    return (ours.argmax(-1) == theirs.argmax(-1)).float().mean().item()


def precision_result(
    name: str,
    dtype: str,
    question: Question,
    ours: Reading,
    packages: dict[str, Reading | None],
    exact: Tensor,
    tolerance: float,
) -> PrecisionResult:
    """Judge what a model read in a dtype.

    Args:
        packages: what the package read, in each of the dtypes.
        exact: logits (T, V) of the package in fp32.
    """
    limit, limit_is = limit_of(dtype, packages, exact, tolerance)
    package, steps = packages[dtype], min(STEPS, len(exact))
    return PrecisionResult(
        class_name=name,
        dtype=dtype,
        input=question.text,
        tokens=len(exact),
        steps=steps,
        max_abs_logit=exact.abs().max().item(),
        to_fp32=deviation(ours.once, exact),
        in_steps=deviation(ours.once[:steps], ours.steps),
        limit=limit,
        steps_limit=limit and Deviation(2 * limit.largest, 2 * limit.usual),
        limit_is=limit_is,
        package_to_fp32=package and deviation(package.once, exact),
        package_in_steps=package and deviation(package.once[:steps], package.steps),
        same_next_token=same_next_token(ours.once, exact),
        package_same_next_token=package and same_next_token(package.once, exact),
    )


def limit_of(
    dtype: str, packages: dict[str, Reading | None], exact: Tensor, tolerance: float
) -> tuple[Deviation | None, str]:
    """Return how far a model may be off in a dtype, and how that comes about; None if the package's own is not finite.

    How far the package is off is partly chance. So the larger of what it has in both dtypes counts, in roundings.
    """
    size = max(1.0, exact.abs().max().item())
    found = {name: own_deviation(reading, exact) for name, reading in packages.items() if reading}
    if dtype in found and not math.isfinite(found[dtype].largest):
        return None, "none: the package's own logits are not finite in this dtype"
    own = [(off, rounding(dtype) / rounding(name)) for name, off in found.items() if math.isfinite(off.largest)]
    if not own:
        share = max(WITHOUT_PACKAGE, tolerance)
        limit = Deviation(share * size, share * size)
        return limit, f"{share:g} of the largest logit, {size:.3g}, since the package runs neither dtype here"
    least = max(rounding(dtype), tolerance) * size
    least_is = "the rounding" if tolerance <= rounding(dtype) else f"{tolerance:g}"
    largest, usual = max(off.largest * scale for off, scale in own), max(off.usual * scale for off, scale in own)
    return (
        Deviation(max(LARGEST_FACTOR * largest, least), max(USUAL_FACTOR * usual, least)),
        f"for the largest difference {LARGEST_FACTOR:g} times the package's own from fp32, {largest:.2g}, and for the "
        f"median {USUAL_FACTOR:g} times the package's, {usual:.2g}, each from the dtype that has more in roundings; "
        f"at least {least:.2g}, {least_is} of the largest logit; twice as much between two readings, both of them off",
    )


def own_deviation(reading: Reading, exact: Tensor) -> Deviation:
    """Return how far the package is off by itself, read at once or one by one."""
    at_once, one_by_one = deviation(reading.once, exact), deviation(reading.steps, exact[: len(reading.steps)])
    return Deviation(max(at_once.largest, one_by_one.largest, key=largest_first), at_once.usual)


def rounding(dtype: str) -> float:
    """Return by what share of itself a number may change when it is rounded."""
    return torch.finfo(LOWER[dtype]).eps / 2
