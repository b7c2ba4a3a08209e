"""Pictures of notebook 12: what a token costs, the roof of a machine, where time goes, and recorded runs."""

import statistics
from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .plotting import BLUE, GREEN, GREY, INK, ORANGE, SKY, new_figure

Point = tuple[float, float]  # intensity in operations per byte, operations per second


def costs_figure(costs: Mapping[str, Point]) -> Figure:
    """Draw what one token costs in each part of a model: bytes moved, and operations."""
    figure, axes = new_figure(1, 2, height=2.7, sharey=True)
    order = sorted(costs, key=lambda name: costs[name])
    for place, (title, unit, color) in enumerate(
        (("moves", "MB moved", BLUE), ("computes", "million operations", ORANGE))
    ):
        values = [costs[name][place] / 1e6 for name in order]
        bars = axes[place].barh(order, values, color=color)
        axes[place].bar_label(bars, [f"{value:,.1f}" for value in values], padding=3)
        axes[place].set(xlabel=f"{unit} for one token", ylabel=" ", xlim=(0, 1.25 * max(values)))
        axes[place].set_title(f"What a token {title}")
    listed = "; ".join(f"{name} {costs[name][0] / 1e6:,.0f} MB and {costs[name][1] / 1e6:,.0f}" for name in order[::-1])
    figure.set_label(f"Two bar charts, of MB moved for one token and of million operations: {listed}.")
    return figure


def roof_figure(
    bandwidth: float, rate: float, predicted: Mapping[str, Point], measured: Mapping[str, Point] | None = None
) -> Figure:
    """Draw the roof of a machine, with predictions on it, and measurements of the same works below it.

    Args:
        bandwidth: bytes per second.
        rate: operations per second.
    """
    figure, axes = new_figure(height=3.6)
    intensities = [10 ** (step / 20 - 1) for step in range(81)]
    axes.loglog(intensities, [min(i * bandwidth, rate) / 1e9 for i in intensities], color=GREY)
    axes.axvline(rate / bandwidth, color=GREY, linestyle=":", linewidth=1)
    for side, align, limit in ((0.8, "right", "limit: memory"), (1.25, "left", "limit: multiplying")):
        axes.text(side * rate / bandwidth, bandwidth / 9e9, limit, ha=align, color=INK)
    for (name, (intensity, speed)), marker in zip(predicted.items(), "osD", strict=False):
        axes.plot(intensity, speed / 1e9, marker, color=BLUE, fillstyle="none", markersize=9, label=name)
    for (intensity, speed), marker in zip((measured or {}).values(), "osD", strict=False):
        label = "measured" if marker == "o" else None
        axes.plot(intensity, speed / 1e9, marker, color=ORANGE, markersize=8, label=label)
    plain_numbers(axes, "xy")
    axes.set(xlabel="intensity: operations per byte", ylabel="GFLOP/s", title="The roof of this machine, fp32")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.12))
    shares = [measured[name][1] / speed for name, (_, speed) in predicted.items()] if measured else []
    figure.set_label(
        "On logarithmic axes, a line that rises with the intensity while memory is the limit, and then stays flat. One "
        "token lies far left, where it rises; the prompts lie near the bend, or on the flat part."
        + (f" Measurements lie below: at {', '.join(f'{share:.0%}' for share in shares)} of it." if shares else "")
    )
    return figure


def spread_figure(seconds: Sequence[float]) -> Figure:
    """Draw how long each of several runs of the same work took."""
    figure, axes = new_figure(height=2.4)
    middle, mean = statistics.median(seconds), statistics.mean(seconds)
    axes.plot(
        range(1, len(seconds) + 1), [1e3 * run for run in seconds], "o", color=BLUE, markersize=4, label="one step"
    )
    axes.axhline(1e3 * middle, color=ORANGE, label="median")
    axes.axhline(1e3 * mean, color=GREY, linestyle="--", label="mean")
    axes.set(xlabel="step", ylabel="milliseconds", title=f"The same work, {len(seconds)} times")
    axes.set_ylim(0, 1.1e3 * max(seconds))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.set_label(
        f"{len(seconds)} dots, one per step, from {1e3 * min(seconds):.0f} to {1e3 * max(seconds):.0f} milliseconds, "
        f"with lines at their median, {1e3 * middle:.0f}, and their mean, {1e3 * mean:.0f}."
    )
    return figure


def shares_figure(profiles: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw which share of the time each kind of operation takes, one bar for each work."""
    figure, axes = new_figure(height=2.4)
    left = [0.0] * len(profiles)
    for kind, color in zip(next(iter(profiles.values())), (BLUE, ORANGE, GREY), strict=True):
        values = [100 * shares[kind] for shares in profiles.values()]
        bars = axes.barh(list(profiles), values, left=left, color=color, label=kind)
        texts = [f"{value:.0f} %" if value > 4 else "" for value in values]
        axes.bar_label(bars, texts, label_type="center", color=INK if color == ORANGE else "white")
        left = [a + b for a, b in zip(left, values, strict=True)]
    axes.set(xlabel="share of the time, %", ylabel="model, work", title="Where the time goes")
    axes.invert_yaxis()
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=3)
    told = (
        f"{name}: " + ", ".join(f"{kind} {share:.0%}" for kind, share in of.items()) for name, of in profiles.items()
    )
    figure.set_label(f"Bars of 100 % of the time. {'; '.join(told)}.")
    return figure


def weights_figure(kept: Sequence[float], chunks: int = 8) -> Figure:
    """Draw with which weights the states before chunks are sums of parts, where a chunk keeps a share of the state."""
    figure, axes = new_figure(1, len(kept), height=3.4, squeeze=False)
    place = torch.arange(chunks + 1)
    for axis, share in zip(axes[0], kept, strict=True):
        image = axis.imshow((share ** (place[:, None] - place).clamp(min=0)).tril(), vmin=0, vmax=1)
        axis.set_xticks(place, ["$S_0$", *(f"$A_{m}$" for m in range(chunks))])
        axis.set_yticks(place, [f"$S_{n}$" for n in place])
        axis.set(xlabel="part", ylabel="state before a chunk", title=f"a chunk keeps {share} of the state")
        axis.grid(False)
    figure.colorbar(image, ax=axes, label="weight")
    figure.set_label(
        "Lower triangular heat maps. Rows are states, columns the parts they are made of. The diagonal is 1; below it "
        f"the weights fall, one map for each share that a chunk keeps: {', '.join(map(str, kept))}."
    )
    return figure


def steps_figure(title: str, milliseconds: Mapping[str, float]) -> Figure:
    """Draw how long a step takes in up to four ways."""
    figure, axes = new_figure(height=2.3)
    bars = axes.barh(list(milliseconds), list(milliseconds.values()), color=[GREY, SKY, BLUE, GREEN])
    axes.bar_label(bars, [f"{value:.2f}" for value in milliseconds.values()], padding=3)
    axes.set(xlabel="milliseconds per step", ylabel=" ", title=title, xlim=(0, 1.15 * max(milliseconds.values())))
    axes.invert_yaxis()
    told = ", ".join(f"{name} {value:.2f}" for name, value in milliseconds.items())
    figure.set_label(f"Milliseconds of a step, {title}: {told}.")
    return figure


def ratios_figure(ratios: Mapping[str, Sequence[float]]) -> Figure:
    """Draw how many times as fast one side is as the other: a row of dots for each name."""
    figure, axes = new_figure(height=1.2 + 0.45 * len(ratios))
    for place, values in enumerate(ratios.values()):
        axes.plot([min(values), max(values)], [place, place], color=BLUE, alpha=0.4)
        axes.plot(values, [place] * len(values), "o", color=BLUE, alpha=0.6)
    axes.axvline(1, color=GREY, linestyle="--")
    axes.text(1.05, -0.45, "ours is faster →", va="top", size=9)
    axes.text(0.95, -0.45, "← slower", va="top", ha="right", size=9)
    axes.set_yticks(range(len(ratios)), list(ratios), fontsize=9)
    axes.set(xscale="log", xlabel="times as fast as the other, logarithmic", ylabel=" ", title="Recorded runs")
    axes.set_ylim(len(ratios) - 0.5, -0.6)
    plain_numbers(axes, "x")
    told = (f"{' '.join(name.split())} {min(of):.1f} to {max(of):.1f}" for name, of in ratios.items())
    figure.set_label(f"How many times as fast ours is, one line of dots for each recorded file. {'; '.join(told)}.")
    return figure


def plain_numbers(axes: Axes, which: str) -> None:
    """Write 0.1, 1, 10 instead of powers of ten."""
    for axis in which:
        getattr(axes, f"{axis}axis").set_major_formatter("{x:g}")
