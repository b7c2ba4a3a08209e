"""The certificate for people: a section of the model card, and one sentence about a directory."""

import re
from pathlib import Path

from ..checkpoints.files import sha256
from ..conversion.reading import weight_files
from ..errors import InputError
from .certificate import Certificate, read_certificate

BEGIN, END = "<!-- parity certificate, by verify -->", "<!-- end of the parity certificate -->"
CERTIFICATE = """## Parity certificate: {verdict}

This model in transformers, against `{file}` in BlinkDL's `rwkv` package; both in fp32, without a prefix token, on the
same ids. Every number is in [parity.json](parity.json). SHA-256 of that file: `{sha256}`.

| what | compared | result |
|---|---|---|
{rows}

Versions: {versions}.
"""


def with_certificate(card: str, certificate: Certificate) -> str:
    """Return the card with a section about the certificate, in the place of an earlier one or at the end."""
    section = CERTIFICATE.format(
        verdict="passed" if certificate.passed else "FAILED",
        rows="\n".join(f"| {' | '.join(row)} |" for row in certificate_rows(certificate)),
        versions=", ".join(f"{name} {number}" for name, number in certificate.versions.items()),
        file=certificate.original.file,
        sha256=certificate.original.sha256,
    )
    rest = re.sub(rf"\n*{re.escape(BEGIN)}.*?{re.escape(END)}\n*", "\n", card, flags=re.DOTALL)
    return f"{rest.rstrip()}\n\n{BEGIN}\n{section}{END}\n".lstrip()


def certificate_rows(certificate: Certificate) -> list[tuple[str, str, str]]:
    """Return the rows of the table: what was compared, on what, and the result."""
    runs, weights, tokenizers = certificate.runs, certificate.weights, certificate.tokenizers
    tokens = sum(run.tokens for run in runs)
    mean = sum(run.mean_abs_logit_diff * run.tokens for run in runs) / tokens
    largest = max(run.max_abs_logit for run in runs)
    same = f"the same at {certificate.argmax_agreement:.2%} or more of a run"
    cast = f"after a change to {', '.join(weights.cast_to)}" if weights.cast_to else "bit for bit"
    rows = [
        ("weights", f"{weights.tensors} tensors", f"{weights.identical} equal, {cast}"),
        (
            "logits",
            f"{len(runs)} runs, prefill and decoding, {tokens:,} tokens",
            f"largest difference {certificate.worst.max_abs_logit_diff:.1e}, mean {mean:.1e}; "
            f"the largest logit is {largest:.1f}; allowed: {certificate.compared_in.tolerance:.0e} of that",
        ),
        (
            "next token",
            "every position of these runs",
            same,
        ),
        ("state", "after each run", f"largest difference {certificate.max_state_diff:.1e} of the largest number"),
        (
            "tokenizers",
            f"{tokenizers.texts:,} texts",
            f"other ids: fast {tokenizers.fast_mismatches}, Python {tokenizers.slow_mismatches}"
            if tokenizers.texts
            else "none to compare: the model has another vocabulary",
        ),
    ]
    if scores := certificate.lambada:
        sides = {"original": scores.original, "converted": scores.converted}
        numbers = [f"{side} ppl {score.ppl:.2f} acc {score.acc:.2f}" for side, score in sides.items()]
        difference = f"largest difference of a passage {scores.max_abs_logprob_diff:.1e}"
        rows.append(("LAMBADA", f"{scores.documents:,} passages", "; ".join([*numbers, difference])))
    return rows + [("**outside the tolerance**", sentence, "**failed**") for sentence in certificate.failures]


def certificate_sentence(folder: Path) -> str:
    """Say whether a directory carries a parity certificate, and whether it is about these weights."""
    try:
        certificate = read_certificate(folder)
    except InputError as error:
        return str(error)
    if certificate is None:
        return "There is no parity certificate; python -m helpers verify makes one."
    if certificate.converted != {file.name: sha256(file) for file in weight_files(folder)}:
        return "The parity certificate is about other weights; make it again with python -m helpers verify."
    if not certificate.passed:
        return "The parity certificate says that the model FAILED."
    return "The parity certificate passed."
