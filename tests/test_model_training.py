"""Training: true gradients, labels, checkpointing, Trainer, mixed precision, LoRA, torch.compile, offloaded weights.

Tolerances: fp64 gradients of two orders of summation agree within 1e-9, of a size up to 1; fp32 within 1e-5 of the
largest one. A finite difference of a loss in fp64 with a step of 1e-6 is right to about 1e-5 of its size.
"""

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_models import VERSIONS, ids_of, tiny_model
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from helpers.checkpoints.versions import VERSIONS as ROWS
from helpers.hub_code import modeling_rwkv4, modeling_rwkv5, modeling_rwkv6, modeling_rwkv7

DEFINITIONS = {
    modeling_rwkv4.wkv4: modeling_rwkv4.wkv4_recurrent,
    modeling_rwkv5.wkv5: modeling_rwkv5.wkv5_recurrent,
    modeling_rwkv6.wkv6: modeling_rwkv6.wkv6_recurrent,
    modeling_rwkv7.wkv7: modeling_rwkv7.wkv7_recurrent,
}


@pytest.fixture(params=[*VERSIONS, "5.2 with time_state"])
def model(request):
    version, *more = request.param.split()
    return tiny_model(version, **dict.fromkeys(more and ["has_time_state"], True)).train()


def loss_and_gradients(model, ids, labels=None, **inputs):
    """Return the loss and the gradient of every parameter by name."""
    model.zero_grad()
    loss = model(ids, labels=ids if labels is None else labels, **inputs).loss
    loss.backward()
    return loss.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_close(ours, expected, tolerance):
    """Compare tensors by name, relative to the largest number of each."""
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        size = value.abs().max().item()
        assert size > 0, f"{name} has no gradient"
        torch.testing.assert_close(ours[name], value, atol=tolerance * size, rtol=0, msg=lambda text, n=name: n + text)


def pad(ids, side):
    """Return ids with nine tokens of padding on a side, and the attention mask."""
    width = {"none": (0, 0), "left": (9, 0), "right": (0, 9)}[side]
    return F.pad(ids, width, value=7), F.pad(torch.ones_like(ids), width)


@pytest.mark.parametrize("side", ["none", "left", "right"])
def test_gradients_are_those_of_the_recurrence(model, side, monkeypatch):
    """The parallel form with padding against the definition without, in fp64, with 150 tokens: more than two chunks."""
    model.double()
    ids = ids_of(150)
    padded, mask = pad(ids, side)
    logits = model(padded, attention_mask=mask).logits[mask == 1]
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (logits * direction).mean().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for block in model.rwkv.blocks:
        monkeypatch.setattr(block.attention, "wkv", DEFINITIONS[block.attention.wkv])
    model.zero_grad()
    (model(ids).logits[0] * direction).mean().backward()
    assert_close(gradients, {name: parameter.grad for name, parameter in model.named_parameters()}, 1e-9)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_loss(model, side):
    """transformers computes the loss in fp32, from logits that padding may change by a rounding."""
    ids = ids_of(40)
    padded, mask = pad(ids, side)
    loss, gradients = loss_and_gradients(model, padded, padded.masked_fill(mask == 0, -100), attention_mask=mask)
    expected_loss, expected = loss_and_gradients(model, ids)
    torch.testing.assert_close(loss, expected_loss, atol=0, rtol=1e-6)
    assert_close(gradients, expected, 1e-4)


@pytest.mark.parametrize("version", VERSIONS)
def test_gradcheck(version):
    """Every number of every parameter, decay and bonus too, against a finite difference.

    Two layers, since the second of RWKV-7 reads what the first hands on; low ranks, since each number takes time.
    """
    sizes = {"hidden_size": 4, "head_size": 2, "vocab_size": 6, "ffn_size": 4}
    ranks = {name: 2 for name in ROWS[version].usual_details(2, 2) if name.endswith(("_rank", "_rank_dim"))}
    model = tiny_model(version, layers=2, **sizes, **ranks).double().train()
    ids = ids_of(7, rows=2, vocab_size=6)
    names, values = zip(*((name, p.detach().requires_grad_()) for name, p in model.named_parameters()), strict=True)

    def loss(*parameters):
        logits = torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (ids,)).logits
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    assert any(name.endswith(("time_decay", "att.w0")) for name in names)
    assert torch.autograd.gradcheck(loss, values, eps=1e-6, atol=1e-7, rtol=1e-4)


def test_labels(model):
    """The loss is the mean cross-entropy of the next token, where the label is not -100."""
    ids = ids_of(20, rows=2)
    labels = ids.clone()
    labels[0, :15] = -100
    output = model(ids, labels=labels)
    real = labels[:, 1:] != -100
    expected = F.cross_entropy(output.logits[:, :-1][real], ids[:, 1:][real])
    torch.testing.assert_close(output.loss, expected)
    summed = model(ids, labels=labels, num_items_in_batch=100).loss  # what Trainer gives when it accumulates gradients
    torch.testing.assert_close(summed, expected * real.sum() / 100)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(model, reentrant):
    """The same loss and gradients, and each block is computed twice."""
    ids = ids_of(70, rows=2)
    loss, expected = loss_and_gradients(model, ids)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    calls = []
    model.rwkv.blocks[1].ln1.register_forward_hook(lambda *_: calls.append(1))
    again, gradients = loss_and_gradients(model, ids)
    assert len(calls) == 2
    assert torch.equal(loss, again)
    assert_close(gradients, expected, 1e-6)


def test_mixed_precision(model, monkeypatch):
    """Under bf16 autocast: WKV and its state are fp32, inside too; loss and gradients near those of fp32."""
    ids = ids_of(70, rows=2)
    loss, expected = loss_and_gradients(model, ids)
    seen = []

    def spied(form):
        def spy(*args, **kwargs):
            result = form(*args, **kwargs)
            with torch.autocast("cpu", enabled=False):
                unmixed = form(*args, **kwargs)
            seen.extend(x.dtype for x in (*args[:2], *result))
            seen.extend(torch.equal(ours, expected) for ours, expected in zip(result, unmixed, strict=True))
            return result

        return spy

    for block in model.rwkv.blocks:
        monkeypatch.setattr(block.attention, "wkv", spied(block.attention.wkv))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(ids).logits
        mixed, gradients = loss_and_gradients(model, ids)
    assert logits.dtype == torch.bfloat16
    assert set(seen) == {torch.float32, True}
    torch.testing.assert_close(mixed, loss, atol=0, rtol=1e-2)
    for name, gradient in gradients.items():
        cosine = F.cosine_similarity(gradient.flatten(), expected[name].flatten(), dim=0)
        assert cosine > 0.95, name


def texts(count, tokens=24):
    """Return examples for Trainer: texts with labels on the second half, of which each has another number."""
    examples = []
    for seed in range(count):
        ids = ids_of(tokens, seed=seed)[0]
        labels = torch.where(torch.arange(tokens) < 4 + 5 * (seed % 4), -100, ids)
        examples.append({"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)})
    return examples


def trainer(model, folder, **options):
    settings = {"use_cpu": True, "report_to": [], "learning_rate": 1e-2, "seed": 1, "disable_tqdm": True}
    settings |= {"per_device_train_batch_size": 2, "max_steps": 4, "save_strategy": "no", "logging_strategy": "no"}
    arguments = TrainingArguments(output_dir=str(folder), **(settings | options))
    return Trainer(model=model, args=arguments, train_dataset=texts(8), eval_dataset=texts(3))


@pytest.mark.parametrize("version", VERSIONS)
def test_trainer_saves_and_resumes(version, tmp_path):
    """Four steps, or two, a new process's model, and two more from the saved state: the same weights, bit for bit."""
    whole, start = tiny_model(version), tiny_model(version)
    before = trainer(whole, tmp_path / "whole").evaluate()["eval_loss"]
    run = trainer(whole, tmp_path / "whole", save_strategy="steps", save_steps=2)
    run.train()
    assert run.evaluate()["eval_loss"] < before
    resumed = trainer(start, tmp_path / "whole")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, start.state_dict()[name]), name
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "whole" / "checkpoint-4", trust_remote_code=True)
    assert all(torch.equal(weight, whole.state_dict()[name]) for name, weight in again.state_dict().items())


@pytest.mark.parametrize("version", VERSIONS)
def test_accumulated_gradients(version, tmp_path):
    """Two batches of one, accumulated, change the weights as one batch of two, though one has fewer labels."""
    results = []
    for batch, accumulated in ((2, 1), (1, 2)):
        model = tiny_model(version)
        options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated, "optim": "sgd"}
        trainer(model, tmp_path, max_steps=2, max_grad_norm=0, learning_rate=1.0, **options).train()
        results.append(model.state_dict())
    start = tiny_model(version).state_dict()
    moved = {name: weight - start[name] for name, weight in results[0].items()}
    assert_close({name: weight - start[name] for name, weight in results[1].items()}, moved, 1e-4)


@pytest.mark.parametrize("targets", [["key", "value", "receptance", "gate", "output"], "all-linear"])
@pytest.mark.parametrize("version", VERSIONS)
def test_lora(version, targets, tmp_path):
    """Adapters on all linear layers of the blocks learn; the rest stays; they can be saved, loaded and merged."""
    model = tiny_model(version)
    ids = ids_of(24, rows=2)
    start = {name: weight.clone() for name, weight in model.state_dict().items()}
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"))
    linear_layers = {"4": 7, "5.0": 7, "7": 6}.get(version, 8)
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 2 * linear_layers  # A and B, two blocks
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(5):
        loss = adapted(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    adapted.eval()
    adapted.save_pretrained(tmp_path)
    with torch.inference_mode():
        expected = adapted(input_ids=ids).logits
        loaded = PeftModel.from_pretrained(tiny_model(version), str(tmp_path))
        torch.testing.assert_close(loaded(input_ids=ids).logits, expected)
        options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
        words = adapted.generate(input_ids=ids, **options)
        merged = adapted.merge_and_unload()
        torch.testing.assert_close(merged(ids).logits, expected, atol=1e-4, rtol=1e-4)
        assert torch.equal(merged.generate(ids, **options), words)
    changed = {name for name, weight in merged.state_dict().items() if not torch.equal(weight, start[name])}
    assert len(changed) == 2 * linear_layers


@pytest.mark.parametrize("version", ["4", "5.0", "5.2"])
def test_compiled(version):
    """One graph for training, for a masked prompt and for decoding; traced without a C++ compiler."""
    torch._dynamo.reset()
    model = tiny_model(version, layers=1).train()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    ids = ids_of(70, rows=2)
    loss, expected = loss_and_gradients(model, ids)
    model.zero_grad()
    ours = compiled(ids, labels=ids).loss
    ours.backward()
    torch.testing.assert_close(ours, loss)
    assert_close({name: parameter.grad for name, parameter in model.named_parameters()}, expected, 1e-5)
    model.eval()
    mask = torch.ones(2, 20)
    mask[0, :5] = 0
    with torch.no_grad():
        output = compiled(ids[:, :20], attention_mask=mask, use_cache=True)
        torch.testing.assert_close(output.logits, model(ids[:, :20], attention_mask=mask).logits)
        for _ in range(2):
            state = output.state
            output = compiled(ids[:, :1], state=state, use_cache=True)
            torch.testing.assert_close(output.logits, model(ids[:, :1], state=state).logits)


@pytest.mark.parametrize("where", ["auto", "disk"])
def test_device_map(model, where, tmp_path):
    """Weights placed by accelerate, or left on disk until they are used: the same logits and texts."""
    model.eval().save_pretrained(tmp_path / "model")
    base = model.base_model_prefix
    device_map = {f"{base}.{model.rwkv.embeddings_name}": "cpu", f"{base}.blocks.0": "cpu"}
    device_map |= {f"{base}.blocks.1": "disk", f"{base}.ln_out": "disk"}
    placed = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model",
        trust_remote_code=True,
        device_map="auto" if where == "auto" else device_map | {"head": "disk"},
        offload_folder=tmp_path / "offload",
    )
    if where == "disk":
        assert placed.rwkv.blocks[1].attention.key.weight.device.type == "meta"  # not in memory
    ids = ids_of(20, rows=2)
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    with torch.inference_mode():
        output = placed(ids, attention_mask=mask, use_cache=True)
        torch.testing.assert_close(output.logits, model(ids, attention_mask=mask).logits, atol=1e-6, rtol=1e-6)
        options = {"attention_mask": mask, "max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
        assert torch.equal(placed.generate(ids, **options), model.generate(ids, **options))
