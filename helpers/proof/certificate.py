"""The certificate of a conversion: what was compared, how far the two sides are apart, and whether that is enough.

It stands in ``parity.json`` of a converted directory, and in a section of the model card.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..atomic import write_text
from ..errors import InputError

FILE = "parity.json"
TOLERANCE = 1e-4  # of logits, relative to the largest if it is over 1; about a hundred roundings of fp32
LENGTHS = (1, 63, 64, 65, 200)  # one token, ends of chunks (32 tokens up to 96, then 64), a long text
SEEDS = (0, 1)  # of the random ids

Mode = Literal["prefill", "decode"]  # all ids at once, or one by one


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


@dataclass(frozen=True)
class WeightsResult:
    """How many tensors are equal bit for bit, after a change of dtype if the converted ones have another."""

    tensors: int
    identical: int
    different: list[str]
    cast_to: list[str]


@dataclass(frozen=True)
class TokenizersResult:
    """How many texts each tokenizer of the directory encodes otherwise than BlinkDL's."""

    texts: int
    fast_mismatches: int
    slow_mismatches: int


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
        converted: SHA-256 of each weights file of the directory.
        versions: of the packages that were used.
    """

    original: OriginalFile
    converted: dict[str, str]
    compared_in: Setting
    versions: dict[str, str]
    weights: WeightsResult
    tokenizers: TokenizersResult
    runs: list[RunResult]
    lambada: LambadaResult | None = None

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def failures(self) -> list[str]:
        """Sentences on what is outside the tolerance."""
        return list(self._failures())

    def _failures(self) -> Iterator[str]:
        different = self.weights.different
        if different:
            yield f"{len(different)} tensors have other numbers, the first is {different[0]}."
        if not self.runs:
            yield "Nothing was compared."
        if bad := [run for run in self.runs if not run.within_tolerance]:
            first = bad[0]
            yield (
                f"{len(bad)} of {len(self.runs)} comparisons are outside the tolerance; {first.class_name}, "
                f"{first.mode} of {first.input}, begins to differ in {first.first_difference}."
            )
        counts = {"fast": self.tokenizers.fast_mismatches, "slow": self.tokenizers.slow_mismatches}
        for kind, count in counts.items():
            if count:
                yield f"The {kind} tokenizer gives other ids for {count} texts."
        largest = self.lambada.max_abs_logprob_diff if self.lambada else 0.0
        limit = 10 * self.compared_in.tolerance  # a document's log-probability sums up several logits
        if not largest <= limit or math.isnan(largest):
            yield f"A LAMBADA passage's log-probability differs by {largest:.2g}, more than {limit:.2g}."

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
        """Return the content of ``parity.json``; the class of a run is ``class`` there."""
        content = asdict(self)
        content["runs"] = [{"class": run.pop("class_name"), **run} for run in content["runs"]]
        if self.lambada is None:
            del content["lambada"]
        content |= {"failures": self.failures, "passed": self.passed}
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
            converted=dict(content["converted"]),
            compared_in=Setting(**content["compared_in"]),
            versions=dict(content["versions"]),
            weights=WeightsResult(**content["weights"]),
            tokenizers=TokenizersResult(**content["tokenizers"]),
            runs=[RunResult(class_name=run.pop("class"), **run) for run in content["runs"]],
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
    write_text(folder / FILE, certificate.to_json())


def read_certificate(folder: Path) -> Certificate | None:
    """Return the certificate of a converted directory, None if there is none.

    Raises:
        InputError: the file is damaged.
    """
    try:
        return Certificate.from_json((folder / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{folder / FILE} is not readable; make it again with python -m helpers verify.") from None
