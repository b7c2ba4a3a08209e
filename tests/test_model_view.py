"""What the pictures of notebook 04 are made of: half-lives, states, scores, and heads that copy."""

import math

import pytest
import torch
from matplotlib.figure import Figure

from helpers.hub_code.configuration_rwkv5 import Rwkv5Config
from helpers.hub_code.modeling_rwkv5 import Rwkv5ForCausalLM
from helpers.proof import parity
from helpers.teaching import model_view, plotting

TOKENS = [f" word{i}" for i in range(9)]


@pytest.fixture(params=["5.0", "5.2"])
def model(request):
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 16, "head_size": 8, "num_hidden_layers": 3}
    return Rwkv5ForCausalLM(Rwkv5Config(version=request.param, **sizes)).eval()


@pytest.fixture
def ids():
    return torch.randint(1, 50, (len(TOKENS),), generator=torch.Generator().manual_seed(0))


def test_half_life_is_where_half_is_left(model):
    decay = model.rwkv.blocks[1].attention.time_decay
    with torch.no_grad():
        decay.fill_(math.log(math.log(2) / 30))  # w^30 = 1/2
    lives = model_view.half_lives(model)
    assert len(lives) == 3
    torch.testing.assert_close(lives[1], torch.full_like(lives[1], 30.0), rtol=1e-5, atol=0)
    log_w, _ = model.rwkv.blocks[0].attention.log_decay_and_bonus()
    torch.testing.assert_close(torch.exp(log_w * lives[0]), torch.full_like(log_w, 0.5))


def test_the_last_state_that_is_watched_is_the_state(model, ids):
    states = model_view.watch_state(model, ids)
    assert states.shape == (9, 3, 2, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(states[-1], model(ids[None], use_cache=True).state[1][0])


def test_scores_times_values_are_what_time_mix_normalizes(model, ids):
    """y = scores v: the scores, multiplied with the values by hand, must be what reaches the group norm."""
    seen = {}
    time_mix = model.rwkv.blocks[1].attention
    time_mix.value.register_forward_hook(lambda _, __, output: seen.update(value=output))
    time_mix.ln_x.register_forward_pre_hook(lambda _, inputs: seen.update(y=inputs[0]))
    scores = model_view.reading_scores(model, ids, layer=1)
    assert scores.shape == (2, 9, 9)
    assert not scores.triu(1).any()  # nobody reads the future
    values = seen["value"].view(9, 2, 8).transpose(0, 1)
    torch.testing.assert_close((scores @ values).transpose(0, 1).reshape(9, 16), seen["y"].view(9, 16))
    assert not time_mix.receptance._forward_hooks  # its own hooks are gone


def test_a_head_that_copies_is_found():
    """Build the textbook head: the key is the token before, the receptance is the token, and nothing is forgotten."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 30, "hidden_size": 32, "head_size": 16, "num_hidden_layers": 2}
    model = Rwkv5ForCausalLM(Rwkv5Config(version="5.0", **sizes)).eval()
    time_mix = model.rwkv.blocks[1].attention
    with torch.no_grad():
        torch.nn.init.orthogonal_(model.rwkv.embeddings.weight)
        for block in model.rwkv.blocks:
            block.attention.output.weight.zero_()  # the stream stays the embedding
            block.feed_forward.value.weight.zero_()
        time_mix.time_mix_key.zero_()
        time_mix.time_mix_receptance.fill_(1)
        time_mix.time_decay.fill_(-20)
        projection = torch.nn.init.orthogonal_(torch.empty(16, 32))
        time_mix.key.weight[16:] = time_mix.receptance.weight[16:] = projection  # head 1
    rates = model_view.copy_rates(model, torch.arange(1, 13))
    assert rates.shape == (2, 2)
    assert rates[1, 1] >= 0.75  # 12 tokens in 16 channels: not all are orthogonal
    assert rates[1, 1] == rates.max()
    assert rates[0].max() <= 0.5


def test_figures_can_be_shown(model, ids):
    """Each figure has labelled axes, which ``show`` demands, for one decay a head and for one a channel."""
    states = model_view.watch_state(model, ids)
    scores = model_view.reading_scores(model, ids, layer=0)
    same = parity.converted_prefill(model, ids.tolist())
    figures = [
        model_view.half_life_figure(model),
        model_view.difference_figure({"same": parity.compare_traces(same, same)}),
        model_view.state_figure(states, TOKENS, layer=1, head=1, at=[0, 8]),
        model_view.change_figure(model, states, TOKENS),
        model_view.reading_figure([scores[0], scores[1]], ["one", "two"]),
    ]
    for figure in figures:
        assert isinstance(figure, Figure)
        plotting.show(figure, alt="a figure that is only made to see that it can be shown")
