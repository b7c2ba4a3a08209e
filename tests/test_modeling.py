"""The models: recurrent == chunked == the rwkv package; batches, padding, states, gradients and generation.

Tolerances: fp64 comparisons of two orders of summation stay under 1e-10; fp32 logits of these models are of size 1 to
10, where 1e-4 is about a hundred roundings.
"""

import sys
from types import SimpleNamespace

import pytest
import torch
from tiny_models import VOCAB, ids_of, tiny_model
from transformers import AutoModelForCausalLM

from helpers.checkpoints import oracle, synthetic
from helpers.conversion import directory
from helpers.hub_code import modeling_rwkv4 as rwkv4
from helpers.hub_code import modeling_rwkv5 as rwkv5
from helpers.hub_code import modeling_rwkv6 as rwkv6
from helpers.hub_code import modeling_rwkv7 as rwkv7
from helpers.hub_code import rwkv_requirements
from helpers.proof import parity

CHECKPOINTS = {
    "4": {"version": "4"},
    "5.0": {"version": "5.0"},
    "5.0-raw-bonus": {"version": "5.0", "bonus_name": "time_faaaa", "decay_shape": (2, 1)},
    "5.1": {"version": "5.1", "head_size": 8},
    "5.2": {"version": "5.2", "head_size": 64, "hidden_size": 128},
}


@pytest.fixture(scope="module", params=CHECKPOINTS)
def pair(request, tmp_path_factory):
    """One checkpoint in fp32 of each version: in the rwkv package, and converted and loaded with our code."""
    folder = tmp_path_factory.mktemp("models")
    path = folder / "model.pth"
    synthetic.write_random_checkpoint(path, vocab_size=VOCAB, dtype=torch.float32, **CHECKPOINTS[request.param])
    converted = directory.convert(path, folder / "converted", progress=False)
    model = AutoModelForCausalLM.from_pretrained(converted, trust_remote_code=True, dtype=torch.float32).eval()
    return oracle.load_oracle(path), model


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200])
def test_prefill_equals_the_rwkv_package(pair, length):
    result = parity.compare_prefill(*pair, ids_of(length)[0].tolist())
    assert result.max_abs_logit_diff <= 1e-4
    assert result.first_different_block() is None


def test_decode_equals_the_rwkv_package(pair):
    result = parity.compare_decode(*pair, ids_of(70)[0].tolist())
    assert result.max_abs_logit_diff <= 1e-4
    assert result.first_different_block() is None


def test_a_changed_block_is_named(pair):
    model = pair[1]
    weight = model.rwkv.blocks[0].feed_forward.value.weight
    original = weight.detach().clone()
    with torch.no_grad():
        weight.mul_(1.1)
    result = parity.compare_prefill(*pair, ids_of(20)[0].tolist())
    with torch.no_grad():
        weight.copy_(original)
    assert result.first_different_block() == 1  # the state of block 1 is the first to see the output of block 0


@torch.inference_mode()
def test_a_batch_equals_its_rows(pair):
    model, ids = pair[1], ids_of(50, rows=3)
    together = model(ids).logits
    for row in range(3):
        torch.testing.assert_close(together[row], model(ids[row : row + 1]).logits[0], atol=1e-5, rtol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("mask", [[0] * 7 + [1] * 30, [1] * 30 + [0] * 7, [1] * 10 + [0] * 7 + [1] * 20, [0] * 37])
def test_padding_changes_nothing(pair, mask):
    """Padded on the left, on the right, in the middle, and a row of padding only: logits and state are the text's."""
    model, text, before = pair[1], ids_of(30), model_state(pair[1])
    mask = torch.tensor([mask, [1] * 37])
    ids = ids_of(37, seed=1, rows=2)
    ids[0, mask[0] == 1] = text[0, : mask[0].sum()]
    padded = model(ids, attention_mask=mask, state=before, use_cache=True)
    if mask[0].any():
        alone = model(text, state=tuple(s[:1] for s in before), use_cache=True)
        torch.testing.assert_close(padded.logits[0, mask[0] == 1], alone.logits[0], atol=1e-5, rtol=1e-5)
        expected = alone.state
    else:
        expected = tuple(s[:1] for s in before)
    for ours, theirs in zip(padded.state, expected, strict=True):
        torch.testing.assert_close(ours[:1], theirs, atol=1e-5, rtol=1e-5)


def model_state(model):
    """Return a state of a batch of two that is not empty."""
    with torch.inference_mode():
        return model(ids_of(11, seed=5, rows=2), use_cache=True).state


@torch.inference_mode()
@pytest.mark.parametrize("split", [1, 15, 16, 64, 99])
def test_a_text_can_be_split_anywhere(pair, split):
    model, ids = pair[1], ids_of(100)
    whole = model(ids, use_cache=True)
    first = model(ids[:, :split], use_cache=True)
    kept = tuple(s.clone() for s in first.state)
    second = model(ids[:, split:], state=first.state, use_cache=True)
    torch.testing.assert_close(torch.cat([first.logits, second.logits], 1), whole.logits, atol=1e-4, rtol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(kept, first.state, strict=True)), "the state was changed in place"


@pytest.mark.parametrize("lengths", [None, [37, 5, 0]])
@pytest.mark.parametrize("channels", [1, 8], ids=["decay a head", "decay a channel"])
@pytest.mark.parametrize("strength", [-6.0, 0.0, 3.0], ids=["slow", "medium", "fast"])
@pytest.mark.parametrize("size", [1, 8, 64, None], ids="chunks of {}".format)
def test_wkv5_chunked_is_the_recurrence(lengths, channels, strength, size):
    generator = torch.Generator().manual_seed(0)
    batch, heads, tokens, head_size = 3, 2, 37, 8
    r, k, v = torch.randn(3, batch, heads, tokens, head_size, generator=generator, dtype=torch.float64)
    log_w = -torch.exp(strength + torch.randn(heads, channels, generator=generator, dtype=torch.float64))
    u = torch.randn(heads, channels, generator=generator, dtype=torch.float64)
    state = torch.randn(batch, heads, head_size, head_size, generator=generator, dtype=torch.float64)
    lengths = lengths and torch.tensor(lengths)
    y, after = rwkv5.wkv5_recurrent(r, k, v, log_w, u, state, lengths)
    y2, after2 = rwkv5.wkv5_chunked(r, k, v, log_w, u, state, lengths, size)
    rows = [(row, tokens if lengths is None else int(lengths[row])) for row in range(batch)]
    for row, length in rows:
        torch.testing.assert_close(y2[row, :, :length], y[row, :, :length], atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(after2, after, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("tokens", [1, 7, 8, 9, 15, 16, 17, 32, 33, 48])
@pytest.mark.parametrize("channels", [1, 4], ids=["decay a head", "decay a channel"])
def test_wkv5_at_the_ends_of_chunks(tokens, channels, monkeypatch):
    """Texts of one token less and more than whole chunks, and than chunks whose states are one product (two here)."""
    monkeypatch.setattr(rwkv5, "CHUNKS_AT_ONCE", 2)
    generator = torch.Generator().manual_seed(0)
    r, k, v = torch.randn(3, 4, 2, tokens, 4, generator=generator, dtype=torch.float64)
    log_w = -torch.exp(2 * torch.randn(2, channels, generator=generator, dtype=torch.float64))
    u = torch.randn(2, channels, generator=generator, dtype=torch.float64)
    state = torch.randn(4, 2, 4, 4, generator=generator, dtype=torch.float64)
    for lengths in (None, torch.tensor([0, 1, tokens // 2, tokens])):
        y, after = rwkv5.wkv5_recurrent(r, k, v, log_w, u, state, lengths)
        y2, after2 = rwkv5.wkv5_chunked(r, k, v, log_w, u, state, lengths, size=8)
        for row, length in enumerate([tokens] * 4 if lengths is None else lengths.tolist()):
            torch.testing.assert_close(y2[row, :, :length], y[row, :, :length], atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(after2, after, atol=1e-12, rtol=1e-12)


def test_states_of_strong_decays_do_not_overflow():
    """A decay of e^-20,000 a token and one of e^-1e-6, in fp32, over 10,000 tokens: finite, and those of fp64."""
    generator = torch.Generator().manual_seed(0)
    r, k, v = torch.randn(3, 1, 1, 10_000, 2, generator=generator)
    log_w, u = torch.tensor([[-2e4, -1e-6]]), torch.ones(1, 2)
    inputs = [r, k, v, log_w, u, torch.ones(1, 1, 2, 2)]
    exact = rwkv5.wkv5_chunked(*(x.double() for x in inputs))
    for ours, expected in zip(rwkv5.wkv5_chunked(*inputs), exact, strict=True):
        torch.testing.assert_close(ours, expected.float(), atol=1e-5 * expected.abs().max().item(), rtol=0)


@pytest.mark.parametrize("lengths", [None, [37, 5, 0]])
@pytest.mark.parametrize("scale", [1.0, 100.0], ids=["usual keys", "huge keys"])
def test_wkv4_scan_is_the_recurrence(lengths, scale):
    generator = torch.Generator().manual_seed(0)
    k, v = torch.randn(2, 3, 37, 8, generator=generator, dtype=torch.float64)
    w = -torch.exp(2 * torch.randn(8, generator=generator, dtype=torch.float64))
    u = torch.randn(8, generator=generator, dtype=torch.float64)
    state = torch.tensor([0.0, 0.0, rwkv4.EMPTY], dtype=torch.float64).view(1, 3, 1).expand(3, 3, 8)
    lengths = lengths and torch.tensor(lengths)
    y, after = rwkv4.wkv4_recurrent(scale * k, v, w, u, state, lengths)
    y2, after2 = rwkv4.wkv4_scan(scale * k, v, w, u, state, lengths)
    for row in range(3):
        length = 37 if lengths is None else int(lengths[row])
        torch.testing.assert_close(y2[row, :length], y[row, :length], atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(after2, after, atol=1e-10, rtol=1e-10)


KERNELS = {  # and the axis of tokens
    "4": (rwkv4, "wkv4", "wkv4_scan", 1),
    "5.0": (rwkv5, "wkv6", "wkv5_chunked", 2),
    "5.2": (rwkv5, "wkv6", "wkv5_chunked", 2),
    "6": (rwkv6, "wkv6", "wkv6_chunked", 2),
    "7": (rwkv7, "wkv7", "wkv7_chunked", 2),
}


@pytest.fixture(params=KERNELS)
def on_cpu(request, monkeypatch):
    """Let tensors on the CPU go to the Triton kernel of a version, as if it had never been tried."""
    said, module = [], KERNELS[request.param][0]
    monkeypatch.setattr(rwkv_requirements, "KERNEL_DEVICE", "cpu")
    monkeypatch.setattr(module.KERNEL, "tried", False)
    monkeypatch.setattr(module.KERNEL, "function", None)
    monkeypatch.setattr(rwkv_requirements.logger, "warning", said.append)
    return request.param, said


@torch.no_grad()
def test_without_triton_prompts_are_read_as_before(on_cpu, monkeypatch):
    """One sentence says so, once; the kernels themselves are compared with the definitions in ``kernel_check.py``."""
    version, said = on_cpu
    name = KERNELS[version][1]
    monkeypatch.setitem(sys.modules, f"{rwkv_requirements.__package__}.{name}_triton", None)
    model, ids = tiny_model(version), ids_of(20)
    ours = [model(ids).logits for _ in range(2)]
    monkeypatch.setattr(rwkv_requirements, "KERNEL_DEVICE", "cuda")
    assert all(torch.equal(logits, model(ids).logits) for logits in ours)
    assert len(said) == 1
    assert f"without the Triton kernel {name}, which does not run here" in said[0]


def test_where_kernels_are_used(on_cpu, monkeypatch):
    """Without gradients, in fp32 inside, and for more than one token."""
    version, said = on_cpu
    module, name, plain, axis = KERNELS[version]
    used = []

    def kernel(*args):
        used.append(args[0].shape[axis])
        return getattr(module, plain)(*args)

    monkeypatch.setitem(sys.modules, f"helpers.hub_code.{name}_triton", SimpleNamespace(**{name: kernel}))
    model, ids = tiny_model(version, layers=1), ids_of(20)
    model(ids)
    with torch.no_grad():
        model.double()(ids)
        assert used == []
        state = model.float()(ids, use_cache=True).state
        assert used == [2, 20]  # the first time to see whether it runs
        model(ids[:, :1], state=state)
        model.bfloat16()(ids)
    assert used == [2, 20, 20]
    assert said == []


def test_gradients_of_the_parallel_forms():
    """Every input has the gradient of the function it enters, decay and bonus too: compared with finite differences."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    for channels in (1, 3):
        inputs = [normal(1, 2, 18, 3) for _ in "rkv"] + [normal(2, channels), normal(2, channels), normal(1, 2, 3, 3)]
        assert torch.autograd.gradcheck(
            lambda r, k, v, decay, u, s: rwkv5.wkv5_chunked(r, k, v, -torch.exp(decay), u, s, size=8), inputs
        )
    start = torch.tensor([0.0, 0.0, rwkv4.EMPTY], dtype=torch.float64).view(1, 3, 1).expand(1, 3, 3)
    inputs = [normal(1, 18, 3), normal(1, 18, 3), normal(3), normal(3)]
    assert torch.autograd.gradcheck(lambda k, v, w, u: rwkv4.wkv4_scan(k, v, -torch.exp(w), u, start)[0], inputs)


def test_every_parameter_learns(pair):
    model = pair[1]
    ids = ids_of(40, rows=2)
    model(ids, labels=ids).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name
    model.zero_grad()


@pytest.mark.parametrize("options", [{"do_sample": False}, {"num_beams": 3}, {"do_sample": True, "top_p": 0.8}])
def test_generation_does_not_depend_on_padding(pair, options):
    model, ids = pair[1], ids_of(12)
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.int64), ids], dim=1)
    mask = (torch.arange(17) >= 5).long()[None]
    torch.manual_seed(0)
    alone = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, eos_token_id=None, **options)
    torch.manual_seed(0)
    result = model.generate(padded, attention_mask=mask, max_new_tokens=8, eos_token_id=None, **options)
    assert result[0, 5:].tolist() == alone[0].tolist()


def test_greedy_generation_is_the_rwkv_package(pair):
    reference, model = pair
    ids = ids_of(12)[0].tolist()
    logits, state = reference.forward(ids, None)
    expected = []
    for _ in range(10):
        expected.append(int(logits.argmax()))
        logits, state = reference.forward([expected[-1]], state)
    generated = model.generate(torch.tensor([ids]), max_new_tokens=10, do_sample=False, eos_token_id=None)
    assert generated[0, 12:].tolist() == expected


def test_a_given_state_is_a_prompt_cache(pair):
    model, ids = pair[1], ids_of(20)
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    whole = model.generate(ids, **options)
    state = model(ids[:, :15], use_cache=True).state
    for beams in (1, 2):
        rest = model.generate(ids[:, 15:], state=state, num_beams=beams, **options)
        expected = whole if beams == 1 else model.generate(ids, num_beams=beams, **options)
        assert rest[0, 5:].tolist() == expected[0, 20:].tolist()


def test_saving_after_a_forward_changes_nothing(pair, tmp_path):
    model = pair[1]
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with torch.inference_mode():
        logits = model(ids_of(9)).logits
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True, dtype=torch.float32).eval()
    assert before.keys() == again.state_dict().keys()
    assert all(torch.equal(before[name], weight) for name, weight in again.state_dict().items())
    with torch.inference_mode():
        assert torch.equal(again(ids_of(9)).logits, logits)


def test_logits_to_keep(pair):
    model, ids = pair[1], ids_of(20)
    with torch.inference_mode():
        every = model(ids).logits
        torch.testing.assert_close(model(ids, logits_to_keep=1).logits, every[:, -1:])
        torch.testing.assert_close(model(ids, logits_to_keep=torch.tensor([3, 7])).logits, every[:, [3, 7]])


def test_wrong_calls_say_what_is_wrong(pair):
    model = pair[1]
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model()
    with pytest.raises(ValueError, match="no tokens"):
        model(torch.zeros(1, 0, dtype=torch.int64))
    with pytest.raises(ValueError, match="attention_mask has shape"):
        model(ids_of(5), attention_mask=torch.ones(1, 3))
