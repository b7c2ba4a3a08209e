"""Everything that a user of transformers does to write text, with a converted directory of each version.

What is expected is computed without ``generate``, from the logits of whole texts. Scores are sums of up to six
log-probabilities of size 10 in fp32: 1e-4 is about a hundred roundings.
"""

import pytest
import torch
from tiny_models import VERSIONS, ids_of
from transformers import AutoModelForCausalLM, AutoTokenizer, TextStreamer, pipeline, set_seed
from transformers.generation import utils

from helpers.checkpoints.synthetic import write_random_checkpoint
from helpers.conversion.directory import convert

TEXT = "The sea was calm. 大海"
GREEDY = {"do_sample": False, "max_new_tokens": 8}
ENDLESS = GREEDY | {"eos_token_id": None, "pad_token_id": 0}


@pytest.fixture(scope="module", params=VERSIONS)
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("generation")
    sizes = {"hidden_size": 32, "head_size": 16, "dtype": torch.float32}
    return convert(write_random_checkpoint(folder / "a.pth", request.param, **sizes), folder / "a", progress=False)


@pytest.fixture(scope="module")
def model(folder):
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


@torch.inference_mode()
def greedy(model, ids, steps=8):
    """Write the most probable token again and again, reading the whole text each time."""
    for _ in range(steps):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    return ids


@torch.inference_mode()
def log_probabilities(model, texts, new):
    """Return the log-probabilities of the last ``new`` tokens of texts (B, T)."""
    log_p = model(texts[:, :-1]).logits[:, -new:].log_softmax(-1)
    return log_p.gather(2, texts[:, -new:, None])[..., 0]


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("length", [1, 12, 65])
def test_greedy(model, use_cache, length):
    ids = ids_of(length, rows=2)
    mask = torch.ones_like(ids)
    generated = model.generate(ids, attention_mask=mask, use_cache=use_cache, **ENDLESS)
    assert generated.tolist() == greedy(model, ids).tolist()


def test_the_state_is_carried_whatever_names_generate_knows(model, monkeypatch):
    """transformers 5.24 took ``state`` off the list of outputs that ``generate`` hands on: texts became nonsense."""
    names = [name for name in utils.ALL_CACHE_NAMES if name != "state"]
    monkeypatch.setattr(utils, "ALL_CACHE_NAMES", names)
    ids = ids_of(12, rows=2)
    assert model.generate(ids, **ENDLESS).tolist() == greedy(model, ids).tolist()


def test_continuous_batching_is_refused_at_once(model):
    with pytest.raises(NotImplementedError, match="use generate with a padded batch"):
        model.generate_batch([[1, 2, 3]])


def test_sampling(model):
    """Samples have the probabilities that the model gives them, differ from each other, and come back with the seed."""
    options = ENDLESS | {"do_sample": True, "temperature": 0.7, "top_k": 50, "num_return_sequences": 3}
    ids = ids_of(12, rows=2)
    runs = []
    for _ in range(2):
        set_seed(5)
        runs.append(model.generate(ids, **options, output_logits=True, return_dict_in_generate=True))
    texts = runs[0].sequences
    assert torch.equal(texts, runs[1].sequences)
    assert len({tuple(text.tolist()) for text in texts}) == 6
    assert torch.equal(texts[:, :12], ids.repeat_interleave(3, dim=0))
    logits = torch.stack(runs[0].logits, dim=1)
    with torch.inference_mode():
        torch.testing.assert_close(logits, model(texts).logits[:, 11:-1], atol=1e-4, rtol=1e-4)


def test_beam_search(model):
    """Each returned beam has the score that its text has, best first, and no worse than the greedy text."""
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "length_penalty": 0.0}
    output = model.generate(
        ids_of(12), num_beams=4, num_return_sequences=3, output_scores=True, return_dict_in_generate=True, **options
    )
    scores = log_probabilities(model, output.sequences, 6).sum(1)
    torch.testing.assert_close(output.sequences_scores, scores, atol=1e-4, rtol=1e-4)
    assert scores.tolist() == sorted(scores.tolist(), reverse=True)
    assert len({tuple(text.tolist()) for text in output.sequences}) == 3
    assert scores[0] >= log_probabilities(model, greedy(model, ids_of(12), 6), 6).sum() - 1e-4


def test_beam_sampling_with_a_padded_batch(model):
    """Beams of rows of different length keep apart: each text still has the score that generate gives it."""
    ids = ids_of(12, rows=2)
    mask = torch.ones_like(ids)
    ids[0, :5] = mask[0, :5] = 0
    set_seed(0)
    output = model.generate(
        ids, attention_mask=mask, num_beams=3, do_sample=True, max_new_tokens=6, eos_token_id=None, pad_token_id=0,
        length_penalty=0.0, output_scores=True, return_dict_in_generate=True,
    )  # fmt: skip
    texts = output.sequences[0, 5:][None], output.sequences[1][None]
    scores = torch.cat([log_probabilities(model, text, 6).sum(1) for text in texts])
    torch.testing.assert_close(output.sequences_scores, scores, atol=1e-4, rtol=1e-4)


def test_inputs_embeds(model):
    """Embeddings in place of ids, with padding: the same text, which generate returns without the prompt."""
    ids = ids_of(12, rows=2)
    mask = torch.ones_like(ids)
    ids[0, :5] = mask[0, :5] = 0
    embedded = model.get_input_embeddings()(ids)
    for beams in (1, 2):
        expected = model.generate(ids, attention_mask=mask, num_beams=beams, **ENDLESS)[:, 12:]
        ours = model.generate(inputs_embeds=embedded, attention_mask=mask, num_beams=beams, **ENDLESS)
        assert ours.tolist() == expected.tolist()


def force(model, token, step, row=0):
    """Return a function for ``prefix_allowed_tokens_fn`` that allows a row only ``token`` after ``step`` tokens."""
    every = list(range(1, model.config.vocab_size))
    return lambda batch, text: [token] if batch == row and len(text) == step else every


def test_end_of_text(model):
    """Id 0 ends a row, which is then filled up with id 0; the other rows go on as if they were alone."""
    ids = ids_of(12, rows=2)
    options = GREEDY | {"attention_mask": torch.ones_like(ids)}
    output = model.generate(ids, prefix_allowed_tokens_fn=force(model, 0, 15), **options)
    alone = model.generate(ids[1:], prefix_allowed_tokens_fn=force(model, 0, 15, row=1), **GREEDY)
    assert output[0, 15:].tolist() == [0] * 5
    assert 0 not in output[0, 12:15]
    assert output[1].tolist() == alone[0].tolist()


def test_a_prompt_may_begin_with_end_of_text(model):
    """Many prompts of World models begin with id 0. It is the pad token too, but here it is a token like any other.

    ``generate`` masks pad tokens by itself only if they are not the end of text as well, as they are here.
    """
    ids = torch.cat([torch.zeros(1, 1, dtype=torch.int64), ids_of(12)], dim=1)
    assert model.generate(ids, **GREEDY).tolist() == greedy(model, ids).tolist()


def test_stop_strings(model, tokenizer):
    ids = tokenizer(TEXT, return_tensors="pt").input_ids
    full = greedy(model, ids)
    stop = next(
        text for text in (tokenizer.decode(full[0, end - 2 : end]) for end in range(ids.shape[1] + 3, full.shape[1]))
        if "\ufffd" not in text and len(text) >= 4
    )  # fmt: skip
    output = model.generate(ids, stop_strings=[stop], tokenizer=tokenizer, **ENDLESS)
    assert output.shape[1] < full.shape[1]
    assert tokenizer.decode(output[0]).endswith(stop)
    assert output[0].tolist() == full[0, : output.shape[1]].tolist()


def test_streaming(model, tokenizer, capsys):
    ids = tokenizer(TEXT, return_tensors="pt").input_ids
    streamer = TextStreamer(tokenizer, skip_prompt=True)
    output = model.generate(ids, streamer=streamer, **ENDLESS)
    assert capsys.readouterr().out == tokenizer.decode(output[0, ids.shape[1] :]) + "\n"


def test_pipeline(folder, model, tokenizer):
    """Texts of different length in one batch: each continued as if it were alone."""
    write = pipeline("text-generation", model=str(folder), trust_remote_code=True)
    texts = [TEXT, "Once", "User: Hi\n\nAssistant:"]
    options = {"return_full_text": False, "do_sample": False, "max_new_tokens": 8, "eos_token_id": None}
    together = write(texts, batch_size=3, **options)
    for text, answer in zip(texts, together, strict=True):
        ids = tokenizer(text, return_tensors="pt").input_ids
        expected = tokenizer.decode(greedy(model, ids)[0, ids.shape[1] :])
        assert answer[0]["generated_text"] == expected


def test_chat(folder, model, tokenizer):
    """A chat through the template, by hand and through the pipeline."""
    messages = [{"role": "user", "content": "What is the sea?"}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    assert tokenizer.decode(inputs.input_ids[0]) == "User: What is the sea?\n\nAssistant:"
    output = model.generate(**inputs, **ENDLESS)
    assert output.tolist() == greedy(model, inputs.input_ids).tolist()
    write = pipeline("text-generation", model=str(folder), trust_remote_code=True)
    answer = write(messages, do_sample=False, max_new_tokens=8, eos_token_id=None)[0]["generated_text"][-1]
    expected = tokenizer.decode(output[0, inputs.input_ids.shape[1] :])
    assert answer["role"] == "assistant"
    assert answer["content"].strip() == expected.strip()


@torch.inference_mode()
def test_the_base_model(folder, model):
    """AutoModel loads the model without its head: hidden states that the head turns into the same logits."""
    from transformers import AutoModel

    base = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    output = base(ids_of(12), output_hidden_states=True)
    assert torch.equal(model.head(output.last_hidden_state), model(ids_of(12)).logits)
    assert len(output.hidden_states) == 3  # before each of the two blocks, and after the last norm
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    assert isinstance(base(ids_of(12), return_dict=False), tuple)
