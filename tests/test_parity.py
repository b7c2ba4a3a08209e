"""Converted models against the ``rwkv`` package in fp32: every form of checkpoint, head size, length and batch."""

import pytest
import torch
from tiny_models import FORMS
from transformers import AutoModelForCausalLM

from helpers.checkpoints import oracle, synthetic
from helpers.conversion import directory
from helpers.proof import parity

LENGTHS = (1, 63, 64, 65, 96, 97, 128, 129, 200)  # around ends of chunks, of 32 tokens up to 96, then of 64
CASES = [("4", 64), *((form, size) for form in FORMS if form != "4" for size in (8, 32, 64))]
TOLERANCE = 1e-4  # about a hundred roundings of logits near 10


@pytest.mark.parametrize(("form", "head_size"), CASES)
def test_prefill_decode_and_batch(form, head_size, tmp_path):
    options = {"layers": 2, "hidden_size": 128, "head_size": head_size, "vocab_size": 100, "dtype": torch.float32}
    path = synthetic.write_random_checkpoint(tmp_path / "a.pth", **options, **FORMS[form])
    folder = directory.convert(path, tmp_path / "converted", progress=False)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    reference = oracle.load_oracle(path)
    ids = torch.randint(1, 100, (2, max(LENGTHS)), generator=torch.Generator().manual_seed(0))
    for length in LENGTHS:
        result = parity.compare_prefill(reference, model, ids[0, :length].tolist())
        assert result.max_abs_logit_diff <= TOLERANCE, length
        assert result.where(TOLERANCE) is None, length
    result = parity.compare_decode(reference, model, ids[1, :70].tolist())
    assert result.max_abs_logit_diff <= TOLERANCE
    assert result.where(TOLERANCE) is None
    with torch.inference_mode():
        batch = model(ids).logits
    for row in range(2):
        expected, _ = parity.original_prefill(reference, ids[row].tolist())
        assert (batch[row] - expected).abs().max() <= TOLERANCE
