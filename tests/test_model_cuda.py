"""The models on an NVIDIA GPU: ``python -m pytest -m cuda -rP tests/test_model_cuda.py``.

They need PyTorch, transformers and accelerate; the comparison with the ``rwkv`` package is skipped where that is not
installed. Errors are relative: the norm of the difference over the norm of what is expected. TF32, which would round
to 10 bits, is off.
"""

import pytest
import torch
import torch.nn.functional as F
from tiny_models import VERSIONS, ids_of, tiny_model
from transformers import AutoModelForCausalLM

from helpers.checkpoints import bundled_checkpoint, describe, load_checkpoint
from helpers.conversion import hub_name, model_config
from helpers.hub_code import modeling_rwkv4, modeling_rwkv5
from helpers.hub_code.modeling_rwkv5 import Rwkv5ForCausalLM

pytestmark = pytest.mark.cuda
HALF = [torch.bfloat16, torch.float16]
GREEDY = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


@pytest.fixture(autouse=True)
def exact_products():
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture(params=[*VERSIONS, "5.2 with time_state"])
def pair(request):
    """The same model on the CPU and on the GPU."""
    version, *more = request.param.split()
    return tuple(tiny_model(version, time_state=bool(more)).to(device) for device in ("cpu", "cuda"))


def relative_error(ours, expected):
    return ((ours.cpu().double() - expected.cpu().double()).norm() / expected.double().norm()).item()


def padded_batch():
    ids = ids_of(150, rows=3)
    mask = torch.ones_like(ids)
    mask[0, :9] = 0
    mask[1, 100:] = 0
    return ids, mask


@torch.inference_mode()
def test_prefill_and_decode_equal_the_cpu(pair):
    """A batch with padding on both sides, and 20 steps from its state: logits within 1e-5 of the CPU's."""
    cpu, gpu = pair
    ids, mask = padded_batch()
    ours = gpu(ids.cuda(), attention_mask=mask.cuda(), use_cache=True)
    expected = cpu(ids, attention_mask=mask, use_cache=True)
    assert relative_error(ours.logits.cpu()[mask == 1], expected.logits[mask == 1]) < 1e-5
    for _ in range(20):
        token = expected.logits[:, -1:].argmax(-1)
        ours = gpu(token.cuda(), state=ours.state, use_cache=True)
        expected = cpu(token, state=expected.state, use_cache=True)
        assert relative_error(ours.logits, expected.logits) < 1e-5


@torch.inference_mode()
def test_a_state_moves_between_devices(pair):
    """A prompt read on either device is continued on the other; the state after is where the model is."""
    for reader, writer in (pair, pair[::-1]):
        state = reader(ids_of(30).to(reader.device), use_cache=True).state
        assert {part.device for part in state} == {reader.device}
        output = writer(ids_of(5).to(writer.device), state=state, use_cache=True)
        assert {part.device for part in output.state} == {writer.device}
        both = torch.cat([ids_of(30), ids_of(5)], dim=1).to(writer.device)
        assert relative_error(output.logits, writer(both).logits[:, -5:].cpu()) < 1e-5


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_generation_equals_the_cpu(pair, options):
    """A padded batch, and a prompt continued from a state that was read on the CPU."""
    cpu, gpu = pair
    ids, mask = (x[[0, 2], :40] for x in padded_batch())
    expected = cpu.generate(ids, attention_mask=mask, **GREEDY, **options)
    assert gpu.generate(ids.cuda(), attention_mask=mask.cuda(), **GREEDY, **options).tolist() == expected.tolist()
    state = cpu(ids[1:], use_cache=True).state
    expected = cpu.generate(ids[:1, :5], state=state, **GREEDY, **options)
    assert gpu.generate(ids[:1, :5].cuda(), state=state, **GREEDY, **options).tolist() == expected.tolist()


def test_gradients_equal_the_cpu(pair):
    """In fp64, 150 tokens with padding: within 1e-9."""
    ids, mask = padded_batch()
    labels = ids.masked_fill(mask == 0, -100)
    for model in pair:
        model.double().train()
        logits = model(ids.to(model.device), attention_mask=mask.to(model.device)).logits
        F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten().to(model.device)).backward()
    for (name, expected), ours in zip(pair[0].named_parameters(), pair[1].parameters(), strict=True):
        assert relative_error(ours.grad, expected.grad) < 1e-9, name


@torch.inference_mode()
@pytest.mark.parametrize("dtype", HALF)
def test_half_precision(pair, dtype):
    """bf16 and fp16, 5,000 tokens: finite, with WKV state in fp32, and near fp32. bf16 rounds by up to 0.4 %."""
    cpu, gpu = pair
    ids = ids_of(5000)
    output = gpu.to(dtype)(ids.cuda(), use_cache=True)
    assert output.logits.isfinite().all()
    assert [part.dtype for part in output.state] == [dtype, torch.float32, dtype]
    assert relative_error(output.logits, cpu(ids).logits) < (0.03 if dtype == torch.bfloat16 else 0.004)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", HALF)
def test_errors_are_no_larger_than_those_of_the_rwkv_package(dtype):
    """On the bundled checkpoint, three texts of 200 tokens, both compared with fp32 on the GPU."""
    pytest.importorskip("rwkv")
    from helpers.oracle import load_oracle

    path = bundled_checkpoint()
    weights = load_checkpoint(path)
    model = Rwkv5ForCausalLM(model_config(describe(weights), torch.float32)).eval()
    model.load_state_dict({hub_name(name): weight for name, weight in weights.items()})
    model = model.float().cuda()
    texts = [ids_of(200, seed=seed, vocab_size=65536) for seed in range(3)]
    expected = torch.cat([model(ids.cuda()).logits.cpu() for ids in texts])
    for name, parameter in model.named_parameters():
        if not any(part in name for part in model._keep_in_fp32_modules_strict):
            parameter.data = parameter.data.to(dtype)
    ours = torch.cat([model(ids.cuda()).logits for ids in texts])
    strategy = {torch.bfloat16: "cuda bf16", torch.float16: "cuda fp16"}[dtype]
    package = load_oracle(path, strategy)
    theirs = torch.stack([package.forward(ids[0].tolist(), None, full_output=True)[0] for ids in texts])
    errors = relative_error(ours, expected), relative_error(theirs, expected)
    print(f"{path.stem}, {strategy}: relative error ours {errors[0]:.2e}, rwkv package {errors[1]:.2e}")
    assert errors[0] <= errors[1]


def test_mixed_precision(pair, monkeypatch):
    """Under bf16 autocast WKV gets fp32 and returns what it returns without autocast; gradients point the same way."""
    cpu, gpu = pair
    ids = ids_of(150, rows=2)
    cpu.train()(ids, labels=ids).loss.backward()
    same = []

    def spied(form):
        def spy(*args, **kwargs):
            result = form(*args, **kwargs)
            with torch.autocast("cuda", enabled=False):
                unmixed = form(*args, **kwargs)
            same.extend(torch.equal(ours, expected) for ours, expected in zip(result, unmixed, strict=True))
            same.append(args[0].dtype == torch.float32)
            return result

        return spy

    monkeypatch.setattr(modeling_rwkv4, "wkv4_scan", spied(modeling_rwkv4.wkv4_scan))
    monkeypatch.setattr(modeling_rwkv5, "wkv5_chunked", spied(modeling_rwkv5.wkv5_chunked))
    with torch.autocast("cuda", dtype=torch.bfloat16):
        gpu.train()(ids.cuda(), labels=ids.cuda()).loss.backward()
    assert same
    assert all(same)
    for (name, ours), expected in zip(gpu.named_parameters(), cpu.parameters(), strict=True):
        assert F.cosine_similarity(ours.grad.cpu().flatten(), expected.grad.flatten(), dim=0) > 0.95, name


@pytest.mark.parametrize("version", ["4", "5.0", "5.2"])
def test_compiled(version):
    """One graph, compiled for the GPU, for training and for decoding: loss, gradients and logits of the eager model."""
    torch._dynamo.reset()
    model = tiny_model(version, layers=1).cuda().train()
    compiled = torch.compile(model, fullgraph=True)
    ids = ids_of(70, rows=2).cuda()
    results = []
    for run in (model, compiled):
        model.zero_grad()
        loss = run(ids, labels=ids).loss
        loss.backward()
        results.append((loss.detach(), [parameter.grad.clone() for parameter in model.parameters()]))
    assert relative_error(results[1][0], results[0][0].cpu()) < 1e-6
    for ours, expected in zip(results[1][1], results[0][1], strict=True):
        assert relative_error(ours, expected) < 1e-4
    model.eval()
    with torch.no_grad():
        state = compiled(ids, use_cache=True).state
        for _ in range(2):
            output = compiled(ids[:, :1], state=state, use_cache=True)
            assert relative_error(output.logits, model(ids[:, :1], state=state).logits) < 1e-5
            state = output.state


@pytest.mark.parametrize("where", ["auto", "split"])
def test_device_map(pair, where, tmp_path):
    """Placed by accelerate, or half of the blocks kept on the CPU until they are needed."""
    cpu = pair[0]
    cpu.save_pretrained(tmp_path)
    split = {"rwkv.embeddings": 0, "rwkv.blocks.0": 0, "rwkv.blocks.1": "cpu", "rwkv.ln_out": 0, "head": 0}
    device_map = "auto" if where == "auto" else split
    placed = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True, device_map=device_map)
    assert placed.head.weight.device.type == "cuda"
    ids, mask = padded_batch()
    with torch.inference_mode():
        ours = placed(ids.cuda(), attention_mask=mask.cuda()).logits.cpu()
        assert relative_error(ours[mask == 1], cpu(ids, attention_mask=mask).logits[mask == 1]) < 1e-5
    expected = cpu.generate(ids[2:], **GREEDY)
    assert placed.generate(ids[2:].cuda(), **GREEDY).tolist() == expected.tolist()


@pytest.mark.parametrize("version", VERSIONS)
def test_memory_does_not_grow_with_the_prompt(version):
    """From a prompt of 4,096 tokens to one of 100,000, peak memory grows by less than 16 MB: ids and copies."""
    model = tiny_model(version, layers=2).cuda()
    peaks = []
    for tokens in (4096, 100_000):
        torch.cuda.reset_peak_memory_stats()
        model.generate(ids_of(tokens).cuda(), **GREEDY)
        peaks.append(torch.cuda.max_memory_allocated())
    print(f"RWKV-{version}: peak {peaks[0] / 1e6:.1f} MB for 4,096 tokens, {peaks[1] / 1e6:.1f} MB for 100,000")
    assert peaks[1] - peaks[0] < 16e6
