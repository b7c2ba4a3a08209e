"""Bring a directory that an older converter made up to today's weights format, code, tokenizers and configuration.

The published RWKV/rwkv-4-world-* and RWKV/rwkv-5-world-* repositories have the same tensors under the same names, but
``.bin`` files, a ``config.json`` with sizes typed by hand, and modeling code for transformers 4.
"""

import json
import os
import shutil
from pathlib import Path

from ..atomic import replaced_directory
from ..errors import InputError
from .directory import SHARD_LIMIT, Source, write_model
from .reading import load_converted
from .weights import parse_size

# what the new directory does not take over from the old one, beside files that it has itself
REPLACED = (
    "*.safetensors",
    "*.bin",
    "*.safetensors.index.json",
    "*.bin.index.json",
    "configuration_*.py",
    "modeling_*.py",
    "tokenization_*.py",
    "hf_rwkv_tokenizer.py",
    "rwkv*_op.cpp",
    "wkv*_cuda*",
    "vocab.txt",
    "rwkv_vocab_*",
    "special_tokens_map.json",
    "added_tokens.json",
    "parity.json",
    "__pycache__",
)


def refresh(folder: str | Path, max_shard_size: str = SHARD_LIMIT, progress: bool = True) -> Path:
    """Replace a converted directory by what :func:`.directory.convert` would make today, and return it.

    Names, sizes and version are read from the tensors; only the context length comes from the old configuration. Other
    files stay as they are, and the old model card as ``README.old.md``.

    Raises:
        InputError: ``folder`` has no weights of a supported RWKV model, or the disk is full. Then nothing has changed.
    """
    folder = Path(folder)
    source = Source(folder.resolve(), *load_converted(folder))
    context_length = old_context_length(folder)
    limit = parse_size(max_shard_size)
    with replaced_directory(folder) as new:
        write_model(new, source, None, limit, context_length, progress)
        keep_other_files(folder, new)
        del source  # Windows does not rename a directory with files that are mapped
    return folder


def old_context_length(folder: Path) -> int:
    """Return the context length of an old configuration, or the usual one if there is none."""
    path = folder / "config.json"
    try:
        length = json.loads(path.read_text(encoding="utf-8")).get("context_length", 4096)
    except FileNotFoundError:
        return 4096
    except (OSError, ValueError, AttributeError):
        raise InputError(f"{path} is not a configuration; correct it, or remove it.") from None
    return length if isinstance(length, int) and length > 0 else 4096


def keep_other_files(old: Path, new: Path) -> None:
    """Take over what is not replaced, as links to the same data where the file system has them, and the old card."""
    for path in old.iterdir():
        target = new / path.name
        if path.name == "README.md" and not (old / "README.old.md").exists():
            target = new / "README.old.md"
        if target.exists() or any(path.match(pattern) for pattern in REPLACED):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, target, symlinks=True, copy_function=link_or_copy)
        else:
            link_or_copy(path, target)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Make ``target`` a second name of the file ``source``, or a copy where that is not possible."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)
