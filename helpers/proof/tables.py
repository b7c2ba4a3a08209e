"""A certificate as two tables, for the model card and the shell: each result beside the limit that it is judged by."""

from collections.abc import Iterator

from .certificate import TOLERANCE, Certificate
from .results import Deviation, PrecisionResult, RunResult, largest_first

HEADER = ("what", "compared", "result", "limit")
MODES = {
    "prefill": "read at once",
    "decode": "read token by token",
    "long": "read in pieces",
    "batch": "a padded batch",
}
NO_LIMIT = "none: not judged by itself"
Row = tuple[str, str, str, str]


def result_rows(certificate: Certificate) -> list[Row]:
    """Return rows of :data:`HEADER`: what was compared, on what, the result, and the limit with how it comes about."""
    runs, weights, contents = certificate.runs, certificate.weights, certificate.contents
    agreement = certificate.argmax_agreement
    same = "the same everywhere" if agreement == 1 else f"the same at {agreement:.2%} of the worst run's positions"
    cast = f"after a change to {', '.join(weights.cast_to)}" if weights.cast_to else "bit for bit"
    return [
        (
            "weights",
            f"{weights.tensors} tensors",
            f"{weights.identical} equal, {cast}",
            f"{weights.limit} different",
        ),
        (
            "other files",
            f"{contents.compared} files that a conversion writes",
            f"{len(contents.different)} different",
            f"{contents.limit} different",
        ),
        *logit_rows(runs),
        ("next token", "every position of these runs", same, NO_LIMIT),
        *state_rows(runs),
        *[
            (check.what, check.class_name, f"off by {check.difference:.1e}", f"{check.limit:.1e}: {check.limit_is}")
            for check in certificate.checks
        ],
        tokenizers_row(certificate),
        *lambada_rows(certificate),
    ]


def runs_by_mode(runs: list[RunResult]) -> Iterator[tuple[str, list[RunResult]]]:
    """Yield how texts were read, and the runs that did so."""
    for mode, text in MODES.items():
        if found := [run for run in runs if run.mode == mode]:
            yield text, found


def logit_rows(runs: list[RunResult]) -> Iterator[Row]:
    """Yield for each way of reading the run that comes nearest its limit."""
    for text, found in runs_by_mode(runs):
        tokens = sum(run.tokens for run in found)
        mean = sum(run.mean_abs_logit_diff * run.tokens for run in found) / tokens
        run = max(found, key=lambda run: largest_first(run.share_of_limit))
        yield (
            f"logits, {text}",
            f"{len(found)} {'run' if len(found) == 1 else 'runs'}, {tokens:,} tokens",
            f"{nearest(run)}, off by {run.max_abs_logit_diff:.1e}; mean of all {mean:.1e}",
            f"{run.logit_limit:.1e}: {run.limit_is}",
        )


def state_rows(runs: list[RunResult]) -> Iterator[Row]:
    for text, found in runs_by_mode(runs):
        run = max(found, key=lambda run: largest_first(run.max_state_diff / run.state_limit))
        yield (
            f"state, {text}",
            "after each run",
            f"{nearest(run)}, off by {run.max_state_diff:.1e}",
            f"{run.state_limit:.1e} of the largest number in each part",
        )


def nearest(run: RunResult) -> str:
    return f"nearest its limit: {run.class_name}, {run.input}"


def tokenizers_row(certificate: Certificate) -> Row:
    result = certificate.tokenizers
    if not result.texts:
        return ("tokenizers", "0 texts", "none to compare: the model has another vocabulary", "none")
    return (
        "tokenizers",
        f"{result.texts:,} texts; all {result.ids:,} ids, encoded and decoded; special tokens, padding, template",
        f"other ids: fast {result.fast_mismatches}, Python {result.slow_mismatches} texts; "
        f"wrong ids: fast {result.fast_wrong_ids}, Python {result.slow_wrong_ids}; "
        f"wrong settings: {len(result.settings)}",
        f"{result.limit} of each",
    )


def lambada_rows(certificate: Certificate) -> Iterator[Row]:
    if scores := certificate.lambada:
        sides = {"original": scores.original, "converted": scores.converted}
        numbers = [f"{side} ppl {score.ppl:.2f} acc {score.acc:.2f}" for side, score in sides.items()]
        yield ("LAMBADA", f"{scores.documents:,} passages", "; ".join(numbers), NO_LIMIT)
        off = f"largest difference {scores.max_abs_logprob_diff:.1e}"
        yield ("LAMBADA, log-probability", "each passage", off, f"{scores.limit:.1e}: {scores.limit_is}")


def tolerance_sentence(certificate: Certificate) -> str:
    """Say which tolerance the limits come from."""
    tolerance = certificate.compared_in.tolerance
    usual = "" if tolerance <= TOLERANCE else f", where {TOLERANCE:g} is usual, so this is not a proof"
    return f"The tolerance is {tolerance:g}{usual}."


def precision_table(certificate: Certificate) -> list[tuple[str, ...]]:
    """Return header and rows of the figures in bf16 and fp16, each dtype's limit beside its column."""
    results = certificate.lower_precision
    header = ["largest difference of a logit (median over the tokens)"]
    rows: list[list[str]] = [[text] for text in (
        "this model, at once, against the original in fp32",
        "this model, at once against token by token",
        "the package, at once, against itself in fp32",
        "the package, at once against token by token",
        "same next token as the original in fp32, this model",
        "same next token as the original in fp32, the package",
    )]  # fmt: skip
    for result in results:
        header += [result.dtype, "limit"]
        for row, cells in zip(rows, columns(result), strict=True):
            row += cells
    return [tuple(row) for row in (header, *rows)]


def columns(result: PrecisionResult) -> list[tuple[str, str]]:
    same = result.package_same_next_token
    missing = "the package does not run this dtype on a CPU"
    return [
        (shown(result.to_fp32), shown(result.limit, "none")),
        (shown(result.in_steps), shown(result.steps_limit, "none")),
        (shown(result.package_to_fp32, missing), "none"),
        (shown(result.package_in_steps, missing), "none"),
        (f"{result.same_next_token:.1%}", "none"),
        (missing if same is None else f"{same:.1%}", "none"),
    ]


def shown(deviation: Deviation | None, instead: str = "") -> str:
    return f"{deviation.largest:.2g} ({deviation.usual:.2g})" if deviation else instead


def precision_sentences(certificate: Certificate) -> list[str]:
    """Say what was read in bf16 and fp16, and how the limits there come about."""
    results = certificate.lower_precision
    if not results:
        return []
    first = results[0]
    return [
        f"{first.class_name} and the package on {first.input}: {first.tokens} tokens at once, the first {first.steps} "
        f"token by token, too; the largest logit of the original in fp32 is {first.max_abs_logit:.3g}.",
        *[f"Limit in {result.dtype}: {result.limit_is}." for result in results],
    ]
