"""The record of a conversion, ``conversion.json``: what a directory was made from, and what was written into it.

    {"source": [{"file": "rwkv.pth", "bytes": 385594522, "sha256": "..."}],
     "files": {"config.json": "<sha256>", "model.safetensors": "<sha256>", ...},
     "made_with": {"rwkv-world-hf-notebooks": "0.2.0", "torch": "2.13.0", "transformers": "5.24.0"}}

The same conversion gives the same record: there are no times and no paths in it.
"""

import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from ..atomic import write_text
from ..checkpoints.files import sha256
from ..errors import InputError
from ..paths import own_version
from .names import CARD, RECORD

NOT_RECORDED = (RECORD, CARD)  # the card gets a section from verify, and is edited by its readers


@dataclass(frozen=True)
class SourceFile:
    """One file that the tensors came from. ``file`` is its name, without folders."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Record:
    """What ``conversion.json`` says.

    Args:
        source: the checkpoint that was converted, or the weights files of the directory that was refreshed.
        files: SHA-256 of every file that was written, by its name, except for :data:`NOT_RECORDED`.
        made_with: versions of this project, torch and transformers.
    """

    source: tuple[SourceFile, ...]
    files: dict[str, str]
    made_with: dict[str, str]


def write_record(folder: Path, sources: dict[Path, str], weights: dict[str, str]) -> None:
    """Write the record of what is in ``folder``.

    Args:
        sources: SHA-256 of what it was made from, by path.
        weights: SHA-256 of the weights files, by name.
    """
    written = [path for path in sorted(folder.iterdir()) if path.name not in NOT_RECORDED]
    record = Record(
        source=tuple(SourceFile(path.name, path.stat().st_size, digest) for path, digest in sources.items()),
        files={path.name: weights.get(path.name) or sha256(path) for path in written},
        made_with={
            "rwkv-world-hf-notebooks": own_version(),
            "torch": torch.__version__,
            "transformers": version("transformers"),
        },
    )
    write_text(folder / RECORD, json.dumps(asdict(record), indent=2) + "\n")


def read_record(folder: str | Path) -> Record | None:
    """Return the record of a converted directory, or None if it has none, as those of older converters.

    Raises:
        InputError: ``conversion.json`` is something else.
    """
    path = Path(folder) / RECORD
    try:
        if not path.is_file():
            return None
        content = json.loads(path.read_bytes())
        record = Record(tuple(SourceFile(**file) for file in content["source"]), content["files"], content["made_with"])
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}; the file itself may be intact.") from None
    except (ValueError, LookupError, TypeError, RecursionError):
        raise not_a_record(path) from None
    texts = [record.files, record.made_with, *({"file": file.file, "sha256": file.sha256} for file in record.source)]
    if not all(isinstance(part, dict) and all(map(is_text, part.items())) for part in texts):
        raise not_a_record(path)
    if not all(type(file.bytes) is int for file in record.source):
        raise not_a_record(path)
    return record


def is_text(pair: tuple[object, object]) -> bool:
    return isinstance(pair[0], str) and isinstance(pair[1], str)


def not_a_record(path: Path) -> InputError:
    return InputError(f"{path} is not the record of a conversion; remove it, or convert again.")
