"""The README.md of a converted model says what was done to the numbers, under which license, and how to load it."""

import pytest
import torch
from tiny_models import VERSIONS

from helpers.checkpoints import synthetic
from helpers.conversion import directory


def card_of(tmp_path, version, stored, dtype):
    path = synthetic.write_random_checkpoint(tmp_path / "a.pth", version, vocab_size=300, dtype=stored)
    return (directory.convert(path, tmp_path / "out", dtype, progress=False) / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("stored", "dtype", "sentence"),
    [
        (torch.bfloat16, None, "without any change to the numbers"),
        (torch.bfloat16, torch.bfloat16, "without any change to the numbers"),
        (torch.float32, torch.float16, "the numbers were rounded to float16"),
        (torch.bfloat16, torch.float32, "without any change to the numbers"),  # every bf16 number is an fp32 one
        (torch.float16, torch.float32, "without any change to the numbers"),
        (torch.float16, torch.bfloat16, "the numbers were rounded to bfloat16"),
    ],
)
def test_the_card_says_whether_numbers_changed(stored, dtype, sentence, tmp_path):
    assert sentence in card_of(tmp_path, "5.0", stored, dtype)


def test_a_model_that_the_native_class_cannot_load(tmp_path):
    """With one layer, transformers' RWKV-4 divides by zero; the card must not send people there."""
    path = synthetic.write_random_checkpoint(tmp_path / "a.pth", "4", layers=1, vocab_size=300)
    out = directory.convert(path, tmp_path / "out", progress=False)
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "RwkvForCausalLM" not in card
    assert "from_pretrained(folder, trust_remote_code=True" in card
    assert "trust_remote_code=False" not in card


@pytest.mark.parametrize("version", VERSIONS)
def test_license_and_code(version, tmp_path):
    card = card_of(tmp_path, version, torch.bfloat16, None)
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert f"# RWKV-{version} World, converted from a.pth" in card
    code = f"modeling_rwkv{version[0]}.py"
    assert f"`{code}`" in card
    assert (tmp_path / "out" / code).is_file()
    assert ("RwkvForCausalLM" in card) == (version == "4")
    assert "{" not in card.partition("---\n\n")[2].replace("{**", "").replace("**inputs", "")
