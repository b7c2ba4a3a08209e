"""How the tests are spread over processes, which ones need a GPU, and a small model that several share."""

import os

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers.checkpoints.synthetic import write_random_checkpoint
from helpers.conversion.directory import convert

LONG = ("test_verify_faults", "test_decoding", "test_site", "test_training", "test_lambada_run")  # a minute or more
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # others would be processes, each of which imports torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz", type=int, default=120, metavar="N", help="files that test_fuzz.py tries (default: 120)")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file in one process, where they share fixtures, but those of each notebook in one of its own.

    The notebooks come first and the long files next: begun last, one of them would leave the other processes idle.
    """
    for item in items:
        item.add_marker(pytest.mark.xdist_group(notebook_of(item) or item.path.stem))
        if item.get_closest_marker("cuda") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
    items.sort(key=lambda item: 0 if notebook_of(item) else 1 if item.path.stem in LONG else 2)


def notebook_of(item: pytest.Item) -> str | None:
    """Return the name of the notebook that a test is about, or None."""
    notebook = item.callspec.params.get("notebook") if hasattr(item, "callspec") else None
    return notebook.stem if notebook else None


@pytest.fixture(scope="session")
def tiny_rwkv5(tmp_path_factory):
    """Model (in evaluation mode) and tokenizer of a converted random RWKV-5.0 checkpoint. Leave both as they are."""
    folder = tmp_path_factory.mktemp("tiny_rwkv5")
    sizes = {"hidden_size": 32, "head_size": 16, "dtype": torch.float32}
    checkpoint = write_random_checkpoint(folder / "tiny.pth", "5.0", **sizes)
    out = convert(checkpoint, folder / "tiny", progress=False)
    model = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True)
    return model.eval(), AutoTokenizer.from_pretrained(out, trust_remote_code=True)
