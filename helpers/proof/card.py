"""The certificate for people: a section of the model card."""

import re

from ..errors import LONGEST_MESSAGE, printable
from .certificate import TOLERANCE, Certificate

BEGIN, END = "<!-- parity certificate, by verify -->", "<!-- end of the parity certificate -->"
CERTIFICATE = """## Parity certificate: {verdict}

This model in transformers, with {code}, against `{file}` in BlinkDL's `rwkv` package; both in fp32, without
a prefix token, on the same ids. SHA-256 of that file: `{sha256}`.

| what | compared | result |
|---|---|---|
{rows}

Versions: {versions}. Every number, and the SHA-256 of every file of this directory, is in [parity.json](parity.json);
`python -m helpers verify --check DIR` compares the files with it. {not_covered}
"""


def with_certificate(card: str, certificate: Certificate) -> str:
    """Return the card with a section about the certificate, in the place of an earlier one or at the end."""
    others = certificate.contents.not_covered
    section = CERTIFICATE.format(
        verdict=certificate.verdict,
        rows="\n".join(f"| {' | '.join(row)} |" for row in certificate_rows(certificate)),
        versions=", ".join(f"{name} {number}" for name, number in certificate.versions.items()),
        file=cell(certificate.original.file.replace("`", "")),
        sha256=certificate.original.sha256,
        code=certificate.compared_in.code,
        not_covered=f"Not covered, since they are not the model's: {cell(', '.join(others))}." if others else "",
    )
    rest = re.sub(rf"\n*{re.escape(BEGIN)}.*?{re.escape(END)}\n*", "\n", card, flags=re.DOTALL)
    return f"{rest.rstrip()}\n\n{BEGIN}\n{section}{END}\n".lstrip()


def certificate_rows(certificate: Certificate) -> list[tuple[str, str, str]]:
    """Return the rows of the table: what was compared, on what, and the result."""
    runs, weights, contents = certificate.runs, certificate.weights, certificate.contents
    tokens = sum(run.tokens for run in runs)
    mean = sum(run.mean_abs_logit_diff * run.tokens for run in runs) / tokens
    largest = max(run.max_abs_logit for run in runs)
    agreement = certificate.argmax_agreement
    same = "the same everywhere" if agreement == 1 else f"the same at {agreement:.2%} of the worst run's positions"
    cast = f"after a change to {', '.join(weights.cast_to)}" if weights.cast_to else "bit for bit"
    tolerance = certificate.compared_in.tolerance
    allowed = f"allowed: {tolerance:.0e} of that" + (f" (usual: {TOLERANCE:.0e})" if tolerance > TOLERANCE else "")
    rows = [
        ("weights", f"{weights.tensors} tensors", f"{weights.identical} equal, {cast}"),
        (
            "other files",
            f"{contents.compared} files that a conversion writes",
            cell(" ".join([f"{len(contents.different)} differ.", *contents.remarks])),
        ),
        (
            "logits",
            f"{len(runs)} runs, prefill and decoding, a padded batch, a prompt in pieces, {tokens:,} tokens",
            f"largest difference {certificate.worst.max_abs_logit_diff:.1e}, mean {mean:.1e}; "
            f"the largest logit is {largest:.1f}; {allowed}",
        ),
        (
            "next token",
            "every position of these runs",
            same,
        ),
        ("state", "after each run", f"largest difference {certificate.max_state_diff:.1e} of the largest number"),
        *[
            (check.what, check.class_name, f"off by {check.difference:.1e}; allowed: {check.limit:.1e}")
            for check in certificate.checks
        ],
        tokenizers_row(certificate),
    ]
    if scores := certificate.lambada:
        sides = {"original": scores.original, "converted": scores.converted}
        numbers = [f"{side} ppl {score.ppl:.2f} acc {score.acc:.2f}" for side, score in sides.items()]
        difference = f"largest difference of a passage {scores.max_abs_logprob_diff:.1e}"
        rows.append(("LAMBADA", f"{scores.documents:,} passages", "; ".join([*numbers, difference])))
    return rows + [("**outside the tolerance**", cell(sentence), "**failed**") for sentence in certificate.failures]


def tokenizers_row(certificate: Certificate) -> tuple[str, str, str]:
    result = certificate.tokenizers
    if not result.texts:
        return ("tokenizers", "0 texts", "none to compare: the model has another vocabulary")
    return (
        "tokenizers",
        f"{result.texts:,} texts; all {result.ids:,} ids, encoded and decoded; special tokens, padding, template",
        f"other ids: fast {result.fast_mismatches}, Python {result.slow_mismatches} texts; "
        f"wrong ids: fast {result.fast_wrong_ids}, Python {result.slow_wrong_ids}; "
        f"wrong settings: {len(result.settings)}",
    )


def cell(text: str) -> str:
    """Return text that can be printed, and does not break out of a table of Markdown."""
    return printable(" ".join(text.split()), LONGEST_MESSAGE).replace("|", "\\|").replace("<", "&lt;")
