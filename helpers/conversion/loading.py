"""Load a converted directory as a transformers model, with one sentence for whatever is wrong with it.

:func:`check_directory` is asked before a model is loaded, served, measured or uploaded. A directory that transformers
wrote after fine-tuning passes too: with tied tables, another vocabulary, or the class of either library in its
configuration.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig

from ..checkpoints.format import describe
from ..checkpoints.names import pth_name
from ..checkpoints.versions import MODEL_TYPES, VersionRow
from ..errors import InputError, printable
from ..inputs import refuse_huge
from ..paths import HUB_CODE
from .configuration import config_class, language_model_class, model_config
from .reading import is_file, load_weights, model_tensors, weight_files

Code = Literal["ours", "transformers", "directory"]
POINTER = b"version https://git-lfs"  # how a file begins that Git LFS left in the place of a large one


def choose_device(wanted: str | None) -> str:
    """Return the device that this process uses: by default its own GPU, or the CPU.

    Raises:
        InputError: there is no such device, or no numbers can be read back from it.
    """
    local_rank = os.environ.get("LOCAL_RANK", "0")
    name = wanted or (f"cuda:{local_rank}" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError) as error:  # torch without CUDA fails an assertion
        raise InputError(f"Cannot use the device {name}: {str(error).splitlines()[0]}; try --device cpu.") from None
    return name


def load_model(
    folder: str | Path,
    code: Code = "ours",
    dtype: torch.dtype | str = torch.float32,
    device: str = "cpu",
    device_map: str | dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    """Load a converted directory in evaluation mode.

    Args:
        code: whose class the model gets: this project's, so that nothing in the directory is executed; that inside
            ``"transformers"``, which exists for some versions; or the one in the ``"directory"``, **which is run**.
        dtype: or ``"auto"``, as in the directory.
        device_map: as in transformers, for example ``"auto"``, which spreads a model over several GPUs; without it the
            whole model goes to ``device``.
        options: other arguments of ``from_pretrained``.

    Raises:
        InputError: it is not a directory with a complete model.
    """
    folder = Path(folder)
    row = check_directory(folder)
    if code != "ours":
        options["trust_remote_code"] = code == "directory"
    loader: Any = language_model_class(row) if code == "ours" else AutoModelForCausalLM
    try:
        loaded: Any = loader.from_pretrained(
            folder, dtype=dtype, device_map=device_map, output_loading_info=True, **options
        )
    except (OSError, ValueError, RuntimeError, LookupError, AttributeError, TypeError, SyntaxError, ImportError,
            SafetensorError) as error:  # fmt: skip
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        reason = reason.split(". ")[0].rstrip(".")  # ours is one sentence
        raise InputError(f"Cannot load the model {folder}: {reason}; {remedy(folder)}.") from None
    model, info = loaded  # a pair, because of output_loading_info
    if info["missing_keys"]:
        raise InputError(f"{folder} has no tensor {min(info['missing_keys'])}; {remedy(folder)}.")
    return (model if device_map else model.to(device)).eval()


def remedy(folder: Path) -> str:
    """Say what to do about a directory whose parts do not belong together."""
    return f"convert it again, or if the weights are right, run python -m helpers refresh {folder}"


def other_code(folder: Path) -> list[str]:
    """Return the files whose code transformers would run for a directory, and which are not this project's.

    Code that is not there at all is no other code: a directory that transformers' own class saved has none.

    Raises:
        InputError: ``config.json`` is unusable, or takes code from another repository.
    """
    content = read_config(folder)
    row = MODEL_TYPES.get(str(content.get("model_type")))
    auto_map = content.get("auto_map") or {}
    named = list(auto_map.values()) if isinstance(auto_map, dict) else [auto_map]
    files = dict.fromkeys(row.code_files if row else ())
    for name in named:
        if not isinstance(name, str) or "--" in name:
            raise InputError(
                f"{folder / 'config.json'} takes its code from {str(name)[:80]!r}, another repository, which is never "
                f"asked; run python -m helpers refresh {folder}."
            )
        files[f"{name.split('.')[0]}.py"] = None
    return [name for name in files if is_other_code(folder / name)]


def is_other_code(file: Path) -> bool:
    """Say whether a file of code is there, and differs from the one of this project that has its name."""
    if not file.is_file():
        return False
    ours = HUB_CODE / file.name
    return not ours.is_file() or file.read_bytes() != ours.read_bytes()


def refuse_other_code(folder: Path, names: list[str]) -> None:
    """Raise InputError if some files of code in a directory are not this project's: it would be another model."""
    if names:
        raise InputError(
            f"{' and '.join(names)} of {folder} is not this version's code, and is not run unasked; replace it with "
            f"python -m helpers refresh {folder}, or read it, and say --trust-remote-code."
        )


def check_directory(folder: str | Path, with_tokenizer: bool = False) -> VersionRow:
    """Return the version that ``folder`` holds a complete model of, after a look at all but the numbers.

    Names and shapes of all tensors are compared with ``config.json``, of which transformers would replace what is
    missing by random numbers. Quantized weights have other names and shapes; there, only the files are looked at.

    Args:
        with_tokenizer: the fast tokenizer is needed too.

    Raises:
        InputError: there is no model, a file is missing, damaged or a Git LFS pointer, or ``config.json`` and the
            weights do not belong together.
    """
    folder = Path(folder)
    content = read_config(folder)
    row = MODEL_TYPES.get(str(content.get("model_type")))
    if row is None:
        kinds = " or ".join(MODEL_TYPES)
        kind = printable(repr(content.get("model_type")))
        raise InputError(f"Cannot load the model {folder}: its config.json says model_type {kind}, not {kinds}; "
                         "give a directory made by convert.")  # fmt: skip
    check_tokenizer(folder, with_tokenizer)
    if is_file(folder / "generation_config.json"):  # transformers reads it
        refuse_huge(folder / "generation_config.json")
    if content.get("quantization_config"):
        for file in complete_files(folder):
            if file.suffix == ".safetensors":  # others hold tensors that only the library which made them can read
                load_weights(file)
        return row
    owners = {}  # name of a tensor -> its file
    weights: dict[str, Tensor] = {}
    for file, name, weight in model_tensors(complete_files(folder)):
        owners[name], weights[name] = file, weight
    config = usable_config(folder, row, content)
    check_tensors(folder, row, config, weights, owners)
    check_details(folder, config, weights)
    return row


def read_config(folder: Path) -> dict[str, Any]:
    """Return what ``config.json`` says.

    Raises:
        InputError: there is none, or it is something else.
    """
    path = folder / "config.json"
    if not is_file(path):
        if is_file(folder / "adapter_config.json"):
            raise InputError(
                f"{folder} holds an adapter without its model; merge the two with merge_and_unload of peft, "
                "and give what save_pretrained makes of that."
            )
        raise InputError(f"{folder} is not a converted model: it has no config.json; run convert first.")
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a configuration; run convert first, or python -m helpers refresh {folder}.")
    return content


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        InputError: it cannot be read, is a Git LFS pointer, or is not JSON.
    """
    try:
        refuse_huge(path)
        text = path.read_bytes()
        refuse_pointer(path, text)
        return json.loads(text)
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}; give a directory that can be read.") from None
    except (ValueError, RecursionError):
        raise InputError(
            f"{path} is damaged: it is not JSON; run convert first, or python -m helpers refresh {path.parent}."
        ) from None


def refuse_pointer(path: Path, start: bytes) -> None:
    """Raise InputError if a file that begins so is only a pointer of Git LFS."""
    if start.startswith(POINTER):
        raise InputError(f"{path} is a Git LFS pointer, not the file that it stands for; run git lfs pull.")


def complete_files(folder: Path) -> list[Path]:
    """Return the files of the weights, none of which is a pointer of Git LFS.

    Raises:
        InputError: there are none, one is missing, or one is a pointer.
    """
    try:
        files = weight_files(folder)
        for file in files:
            with open(file, "rb") as opened:
                refuse_pointer(file, opened.read(len(POINTER)))
    except OSError as error:
        raise InputError(f"Cannot read the weights of {folder}: {error.strerror}; check its files.") from None
    return files


def check_tokenizer(folder: Path, needed: bool) -> None:
    """Raise InputError if a file of the fast tokenizer is damaged, or if there is none and it is ``needed``."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            read_json(folder / name)
    if needed and not (folder / "tokenizer.json").is_file():
        raise InputError(
            f"{folder} has no tokenizer.json: no tokenizer was saved with the model, or the Python one; "
            f"run python -m helpers refresh {folder}, which writes both."
        )


def usable_config(folder: Path, row: VersionRow, content: dict[str, Any]) -> PreTrainedConfig:
    """Return ``config.json`` as the model's class reads it.

    Raises:
        InputError: a field has a value that the class refuses.
    """
    with config_at_fault(folder):
        return config_class(row).from_dict(content)


@contextmanager
def config_at_fault(folder: Path) -> Iterator[None]:
    """Turn whatever a class raises about its configuration into one sentence."""
    try:
        yield
    except Exception as error:  # a field of a wrong type shows in many ways
        reason = printable(" ".join(str(error).split()).split(". ")[0].rstrip("."), 300)
        raise InputError(
            f"{folder / 'config.json'} is not usable: {reason}; run python -m helpers refresh {folder}."
        ) from None


def check_tensors(
    folder: Path, row: VersionRow, config: PreTrainedConfig, weights: dict[str, Tensor], owners: dict[str, Path]
) -> None:
    """Raise InputError at the first tensor that is missing, misshapen, or more than ``config.json`` calls for."""
    settings = folder / "config.json"
    layers = len({name.split(".")[1] for name in map(pth_name, weights) if name.startswith("blocks.")})
    if config.num_hidden_layers != layers:
        says = f"{settings} says num_hidden_layers {config.num_hidden_layers}"
        raise InputError(f"{says}, and the weights have {layers}; {remedy(folder)}.")
    with config_at_fault(folder), torch.device("meta"):  # names and shapes without numbers
        expected = language_model_class(row)(config).state_dict()
    tied = language_model_class(row)._tied_weights_keys if config.tie_word_embeddings else {}
    where = next(iter(owners.values())) if len(set(owners.values())) == 1 else folder
    for name, wanted in expected.items():
        if name not in weights and tied.get(name) not in weights:
            raise InputError(f"{where} has no tensor {name}, which {settings} calls for; {remedy(folder)}.")
        if name in weights and weights[name].shape != wanted.shape:
            shapes = f"shape {list(weights[name].shape)}, and {settings} calls for {list(wanted.shape)}"
            raise InputError(f"{owners[name]}: {name} has {shapes}; {remedy(folder)}.")
    if unexpected := [name for name in weights if name not in expected]:
        name = printable(unexpected[0])
        raise InputError(
            f"{owners[unexpected[0]]} has a tensor {name}, which {settings} does not call for; {remedy(folder)}."
        )


def check_details(folder: Path, config: PreTrainedConfig, weights: dict[str, Tensor]) -> None:
    """Raise InputError if ``config.json`` differs from the tensors in what need not show in their shapes."""
    weights = {pth_name(name): weight for name, weight in weights.items()}
    weights.setdefault("head.weight", weights["emb.weight"])  # the tables are tied
    info = describe(weights, str(folder))
    expected = model_config(info, info.main_dtype)
    length = getattr(config, "context_length", None)
    if type(length) is not int or length < 1:
        says = f"{folder / 'config.json'} says context_length {printable(repr(length))}"
        raise InputError(f"{says}, which is no number of tokens; run python -m helpers refresh {folder}.")
    for name in ("version", "head_size", *info.details):
        if hasattr(expected, name) and getattr(config, name) != getattr(expected, name):
            says = f"{folder / 'config.json'} says {name} {printable(repr(getattr(config, name)))}"
            raise InputError(
                f"{says}, and the weights {getattr(expected, name)!r}; run python -m helpers refresh {folder}."
            )
