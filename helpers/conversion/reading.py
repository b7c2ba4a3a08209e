"""Read the weights of a converted directory, of today or of an older converter, under the names of the checkpoint."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..checkpoints.files import load_checkpoint
from ..checkpoints.fla import UNUSED, from_fla, is_fla_name
from ..checkpoints.format import describe
from ..checkpoints.names import is_hub_name, pth_name
from ..checkpoints.versions import WORLD_ROWS, CheckpointInfo
from ..errors import InputError, printable
from ..inputs import refuse_huge
from ..tokenizer.fast import TOKENIZER_CODE
from .names import PTH_NAMES, PTH_UNUSED

WORLD_BEGINNING = '{\n"Ā": 1,'.encode()  # of vocab.json: token 1 is the byte 0
# RWKV-7 of rwkv-rs/transformers-rwkv, whose configuration says model_type rwkv, as that of RWKV-4
STORED_AS_RWKV = re.compile(
    r"model\.(emb\.|embed_tokens\.|embedding_norm\.|blocks\.\d+\.|layers\.\d+\.(linear_attn|mlp)\.)"
)
WHOLE = ("model.safetensors", "pytorch_model.bin")  # in the order in which transformers looks for them


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold the weights of a model directory: one, or the shards that an index names.

    Raises:
        InputError: there are no weights, the index is not readable, or a file that it names is missing.
    """
    for name in WHOLE:
        if is_file(folder / name):
            return [folder / name]
        index = folder / f"{name}.index.json"
        if is_file(index):
            try:
                names = list(dict.fromkeys(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
                files = [folder / Path(name).name for name in names]  # a plain name: nothing outside of the folder
            except OSError as error:
                raise InputError(f"Cannot read {index}: {error.strerror}; the file itself may be intact.") from None
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                raise InputError(f"{index} is not an index of weights; get the file again.") from None
            if not files:
                raise InputError(f"{index} names no file of weights; get it again.")
            missing = [file.name for file in files if not is_file(file)]
            if missing:
                raise InputError(f"{folder} has no {printable(missing[0])}, which its index names; get that file.")
            return files
    if is_file(folder / "adapter_config.json"):
        raise InputError(f"{folder} holds an adapter without its model; merge the two with merge_and_unload of peft.")
    raise InputError(f"{folder} is not a converted model: it has no {WHOLE[0]}; give a directory made by convert.")


def is_file(path: Path) -> bool:
    """Say whether there is a file; a path that no system would take, such as one too long, leads to none."""
    try:
        return path.is_file()
    except OSError:
        return False


def load_converted(folder: str | Path) -> tuple[dict[str, Tensor], CheckpointInfo]:
    """Return the tensors of a converted directory by the names of the checkpoint, memory-mapped, and what they are.

    If its configuration says that the tables are tied, and there is only one, the head is that table. A directory in
    the layout of flash-linear-attention is read, too.

    Raises:
        InputError: there are no weights, or a file is damaged, or they are not those of a supported RWKV model.
    """
    folder = Path(folder)
    weights: dict[str, Tensor] = {}
    is_fla = False
    for file, name, weight in model_tensors(weight_files(folder), allow_fla=True):
        parts = {pth_name(name): weight}
        if is_fla_name(name):
            is_fla, parts = True, parts_of_fla(file, name, weight)
        if twice := weights.keys() & parts.keys():
            raise InputError(f"{file}: {printable(name)} holds {min(twice)}, which is there twice; get it again.")
        weights |= parts
        if "emb.weight" in parts:
            file_of_table, table = file, name
    if "head.weight" not in weights and "emb.weight" in weights and is_tied(folder):
        weights["head.weight"] = load_weights(file_of_table)[table]  # mapped once more: the two share no memory
    if is_fla:
        weights |= unused_by_fla(folder)
    info = describe(weights, str(folder))
    return in_order(folder, weights) if is_fla else weights, info


def parts_of_fla(file: Path, name: str, weight: Tensor) -> dict[str, Tensor]:
    """Return what :func:`from_fla` does, with the file in the message."""
    try:
        return from_fla(name, weight)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def unused_by_fla(folder: Path) -> dict[str, Tensor]:
    """Return the tensors that ``export`` kept beside a directory in fla's layout, which has no place for them.

    Raises:
        InputError: the file is damaged, or holds something else.
    """
    path = folder / PTH_UNUSED
    found = load_weights(path) if is_file(path) else {}
    if not found.keys() <= set(UNUSED):
        raise InputError(f"{path} holds more than {', '.join(UNUSED)}; remove it, or get it again.")
    return found


def in_order(folder: Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a directory in fla's layout in the order of the checkpoint, if ``export`` noted it.

    Raises:
        InputError: the note is damaged, or belongs to other weights.
    """
    path = folder / PTH_NAMES
    if not is_file(path):
        return weights
    try:
        refuse_huge(path)
        names = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}; the file itself may be intact.") from None
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path} is not a list of names; remove it, or get it again.")
    if len(names) != len(weights) or weights.keys() != set(names):
        raise InputError(f"{path} does not name the tensors of {folder}; remove it, or get the directory again.")
    return {name: weights[name] for name in names}


def is_tied(folder: Path) -> bool:
    """Say whether the configuration of a directory says that the head is the table of embeddings."""
    path = folder / "config.json"
    try:
        content = json.loads(path.read_bytes()) if is_file(path) else {}
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("tie_word_embeddings") is True


def model_tensors(files: list[Path], allow_fla: bool = False) -> Iterator[tuple[Path, str, Tensor]]:
    """Yield file, name and tensor of all that the weights files of one converted directory hold, memory-mapped.

    Args:
        allow_fla: the names may be those of flash-linear-attention.

    Raises:
        InputError: a file is damaged, or a tensor is not one of an RWKV model, or is there twice.
    """
    seen: set[str] = set()
    loaded = {file: load_weights(file) for file in files}
    for file, weights in loaded.items():
        refuse_stored_as_rwkv(file, weights)
    names = (name for weights in loaded.values() for name in weights)
    is_fla = any(name.startswith("model.") and is_fla_name(name) for name in names)  # one directory has one layout
    if is_fla and not allow_fla:
        raise InputError(
            f"{files[0]} has the names of flash-linear-attention, which only refresh and export read; run "
            f"python -m helpers refresh {files[0].parent}, which replaces it."
        )
    for file, weights in loaded.items():
        for name, weight in weights.items():
            if not (is_fla_name if is_fla else is_hub_name)(name) or name in seen:
                raise InputError(
                    f"{file}: {printable(name)} is not a tensor of a converted RWKV model, or is there twice."
                )
            seen.add(name)
            yield file, name, weight


def refuse_stored_as_rwkv(file: Path, weights: dict[str, Tensor]) -> None:
    """Raise InputError for an RWKV-7 whose configuration says ``model_type: rwkv``, as that of RWKV-4 does."""
    if name := next(filter(STORED_AS_RWKV.match, weights), None):
        raise InputError(
            f"{file} is of an RWKV-7 stored as model_type rwkv, the layout of transformers-rwkv ({printable(name)}), "
            "which is not read here; convert the .pth file that it was made from."
        )


def is_world(folder: Path, vocab_size: int) -> bool:
    """Say whether the World tokenizers belong to a model directory: it has the rows of a World model, or part of them.

    A ``tokenizer.json`` may be of another vocabulary, and so may a ``vocab.json``, unless it begins as World's does.
    """
    return vocab_size == WORLD_ROWS or is_file(folder / TOKENIZER_CODE) or begins_as_world(folder / "vocab.json")


def begins_as_world(path: Path) -> bool:
    if not is_file(path):
        return False
    with open(path, "rb") as file:
        return file.read(len(WORLD_BEGINNING)) == WORLD_BEGINNING


def load_weights(file: Path) -> dict[str, Tensor]:
    """Return the tensors of one weights file, in the order in which they stand there.

    A ``.bin`` file is a checkpoint by its format, so its checksums are compared. One of ``safetensors`` has none; that
    library looks at the places of all tensors.

    Raises:
        InputError: the file is damaged, or cannot be read.
    """
    if file.suffix != ".safetensors":
        weights = load_checkpoint(file)
        weights.file.check()
        return weights
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.offset_keys()}
    except OSError as error:
        raise InputError(f"Cannot read {file}: {error}; the file itself may be intact.") from None
    except SafetensorError as error:
        if str(error).startswith("Path "):  # the library, written in Rust, wants a path in UTF-8
            raise InputError(f"Cannot read {file}: its path is not UTF-8; rename what is not.") from None
        raise InputError(
            f"{file} is not a safetensors file, or is damaged ({printable(str(error))}); get it again."
        ) from None
