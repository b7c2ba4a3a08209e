"""Configuration and class of a converted model, looked up in the table of versions."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import transformers
from transformers import PreTrainedConfig

from ..checkpoints.versions import CheckpointInfo, VersionRow
from ..paths import HUB_CODE

if TYPE_CHECKING:  # a conversion needs no model, and the classes bring 90 MB of transformers with them
    from ..hub_code.rwkv_common import RwkvForCausalLM, RwkvModel


def hub_class(name: str) -> Any:
    """Return a class of ``hub_code/``, named ``file.Class``, or one of transformers itself, named ``Class``."""
    file, _, class_name = name.rpartition(".")
    module = importlib.import_module(f"..hub_code.{file}", __package__) if file else transformers
    return getattr(module, class_name)


def config_class(row: VersionRow) -> type[PreTrainedConfig]:
    return cast(type[PreTrainedConfig], hub_class(row.config_class))


def base_model_class(row: VersionRow) -> "type[RwkvModel]":
    """Return the project's own model class without a head."""
    return cast("type[RwkvModel]", hub_class(f"{row.class_prefix}Model"))


def language_model_class(row: VersionRow) -> "type[RwkvForCausalLM]":
    """Return the project's own model class with its head."""
    return cast("type[RwkvForCausalLM]", hub_class(f"{row.class_prefix}ForCausalLM"))


def model_config(info: CheckpointInfo, dtype: torch.dtype | str, context_length: int = 4096) -> PreTrainedConfig:
    """Return the configuration of the converted model, with ``architectures`` and ``auto_map``."""
    row = info.row
    make_config: Callable[..., PreTrainedConfig] = config_class(row)  # the fields depend on the class
    config = make_config(
        vocab_size=info.vocab_size,
        context_length=context_length,
        hidden_size=info.hidden_size,
        attention_hidden_size=info.attention_size,
        num_hidden_layers=info.layers,
        intermediate_size=info.ffn_size,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        dtype=dtype,
        **row.config_fields(info),
        architectures=[row.native_class or f"{row.class_prefix.rpartition('.')[2]}ForCausalLM"],
    )
    config.auto_map = {
        "AutoModel": f"{row.class_prefix}Model",
        "AutoModelForCausalLM": f"{row.class_prefix}ForCausalLM",
    }
    if "." in row.config_class:
        config.auto_map["AutoConfig"] = row.config_class
    return config


def code_files(row: VersionRow) -> list[Path]:
    """Return the modeling code that travels with a model of this version."""
    return [HUB_CODE / name for name in row.code_files]
