"""Load a converted directory as a transformers model, with one sentence for whatever is wrong with it."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from ..errors import InputError


def load_model(
    folder: str | Path,
    trust: bool = True,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    device_map: str | dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    """Load a converted directory in evaluation mode.

    Args:
        trust: run the code that it carries; without it, only classes of transformers itself.
        device_map: as in transformers, for example ``"auto"``, which spreads a model over several GPUs; without it the
            whole model goes to ``device``.
        options: other arguments of ``from_pretrained``.

    Raises:
        InputError: it is not a directory with a complete model.
    """
    folder = Path(folder)
    check_directory(folder)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, trust_remote_code=trust, dtype=dtype, device_map=device_map, output_loading_info=True, **options
        )
    except (OSError, ValueError, RuntimeError, KeyError, SyntaxError, ImportError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(f"Cannot load the model {folder}: {reason}; convert it again.") from None
    model, info = loaded  # a pair, because of output_loading_info
    if info["missing_keys"]:
        raise InputError(f"{folder} has no tensor {min(info['missing_keys'])}; convert it again.")
    return (model if device_map else model.to(device)).eval()


def check_directory(folder: Path) -> None:
    """Raise InputError if ``folder`` is no model directory."""
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} is not a converted model: it has no config.json; run convert first.")
