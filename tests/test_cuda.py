"""The models on an NVIDIA GPU: the same results as on the CPU, in every dtype. Skipped where there is none.

Run it on a machine with a GPU: ``python -m pytest -m cuda``.
"""

from contextlib import nullcontext

import pytest
import torch
from tiny_models import VERSIONS, ids_of, tiny_model

from helpers.checkpoints.versions import VERSIONS as ROWS
from helpers.training import fast
from helpers.training.model import block_forward, blocks_of, mini_config, new_blocks

pytestmark = pytest.mark.cuda


@pytest.fixture(autouse=True)
def exact_fp32():
    """Products of fp32 matrices in fp32: TF32 would round their inputs to 10 bits."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("length", [1, 63, 200])
@torch.inference_mode()
def test_fp32_is_that_of_the_cpu(version, length):
    """1e-4: fp32 rounding of logits of size 1 to 10 in another order of summation."""
    model, ids = tiny_model(version), ids_of(length, rows=2)
    expected = model(ids, use_cache=True)
    ours = model.cuda()(ids.cuda(), use_cache=True)
    torch.testing.assert_close(ours.logits.cpu(), expected.logits, atol=1e-4, rtol=1e-4)
    for part, other in zip(ours.state, expected.state, strict=True):
        torch.testing.assert_close(part.cpu(), other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("version", VERSIONS)
@torch.inference_mode()
def test_padding_and_batches(version):
    model, ids = tiny_model(version).cuda(), ids_of(20).cuda()
    padded = torch.nn.functional.pad(ids, (7, 0))
    mask = (torch.arange(27, device="cuda") >= 7).long()[None]
    batch = torch.cat([padded, ids_of(27, seed=1).cuda()])
    together = model(batch, attention_mask=torch.cat([mask, torch.ones_like(mask)])).logits
    torch.testing.assert_close(together[0, 7:], model(ids).logits[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_half_precision_stays_near_fp32(version, dtype):
    """2,000 tokens: finite, and off by a few of the dtype's roundings (8 and 11 bits) of logits of size 1 to 10.

    RWKV-6, whose decays are rounded, too, is off most: by 0.050 and 0.006 on a CPU as well.
    """
    ids = ids_of(2000).cuda()
    expected = tiny_model(version, layers=8).cuda()(ids).logits
    logits = tiny_model(version, layers=8).to("cuda", dtype)(ids).logits.float()
    assert torch.isfinite(logits).all()
    off = (logits - expected).abs().mean() / expected.abs().mean()
    assert off < (0.01 if dtype == torch.float16 else 0.08 if version == "6" else 0.05)


@pytest.mark.parametrize("version", VERSIONS)
def test_generation_is_that_of_the_cpu(version):
    model, ids = tiny_model(version), ids_of(12)
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    ours = model.cuda().generate(ids.cuda(), attention_mask=torch.ones_like(ids).cuda(), **options)
    assert ours.tolist() == expected.tolist()


@pytest.mark.parametrize("version", VERSIONS)
@torch.inference_mode()
def test_a_state_moves_between_devices(version):
    model, ids = tiny_model(version), ids_of(30)
    expected = model(ids).logits[:, 20:]
    state = model(ids[:, :20], use_cache=True).state  # on the CPU; the model follows it to the GPU
    moved = tuple(part.cuda() for part in state)
    ours = model.cuda()(ids[:, 20:].cuda(), state=moved).logits.cpu()
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("version", VERSIONS)
def test_gradients_are_those_of_the_cpu(version):
    """1e-3 of the largest gradient of each parameter: sums over tokens in another order."""
    model, ids = tiny_model(version).train(), ids_of(100, rows=2)
    model(ids, labels=ids).loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.cuda()(ids.cuda(), labels=ids.cuda()).loss.backward()
    for name, parameter in model.named_parameters():
        tolerance = 1e-3 * expected[name].abs().max().item()
        torch.testing.assert_close(parameter.grad.cpu(), expected[name], atol=tolerance, rtol=0, msg=name)


@pytest.mark.parametrize("version", VERSIONS)
def test_compiled_training_in_bf16_autocast(version):
    """The loss falls on one text, with the whole graph compiled."""
    model, ids = tiny_model(version).cuda().train(), ids_of(128, rows=2).cuda()
    compiled = torch.compile(model, fullgraph=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        with torch.autocast("cuda", torch.bfloat16):
            loss = compiled(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("version", VERSIONS)
def test_compiled_blocks_train_with_the_gradients_of_plain_ones(version):
    """With the kernel for training, whose products are in bf16 or TF32: 5 % of each gradient's norm.

    As many tokens as in a real run: with fewer, torch does not join sums, which gave RWKV-4 gradients of a wrong shape.
    """
    width = 160 if version == "4" else 128
    model = new_blocks(mini_config(version, 100, 2, width, width, 4 * width)).cuda()
    for parameter in model.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))  # some begin as zeros, which stop all gradients
    texts = torch.randn(128, 256, width, device="cuda")
    gradients = []
    for run_block, kernel in ((block_forward, None), (fast.compiled(block_forward), ROWS[version].kernel)):
        model.zero_grad()
        h, first_value = texts, None
        with fast.use_kernel(model, fast.triton_kernel(kernel)) if kernel else nullcontext():
            for block in blocks_of(model):
                h, first_value = run_block(block, h, first_value)
        h.square().mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    plain, compiled = gradients
    assert plain.keys() == compiled.keys()
    for name, expected in plain.items():
        assert compiled[name].shape == expected.shape, name
        assert (compiled[name] - expected).norm() <= 0.05 * expected.norm(), name


@pytest.mark.parametrize("version", ["4", "5.2"])
def test_device_map(version, tmp_path):
    """``device_map="auto"`` puts a saved model on the GPU, with the logits of the CPU."""
    model, ids = tiny_model(version), ids_of(9)
    model.save_pretrained(tmp_path)
    spread = type(model).from_pretrained(tmp_path, device_map="auto", dtype=torch.float32).eval()
    assert all(parameter.is_cuda for parameter in spread.parameters())
    with torch.inference_mode():
        torch.testing.assert_close(spread(ids.cuda()).logits.cpu(), model(ids).logits, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_a_long_prompt_takes_no_more_memory():
    """Peak memory beside weights and ids: of 100,000 tokens at most a tenth more than of 20,000."""
    model = tiny_model("5.0").cuda()
    peaks = []
    for length in (20_000, 100_000):
        ids = ids_of(length).cuda()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        model(ids, logits_to_keep=1, use_cache=True)
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] < 1.1 * peaks[0] + 2 * 100_000 * 8  # and a copy or two of the ids
