"""Linear layers on a CPU: whichever product computes them, the numbers are those of ``nn.Linear``.

An fp32 sum of 96 products of size 1 is right to about 1e-6 of its size, in any order.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny_models import VERSIONS, ids_of, tiny_model

from helpers.hub_code import rwkv_linear
from helpers.hub_code.rwkv_linear import RwkvLinear


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return RwkvLinear(96, 40, bias=False).eval()


def inputs(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


@torch.no_grad()
@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("x", [inputs(96), inputs(1, 1, 96), inputs(2, 3, 96), inputs(96, 5).T, inputs(0, 4, 96)])
@pytest.mark.parametrize("bias", [False, True])
def test_the_numbers_are_those_of_a_linear_layer(x, bias, onednn, monkeypatch):
    torch.manual_seed(0)
    layer = RwkvLinear(96, 40, bias=bias).eval()
    monkeypatch.setattr(rwkv_linear, "ONEDNN_FROM", 0)
    if not onednn:
        monkeypatch.setattr(rwkv_linear, "has_onednn", lambda: False)
    expected = F.linear(x.double(), layer.weight.double(), None if layer.bias is None else layer.bias.double())
    ours = layer(x)
    assert ours.shape == expected.shape
    torch.testing.assert_close(ours, expected.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tokens", [1, 40])
@torch.no_grad()
def test_a_cpu_without_products_in_16_bits(layer, dtype, tokens, monkeypatch):
    """Many tokens go through a copy in fp32, and come back rounded once: as near to fp64 as that rounding allows."""
    monkeypatch.setattr(rwkv_linear, "widen_from", lambda dtype: rwkv_linear.WIDEN_FROM)
    widened = []
    monkeypatch.setattr(rwkv_linear, "fp32_linear", lambda *a: widened.append(a) or F.linear(*a))
    layer, x = layer.to(dtype), inputs(tokens, 96, dtype=dtype)
    before = layer.weight.clone()
    ours, exact = layer(x), F.linear(x.double(), layer.weight.double())
    assert ours.dtype == dtype
    assert len(widened) == (tokens >= rwkv_linear.WIDEN_FROM)
    assert torch.equal(layer.weight, before)
    if widened:
        assert (ours.double() - exact).abs().max() <= exact.abs().max() * torch.finfo(dtype).eps / 2 * 1.001


@pytest.mark.parametrize(
    ("cpu", "bf16", "fp16"),
    [
        ("Intel amx_tile avx512_bf16", math.inf, 8),
        ("Intel amx_tile amx_fp16 avx512_bf16", math.inf, math.inf),
        ("Intel avx512_bf16", 48, 8),
        ("Intel", 8, 8),
        ("AMD avx512_bf16", math.inf, 8),
        ("AMD", 8, 8),
        ("arm", math.inf, math.inf),
    ],
)
def test_when_a_copy_pays(cpu, bf16, fp16, monkeypatch):
    monkeypatch.setattr(rwkv_linear.platform, "machine", lambda: "aarch64" if cpu == "arm" else "x86_64")
    monkeypatch.setattr(rwkv_linear, "is_intel", lambda: "Intel" in cpu)
    for kind in ("amx_tile", "amx_fp16", "avx512_bf16"):
        monkeypatch.setattr(torch.cpu, f"_is_{kind}_supported", lambda kind=kind: kind in cpu.split(), raising=False)
    monkeypatch.setattr(rwkv_linear, "has_products_of", rwkv_linear.has_products_of.__wrapped__)
    assert [rwkv_linear.widen_from.__wrapped__(dtype) for dtype in rwkv_linear.HALF] == [bf16, fp16]


def test_training_is_that_of_a_linear_layer(layer, monkeypatch):
    """With gradients, mixed precision or tracing, and in training mode, nothing but ``F.linear`` is called."""
    monkeypatch.setattr(rwkv_linear, "fp32_linear", lambda *_: pytest.fail("not for training"))
    x = inputs(2, 9, 96)
    assert layer(x).requires_grad
    with torch.no_grad():
        assert torch.equal(layer.train()(x), F.linear(x, layer.weight))
        layer.eval()
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        exported = torch.export.export(layer, (x,))
    assert "mkldnn" not in str(exported.graph)
    with torch.no_grad(), pytest.raises(RuntimeError, match="dtype"):
        layer(x.double())


@torch.inference_mode()
@pytest.mark.parametrize("version", VERSIONS)
def test_a_model_with_and_without_onednn(version, monkeypatch):
    model, ids = tiny_model(version), ids_of(70, rows=2)
    monkeypatch.setattr(rwkv_linear, "ONEDNN_FROM", 0)
    ours = model(ids).logits
    monkeypatch.setattr(rwkv_linear, "has_onednn", lambda: False)
    torch.testing.assert_close(ours, model(ids).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_product_as_a_sum(dtype, bias):
    """The form in which torch.compile gets the products of a step on a GPU: rounded once, at the end."""
    layer = torch.nn.Linear(96, 96, bias=bias).to(dtype)
    x = torch.randn(1, 1, 96, generator=torch.Generator().manual_seed(0)).to(dtype)
    ours = rwkv_linear.vector_product(x, layer.weight, layer.bias)
    assert ours.shape == (1, 1, 96)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, layer(x))
