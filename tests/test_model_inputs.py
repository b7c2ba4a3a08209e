"""What models are given: packed texts, a state under another name, misspelt keywords, guidance, prompt tuning.

Each is right, or refused in one sentence. Differences of fp32 logits of size 10 stay below 1e-4: a hundred roundings.
"""

import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from tiny_models import VERSIONS, ids_of, tiny_model
from transformers import (
    DataCollatorWithFlattening,
    DynamicCache,
    Trainer,
    TrainingArguments,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)

from helpers.hub_code import rwkv_requirements
from helpers.paths import HUB_CODE, ROOT

LENGTHS = (5, 1, 70, 12)  # of packed texts; 70 is longer than a chunk
GREEDY = {"do_sample": False, "max_new_tokens": 8, "eos_token_id": None, "pad_token_id": 0}


@pytest.fixture(scope="module", params=VERSIONS)
def model(request):
    return tiny_model(request.param)


def texts() -> list[torch.Tensor]:
    return [ids_of(length, seed=seed)[0] for seed, length in enumerate(LENGTHS)]


def boundaries(form: str) -> dict[str, torch.Tensor]:
    """Return what says where the packed texts begin, in one of the forms in which collators say it."""
    if form == "position_ids":
        return {"position_ids": torch.cat([torch.arange(length) for length in LENGTHS])[None]}
    if form == "seq_idx":
        return {"seq_idx": torch.repeat_interleave(torch.arange(4), torch.tensor(LENGTHS))[None].int()}
    ends = torch.tensor((0, *LENGTHS)).cumsum(0).int()
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": 70, "max_length_k": 70}


# packed texts


@torch.inference_mode()
@pytest.mark.parametrize("form", ["position_ids", "seq_idx", "cu_seq_lens_q"])
def test_packed_texts_do_not_see_each_other(model, form):
    packed = torch.cat(texts())[None]
    output = model(packed, use_cache=True, output_hidden_states=True, **boundaries(form))
    alone = [model(text[None], use_cache=True, output_hidden_states=True) for text in texts()]
    torch.testing.assert_close(output.logits[0], torch.cat([o.logits[0] for o in alone]), atol=1e-4, rtol=1e-4)
    for ours, *theirs in zip(output.hidden_states, *(o.hidden_states for o in alone), strict=True):
        torch.testing.assert_close(ours[0], torch.cat([x[0] for x in theirs]), atol=1e-4, rtol=1e-4)
    for ours, expected in zip(output.state, alone[-1].state, strict=True):  # of the last text
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
    assert (model(packed).logits - output.logits).abs().max() > 0.1, "without boundaries it is one text"


@torch.inference_mode()
@pytest.mark.parametrize("side", ["left", "right"])
def test_several_packed_rows_with_padding(model, side):
    """Rows of other numbers of texts, padded; what stands at padding is of no interest."""
    a, b, c, d = texts()
    rows = [torch.cat([a, b, d]), torch.cat([c[:30]])]
    positions = [torch.cat([torch.arange(len(x)) for x in (a, b, d)]), torch.arange(30)]
    empty = [30 - len(row) for row in rows]
    pads = [(n, 0) if side == "left" else (0, n) for n in empty]
    ids, position_ids, mask = (
        torch.stack([torch.nn.functional.pad(x, pad) for x, pad in zip(parts, pads, strict=True)])
        for parts in (rows, positions, [torch.ones_like(row) for row in rows])
    )
    logits = model(ids, attention_mask=mask, position_ids=position_ids).logits
    expected = torch.cat([model(text[None]).logits[0] for text in (a, b, d, c[:30])])
    torch.testing.assert_close(logits[mask == 1], expected, atol=1e-4, rtol=1e-4)


def test_loss_and_gradients_of_packed_texts(model):
    """The mean over all texts, in which no text predicts the first token of the next one."""
    model = model.train()
    packed = torch.cat(texts())[None]
    model.zero_grad()
    loss = model(packed, labels=packed, **boundaries("position_ids")).loss
    loss.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    count = sum(length - 1 for length in LENGTHS)
    for text in texts():
        if len(text) > 1:
            (model(text[None], labels=text[None]).loss * (len(text) - 1) / count).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-4, rtol=1e-3, msg=name)
    model.zero_grad()
    model.eval()


@torch.inference_mode()
def test_the_collator_of_transformers(model):
    """What ``DataCollatorWithFlattening`` makes, in both of its forms, is read as separate texts."""
    features = [{"input_ids": text.tolist()} for text in texts()]
    losses = [model(text[None], labels=text[None]).loss * (len(text) - 1) for text in texts() if len(text) > 1]
    expected = sum(losses) / sum(length - 1 for length in LENGTHS)
    for options in ({}, {"return_flash_attn_kwargs": True}, {"return_seq_idx": True, "return_position_ids": False}):
        batch = DataCollatorWithFlattening(return_tensors="pt", **options)(features)
        torch.testing.assert_close(model(**batch).loss, expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_positions_of_a_single_text_change_nothing(model):
    ids = ids_of(20, rows=2)
    expected = model(ids).logits
    assert torch.equal(model(ids, position_ids=torch.arange(20)[None]).logits, expected)
    state = model(ids[:, :7], use_cache=True).state
    later = model(ids[:, 7:], state=state, position_ids=torch.arange(7, 20)[None]).logits
    torch.testing.assert_close(later, expected[:, 7:], atol=1e-4, rtol=1e-4)


def test_packed_texts_that_cannot_be_read_are_refused(model):
    packed = torch.cat(texts())[None]
    state = model(ids_of(3), use_cache=True).state
    with pytest.raises(ValueError, match="give a state only with rows of a single text"):
        model(packed, state=state, **boundaries("position_ids"))
    with pytest.raises(ValueError, match="cu_seq_lens_q cuts a single row, and there are 2"):
        model(packed.expand(2, -1), **boundaries("cu_seq_lens_q"))


@pytest.mark.parametrize("mask", [[0] * 9 + [1] * 70, [1] * 70 + [0] * 9, [1] * 30 + [0] * 9 + [1] * 40])
def test_nan_in_padding_does_not_leak(model, mask):
    """Whatever stands at masked places, NaN and infinity too: logits, state and gradients are those of the text."""
    mask = torch.tensor([mask])
    ids = ids_of(79)
    embedded = model.get_input_embeddings()(ids).detach()
    spoilt = torch.where(mask[..., None] == 1, embedded, torch.nan)
    spoilt[:, :, 0] = torch.where(mask == 1, embedded[:, :, 0], torch.inf)
    spoilt.requires_grad_()
    ours = model(inputs_embeds=spoilt, attention_mask=mask, use_cache=True)
    expected = model(ids[mask == 1][None], use_cache=True)
    torch.testing.assert_close(ours.logits[mask == 1], expected.logits[0], atol=1e-4, rtol=1e-4)
    for part, other in zip(ours.state, expected.state, strict=True):
        torch.testing.assert_close(part, other, atol=1e-4, rtol=1e-4)
    (gradient,) = torch.autograd.grad(ours.logits[mask == 1].sum(), spoilt)
    assert gradient.isfinite().all()
    assert gradient[mask == 1].any()


# the state under another name, and what is not known


@torch.inference_mode()
@pytest.mark.parametrize("name", ["past_key_values", "cache"])
def test_the_state_may_be_called_a_cache(model, name):
    ids = ids_of(20, rows=2)
    first = model(ids[:, :9], use_cache=True)
    assert first.get(name) is first.state
    assert name not in first  # generate takes the name for a cache of its own kind
    expected = model(ids[:, 9:], state=first.state).logits
    assert torch.equal(model(ids[:, 9:], **{name: first.get(name)}).logits, expected)
    assert model(ids, use_cache=False).get(name, "none") == "none"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"atention_mask": torch.ones(1, 4)}, TypeError, "unexpected keyword argument 'atention_mask'"),
        ({"stat": None, "cache_params": 1}, TypeError, "unexpected keyword argument 'cache_params'"),
        ({"past_key_values": DynamicCache()}, ValueError, "past_key_values is a DynamicCache.*use LoRA"),
        ({"past_key_values": ((torch.ones(1), torch.ones(1)),)}, ValueError, "past_key_values is a tuple"),
        ({"output_attentions": True}, ValueError, "RWKV computes no attention matrices"),
    ],
)
def test_what_would_be_ignored_is_refused(model, options, error, message):
    for part in (model, model.rwkv):
        with pytest.raises(error, match=message):
            part(ids_of(4), **options)


def test_both_names_at_once_are_refused(model):
    state = model(ids_of(3), use_cache=True).state
    with pytest.raises(ValueError, match="give the state once"):
        model(ids_of(3), state=state, past_key_values=state)


def test_attentions_in_generate_are_refused(model):
    with pytest.raises(ValueError, match="RWKV computes no attention matrices"):
        model.generate(ids_of(4), output_attentions=True, return_dict_in_generate=True, **GREEDY)


# what carries a cache outside of generate's own loop


@torch.inference_mode()
@pytest.mark.parametrize("negative", [None, 6])
def test_classifier_free_guidance(model, negative):
    """The text of a hand-written loop without any cache; ``guidance_scale`` once read one token without its past."""
    ids = ids_of(9)
    other = None if negative is None else ids_of(negative, seed=3)
    unconditional, conditional = ids[:, -1:] if other is None else other, ids
    for _ in range(8):
        scores = [model(text).logits[:, -1].log_softmax(-1) for text in (conditional, unconditional)]
        token = (1.7 * (scores[0] - scores[1]) + scores[1]).argmax(-1, keepdim=True)
        conditional, unconditional = (torch.cat([text, token], dim=1) for text in (conditional, unconditional))
    for use_cache in (True, False):
        written = model.generate(ids, guidance_scale=1.7, negative_prompt_ids=other, use_cache=use_cache, **GREEDY)
        assert written.tolist() == conditional.tolist()


@torch.inference_mode()
def test_guidance_of_a_hand_made_loop(model):
    """The processor by itself, whose cache goes from call to call under the name that it asks for."""
    ids = ids_of(12)
    guided = UnbatchedClassifierFreeGuidanceLogitsProcessor(1.5, model, unconditional_ids=ids[:, :1], use_cache=True)
    for end in (4, 5, 6):
        guided(ids[:, :end], model(ids[:, :end]).logits[:, -1])
    context = guided.unconditional_context
    seen = context["cache"] if "cache" in context else context["past_key_values"]  # its name from 5.24 on, and before
    expected = model(torch.cat([ids[:, :1], ids[:, 4:6]], dim=1), use_cache=True).state
    for ours, theirs in zip(seen, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rows", [1, 3])
def test_prompt_tuning_writes_what_its_embeddings_say(model, rows):
    """Virtual tokens are read once, before the prompt, and not again at each step (peft#2458)."""
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5, num_attention_heads=1)
    tuned = get_peft_model(tiny_like(model), config).eval()
    ids = ids_of(7, rows=rows)
    written = tuned.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **GREEDY)
    with torch.inference_mode():
        virtual = tuned.get_prompt(rows)
        expected = ids
        for _ in range(8):
            embedded = torch.cat([virtual, tuned.base_model.get_input_embeddings()(expected)], dim=1)
            token = tuned.base_model(inputs_embeds=embedded).logits[:, -1:].argmax(-1)
            expected = torch.cat([expected, token], dim=1)
    assert written.tolist() == expected.tolist()


def tiny_like(model):
    """Return a fresh model of the same version: adapters change the one they are put on."""
    version = getattr(model.config, "version", "4")
    return tiny_model(version)


def test_prefix_tuning_is_refused(model):
    config = PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=5, num_layers=2, token_dim=64, num_attention_heads=2
    )
    tuned = get_peft_model(tiny_like(model), config)
    with pytest.raises(ValueError, match="instead of prefix tuning, use LoRA or prompt tuning"):
        tuned(input_ids=ids_of(4))


# Trainer


@pytest.mark.parametrize("adapted", [False, True])
def test_label_smoothing_compares_with_the_next_token(model, adapted, tmp_path):
    """Trainer shifts the labels only for classes that it knows by name (transformers#17960)."""
    subject = tiny_like(model)
    if adapted:
        subject = get_peft_model(subject, LoraConfig(r=2, target_modules=["key", "value"], init_lora_weights=True))
    ids = ids_of(20, rows=2)
    arguments = TrainingArguments(tmp_path, label_smoothing_factor=0.1, report_to=[], use_cpu=True)
    loss = Trainer(subject.eval(), arguments).compute_loss(subject, {"input_ids": ids, "labels": ids.clone()})
    log_p = subject(input_ids=ids).logits[:, :-1].log_softmax(-1)
    nll = -log_p.gather(2, ids[:, 1:, None]).mean()
    torch.testing.assert_close(loss, 0.9 * nll + 0.1 * -log_p.mean(), atol=1e-4, rtol=1e-4)


# versions of transformers


@pytest.mark.parametrize("file", sorted(path.stem for path in HUB_CODE.glob("[mc]*_rwkv*.py")))
def test_an_old_transformers_is_named(file):
    """Whichever file is imported first, it says what is needed, instead of a name that the old one has not."""
    code = (
        "import sys, types\nold = types.ModuleType('transformers')\nold.__version__ = '4.57.6'\n"
        f"sys.modules['transformers'] = old\nfrom helpers.hub_code import {file}"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "ImportError: this model's code needs transformers >= 5.15, this is 4.57.6" in done.stderr


@pytest.mark.parametrize(
    ("version", "good"), [("5.15.0", True), ("6.0.0.dev0", True), ("5.9.1", False), ("5.0.0rc1", False)]
)
def test_versions_are_compared_as_numbers(version, good, monkeypatch):
    monkeypatch.setattr(rwkv_requirements.transformers, "__version__", version)
    if good:
        rwkv_requirements.require_transformers()
    else:
        with pytest.raises(ImportError, match="needs transformers"):
            rwkv_requirements.require_transformers()
