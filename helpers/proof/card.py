"""The certificate for people: a section of the model card."""

import re
from collections.abc import Sequence

from ..errors import LONGEST_MESSAGE, printable
from .certificate import Certificate
from .tables import HEADER, precision_sentences, precision_table, result_rows, tolerance_sentence

BEGIN, END = "<!-- parity certificate, by verify -->", "<!-- end of the parity certificate -->"
CERTIFICATE = """## Parity certificate: {verdict}

This model in transformers, with {code}, against `{file}` in BlinkDL's `rwkv` package; both in fp32, without
a prefix token, on the same ids. {tolerance} SHA-256 of that file: `{sha256}`.

{results}

**Lower precision.** {sentences}

{precision}

Versions: {versions}. Every number and its limit, and the SHA-256 of every file of this directory, is in
[parity.json](parity.json); `python -m helpers verify --check DIR` compares the files with it. {notes}
"""


def with_certificate(card: str, certificate: Certificate) -> str:
    """Return the card with a section about the certificate, in the place of an earlier one or at the end."""
    contents = certificate.contents
    notes, others = [*contents.remarks], ", ".join(contents.not_covered)
    notes += [f"Not covered, since they are not the model's: {others}."] if others else []
    failures = [("**outside the tolerance**", sentence, "**failed**", "") for sentence in certificate.failures]
    section = CERTIFICATE.format(
        verdict=certificate.verdict,
        tolerance=tolerance_sentence(certificate),
        results=table([HEADER, *result_rows(certificate), *failures]),
        precision=table(precision_table(certificate)),
        sentences=" ".join(map(cell, precision_sentences(certificate))),
        versions=", ".join(f"{name} {number}" for name, number in certificate.versions.items()),
        file=cell(certificate.original.file.replace("`", "")),
        sha256=certificate.original.sha256,
        code=certificate.compared_in.code,
        notes=" ".join(map(cell, notes)),
    )
    rest = re.sub(rf"\n*{re.escape(BEGIN)}.*?{re.escape(END)}\n*", "\n", card, flags=re.DOTALL)
    return f"{rest.rstrip()}\n\n{BEGIN}\n{section}{END}\n".lstrip()


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table of Markdown; the first row is its header."""
    header, *others = [f"| {' | '.join(map(cell, row))} |" for row in rows]
    return "\n".join([header, "|---" * len(rows[0]) + "|", *others])


def cell(text: str) -> str:
    """Return text that can be printed, and does not break out of a table of Markdown."""
    return printable(" ".join(text.split()), LONGEST_MESSAGE).replace("|", "\\|").replace("<", "&lt;")
