"""The command ``lambada-compare``: two files of results, document by document, and what chance alone could do."""

import math
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .protocol import Result, compare_results, exponential, not_finite, summarize
from .results import Header

Interval = tuple[float, float]
SHOWN = 20  # documents that the command lists
LIMIT = 1e-3  # of a document's log-probability, original against converted in fp32: sums of logits within 1e-4


@dataclass(frozen=True)
class Comparison:
    """Two runs over the same documents, A and B.

    Args:
        perplexity, accuracy: of A and of B, the accuracy in percent.
        logprob_difference: mean over the documents of B - A; perplexity of A / perplexity of B is its exponential.
        accuracy_difference: B - A, in points.
        logprob_interval, accuracy_interval: 95 % bootstrap intervals of the two differences.
        max_abs_logprob_difference: of one document.
        changed: the documents that one side got right and the other wrong.
    """

    documents: int
    perplexity: tuple[float, float]
    accuracy: tuple[float, float]
    logprob_difference: float
    logprob_interval: Interval
    accuracy_difference: float
    accuracy_interval: Interval
    max_abs_logprob_difference: float
    changed: list[int]


def compare_paired(a: list[Result], b: list[Result], resamples: int = 2000, seed: int = 0) -> Comparison:
    """Compare two lists of results for the same documents.

    The differences are paired: what makes a document hard is hard for both sides and cancels, so that even a small
    difference between two models can be told from chance.

    Raises:
        InputError: the lists are of different lengths or empty, or a log-probability or a perplexity is not finite.
    """
    if len(a) != len(b) or not a:
        raise InputError(f"There are {len(a)} results and {len(b)}; compare two runs over the same documents.")
    for name, results in (("A", a), ("B", b)):
        if fault := fault_of(results, name):
            raise InputError(f"{fault}: that model is broken, or its dtype too small; nothing can be compared.")
    logprobs = np.array([y.logprob - x.logprob for x, y in zip(a, b, strict=True)])
    hits = 100.0 * np.array([int(y.correct) - int(x.correct) for x, y in zip(a, b, strict=True)])
    intervals = bootstrap(np.stack([logprobs, hits]), resamples, seed)
    (ppl_a, accuracy_a), (ppl_b, accuracy_b) = summarize(a), summarize(b)
    largest, changed = compare_results(b, a)
    return Comparison(
        documents=len(a),
        perplexity=(ppl_a, ppl_b),
        accuracy=(accuracy_a, accuracy_b),
        logprob_difference=float(logprobs.mean()),
        logprob_interval=intervals[0],
        accuracy_difference=float(hits.mean()),
        accuracy_interval=intervals[1],
        max_abs_logprob_difference=largest,
        changed=changed,
    )


def fault_of(results: list[Result], name: str) -> str | None:
    """Say what is not finite in the results of one side, or None: then they can be compared."""
    if bad := not_finite(results):
        return f"{len(bad)} of {len(results)} results of {name} are not finite, the first of document {bad[0]}"
    return f"The perplexity of {name} is not finite" if math.isinf(summarize(results)[0]) else None


def usual_limit(a: Header, b: Header) -> float | None:
    """Return how far a document's log-probabilities may be apart, None where they differ by right.

    The original and the converted model have to agree if both ran in fp32, without TF32, and behind the same prefix.
    """
    exact = all(header.dtype == "float32" and not header.tf32 for header in (a, b))
    return LIMIT if exact and a.engine != b.engine and a.prefix == b.prefix else None


def bootstrap(values: np.ndarray, resamples: int, seed: int) -> list[Interval]:
    """Return for each row of ``values`` (rows, documents) the 95 % interval of its mean.

    Draw as many documents as there are, with replacement, and take the mean; the interval holds the middle 95 % of such
    means (Efron, 1979).
    """
    generator = np.random.default_rng(seed)
    count = values.shape[1]
    means = np.stack([values[:, generator.integers(count, size=count)].mean(axis=1) for _ in range(resamples)])
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return [(float(a), float(b)) for a, b in zip(low, high, strict=True)]


def report(comparison: Comparison, a: list[Result], b: list[Result]) -> str:
    """Return the comparison as text for people."""
    c = comparison
    factor = [exponential(-x) for x in (c.logprob_difference, *c.logprob_interval[::-1])]
    lines = [
        f"{'':<22}{'A':>12}{'B':>12}   B against A (95 % of resamples)",
        f"{'perplexity':<22}{c.perplexity[0]:>12.4f}{c.perplexity[1]:>12.4f}"
        f"   x {factor[0]:.6f} ({factor[1]:.6f} to {factor[2]:.6f})",
        f"{'accuracy, %':<22}{c.accuracy[0]:>12.4f}{c.accuracy[1]:>12.4f}"
        f"   {c.accuracy_difference:+.4f} ({c.accuracy_interval[0]:+.4f} to {c.accuracy_interval[1]:+.4f})",
        f"largest difference of a document's log-probability: {c.max_abs_logprob_difference:.3g}",
        f"documents that one side got right and the other wrong: {len(c.changed)} of {c.documents}",
    ]
    for index in c.changed[:SHOWN]:
        sides = [f"{'right' if r[index].correct else 'wrong'} {r[index].logprob:9.4f}" for r in (a, b)]
        lines.append(f"  document {index:>5}   A {sides[0]}   B {sides[1]}")
    if len(c.changed) > SHOWN:
        lines.append(f"  and {len(c.changed) - SHOWN} more")
    return "\n".join(lines)
