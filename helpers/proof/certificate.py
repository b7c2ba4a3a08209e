"""The certificate of a conversion: what was compared, how far the two sides are apart, and whether that is enough.

It stands in ``parity.json`` of a converted directory, and in a section of the model card. It names the SHA-256 of every
file, so that a change made later shows.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..atomic import write_text
from ..conversion.names import CERTIFICATE
from ..errors import InputError, printable
from ..inputs import refuse_huge
from .results import (
    CheckResult,
    Deviation,
    FilesResult,
    LambadaResult,
    OriginalFile,
    PrecisionResult,
    RunResult,
    Score,
    Setting,
    TokenizersResult,
    WeightsResult,
    failures_in,
    largest_first,
)

EDITION = 2  # of the file; the first had no limits beside its figures, and nothing on fp16
TOLERANCE = 1e-4  # of logits, relative to the largest if it is over 1; about a hundred roundings of fp32
LENGTHS = (1, 63, 64, 65, 200)  # one token, ends of chunks (32 tokens up to 96, then 64), a long text
SEEDS = (0, 1)  # of the random ids


@dataclass(frozen=True)
class Certificate:
    """What :func:`helpers.proof.verify.verify` found.

    Args:
        files: SHA-256 of each file of the directory, but of the certificate itself.
        versions: of the packages that were used.
        contents: of the files beside the weights.
        runs: texts that were read; logits and states.
        checks: what else was tried.
        lower_precision: logits in bf16 and fp16, beside the package's.
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
    lower_precision: list[PrecisionResult]
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
        if len(different) > self.weights.limit:
            yield f"{len(different)} tensors have other numbers, the first is {different[0]}."
        if len(self.contents.different) > self.contents.limit:
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
            if not check.within_tolerance:
                allowed = f"more than {check.limit:.2g}" if math.isfinite(check.difference) else "which is not finite"
                yield f"{check.class_name}, {check.what}: off by {check.difference:.2g}, {allowed}."
        for result in self.lower_precision:
            yield from failures_in(result)
        yield from self._failures_of_tokenizers()
        if (scores := self.lambada) and not scores.within_tolerance:
            off = f"{scores.max_abs_logprob_diff:.2g}, more than {scores.limit:.2g}"
            yield f"A LAMBADA passage's log-probability differs by {off}."

    def _failures_of_tokenizers(self) -> Iterator[str]:
        result = self.tokenizers
        for kind, texts, ids in (
            ("fast", result.fast_mismatches, result.fast_wrong_ids),
            ("Python", result.slow_mismatches, result.slow_wrong_ids),
        ):
            if texts > result.limit:
                yield f"The {kind} tokenizer gives other ids for {texts} texts."
            if ids > result.limit:
                yield f"The {kind} tokenizer has another token, or decodes otherwise, at {ids:,} of {result.ids:,} ids."
        if len(result.settings) > result.limit:
            yield from result.settings

    @property
    def worst(self) -> RunResult:
        """The comparison that comes nearest its limit; one that is not a number is over any."""
        return max(self.runs, key=lambda run: largest_first(run.share_of_limit))

    @property
    def argmax_agreement(self) -> float:
        """The smallest share of positions with the same most probable next token."""
        return min(run.argmax_agreement for run in self.runs)

    def to_json(self) -> str:
        """Return the content of ``parity.json``; the class of a run or check is ``class`` there."""
        content = {"edition": EDITION, **asdict(self)}
        for name, results in (("runs", self.runs), ("checks", self.checks), ("lower_precision", self.lower_precision)):
            content[name] = rows_of(results)
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
            runs=[RunResult(**row) for row in read_rows(content["runs"])],
            checks=[CheckResult(**row) for row in read_rows(content["checks"])],
            lower_precision=[read_precision(row) for row in read_rows(content["lower_precision"])],
            lambada=read_lambada(content["lambada"]) if "lambada" in content else None,
        )


def rows_of(results: Sequence[RunResult | CheckResult | PrecisionResult]) -> list[dict[str, Any]]:
    """Return results as ``parity.json`` has them: their class first, and whether they are good enough last."""
    contents = [(asdict(result), result.within_tolerance) for result in results]
    return [{"class": row.pop("class_name"), **row, "within_tolerance": good} for row, good in contents]


def read_rows(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the fields of results that :func:`rows_of` returned; whether they are good enough follows from them."""
    for row in rows:
        yield {"class_name" if name == "class" else name: x for name, x in row.items() if name != "within_tolerance"}


def read_precision(content: dict[str, Any]) -> PrecisionResult:
    names = ("to_fp32", "in_steps", "limit", "steps_limit", "package_to_fp32", "package_in_steps")
    return PrecisionResult(**(content | {name: content[name] and Deviation(**content[name]) for name in names}))


def read_lambada(content: dict[str, Any]) -> LambadaResult:
    sides = {side: Score(**content[side]) for side in ("original", "converted")}
    return LambadaResult(**(content | sides))


def write_certificate(folder: Path, certificate: Certificate) -> None:
    """Write ``parity.json`` into a converted directory."""
    write_text(folder / CERTIFICATE, certificate.to_json())


def read_certificate(folder: Path) -> Certificate | None:
    """Return the certificate of a converted directory, None if there is none.

    Raises:
        InputError: the file is damaged, or of another edition.
    """
    path = folder / CERTIFICATE
    again = "make it again with python -m helpers verify"
    if not path.is_file():
        return None
    refuse_huge(path)
    try:
        text = path.read_text(encoding="utf-8")
        if edition := other_edition(json.loads(text)):
            raise InputError(f"{path} is of {edition}; {again}.")
        return Certificate.from_json(text)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{path} is not readable; {again}.") from None


def other_edition(content: Any) -> str | None:
    """Return which edition a certificate is of, if it is another one than ours; None for what is no certificate."""
    if not isinstance(content, dict) or "original" not in content or content.get("edition") == EDITION:
        return None
    if "edition" in content:
        return f"edition {printable(str(content['edition']), 20)}, and this version reads edition {EDITION}"
    return f"an older edition than {EDITION}, whose figures have no limits beside them"
