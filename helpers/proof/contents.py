"""The files of a directory beside its weights, compared with what this version would write for the same weights.

Nothing of them is left to chance, so they are compared byte for byte. Two rules say what may differ nonetheless:

- ``config.json`` and ``generation_config.json`` may be written otherwise, with keys in another order, and by another
  version of transformers (``transformers_version``), as long as each field has the same value;
- ``context_length`` may be any number from 1 on: the tensors do not show it, and the models compute nothing with it.

Everything else that differs is a failure, and ``refresh`` is the remedy: it writes these files anew.
"""

import json
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ..checkpoints.versions import CheckpointInfo
from ..conversion.contents import checksums, model_names, names_in
from ..conversion.directory import write_beside_weights
from ..conversion.loading import read_config
from ..conversion.names import CARD, CERTIFICATE, RECORD, SETTINGS
from ..conversion.reading import load_weights, weight_files
from ..conversion.record import read_record
from ..conversion.weights import INDEX, index_text, total_bytes
from ..errors import printable
from ..inputs import each_once
from ..tokenizer.fast import OVERRIDING
from .results import FilesResult

# transformers reads these beside the files of a conversion, and they change the model or its tokenizer
OVERRIDES = (
    *OVERRIDING,
    "additional_chat_templates/*",
    "chat_template.json",
    "adapter_config.json",
    "custom_generate/*",
)
MOST_SHOWN = 3  # differences of a file


def compare_contents(folder: Path, info: CheckpointInfo, with_tokenizer: bool, trusted: list[str]) -> FilesResult:
    """Compare all files beside the weights, and name those that are not the model's.

    Args:
        info: of the weights in the directory.
        with_tokenizer: the World tokenizers belong to it.
        trusted: files of code that differ, and ran nonetheless, because the user said so.
    """
    length = context_length(folder)
    with tempfile.TemporaryDirectory(prefix="rwkv-contents-") as scratch:
        write_beside_weights(Path(scratch), info, info.main_dtype, length, with_tokenizer)
        wanted = {file.name: file.read_bytes() for file in sorted(Path(scratch).iterdir())}
    if len(weight_files(folder)) > 1:
        wanted[INDEX] = expected_index(folder)
    different: list[str] = []
    for name, content in wanted.items():
        if name not in trusted:
            different += differences(folder / name, content)
    names = names_in(folder)
    for name in names:
        if any(fnmatchcase(name, pattern) for pattern in OVERRIDES):
            different.append(
                f"{printable(name)} changes what transformers loads, and no conversion writes it; {remedy(folder)}."
            )
    ours = {*model_names(folder), CARD, CERTIFICATE, RECORD}
    return FilesResult(
        compared=len(wanted),
        different=different,
        remarks=list(remarks(folder, length, trusted, with_tokenizer)),
        not_covered=[name for name in names if name not in ours],
    )


def remedy(folder: Path) -> str:
    return f"run python -m helpers refresh {folder}"


def remarks(folder: Path, length: int, trusted: list[str], with_tokenizer: bool) -> Iterator[str]:
    """Say what differs and is allowed, and what is not judged."""
    if length != USUAL_LENGTH:
        yield f"config.json says context_length {length:,}, which the tensors cannot show."
    for name in trusted:
        yield f"{name} is not this version's code; it ran because --trust-remote-code was given."
    if not with_tokenizer and (folder / "tokenizer.json").is_file():
        yield "tokenizer.json is taken for one of another vocabulary than World, and was not judged."


USUAL_LENGTH = 4096  # as convert writes it


def context_length(folder: Path) -> int:
    """Return the context length in ``config.json``, or the usual one if that is no such number."""
    length = read_config(folder).get("context_length")
    return length if type(length) is int and length >= 1 else USUAL_LENGTH


def expected_index(folder: Path) -> bytes:
    """Return the index of the weights files as they are."""
    weights = [(file, load_weights(file)) for file in weight_files(folder)]
    total = sum(total_bytes(tensors, None) for _, tensors in weights)
    return index_text(total, {name: file.name for file, tensors in weights for name in tensors}).encode()


def differences(path: Path, wanted: bytes) -> Iterator[str]:
    """Yield sentences on how a file differs from what a conversion writes."""
    where = f"{path.name} is not what this version writes"
    if not path.is_file():
        yield f"{path.name} is missing; {remedy(path.parent)}."
        return
    content = path.read_bytes()
    if content == wanted:
        return
    fields = different_fields(content, wanted) if path.name in SETTINGS else []
    if fields is None:
        yield f"{where}: it is not an object of JSON with each field once; {remedy(path.parent)}."
    elif fields:
        yield f"{where}: {'; '.join(fields[:MOST_SHOWN])}; {remedy(path.parent)}."
    elif path.name not in SETTINGS:
        size, other = len(content), len(wanted)
        how = (
            f"{size:,} bytes, not {other:,}" if size != other else f"byte {first_difference(content, wanted):,} differs"
        )
        yield f"{where}: {how}; {remedy(path.parent)}."


def first_difference(one: bytes, other: bytes) -> int:
    return next(place for place, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)


def different_fields(content: bytes, wanted: bytes) -> list[str] | None:
    """Return how the fields of two JSON objects differ, None if the first is none, or has a field twice."""
    try:
        ours, theirs = (json.loads(text, object_pairs_hook=each_once) for text in (content, wanted))
    except (ValueError, RecursionError):
        return None
    if not isinstance(ours, dict):
        return None
    names = [name for name in {**theirs, **ours} if name != "transformers_version"]
    nothing = "nothing"
    return [
        f"{name[:60]} is {as_text(ours[name]) if name in ours else nothing}, "
        f"not {as_text(theirs[name]) if name in theirs else nothing}"
        for name in names
        if (name in ours) != (name in theirs) or as_text(ours.get(name), None) != as_text(theirs.get(name), None)
    ]


def as_text(value: Any, most: int | None = 60) -> str:
    """Return a value as JSON, in which 1, 1.0 and true are told apart."""
    return json.dumps(value, sort_keys=True)[:most]


def compare_record(folder: Path, checkpoint_sha256: str, trusted: list[str]) -> tuple[list[str], list[str]]:
    """Return how a directory differs from what was recorded when it was made, and a remark on what was recorded.

    The record, ``conversion.json``, has the SHA-256 of what the directory was made from, and of each file that was
    written. If that was another directory, which ``refresh`` replaced, there is no checkpoint to compare with.

    Args:
        trusted: files of code that may have changed, because the user said so.

    Raises:
        InputError: the record is damaged.
    """
    record = read_record(folder)
    if record is None:
        return [], []
    different = [
        f"{RECORD} says that another checkpoint was converted, {source.file!r} of SHA-256 {source.sha256}."
        for source in record.source
        if not source.file.endswith((".safetensors", ".bin")) and source.sha256 != checkpoint_sha256
    ]
    now = checksums(folder, [name for name in record.files if name == Path(name).name])
    for name in (name for name, digest in record.files.items() if now.get(name) != digest and name not in trusted):
        state = "has changed" if name in now else "is missing"
        different.append(f"{name!r} {state} since the conversion; {remedy(folder)}.")
    made = "; ".join(f"{source.file!r}, SHA-256 {source.sha256}" for source in record.source)
    return different, [f"{RECORD} says that the directory was made from {made}."]
