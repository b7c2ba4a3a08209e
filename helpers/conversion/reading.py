"""Read the weights of a converted directory, of today or of an older converter, under the names of the checkpoint."""

import json
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..checkpoints.files import load_checkpoint
from ..checkpoints.format import describe
from ..checkpoints.names import is_hub_name, pth_name
from ..checkpoints.versions import WORLD_ROWS, CheckpointInfo
from ..errors import InputError, printable
from ..tokenizer.fast import TOKENIZER_CODE

WORLD_BEGINNING = '{\n"Ā": 1,'.encode()  # of vocab.json: token 1 is the byte 0
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

    If its configuration says that the tables are tied, and there is only one, the head is that table.

    Raises:
        InputError: there are no weights, or a file is damaged, or they are not those of a supported RWKV model.
    """
    folder = Path(folder)
    weights: dict[str, Tensor] = {}
    for file, name, weight in model_tensors(weight_files(folder)):
        weights[pth_name(name)] = weight
        if pth_name(name) == "emb.weight":
            file_of_table, table = file, name
    if "head.weight" not in weights and "emb.weight" in weights and is_tied(folder):
        weights["head.weight"] = load_weights(file_of_table)[table]  # mapped once more: the two share no memory
    return weights, describe(weights, str(folder))


def is_tied(folder: Path) -> bool:
    """Say whether the configuration of a directory says that the head is the table of embeddings."""
    path = folder / "config.json"
    try:
        content = json.loads(path.read_bytes()) if is_file(path) else {}
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("tie_word_embeddings") is True


def model_tensors(files: list[Path]) -> Iterator[tuple[Path, str, Tensor]]:
    """Yield file, name and tensor of all that the weights files of one converted directory hold, memory-mapped.

    Raises:
        InputError: a file is damaged, or a tensor is not one of an RWKV model, or is there twice.
    """
    seen = set()
    for file in files:
        for name, weight in load_weights(file).items():
            if not is_hub_name(name) or name in seen:
                raise InputError(
                    f"{file}: {printable(name)} is not a tensor of a converted RWKV model, or is there twice."
                )
            seen.add(name)
            yield file, name, weight


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
