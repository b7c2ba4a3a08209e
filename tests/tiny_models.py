"""Small random models of every version, without files: for tests of what models do."""

import torch
from torch import Tensor

from helpers.checkpoints import expected_shapes
from helpers.conversion import hub_name, model_config
from helpers.hub_code.modeling_rwkv4 import Rwkv4ForCausalLM
from helpers.hub_code.modeling_rwkv5 import Rwkv5ForCausalLM
from helpers.synthetic import checkpoint_info, random_tensor

VERSIONS = ["4", "5.0", "5.1", "5.2"]
VOCAB = 300


def tiny_model(
    version: str, layers: int = 2, hidden_size: int = 64, head_size: int = 32, vocab_size: int = VOCAB, **details
) -> Rwkv4ForCausalLM | Rwkv5ForCausalLM:
    """Return a model in fp32 and evaluation mode, always the same for the same arguments.

    Every tensor is random, so that none hides a mistake by being 0 or 1. For ``details`` see ``checkpoint_info``.
    """
    info = checkpoint_info(version, layers, hidden_size, head_size, vocab_size, **details)
    generator = torch.Generator().manual_seed(0)
    weights = {name: random_tensor(name, shape, generator) for name, shape in expected_shapes(info).items()}
    model = (Rwkv4ForCausalLM if version == "4" else Rwkv5ForCausalLM)(model_config(info, torch.float32))
    model.load_state_dict({hub_name(name): weight for name, weight in weights.items()})
    return model.eval()


def ids_of(tokens: int, rows: int = 1, seed: int = 0, vocab_size: int = VOCAB) -> Tensor:
    """Return random ids (rows, tokens) without id 0, the end of text."""
    return torch.randint(1, vocab_size, (rows, tokens), generator=torch.Generator().manual_seed(seed))
