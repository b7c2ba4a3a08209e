"""The token-by-token loop: the same choices as ``generate``, and a state that can be carried on."""

import pytest
import torch

from helpers.errors import InputError
from helpers.generation import sampling
from helpers.generation.sampling import (
    Decoding,
    FrequencyPenalty,
    LogitBias,
    PresencePenalty,
    Sampling,
    logits_processors,
    stream,
    stream_text,
)

IDS = [33, 1097, 22799, 64, 1097]


@pytest.mark.parametrize(
    "settings",
    [
        Sampling(temperature=0, presence_penalty=0, max_new_tokens=12),
        Sampling(temperature=0, presence_penalty=3, repetition_penalty=1.3, max_new_tokens=12),
        Sampling(temperature=1, top_p=1, presence_penalty=0, max_new_tokens=12, seed=3),
        Sampling(temperature=0.7, top_p=0.6, presence_penalty=0.5, repetition_penalty=1.1, max_new_tokens=12, seed=4),
    ],
)
def test_stream_chooses_as_generate_does(tiny_rwkv5, settings):
    model, _ = tiny_rwkv5
    torch.manual_seed(settings.seed)
    sampled = {"do_sample": True, "temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0}
    expected = model.generate(
        torch.tensor([IDS]),
        max_new_tokens=settings.max_new_tokens,
        repetition_penalty=settings.repetition_penalty,
        logits_processor=[PresencePenalty(settings.presence_penalty, len(IDS))],
        **(sampled if settings.temperature else {"do_sample": False}),
    )
    assert [token for token, _ in stream(model, IDS, settings)] == expected[0, len(IDS) :].tolist()


def test_the_text_does_not_begin_with_what_is_ruled_out(tiny_rwkv5):
    model, _ = tiny_rwkv5
    greedy = {"temperature": 0, "presence_penalty": 0, "max_new_tokens": 6}
    first = next(stream(model, IDS, Sampling(**greedy)))[0]
    second = next(stream(model, IDS, Sampling(**greedy, begin_suppress_tokens=(first,))))[0]
    assert second != first
    expected = model.generate(
        torch.tensor([IDS]), max_new_tokens=6, do_sample=False, begin_suppress_tokens=[first, second]
    )
    both = Sampling(**greedy, begin_suppress_tokens=(first, second))
    assert [token for token, _ in stream(model, IDS, both)] == expected[0, len(IDS) :].tolist()


def test_the_seed_decides_and_the_global_generator_is_left_alone(tiny_rwkv5):
    model, _ = tiny_rwkv5
    before = torch.get_rng_state()
    texts = [[token for token, _ in stream(model, IDS, Sampling(seed=seed, max_new_tokens=8))] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert torch.equal(before, torch.get_rng_state())


def test_a_state_goes_on_where_it_was_left_and_can_be_used_twice(tiny_rwkv5):
    model, _ = tiny_rwkv5
    greedy = Sampling(temperature=0, presence_penalty=0, max_new_tokens=10)
    whole = [token for token, _ in stream(model, IDS, greedy)]
    for token, state in stream(model, IDS, Sampling(temperature=0, presence_penalty=0, max_new_tokens=4)):
        last, kept = token, state
    copies = [part.clone() for part in kept]
    for _ in range(2):
        assert [token for token, _ in stream(model, [last], greedy, kept)][:6] == whole[4:]
    assert all(torch.equal(a, b) for a, b in zip(copies, kept, strict=True))


def test_it_ends_before_the_end_of_text(tiny_rwkv5):
    model, _ = tiny_rwkv5
    greedy = Sampling(temperature=0, presence_penalty=0, max_new_tokens=6)
    tokens = [token for token, _ in stream(model, IDS, greedy)]
    assert len(set(tokens)) > 1
    position = next(i for i, token in enumerate(tokens) if token != tokens[0])
    original = model.generation_config.eos_token_id
    try:
        for end in (tokens[position], [5, tokens[position]]):
            model.generation_config.eos_token_id = end
            assert [token for token, _ in stream(model, IDS, greedy)] == tokens[:position]
        model.generation_config.eos_token_id = None
        assert len([token for token, _ in stream(model, IDS, greedy)]) == 6
    finally:
        model.generation_config.eos_token_id = original


def test_presence_penalty_counts_new_tokens_once_each():
    scores = torch.zeros(2, 6)
    ids = torch.tensor([[1, 2, 3, 3], [1, 2, 4, 5]])
    changed = PresencePenalty(0.5, prompt_length=2)(ids, scores)
    assert changed.tolist() == [[0, 0, 0, -0.5, 0, 0], [0, 0, 0, 0, -0.5, -0.5]]
    assert scores.abs().max() == 0


def test_frequency_penalty_counts_new_tokens_each_time():
    scores = torch.zeros(2, 6)
    ids = torch.tensor([[1, 2, 3, 3], [1, 2, 4, 5]])
    changed = FrequencyPenalty(0.5, prompt_length=2)(ids, scores)
    assert changed.tolist() == [[0, 0, 0, -1, 0, 0], [0, 0, 0, 0, -0.5, -0.5]]
    assert scores.abs().max() == 0
    assert FrequencyPenalty(0.5, prompt_length=4)(ids, scores).abs().max() == 0


def test_bias_is_added_as_generate_adds_it(tiny_rwkv5):
    model, _ = tiny_rwkv5
    assert LogitBias([(1, 2.0), (4, -0.5)])(None, torch.ones(2, 5)).tolist() == [[1, 3, 1, 1, 0.5]] * 2
    biases = ((33, 3.0), (1097, -2.0), (40, 3.5))
    expected = model.generate(
        torch.tensor([IDS]), max_new_tokens=8, do_sample=False, sequence_bias=[[[i], bias] for i, bias in biases]
    )
    greedy = Sampling(temperature=0, presence_penalty=0, max_new_tokens=8, logit_bias=biases)
    assert [token for token, _ in stream(model, IDS, greedy)] == expected[0, len(IDS) :].tolist()


def test_texts_side_by_side_are_those_of_their_seeds(tiny_rwkv5):
    """Also when some of them have ended before, and from a state."""
    model, _ = tiny_rwkv5
    options = {"presence_penalty": 1.0, "frequency_penalty": 0.5, "repetition_penalty": 1.1, "max_new_tokens": 9}
    *_, (_, state) = stream(model, IDS, Sampling(max_new_tokens=2))
    for start in (None, state):
        alone = [[token for token, _ in stream(model, IDS, Sampling(seed=i, **options), start)] for i in (7, 8, 9)]
        decoding = Decoding(model, IDS, Sampling(seed=7, **options), start, rows=3)
        together = [decoding.step().tokens for _ in range(4)]
        decoding.keep([0, 2])
        rest = [decoding.step().tokens for _ in range(5)]
        assert [[step[row] for step in together] for row in range(3)] == [tokens[:4] for tokens in alone]
        assert [[step[row] for step in rest] for row in range(2)] == [alone[0][4:], alone[2][4:]]


def test_a_long_prompt_is_read_in_pieces(tiny_rwkv5, monkeypatch):
    model, _ = tiny_rwkv5
    greedy = Sampling(temperature=0, presence_penalty=0, max_new_tokens=6)
    whole = [token for token, _ in stream(model, IDS * 4, greedy)]
    monkeypatch.setattr(sampling, "PIECE", 6)
    decoding = Decoding(model, IDS * 4, greedy)
    assert [decoding.read_piece() for _ in range(4)] == [True, True, True, False]
    assert [decoding.step().tokens[0] for _ in range(6)] == whole == [t for t, _ in stream(model, IDS * 4, greedy)]


def test_logits_that_are_no_numbers_are_no_text(tiny_rwkv5):
    model, _ = tiny_rwkv5
    handle = model.head.register_forward_hook(
        lambda _module, _args, logits: logits.index_fill(-1, torch.tensor([7]), torch.nan)
    )
    try:
        with pytest.raises(InputError, match="not finite"):
            next(stream(model, IDS, Sampling()))
    finally:
        handle.remove()


def test_top_p_keeps_the_smallest_set_with_that_share():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    kept = logits_processors(Sampling(top_p=0.79, presence_penalty=0))(None, logits).softmax(-1)
    torch.testing.assert_close(kept, torch.tensor([[0.625, 0.375, 0, 0]]))  # 0.5 alone is not 0.79, with 0.3 it is


def test_text_grows_and_never_shows_half_a_character(tiny_rwkv5):
    model, tokenizer = tiny_rwkv5
    rocket = tokenizer("🚀", split_special_tokens=True)["input_ids"]
    assert len(rocket) > 1  # several tokens, none of them text by itself

    class Writer:
        """Stands in for a model: whatever it reads, the next token is the next one of the rocket."""

        device, generation_config = model.device, model.generation_config

        def __init__(self):
            self.left = list(rocket)

        def __call__(self, unread, **kwargs):
            logits = torch.zeros(1, 1, 65536)
            logits[0, 0, self.left.pop(0)] = 100.0
            return type("Output", (), {"state": (), "logits": logits})

    settings = Sampling(temperature=0, max_new_tokens=len(rocket), presence_penalty=0)
    texts = list(stream_text(Writer(), tokenizer, "Hi", settings))
    assert texts == [""] * (len(rocket) - 1) + ["🚀"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"temperature": -1}, "temperature is -1; give 0 or more"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0}, "top_p is 0; give more than 0 and at most 1"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"presence_penalty": float("inf")}, "presence_penalty is inf"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty is nan"),
        ({"logit_bias": ((1, float("inf")),)}, "give finite numbers"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_out_of_range(bad, message):
    with pytest.raises(InputError, match=message):
        Sampling(**bad)


def test_no_tokens(tiny_rwkv5):
    model, tokenizer = tiny_rwkv5
    with pytest.raises(InputError, match="no tokens to continue"):
        list(stream_text(model, tokenizer, "", Sampling()))
