"""The pictures of notebook 12, and the recorded runs that it shows."""

import pytest

from helpers.teaching import pictures_speed, plotting
from helpers.teaching.recorded import Comparison, compared, recorded_comparisons

WORKS = {"decode: 1 token": (0.5, 11e9), "prefill: 16 tokens": (5.4, 100e9)}


@pytest.mark.parametrize(
    ("figure", "told"),
    [
        (pictures_speed.costs_figure({"head": (2e6, 3e6), "state": (1e6, 1e6)}), "head 2 MB and 3; state 1 MB and 1"),
        (pictures_speed.roof_figure(22e9, 105e9, WORKS), "the prompts lie near the bend"),
        (
            pictures_speed.roof_figure(22e9, 105e9, WORKS, {name: (i, v / 2) for name, (i, v) in WORKS.items()}),
            "at 50%, 50% of it",
        ),
        (
            pictures_speed.spread_figure([0.01, 0.02, 0.06]),
            "from 10 to 60 milliseconds, with lines at their median, 20,",
        ),
        (pictures_speed.shares_figure({"0.1B": {"products": 0.8, "others": 0.15, "gaps": 0.05}}), "products 80%"),
        (pictures_speed.weights_figure((0.9, 0.4)), "0.9, 0.4"),
        (pictures_speed.steps_figure("0.1B", {"as it is": 12.75}), "as it is 12.75"),
        (pictures_speed.ratios_figure({"conversion\nagainst cp": [0.3, 0.5]}), "conversion against cp 0.3 to 0.5"),
    ],
)
def test_figures_say_what_they_show(figure, told):
    assert told in figure.get_label()
    plotting.show(figure)


def test_measurements_lie_below_their_predictions():
    measured = {name: (intensity, speed / 2) for name, (intensity, speed) in WORKS.items()}
    (axes,) = pictures_speed.roof_figure(22e9, 105e9, WORKS, measured).axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == [*WORKS, "measured"]


DECODE = {"way": "loop", "rows": 1, "size": "0.1B", "version": "5.0"}
PACKAGE = DECODE | {"side": "rwkv", "tokens_per_s": 100}
FUSED = DECODE | {"side": "ours", "variant": "fused", "tokens_per_s": 700, "roof_share": 0.1}


@pytest.mark.parametrize(
    ("row", "result"),
    [
        ({"ratio": 2.0, "package": "cpu fp32"}, Comparison("rwkv, cpu fp32", 2.0)),
        ({"cp_seconds": 1, "convert_seconds": 4}, Comparison("cp of the file", 0.25)),
        (
            {"speedup": 4.0, "matrix_tflops_per_s": 1, "machine_tflops_per_s": 2},
            Comparison("the article's loop", 4.0, 0.5),
        ),
        (
            {"megabytes_per_second": {"ours": {"median": 3.0}, "TRIE_TOKENIZER": {"median": 4.0}}},
            Comparison("the Python trie", 0.75),
        ),
        (FUSED, Comparison("rwkv, fp16", 7.0, 0.1)),
        (PACKAGE, None),
        (FUSED | {"rows": 8}, None),
        (FUSED | {"version": "7"}, None),  # nothing to compare it with
    ],
)
def test_a_row_is_compared(row, result):
    assert compared(row, [row, PACKAGE]) == result


def test_every_recorded_comparison_has_a_ratio():
    found = recorded_comparisons()
    assert {file for file, _, _ in found} >= {"decode_cpu", "tokenizer", "conversion"}
    assert all(result.ratio > 0 for results in found.values() for result in results)
