"""Small random models of every version, without files: for tests of what models do."""

import torch
from torch import Tensor

from helpers.checkpoints import versions
from helpers.checkpoints.format import checkpoint_info, expected_shapes
from helpers.checkpoints.names import hub_name
from helpers.checkpoints.synthetic import random_tensor
from helpers.conversion.configuration import language_model_class, model_config
from helpers.hub_code.rwkv_common import RwkvForCausalLM

FORMS = {  # of checkpoints: every version, and what may differ within one
    "4": {"version": "4"},
    "5.0": {"version": "5.0"},
    "5.0 raw bonus": {"version": "5.0", "bonus_name": "time_faaaa"},
    "5.1": {"version": "5.1"},
    "5.2": {"version": "5.2"},
    "6": {"version": "6"},
    "7": {"version": "7"},
    "7 all": {"version": "7", "has_first_value_mix": True},
}
VERSIONS = list(versions.VERSIONS)
VOCAB = 300


def tiny_model(
    version: str, layers: int = 2, hidden_size: int = 64, head_size: int = 32, vocab_size: int = VOCAB, **details
) -> RwkvForCausalLM:
    """Return a model in fp32 and evaluation mode, always the same for the same arguments.

    Every tensor is random, so that none hides a mistake by being 0 or 1. For ``details`` see ``checkpoint_info``.
    """
    info = checkpoint_info(version, layers, hidden_size, head_size, vocab_size, **details)
    generator = torch.Generator().manual_seed(0)
    weights = {name: random_tensor(name, shape, generator) for name, shape in expected_shapes(info).items()}
    model = language_model_class(info.row)(model_config(info, torch.float32))
    model.load_state_dict({hub_name(name, info.row.layout): weight for name, weight in weights.items()})
    return model.eval()


def ids_of(tokens: int, rows: int = 1, seed: int = 0, vocab_size: int = VOCAB) -> Tensor:
    """Return random ids (rows, tokens) without id 0, the end of text."""
    return torch.randint(1, vocab_size, (rows, tokens), generator=torch.Generator().manual_seed(seed))
