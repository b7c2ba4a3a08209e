"""Bring a directory that an older converter made up to today's weights format, code, tokenizers and configuration.

The published RWKV/rwkv-4-world-* and RWKV/rwkv-5-world-* repositories have the same tensors under the same names, but
``.bin`` files, a ``config.json`` with sizes typed by hand, and modeling code for transformers 4.
"""

import filecmp
import json
import os
import shutil
from itertools import chain, count
from pathlib import Path

from ..atomic import link_or_copy, replaced_directory
from ..checkpoints.intact import CheckedFile
from ..checkpoints.versions import WORLD_ROWS
from ..errors import InputError
from ..inputs import check_regular
from .directory import Source, write_model
from .names import PTH_NAMES, PTH_UNUSED
from .reading import load_converted, weight_files
from .sizes import SHARD_LIMIT, parse_size

# what the new directory does not take over from the old one, beside its weights and files that it has itself
REPLACED = (
    "model.safetensors",  # what else there is of weights: transformers would take some of it first
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model-*-of-*.bin",
    "pytorch_model.bin.index.json",
    "configuration_*.py",
    "modeling_*.py",
    "rwkv*_op.cpp",
    "wkv*_cuda*",
    "parity.json",
    PTH_NAMES,
    PTH_UNUSED,
    "__pycache__",
)
REPLACED_WITH_TOKENIZERS = (
    "tokenization_*.py",
    "hf_rwkv_tokenizer.py",
    "vocab.txt",
    "rwkv_vocab_*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "additional_chat_templates",
)


def refresh(
    folder: str | Path,
    max_shard_size: str = SHARD_LIMIT,
    progress: bool = True,
    with_tokenizer: bool | None = None,
) -> Path:
    """Replace a converted directory by what :func:`.directory.convert` would make today, and return it.

    Names, sizes and version are read from the tensors; only the context length comes from the old configuration. Other
    files stay as they are, and the old model card as ``README.old.md``.

    Args:
        with_tokenizer: write the World tokenizers, or leave what tokenizer there is; by default, write them if the
            model has as many rows as World models.

    Raises:
        InputError: ``folder`` has no weights of a supported RWKV model, or the disk is full. Then nothing has changed.
    """
    folder = Path(folder)
    files = tuple(CheckedFile.plain(file) for file in weight_files(folder))
    weights, info = load_converted(folder)
    source = Source(folder.resolve(), weights, info, files)
    context_length = old_context_length(folder)
    limit = parse_size(max_shard_size)
    if with_tokenizer is None:
        with_tokenizer = source.info.vocab_size == WORLD_ROWS
    with replaced_directory(folder) as new:
        write_model(new, source, None, limit, context_length, progress, with_tokenizer)
        keep_other_files(folder, new, REPLACED + (REPLACED_WITH_TOKENIZERS if with_tokenizer else ()))
        keep_card(folder, new)
        del source, weights  # Windows does not rename a directory with files that are mapped
    return folder


def old_context_length(folder: Path) -> int:
    """Return the context length of an old configuration, or the usual one if there is none."""
    path = folder / "config.json"
    if not os.path.lexists(path):
        return 4096
    check_regular(path, "the configuration", "correct it, or remove it")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        length = config.get("context_length", config.get("max_position_embeddings"))  # the latter in RWKV-7
    except (OSError, ValueError, AttributeError, RecursionError):
        raise InputError(f"{path} is not a configuration; correct it, or remove it.") from None
    return length if type(length) is int and length > 0 else 4096  # true is an int, too


def keep_other_files(old: Path, new: Path, replaced: tuple[str, ...]) -> None:
    """Take over what is not replaced, as links to the same data where the file system has them."""
    weights = weight_files(old)
    for path in old.iterdir():
        target = new / path.name
        if target.exists() or path in weights or any(path.match(pattern) for pattern in replaced):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, target, symlinks=True, copy_function=link_or_copy)
        else:
            link_or_copy(path, target)


def keep_card(old: Path, new: Path) -> None:
    """Take over the old card under a free name, unless it is the new one, or was kept by an earlier refresh."""
    card = old / "README.md"
    kept = (path for path in new.glob("README*.md") if path.is_file())
    if not card.is_file() or any(filecmp.cmp(card, path, shallow=False) for path in kept):
        return
    names = chain(["README.old.md"], (f"README.old{number}.md" for number in count(2)))
    link_or_copy(card, next(new / name for name in names if not os.path.lexists(new / name)))
