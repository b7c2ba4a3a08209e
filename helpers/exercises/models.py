"""The small random model that exercises of several notebooks run."""

import torch
from transformers import PreTrainedModel

from ..checkpoints import checkpoint_info
from ..conversion import language_model_class, model_config


def random_model() -> PreTrainedModel:
    """Return an RWKV-5.0 model with two layers, 64 tokens, and random weights large enough to have opinions."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        info = checkpoint_info("5.0", 2, 32, 16, 64)
        model = language_model_class(info.row)(model_config(info, torch.float32)).eval()
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    return model
