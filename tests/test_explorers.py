"""What notebook 03 shows: its pictures, the decay explorer and the state explorer, driven without a browser."""

import math

import pytest
import torch

from helpers.hub_code.modeling_rwkv5 import wkv5_mask
from helpers.teaching import decay_widget, pictures_model, plotting, state_explorer

PICTURES = [
    pictures_model.film_strip,
    pictures_model.memory_picture,
    pictures_model.shift_picture,
    pictures_model.mask_picture,
    pictures_model.chunks_picture,
    pictures_model.time_mix_picture,
    pictures_model.block_picture,
]
PNG = b"\x89PNG"


@pytest.mark.parametrize("draw", PICTURES, ids=lambda draw: draw.__name__)
def test_a_picture_is_as_wide_as_a_page_shows(draw):
    figure = draw()
    assert figure.get_figwidth() == 8
    plotting.show(figure, alt="a picture that is only drawn to see that it can be shown")


def test_the_symbols_of_the_mask_are_its_numbers():
    w, u, size = 0.5, 3.0, 5
    mask = wkv5_mask(torch.tensor([[w]]).log(), torch.tensor([[u]]), size)[0, :, :, 0]
    symbols = {"": 0.0, "u": u, "1": 1.0, "w": w} | {f"$w^{n}$": w**n for n in range(2, size)}
    drawn = [[symbols[pictures_model.mask_entry(i, j)] for j in range(size)] for i in range(size)]
    torch.testing.assert_close(torch.tensor(drawn), mask)


@pytest.mark.parametrize("time_decay", [-7.0, -1.5, 0.0, 2.0])
def test_half_life_of_a_decay(time_decay):
    w = math.exp(-math.exp(time_decay))
    assert w ** decay_widget.half_life(time_decay) == pytest.approx(0.5)


def test_decay_text():
    text = decay_widget.decay_text(math.log(math.log(2)), bonus=1.3, size=5)  # w = 1/2
    assert "w = exp(-exp(-0.37)) = 0.5000, half-life 1 tokens" in text
    assert "the token itself counts 1.30" in text
    assert "5 tokens back 0.062 is left" in text  # w^4


def test_bars_are_the_last_row_of_the_mask_by_age():
    figure = decay_widget.decay_figure(math.log(math.log(2)), bonus=1.3, size=4)
    bars = [bar.get_height() for bar in figure.axes[1].patches]
    assert bars == pytest.approx([1.3, 1.0, 0.5, 0.25])
    plotting.show(figure, alt="a figure that is only made to see that it can be shown")


@pytest.mark.parametrize(("time_decay", "bonus", "size"), [(-7, -1, 2), (2, 3, 64), (2, -1, 2), (-7, 3, 64)])
def test_the_ends_of_the_sliders(time_decay, bonus, size):
    widget = decay_widget.DecayExplorer(time_decay, bonus, size)
    assert bytes(widget.view.value).startswith(PNG)


def test_the_decay_explorer_follows_its_sliders():
    widget = decay_widget.DecayExplorer()
    for slider, value in ((widget.time_decay, 0.0), (widget.bonus, 2.0), (widget.size, 30)):
        before = widget.status.value, bytes(widget.view.value)
        slider.value = value
        assert widget.status.value != before[0]
        assert bytes(widget.view.value) != before[1]
        assert bytes(widget.view.value).startswith(PNG)
    assert "w = exp(-exp(0.00)) = 0.3679" in widget.status.value
    assert repr(widget).startswith("[Decay explorer: run this cell in JupyterLab")


STATES = torch.tensor([[[3.0, 4.0], [0.0, 0.0]], [[3.0, 4.0], [0.0, 5.0]]])  # (T, N, N) of one head


def test_changes():
    expected = [STATES[0].tolist(), [[0.0, 0.0], [0.0, 5.0]]]
    assert state_explorer.changes(STATES).tolist() == expected
    assert state_explorer.share_changed(STATES, 0) == pytest.approx(1)
    assert state_explorer.share_changed(STATES, 1) == pytest.approx(5 / math.sqrt(50))
    assert state_explorer.share_changed(torch.zeros(2, 2, 2), 1) == 0


def test_strip_marks_the_token():
    strip = state_explorer.strip_html(["a", "<b>", "\n"], 1)
    assert "&lt;b&gt;" in strip
    assert "⏎" in strip
    assert strip.count("border-bottom") == 1
    assert strip.index("border-bottom") < strip.index("&lt;b&gt;")
    assert strip.count("opacity:0.45") == 1


class Read:
    """A model that remembers which texts it was given: S of block l and head h after token t is full of numbers."""

    def __init__(self):
        self.texts: list[str] = []

    def __call__(self, text):
        self.texts.append(text)
        states = torch.arange(1.0, len(text) + 1).view(-1, 1, 1, 1, 1).expand(-1, 3, 2, 4, 4)
        return list(text), states * torch.tensor([[1.0, 2], [3, 4], [5, 6]]).view(1, 3, 2, 1, 1)


LIVES = torch.tensor([[1.0, 2.0], [3.0, 300.0], [5.0, 6.0]])


def test_the_state_explorer_begins_with_the_slowest_head():
    widget = state_explorer.StateExplorer(Read(), LIVES, "abcd")
    assert (widget.layer.value, widget.head.value) == (1, 1)
    assert "token 1 of 4: the change is 100% of the size of S" in widget.status.value
    assert bytes(widget.view.value).startswith(PNG)
    assert repr(widget).startswith("[State explorer: run this cell in JupyterLab")


def test_the_state_explorer_goes_through_tokens_and_heads():
    widget = state_explorer.StateExplorer(Read(), LIVES, "abcd")
    widget.token.value = 3
    assert "token 4 of 4: the change is 25% of the size of S" in widget.status.value
    for choice in (widget.layer, widget.head):
        before = bytes(widget.view.value)
        choice.value = 0
        assert bytes(widget.view.value) != before  # another half-life, at least


def test_another_text_is_read_from_its_beginning():
    read = Read()
    widget = state_explorer.StateExplorer(read, LIVES, "abcd")
    widget.token.value = 3
    widget.text.value = "xy"
    assert read.texts == ["abcd", "xy"]
    assert (widget.token.value, widget.token.max, widget.player.max) == (0, 1, 1)
    assert ">x<" in widget.strip.value


def test_the_state_explorer_does_not_read_nothing_and_not_too_much():
    read = Read()
    widget = state_explorer.StateExplorer(read, LIVES, "abcd")
    widget.text.value = ""
    assert widget.status.value == "Type a sentence."
    assert read.texts == ["abcd"]
    widget.text.value = "a" * 5000
    assert len(read.texts[-1]) == state_explorer.MAX_CHARACTERS


def test_the_explorer_can_be_shown_as_a_figure():
    _, states = Read()("abcd")
    figure = state_explorer.explorer_figure(states, 2, 1, 0, LIVES)
    assert [axes.get_title(loc="left") for axes in figure.axes[:3]] == [
        "S after token 3",
        "what it changed",
        "this head: 3 tokens",
    ]
    plotting.show(figure, alt="a figure that is only made to see that it can be shown")
