"""The parts of a certificate: each figure with the limit that it is judged by, and how that limit comes about."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

# all ids at once, or one by one, or in pieces, or as a row of a padded batch
Mode = Literal["prefill", "decode", "long", "batch"]


@dataclass(frozen=True)
class OriginalFile:
    """The checkpoint that the directory is compared with."""

    file: str
    sha256: str
    version: str


@dataclass(frozen=True)
class Setting:
    """How logits were compared."""

    dtype: str
    prefix: str
    tolerance: float  # see helpers.proof.parity.Parity.within
    code: str  # whose code ran


@dataclass(frozen=True)
class WeightsResult:
    """How many tensors are equal bit for bit, after a change of dtype if the converted ones have another.

    Args:
        limit: how many may be different.
    """

    tensors: int
    identical: int
    different: list[str]
    cast_to: list[str]
    limit: int = 0


@dataclass(frozen=True)
class FilesResult:
    """What a conversion writes beside the weights, compared with what this version would write for them.

    Args:
        compared: how many files.
        different: a sentence on each file that is missing, differs, or overrides another.
        remarks: sentences on what may differ, and what nobody can judge.
        not_covered: files that are none of the model's: their checksums are noted, and nothing else.
        limit: how many may be different.
    """

    compared: int
    different: list[str]
    remarks: list[str]
    not_covered: list[str]
    limit: int = 0


@dataclass(frozen=True)
class TokenizersResult:
    """How many texts and ids each tokenizer of the directory treats otherwise than BlinkDL's.

    Args:
        texts: that were encoded, with ``fast_mismatches`` and ``slow_mismatches``.
        ids: of the vocabulary, all of which were encoded and decoded, with ``fast_wrong_ids`` and ``slow_wrong_ids``.
        settings: sentences on special tokens, padding and template that are wrong.
        limit: how many of each kind there may be.
    """

    texts: int
    fast_mismatches: int
    slow_mismatches: int
    ids: int
    fast_wrong_ids: int
    slow_wrong_ids: int
    settings: list[str]
    limit: int = 0


@dataclass(frozen=True)
class CheckResult:
    """One comparison that ends in a single number: how far the model is off, and how far it may be."""

    class_name: str
    what: str
    difference: float
    limit: float
    limit_is: str  # how the limit comes about

    @property
    def within_tolerance(self) -> bool:
        return self.difference <= self.limit  # NaN is not


@dataclass(frozen=True)
class RunResult:
    """One comparison of logits and states; the numbers are those of :class:`helpers.proof.parity.Parity`.

    Args:
        logit_limit: of ``max_abs_logit_diff``.
        state_limit: of ``max_state_diff``, which is relative to the largest number of each part of a state.
        limit_is: how the two come about.
    """

    class_name: str
    mode: Mode
    input: str
    tokens: int
    max_abs_logit_diff: float
    logit_limit: float
    mean_abs_logit_diff: float
    max_abs_logit: float
    argmax_agreement: float
    max_state_diff: float
    state_limit: float
    limit_is: str
    first_difference: str | None

    @property
    def within_tolerance(self) -> bool:
        return self.max_abs_logit_diff <= self.logit_limit and self.max_state_diff <= self.state_limit  # NaN is not

    @property
    def share_of_limit(self) -> float:
        """How much of the limit of logits was needed; NaN if the difference is."""
        return self.max_abs_logit_diff / self.logit_limit


@dataclass(frozen=True)
class Deviation:
    """How far two readings of the same tokens are apart, or may be.

    Args:
        largest: difference of a logit.
        usual: the median over the tokens of the largest difference at a token, which a few tokens cannot change.
    """

    largest: float
    usual: float


def within(found: Deviation, limit: Deviation | None) -> bool:
    """Say whether a deviation is in its limit; NaN is not, where there is one."""
    return limit is None or (found.largest <= limit.largest and found.usual <= limit.usual)


@dataclass(frozen=True)
class PrecisionResult:
    """Logits in a dtype below fp32: of the converted model, and beside them those of the package itself.

    Args:
        tokens: that were read at once.
        steps: the first of them, which were read one by one, too.
        max_abs_logit: of the original in fp32.
        to_fp32: read at once, against the original in fp32.
        in_steps: read at once against read one by one, both in this dtype.
        package_to_fp32, package_in_steps: the same of the package; None if it does not run this dtype on a CPU.
        limit, steps_limit: of the two; None where the package's own logits are not finite.
        limit_is: how they come about.
        same_next_token, package_same_next_token: shares of positions with the most probable next token of fp32.
    """

    class_name: str
    dtype: str
    input: str
    tokens: int
    steps: int
    max_abs_logit: float
    to_fp32: Deviation
    in_steps: Deviation
    limit: Deviation | None
    steps_limit: Deviation | None
    limit_is: str
    package_to_fp32: Deviation | None
    package_in_steps: Deviation | None
    same_next_token: float
    package_same_next_token: float | None

    @property
    def within_tolerance(self) -> bool:
        return within(self.to_fp32, self.limit) and within(self.in_steps, self.steps_limit)


@dataclass(frozen=True)
class Score:
    """Perplexity, and accuracy in percent."""

    ppl: float
    acc: float


@dataclass(frozen=True)
class LambadaResult:
    """LAMBADA's numbers of both sides, and the largest difference of a passage's log-probability."""

    documents: int
    original: Score
    converted: Score
    max_abs_logprob_diff: float
    limit: float  # of that
    limit_is: str  # how it comes about
    other_predictions: int

    @property
    def within_tolerance(self) -> bool:
        return self.max_abs_logprob_diff <= self.limit  # NaN is not


def largest_first(difference: float) -> float:
    """Return what to sort differences by: Python's ``max`` passes over a NaN that is not the first number."""
    return math.inf if math.isnan(difference) else difference


def failures_in(result: PrecisionResult) -> Iterator[str]:
    """Yield a sentence on each figure that is over its limit in a lower precision."""
    for what, found, limit in (
        ("from the original in fp32", result.to_fp32, result.limit),
        ("between reading at once and token by token", result.in_steps, result.steps_limit),
    ):
        if limit is None or within(found, limit):
            continue
        kind = "largest" if not found.largest <= limit.largest else "usual"
        off, most = getattr(found, kind), getattr(limit, kind)
        allowed = f"more than {most:.2g}" if math.isfinite(off) else "which is not finite"
        where = "" if kind == "largest" else ", at half of the tokens"
        yield f"{result.class_name} in {result.dtype}, {result.input}: off by {off:.2g} {what}{where}, {allowed}."
