"""Convert a ``.pth`` checkpoint into a complete Hugging Face model directory, one tensor at a time.

No tensor is transposed, merged or split: only names change. So memory does not grow with the model, every tensor of the
source is used exactly once, and the way back is the same table read in the other direction.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig

from ..atomic import new_directory, refuse_existing, write_text
from ..checkpoints.files import load_checkpoint
from ..checkpoints.format import describe
from ..checkpoints.intact import CheckedFile, checked
from ..checkpoints.versions import WORLD_IDS, WORLD_ROWS, CheckpointInfo
from ..errors import InputError
from ..tokenizer.fast import save_tokenizers
from .configuration import code_files, model_config
from .model_card import model_card
from .record import write_record
from .sizes import SHARD_LIMIT, parse_size
from .weights import total_bytes, write_weights

TOKENIZER_BYTES = 3 * 10**6  # both tokenizers and the code


@dataclass(frozen=True)
class Source:
    """What a model directory is made from.

    Args:
        path: the file or directory that the tensors come from, for messages and for the model card.
        weights: tensors by their names in the checkpoint.
        files: that the tensors come from, as they were before they were opened.
    """

    path: Path
    weights: dict[str, Tensor]
    info: CheckpointInfo
    files: tuple[CheckedFile, ...]

    @classmethod
    def checkpoint(cls, path: Path) -> "Source":
        """Open a ``.pth`` file.

        Raises:
            InputError: it is unusable, see :mod:`helpers.checkpoints`.
        """
        weights = load_checkpoint(path)
        return cls(path, weights, describe(weights, str(path)), (weights.file,))


def convert(
    checkpoint: str | Path | Source,
    out_dir: str | Path,
    dtype: torch.dtype | None = None,
    max_shard_size: str = SHARD_LIMIT,
    progress: bool = True,
    with_tokenizer: bool = True,
) -> Path:
    """Convert ``checkpoint`` (.pth) into the new directory ``out_dir`` and return it.

    Args:
        checkpoint: a file, or one that is open already.
        dtype: of the written tensors; by default each keeps its own.
        max_shard_size: a weights file holds at most this much, unless a single tensor is larger.
        progress: show a bar, in bytes.
        with_tokenizer: write the World tokenizers; see :func:`refuse_other_vocabulary`.

    Raises:
        InputError: the checkpoint is unusable (see :mod:`helpers.checkpoints`), is damaged or changed meanwhile, has a
            number that is not finite or two tensors in the same memory, or ``out_dir`` is not empty. Nothing appears
            under ``out_dir`` then.
    """
    out_dir = Path(out_dir)
    refuse_existing(out_dir)
    limit = parse_size(max_shard_size)
    source = checkpoint if isinstance(checkpoint, Source) else Source.checkpoint(Path(checkpoint))
    with new_directory(out_dir) as folder:
        write_model(folder, source, dtype, limit, progress=progress, with_tokenizer=with_tokenizer)
    return out_dir


def refuse_other_vocabulary(info: CheckpointInfo, source: Path) -> None:
    """Raise InputError unless a model has as many rows as World models, so that the World tokenizers should fit it.

    Of a model with other rows they would make nonsense, without any error: the ids of another vocabulary mean other
    tokens. Whether they fit nonetheless, only the one who trained it can say.
    """
    rows = f"{source} has a vocabulary of {info.vocab_size:,} rows"
    if info.vocab_size < WORLD_IDS:
        raise InputError(f"{rows}, too few for the World tokenizers; convert it without them: --no-tokenizer.")
    if info.vocab_size != WORLD_ROWS:
        raise InputError(
            f"{rows}, and World models have {WORLD_ROWS:,}; say --tokenizer if the World tokenizers fit nonetheless, "
            "or --no-tokenizer."
        )


def write_model(
    folder: Path,
    source: Source,
    dtype: torch.dtype | None,
    shard_limit: int,
    context_length: int = 4096,
    progress: bool = True,
    with_tokenizer: bool = True,
) -> None:
    """Write everything that a model directory holds into ``folder``.

    Args:
        dtype: of the written tensors; None keeps each its own.
        shard_limit: bytes.
        with_tokenizer: write the World tokenizers, too.

    Raises:
        InputError: two tensors share memory, a number is not finite, the disk has too little room, or the source is
            damaged or was changed meanwhile.
    """
    info = source.info
    refuse_small_disk(folder, total_bytes(source.weights, dtype) + TOKENIZER_BYTES)
    with checked(*source.files, hashed=True) as checks:
        hashes = write_weights(folder, source.weights, info.row.layout, dtype, shard_limit, source.path, progress)
        write_beside_weights(folder, info, dtype or info.main_dtype, context_length, with_tokenizer)
        write_text(folder / "README.md", model_card(info, source.path, dtype, with_tokenizer))
    write_record(folder, {file.path: checks.sha256(file) for file in source.files}, hashes)


def write_beside_weights(
    folder: Path, info: CheckpointInfo, dtype: torch.dtype | str, context_length: int, with_tokenizer: bool
) -> None:
    """Write what depends on the sizes of a model alone: its configuration, tokenizers and code.

    Args:
        dtype: that the configuration names.
    """
    model_config(info, dtype, context_length).save_pretrained(folder)
    special_ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    GenerationConfig(**special_ids).save_pretrained(folder)  # type: ignore[no-untyped-call]  # transformers lacks types
    if with_tokenizer:
        save_tokenizers(folder)
    for file in code_files(info.row):
        shutil.copy(file, folder)


def refuse_small_disk(folder: Path, needed: int) -> None:
    """Raise InputError if it is certain before the start that ``needed`` bytes do not fit.

    ``folder`` lies in the hidden one in which :mod:`helpers.atomic` makes an output, beside its final place.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"The disk of {folder.parents[1]} has {free / 1e9:.2f} GB free, and {needed / 1e9:.2f} GB are needed; "
            "make room, or write elsewhere."
        )
