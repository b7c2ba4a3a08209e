"""The certificate of a conversion: what was compared, how far the two sides are apart, and whether that is enough.

It stands in ``parity.json`` of a converted directory, and in a section of the model card. It names the SHA-256 of every
file, so that a change made later shows.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..atomic import write_text
from ..conversion.names import CERTIFICATE
from ..errors import InputError
from ..inputs import refuse_huge

TOLERANCE = 1e-4  # of logits, relative to the largest if it is over 1; about a hundred roundings of fp32
LENGTHS = (1, 63, 64, 65, 200)  # one token, ends of chunks (32 tokens up to 96, then 64), a long text
SEEDS = (0, 1)  # of the random ids

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
    """How many tensors are equal bit for bit, after a change of dtype if the converted ones have another."""

    tensors: int
    identical: int
    different: list[str]
    cast_to: list[str]


@dataclass(frozen=True)
class FilesResult:
    """What a conversion writes beside the weights, compared with what this version would write for them.

    Args:
        compared: how many files.
        different: a sentence on each file that is missing, differs, or overrides another.
        remarks: sentences on what may differ, and what nobody can judge.
        not_covered: files that are none of the model's: their checksums are noted, and nothing else.
    """

    compared: int
    different: list[str]
    remarks: list[str]
    not_covered: list[str]


@dataclass(frozen=True)
class TokenizersResult:
    """How many texts and ids each tokenizer of the directory treats otherwise than BlinkDL's.

    Args:
        texts: that were encoded, with ``fast_mismatches`` and ``slow_mismatches``.
        ids: of the vocabulary, all of which were encoded and decoded, with ``fast_wrong_ids`` and ``slow_wrong_ids``.
        settings: sentences on special tokens, padding and template that are wrong.
    """

    texts: int
    fast_mismatches: int
    slow_mismatches: int
    ids: int
    fast_wrong_ids: int
    slow_wrong_ids: int
    settings: list[str]


@dataclass(frozen=True)
class CheckResult:
    """One comparison that ends in a single number: how far the model is off, and how far it may be."""

    class_name: str
    what: str
    difference: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.difference <= self.limit  # NaN is not


@dataclass(frozen=True)
class RunResult:
    """One comparison of logits and states; the numbers are those of :class:`helpers.proof.parity.Parity`."""

    class_name: str
    mode: Mode
    input: str
    tokens: int
    max_abs_logit_diff: float
    mean_abs_logit_diff: float
    max_abs_logit: float
    argmax_agreement: float
    max_state_diff: float
    within_tolerance: bool
    first_difference: str | None


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
    other_predictions: int


@dataclass(frozen=True)
class Certificate:
    """What :func:`helpers.proof.verify.verify` found.

    Args:
        files: SHA-256 of each file of the directory, but of the certificate itself.
        versions: of the packages that were used.
        contents: of the files beside the weights.
        runs: texts that were read; logits and states.
        checks: what else was tried.
    """

    original: OriginalFile
    files: dict[str, str]
    compared_in: Setting
    versions: dict[str, str]
    weights: WeightsResult
    contents: FilesResult
    tokenizers: TokenizersResult
    runs: list[RunResult]
    checks: list[CheckResult]
    lambada: LambadaResult | None = None

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def is_proof(self) -> bool:
        """Say whether it passed with no more tolerance than fp32 needs."""
        return self.passed and self.compared_in.tolerance <= TOLERANCE

    @property
    def verdict(self) -> str:
        if self.passed and not self.is_proof:
            return f"passed with a tolerance of {self.compared_in.tolerance:g}: not a proof"
        return "passed" if self.passed else "FAILED"

    @property
    def failures(self) -> list[str]:
        """Sentences on what is outside the tolerance."""
        return list(self._failures())

    def _failures(self) -> Iterator[str]:
        different = self.weights.different
        if different:
            yield f"{len(different)} tensors have other numbers, the first is {different[0]}."
        yield from self.contents.different
        if not self.runs:
            yield "Nothing was compared."
        if bad := [run for run in self.runs if not run.within_tolerance]:
            first = bad[0]
            yield (
                f"{len(bad)} of {len(self.runs)} comparisons are outside the tolerance; {first.class_name}, "
                f"{first.mode} of {first.input}, begins to differ in {first.first_difference}."
            )
        for check in self.checks:
            if not check.passed:
                allowed = f"more than {check.limit:.2g}" if math.isfinite(check.difference) else "which is not finite"
                yield f"{check.class_name}, {check.what}: off by {check.difference:.2g}, {allowed}."
        yield from self._failures_of_tokenizers()
        largest = self.lambada.max_abs_logprob_diff if self.lambada else 0.0
        limit = 10 * self.compared_in.tolerance  # a document's log-probability sums up several logits
        if not largest <= limit or math.isnan(largest):
            yield f"A LAMBADA passage's log-probability differs by {largest:.2g}, more than {limit:.2g}."

    def _failures_of_tokenizers(self) -> Iterator[str]:
        result = self.tokenizers
        for kind, texts, ids in (
            ("fast", result.fast_mismatches, result.fast_wrong_ids),
            ("Python", result.slow_mismatches, result.slow_wrong_ids),
        ):
            if texts:
                yield f"The {kind} tokenizer gives other ids for {texts} texts."
            if ids:
                yield f"The {kind} tokenizer has another token, or decodes otherwise, at {ids:,} of {result.ids:,} ids."
        yield from result.settings

    @property
    def worst(self) -> RunResult:
        """The comparison with the largest difference of logits; one that is not a number is larger than any."""
        return max(self.runs, key=lambda run: largest_first(run.max_abs_logit_diff))

    @property
    def max_state_diff(self) -> float:
        """The largest difference of states, NaN if one is."""
        return max((run.max_state_diff for run in self.runs), key=largest_first)

    @property
    def argmax_agreement(self) -> float:
        """The smallest share of positions with the same most probable next token."""
        return min(run.argmax_agreement for run in self.runs)

    def to_json(self) -> str:
        """Return the content of ``parity.json``; the class of a run or check is ``class`` there."""
        content = asdict(self)
        for name in ("runs", "checks"):
            content[name] = [{"class": row.pop("class_name"), **row} for row in content[name]]
        if self.lambada is None:
            del content["lambada"]
        content |= {"failures": self.failures, "passed": self.passed, "verdict": self.verdict}
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Certificate":
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError, KeyError, TypeError: it is something else.
        """
        content: dict[str, Any] = json.loads(text)
        return cls(
            original=OriginalFile(**content["original"]),
            files=dict(content["files"]),
            compared_in=Setting(**content["compared_in"]),
            versions=dict(content["versions"]),
            weights=WeightsResult(**content["weights"]),
            contents=FilesResult(**content["contents"]),
            tokenizers=TokenizersResult(**content["tokenizers"]),
            runs=[RunResult(class_name=run.pop("class"), **run) for run in content["runs"]],
            checks=[CheckResult(class_name=check.pop("class"), **check) for check in content["checks"]],
            lambada=read_lambada(content["lambada"]) if "lambada" in content else None,
        )


def largest_first(difference: float) -> float:
    """Return what to sort differences by: Python's ``max`` passes over a NaN that is not the first number."""
    return math.inf if math.isnan(difference) else difference


def read_lambada(content: dict[str, Any]) -> LambadaResult:
    sides = {side: Score(**content[side]) for side in ("original", "converted")}
    return LambadaResult(**(content | sides))


def write_certificate(folder: Path, certificate: Certificate) -> None:
    """Write ``parity.json`` into a converted directory."""
    write_text(folder / CERTIFICATE, certificate.to_json())


def read_certificate(folder: Path) -> Certificate | None:
    """Return the certificate of a converted directory, None if there is none.

    Raises:
        InputError: the file is damaged, or was made by an older version.
    """
    path = folder / CERTIFICATE
    again = "make it again with python -m helpers verify"
    if not path.is_file():
        return None
    refuse_huge(path)
    try:
        return Certificate.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        if '"converted":' in path.read_bytes()[:10000].decode("utf-8", "replace"):
            raise InputError(f"{path} is of an older version, which looked at fewer files; {again}.") from None
        raise InputError(f"{path} is not readable; {again}.") from None
