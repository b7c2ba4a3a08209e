"""bf16 and fp16: what stays fp32, how far results are from fp32, and that long prompts stay finite.

Errors are relative: the norm of the difference over the norm of the fp32 logits. A bf16 number has 8 significant bits,
so that one rounding is up to 0.4 %; fp16 has 11, 0.05 %.
"""

import pytest
import torch
from tiny_models import VERSIONS, ids_of, tiny_model
from transformers import AutoModelForCausalLM

from helpers.checkpoints.bundled import bundled_checkpoint
from helpers.checkpoints.oracle import load_oracle
from helpers.checkpoints.synthetic import write_random_checkpoint
from helpers.conversion.directory import convert
from helpers.hub_code import modeling_rwkv4, modeling_rwkv5, modeling_rwkv6, modeling_rwkv7, rwkv_common

HALF = [torch.bfloat16, torch.float16]
DECAY = ("time_decay", "time_decay_w1", "time_decay_w2", "att.w0")
ALWAYS_FP32 = (*DECAY, "time_first", "time_faaaa", "time_state", "ln_x.weight", "ln_x.bias")


def relative_error(ours, expected):
    return ((ours.float() - expected).norm() / expected.norm()).item()


@torch.inference_mode()
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("version", [*VERSIONS, "5.2 with time_state"])
def test_what_stays_fp32(version, dtype, tmp_path):
    """Decay, bonus, initial state and group norm are loaded in fp32, and so is what a time-mix remembers."""
    version, *more = version.split()
    tiny_model(version, **dict.fromkeys(more and ["has_time_state"], True)).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True, dtype=dtype).eval()
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if name.endswith(ALWAYS_FP32) else dtype), name
    for length in (1, 70):
        output = model(ids_of(length), use_cache=True)
        assert output.logits.dtype == dtype
        assert [part.dtype for part in output.state] == [dtype, torch.float32, dtype]


@torch.inference_mode()
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("version", VERSIONS)
def test_wkv_and_group_norm_compute_in_fp32(version, dtype, monkeypatch):
    """Even where every parameter was cast, as ``model.half()`` does."""
    seen = []

    def spied(form):
        def spy(*args, **kwargs):
            result = form(*args, **kwargs)
            seen.extend(x.dtype for x in (*args, *result) if torch.is_tensor(x))
            return result

        return spy

    for module, names in (
        (modeling_rwkv4, ("wkv4_scan", "wkv4_recurrent")),
        (modeling_rwkv5, ("wkv5_chunked", "wkv5_recurrent")),
        (modeling_rwkv6, ("wkv6_chunked", "wkv6_recurrent")),
        (modeling_rwkv7, ("wkv7_chunked", "wkv7_recurrent")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, spied(getattr(module, name)))
    model = tiny_model(version).to(dtype)
    for module in model.modules():
        if isinstance(module, rwkv_common.Fp32GroupNorm):
            module.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    state = model(ids_of(70), use_cache=True).state
    assert model(ids_of(1), state=state).logits.dtype == dtype
    assert set(seen) == {torch.float32}


@torch.inference_mode()
@pytest.mark.parametrize("version", VERSIONS)
def test_long_prompts_in_fp16(version):
    """5,000 tokens, in a model whose residual stream grows past 65504, fp16's largest number: finite, and near fp32.

    The stream is halved after every sixth block. The last of these seven blocks is made to add up to 70,000.
    """
    model = tiny_model(version, layers=7)
    ids, last, added = ids_of(5000), model.rwkv.blocks[6].feed_forward, []
    last.register_forward_hook(lambda module, inputs, output: added.append(output[0].abs().max().item()))
    model(ids)
    last.value.weight.mul_(70_000 / added[0])
    expected = model(ids)
    assert added[1] == pytest.approx(70_000, rel=1e-3)
    half = model.half()(ids, use_cache=True)
    assert half.logits.isfinite().all()
    assert all(part.isfinite().all() for part in half.state)
    assert relative_error(half.logits, expected.logits) < 1e-2


@pytest.fixture(scope="module", params=["bundled", *VERSIONS])
def checkpoint(request, tmp_path_factory):
    """A checkpoint in bf16, as BlinkDL publishes them, and its converted directory."""
    folder = tmp_path_factory.mktemp("dtypes")
    path = bundled_checkpoint()
    if request.param != "bundled":
        sizes = {"layers": 4, "hidden_size": 128, "vocab_size": 2000}
        path = write_random_checkpoint(folder / f"random-{request.param}.pth", request.param, **sizes)
    return path, convert(path, folder / "converted", progress=False)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", HALF)
def test_errors_are_no_larger_than_those_of_the_rwkv_package(checkpoint, dtype):
    """Both read three texts of 200 tokens in bf16 or fp16, and are compared with fp32."""
    path, folder = checkpoint
    vocab = 65536 if path == bundled_checkpoint() else 2000
    texts = [ids_of(200, seed=seed, vocab_size=vocab) for seed in range(3)]

    def logits(dtype):
        model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=dtype).eval()
        return torch.cat([model(ids).logits for ids in texts])

    strategy = {torch.bfloat16: "cpu bf16", torch.float16: "cpu fp16"}[dtype]
    package = load_oracle(path, strategy)
    theirs = torch.stack([package.forward(ids[0].tolist(), None, full_output=True)[0] for ids in texts])
    expected = logits(torch.float32)
    errors = relative_error(logits(dtype), expected), relative_error(theirs, expected)
    print(f"{path.stem}, {strategy}: relative error ours {errors[0]:.2e}, rwkv package {errors[1]:.2e}")
    assert errors[0] <= errors[1]
