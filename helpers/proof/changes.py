"""Is a certificate still about the files of its directory? What has changed since, and one sentence about it."""

from dataclasses import dataclass
from pathlib import Path

from ..conversion.contents import checksums, is_for_people, names_in
from ..conversion.names import CERTIFICATE
from ..errors import InputError, printable
from .certificate import Certificate, read_certificate


@dataclass(frozen=True)
class Change:
    """A file that is not as the certificate has it, and a sentence about it."""

    name: str
    sentence: str

    @property
    def is_for_people(self) -> bool:
        """Say whether it is a text such as the model card, on which no result depends."""
        return is_for_people(self.name)


def changed_since(folder: Path, certificate: Certificate) -> list[Change]:
    """Return what has changed in a directory since its certificate was made: files that changed, came or went.

    A file that was none of the model's may be gone: it does not go to the Hub.

    Raises:
        InputError: a file cannot be read.
    """
    now = checksums(folder, [name for name in names_in(folder) if name != CERTIFICATE])
    changes = []
    for name in sorted(now.keys() | certificate.files.keys()):
        if name not in certificate.files:
            changes.append(Change(name, f"{printable(name)} is new since the certificate was made."))
        elif name not in now and name not in certificate.contents.not_covered:
            changes.append(Change(name, f"{printable(name)} is missing since the certificate was made."))
        elif name in now and now[name] != certificate.files[name]:
            changes.append(Change(name, f"{printable(name)} has changed since the certificate was made."))
    return changes


def certificate_sentence(folder: Path) -> str:
    """Say what the parity certificate of a directory says, if there is one, and that it is about these files.

    What has changed is asked before: :func:`changed`.
    """
    certificate = read_certificate(folder)
    if certificate is None:
        return "There is no parity certificate; python -m helpers verify makes one."
    if not certificate.passed:
        return "The parity certificate says that the model FAILED."
    return f"The parity certificate {certificate.verdict}."


def changed(folder: Path) -> list[Change]:
    """Return what has changed since the certificate of a directory was made, nothing if it has none.

    Raises:
        InputError: the certificate is damaged or of an older version, or a file cannot be read.
    """
    certificate = read_certificate(folder)
    return changed_since(folder, certificate) if certificate else []


def refuse_changed(folder: Path, uploaded: list[str]) -> list[Change]:
    """Return the texts for people, such as the card, that have changed since the certificate was made.

    Args:
        uploaded: names of the files that matter; others may have come or changed.

    Raises:
        InputError: another file has changed, come or gone: then the certificate is not about this model.
    """
    changes = [change for change in changed(folder) if change.name in uploaded or not (folder / change.name).is_file()]
    if others := [change for change in changes if not change.is_for_people]:
        raise InputError(
            f"The certificate of {folder} is not about these files: {others[0].sentence.removesuffix('.')}; make it "
            "again with python -m helpers verify, or remove parity.json and its section of the card."
        )
    return changes
