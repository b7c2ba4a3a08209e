"""The conversion inspector, driven without a browser, and the pictures beside it."""

import re

import pytest
import torch
from matplotlib.figure import Figure

from helpers.checkpoints import hub_name
from helpers.teaching import pictures_conversion
from helpers.teaching.conversion_inspector import BINS, ConversionInspector, histogram_svg, matching, pair_of


@pytest.fixture
def weights():
    draw = torch.Generator().manual_seed(0)
    return {
        "emb.weight": torch.randn(8, 4, generator=draw).bfloat16(),
        "blocks.0.att.time_decay": torch.tensor([-1.0, 2.0]),
        "blocks.1.ffn.key.weight": torch.randn(6, 4, generator=draw),
    }


@pytest.fixture
def converted(weights):
    return {hub_name(name): weight.clone() for name, weight in weights.items()}


def test_a_pair_is_identical_only_bit_for_bit(weights, converted):
    name = "emb.weight"
    pair = pair_of(name, weights, converted, hub_name)
    assert (pair.new, pair.shape, pair.dtype, pair.identical) == (
        "rwkv.embeddings.weight",
        (8, 4),
        "bfloat16",
        True,
    )
    other = {
        "another number": converted | {pair.new: converted[pair.new] + 1},
        "another dtype": converted | {pair.new: converted[pair.new].float()},
        "another shape": converted | {pair.new: converted[pair.new].T},
        "missing": {},
    }
    for why, changed in other.items():
        assert not pair_of(name, weights, changed, hub_name).identical, why


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", 3),
        ("emb", 1),
        ("embeddings", 1),  # part of the new name
        ("blocks att", 1),
        ("blocks weight", 1),
        ("feed_forward", 1),
        ("x", 0),
        ("  ", 3),
    ],
)
def test_names_are_found_by_parts(weights, text, found):
    assert len(matching({name: hub_name(name) for name in weights}, text)) == found


def test_every_number_is_in_the_histogram():
    numbers = torch.tensor([0.0] * 3 + [1.0])
    heights = [float(height) for height in re.findall(r'height="([\d.]+)" fill', histogram_svg(numbers, height=90))]
    assert len(heights) == BINS
    assert (heights[0], heights[-1], sum(heights)) == (90, 30, 120)
    assert 'aria-label="Histogram of 4 numbers from 0 to 1"' in histogram_svg(numbers)


@pytest.mark.parametrize("numbers", [torch.zeros(3), torch.ones(1), torch.tensor([-0.5, -0.5]).bfloat16()])
def test_equal_numbers_can_be_drawn(numbers):
    assert histogram_svg(numbers).count("<rect") == BINS


def test_a_click_shows_a_tensor(weights, converted):
    widget = ConversionInspector(weights, converted)
    assert widget.status.value == "3 of 3 tensors"
    widget.list.value = "blocks.0.att.time_decay"  # what a click does
    assert "rwkv.blocks.0.attention.time_decay" in widget.view.value
    assert "[2], 2 numbers" in widget.view.value
    assert ">yes<" in widget.view.value


def test_typing_narrows_the_list_down(weights, converted):
    widget = ConversionInspector(weights, {})
    widget.search.value = "ffn"
    assert list(widget.list.options) == ["blocks.1.ffn.key.weight"]
    assert "feed_forward.key" in widget.view.value
    assert ">NO<" in widget.view.value
    widget.search.value = "nothing"
    assert widget.status.value == "0 of 3 tensors"
    assert widget.view.value == "No tensor has such a name."
    widget.search.value = ""
    assert "emb.weight" in widget.view.value
    assert "run this cell" in repr(widget)


def test_pictures(weights):
    figures = (
        pictures_conversion.way_figure(),
        pictures_conversion.bytes_figure({"embedding": 10, "blocks": 5, "head": 10}, 100),
        pictures_conversion.histograms_figure(weights, {name: hub_name(name) for name in list(weights)[:2]}),
    )
    assert all(isinstance(figure, Figure) for figure in figures)
