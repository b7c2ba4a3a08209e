"""What belongs to a model directory: which of its files are the model's, and their checksums.

A model's files are its weights and their index, configuration, code, tokenizer, texts for people, and what ``convert``
and ``verify`` note about it. All else in the folder is the user's: named, and neither judged nor uploaded unasked.
Hidden files, whose names begin with a dot, and ``__pycache__`` are never looked at.
"""

import os
import re
import stat
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from ..checkpoints.files import sha256
from ..checkpoints.versions import MODEL_TYPES, SHARED_CODE
from ..errors import InputError
from ..tokenizer.fast import OVERRIDING, TOKENIZER_CODE
from .names import CERTIFICATE, RECORD, SETTINGS
from .reading import WHOLE, weight_files

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", TOKENIZER_CODE)
CODE_FILES = {*SHARED_CODE, *(name for row in MODEL_TYPES.values() for name in row.code_files)}
# beside the weights; what save_pretrained of transformers writes is among them
NAMES = {*SETTINGS, *TOKENIZER_FILES, *CODE_FILES, *OVERRIDING, CERTIFICATE, RECORD}
FOR_PEOPLE = re.compile(r"(README|LICEN[CS]E|NOTICE)([._-][\w.-]*)?", re.ASCII)
TEMPLATES = "additional_chat_templates/*.jinja"


def names_in(folder: Path) -> list[str]:
    """Return the paths of all files below ``folder``, relative to it and with ``/``, and of links to folders.

    Hidden ones and ``__pycache__`` are left out, and links to folders are not followed.
    """
    return sorted(_names_in(folder))


def _names_in(folder: Path) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        shown = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        links = [name for name in shown if (Path(place) / name).is_symlink()]
        folders[:] = [name for name in shown if name not in links]
        for name in [*files, *links]:
            if not name.startswith("."):
                yield (Path(place) / name).relative_to(folder).as_posix()


def model_names(folder: Path) -> list[str]:
    """Return those of :func:`names_in` that belong to the model.

    Raises:
        InputError: there are no weights, or their index is damaged.
    """
    weights = {file.name for file in weight_files(folder)}
    indices = {f"{name}.index.json" for name in WHOLE} if not weights <= set(WHOLE) else set()
    ours = NAMES | weights | indices
    return [name for name in names_in(folder) if name in ours or is_for_people(name) or fnmatchcase(name, TEMPLATES)]


def is_for_people(name: str) -> bool:
    """Say whether a file is a model card, an older one, or a license: what no program computes with."""
    return FOR_PEOPLE.fullmatch(name) is not None


def checksums(folder: Path, names: list[str]) -> dict[str, str]:
    """Return the SHA-256 of each file; what is no regular file, such as a pipe or a link that leads nowhere, has none.

    Raises:
        InputError: a file cannot be read.
    """
    try:
        return {name: sha256(folder / name) for name in names if (folder / name).is_file()}
    except OSError as error:
        raise InputError(
            f"Cannot read {error.filename}: {error.strerror}; give a directory that can be read."
        ) from None


def marks(folder: Path, names: list[str]) -> dict[str, tuple[int, int, int]]:
    """Return inode, size and time of change of each file: what differs if it is written to while it is used."""
    found = {}
    for name in names:
        try:
            info = os.stat(folder / name)
        except OSError:
            continue
        if stat.S_ISREG(info.st_mode):
            found[name] = info.st_ino, info.st_size, info.st_mtime_ns
    return found
