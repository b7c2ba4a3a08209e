"""Files of LAMBADA results: written line by line while a run goes on, so that a killed run can go on where it stopped.

The first line is a JSON object that says of what the results are; each other line is one document::

    {"model": "<sha256>", "data": "<sha256>", "documents": 5153, "prefix": "none", "dtype": "float32", ...}
    {"document": 17, "logprob": -1.25, "correct": true}

Documents are counted from 0. They stand in the order in which they were made, and in their own order when a run is
complete.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..atomic import replaced_file
from ..checkpoints.files import sha256
from ..errors import InputError
from ..inputs import check_regular, each_once
from .protocol import Result

ROUNDING = 1e-3  # how far a computed log-probability may be above 0
HASHED = ("*.safetensors", "pytorch_model*.bin", "config.json", "*.py")  # what decides the results of a directory


@dataclass(frozen=True)
class Header:
    """What a file of results is about. All but ``made_with`` must be the same when a run is continued.

    Args:
        model, data: SHA-256 of the weights (and of code and configuration of a directory), and of the passages; the
            model's is empty for a run without a file of results, which nobody can continue.
        engine: ``"rwkv"`` for the original, ``"transformers"`` for a converted model.
        tf32: whether fp32 matrix products on a GPU were allowed to round their inputs to 10 bits.
        made_with: for people: name of the model, versions, device.
    """

    model: str
    data: str
    documents: int
    prefix: str
    engine: str
    dtype: str
    tf32: bool
    made_with: dict = field(default_factory=dict)


def hash_model(path: Path) -> str:
    """Return the SHA-256 of a checkpoint, or of names and contents of the files that matter in a model directory."""
    if not path.is_dir():
        return sha256(path)
    files = sorted({file for pattern in HASHED for file in path.glob(pattern)})
    listing = [f"{file.name} {sha256(file)}" for file in files]
    return hashlib.sha256("\n".join(listing).encode()).hexdigest()


def as_line(document: int, result: Result) -> str:
    return json.dumps({"document": document, **asdict(result)}) + "\n"


def write_results(path: Path, header: Header, results: dict[int, Result]) -> None:
    """Write a file in the order of the documents. It takes the place of an older one in a single step."""
    with replaced_file(path) as partial, open(partial, "w", encoding="utf-8") as file:
        file.write(json.dumps(asdict(header)) + "\n")
        file.writelines(as_line(index, results[index]) for index in sorted(results))


def append_results(path: Path, results: Iterable[tuple[int, Result]]) -> None:
    """Append documents to a file, in one write."""
    with open(path, "a", encoding="utf-8") as file:
        file.write("".join(as_line(index, result) for index, result in results))


def read_results(path: Path) -> tuple[Header, dict[int, Result]]:
    """Return the header and the documents of a file. A last line that a killed run did not finish is left out.

    Raises:
        InputError: the file cannot be read, is something else, or has a document twice.
    """
    other = InputError(f"{path} is not a file of LAMBADA results; give one that the command lambada wrote with --out.")
    check_regular(path, "the results", "give a file made by lambada --out")
    try:
        first, *lines = Path(path).read_text(encoding="utf-8").split("\n")[:-1]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read the results {path}: {error}; give a file made by lambada --out.") from None
    except ValueError:
        raise other from None
    try:
        header = parse_header(json.loads(first, object_pairs_hook=each_once))
        rows = [parse_row(json.loads(line, object_pairs_hook=each_once), header.documents) for line in lines]
    except (ValueError, AttributeError, TypeError, OverflowError, RecursionError):
        raise other from None
    results = dict(rows)
    if len(results) < len(rows):
        twice = Counter(index for index, _ in rows).most_common(1)[0][0]
        raise InputError(f"{path} has document {twice} twice; run lambada again with a new --out.")
    return header, results


def parse_header(content: Any) -> Header:
    """Return the first line of a file as a header.

    Raises:
        ValueError, TypeError: a field is missing, is one too many, or has a value of another type.
    """
    header = Header(**content)
    for item in fields(Header):
        kind = {"documents": int, "tf32": bool, "made_with": dict}.get(item.name, str)
        if type(getattr(header, item.name)) is not kind:
            raise TypeError
    if header.documents < 1:
        raise ValueError
    return header


def parse_row(content: Any, documents: int) -> tuple[int, Result]:
    """Return the number of a document, from 0 to below ``documents``, and its result.

    Raises:
        ValueError, AttributeError, TypeError: the line holds something else.
    """
    if content.keys() != {"document", "logprob", "correct"}:
        raise ValueError
    index, logprob, correct = content["document"], content["logprob"], content["correct"]
    if type(index) is not int or type(logprob) not in (int, float) or type(correct) is not bool:
        raise TypeError
    if not 0 <= index < documents or ROUNDING < logprob < math.inf:  # infinity is said to be what it is
        raise ValueError
    return index, Result(float(logprob), correct)


def read_complete(path: Path) -> tuple[Header, list[Result]]:
    """Return the header and the results of a complete run, in the order of the documents.

    Raises:
        InputError: see :func:`read_results`, or documents are missing.
    """
    header, results = read_results(path)
    if len(results) < header.documents:
        raise InputError(
            f"{path} has {len(results)} of {header.documents} documents; run the same lambada command again to go on."
        )
    return header, [results[index] for index in range(header.documents)]


def results_so_far(path: Path, header: Header) -> dict[int, Result]:
    """Return what an earlier run of the same command left in ``path``, nothing if there is no such file.

    Raises:
        InputError: ``path`` holds something else, or results of another model, data file or setting.
    """
    if not path.exists():
        return {}
    old, results = read_results(path)
    names = [item.name for item in fields(Header) if item.name != "made_with"]
    changed = [name for name in names if getattr(old, name) != getattr(header, name)]
    if changed:
        raise InputError(f"{path} has results of another {' and '.join(changed)}; give another --out, or remove it.")
    return results
