"""RWKV-6 and RWKV-7: their chunked forms against the definitions, and what is new in them."""

import pytest
import torch
from tiny_models import ids_of, tiny_model

from helpers.hub_code import modeling_rwkv6, modeling_rwkv7

B, H, N = 2, 3, 8


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs_6(tokens, strength):
    r, k, v, d = (normal(B, H, tokens, N, seed=seed) for seed in range(4))
    return r, k, v, -torch.exp(strength * d), normal(H, N, seed=5), normal(B, H, N, N, seed=6)


def inputs_7(tokens, strength):
    r, k, v, d, a, eta = (normal(B, H, tokens, N, seed=seed) for seed in range(6))
    direction = torch.nn.functional.normalize(a, dim=-1)
    log_w = -modeling_rwkv7.STEEPEST * torch.sigmoid(strength * d)
    return r, log_w, k, v, -direction, direction * torch.sigmoid(eta), normal(B, H, N, N, seed=7)


FORMS = {
    "6": (modeling_rwkv6.wkv6_recurrent, modeling_rwkv6.wkv6_chunked, inputs_6),
    "7": (modeling_rwkv7.wkv7_recurrent, modeling_rwkv7.wkv7_chunked, inputs_7),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("strength", [0.5, 4.0])  # with 4, some channels forget all at a token, others nothing
@pytest.mark.parametrize("tokens", [1, 2, 31, 32, 33, 63, 64, 65, 96, 97, 200])
@pytest.mark.parametrize("share", [None, 0.0, 0.3, 1.0])
def test_the_chunked_form_is_the_definition(form, strength, tokens, share):
    """In fp64, where 200 sums of numbers up to 100 are exact to 1e-11; rows of padding, too."""
    definition, chunked, inputs = FORMS[form]
    values = inputs(tokens, strength)
    lengths = None if share is None else torch.tensor([int(share * tokens), tokens])
    y, state = definition(*values, lengths)
    ours, our_state = chunked(*values, lengths)
    real = torch.ones(B, tokens, dtype=torch.bool) if lengths is None else torch.arange(tokens) < lengths[:, None]
    torch.testing.assert_close(ours.transpose(1, 2)[real], y.transpose(1, 2)[real], atol=1e-11, rtol=0)
    torch.testing.assert_close(our_state, state, atol=1e-11, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_strong_decays_in_fp32(form):
    """Nothing overflows and nothing is lost where the decays of a chunk multiply to e^-20,000, or to e^-39."""
    definition, chunked, inputs = FORMS[form]
    values = [x.float() for x in inputs(150, 6.0)]
    y, state = definition(*values)
    ours, our_state = chunked(*values)
    torch.testing.assert_close(ours, y, atol=2e-5 * y.abs().max().item(), rtol=0)
    torch.testing.assert_close(our_state, state, atol=2e-5 * state.abs().max().item(), rtol=0)


def test_erase_then_write():
    """RWKV-7 with a full eraser reads back the last value of a key; RWKV-5's sum has both."""
    key = torch.zeros(1, 1, 2, N, dtype=torch.float64)
    key[..., 0] = 1.0
    value = normal(1, 1, 2, N)
    nothing, none = torch.zeros(1, 1, N, N, dtype=torch.float64), torch.zeros_like(key)
    y, _ = modeling_rwkv7.wkv7_recurrent(key, none, key, value, -key, key, nothing)
    torch.testing.assert_close(y[0, 0, 1], value[0, 0, 1])
    summed, _ = modeling_rwkv7.wkv7_recurrent(key, none, key, value, none, none, nothing)
    torch.testing.assert_close(summed[0, 0, 1], value[0, 0].sum(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_key_of_zeros_is_no_nan(dtype):
    model = tiny_model("7").to(dtype)
    with torch.no_grad():
        for block in model.rwkv.blocks:
            block.attention.key.weight.zero_()
        assert model(ids_of(9)).logits.isfinite().all()


def test_the_first_value_reaches_every_block():
    """Without it, RWKV-7 computes something else: the blocks after the first take a share of it."""
    model = tiny_model("7", layers=3)
    with torch.no_grad():
        before = model(ids_of(9)).logits
        for block in model.rwkv.blocks[1:]:
            block.attention.v0.fill_(-100.0)  # a share of 0
        assert (model(ids_of(9)).logits - before).abs().max() > 1e-3


@pytest.mark.parametrize("version", ["6", "7"])
def test_rows_that_sit_out(version):
    """A row that is masked wholly in one call, and one with a pad before its next token, go on as without it."""
    model, ids = tiny_model(version), ids_of(12, rows=2)
    mask = torch.ones(2, 6, dtype=torch.int64)
    mask[0], mask[1, 0] = 0, 0
    with torch.no_grad():
        first = model(ids[:, :6], use_cache=True)
        second = model(ids[:, 6:], attention_mask=mask, state=first.state, use_cache=True)
        alone = model(ids[1:, 7:], state=tuple(part[1:] for part in first.state), use_cache=True)
    for part, before, after in zip(second.state, first.state, alone.state, strict=True):
        torch.testing.assert_close(part[0], before[0], atol=0, rtol=0)
        torch.testing.assert_close(part[1:], after, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(second.logits[1:, 1:], alone.logits, atol=1e-5, rtol=1e-5)
