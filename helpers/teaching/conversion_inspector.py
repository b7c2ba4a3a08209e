"""The conversion inspector: every tensor of a checkpoint beside what became of it, with its numbers as a histogram."""

import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import ipywidgets as widgets
import torch
from torch import Tensor

from ..checkpoints.names import hub_name

BINS = 40
CELL = "padding:1px 12px 1px 0;text-align:left;border:0;font-family:monospace"


@dataclass(frozen=True)
class TensorPair:
    """A tensor of the checkpoint, and the one of the converted model that has its numbers.

    Args:
        identical: same shape, dtype and bits.
    """

    old: str
    new: str
    shape: tuple[int, ...]
    dtype: str
    identical: bool


def pair_of(old: str, weights: Mapping[str, Tensor], converted: Mapping[str, Tensor], rename: Callable) -> TensorPair:
    """Look up what became of the tensor ``old``; one that is missing is not identical."""
    weight, other = weights[old], converted.get(rename(old))
    same = other is not None and other.dtype == weight.dtype and torch.equal(other, weight)
    return TensorPair(old, rename(old), tuple(weight.shape), str(weight.dtype).removeprefix("torch."), same)


def matching(names: Mapping[str, str], text: str) -> list[str]:
    """Return the old names that hold every word of ``text``, in the old or the new name."""
    return [old for old, new in names.items() if all(word in f"{old} {new}" for word in text.split())]


def histogram_svg(weight: Tensor, width: int = 420, height: int = 110) -> str:
    """Return a drawing of how many numbers lie where, from the smallest to the largest, as SVG."""
    numbers = weight.float().flatten()
    low, high = numbers.min().item(), numbers.max().item()
    counts = torch.histc(numbers, BINS, min=low, max=high).tolist()
    step, top = width / BINS, max(counts)
    bars = "".join(
        f'<rect x="{i * step:.1f}" y="{height - height * count / top:.1f}" width="{step - 1:.1f}" '
        f'height="{height * count / top:.1f}" fill="#0072B2"/>'
        for i, count in enumerate(counts)
    )
    text = "".join(
        f'<text x="{x}" y="{height + 14}" font-size="11" text-anchor="{anchor}" fill="currentColor">{value:.4g}</text>'
        for x, anchor, value in ((0, "start", low), (width, "end", high))
    )
    name = f"Histogram of {numbers.numel():,} numbers from {low:.4g} to {high:.4g}"
    size = f'width="{width}" height="{height + 18}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{name}" {size}>{bars}{text}</svg>'


def pair_html(pair: TensorPair, weight: Tensor) -> str:
    """Return a tensor's names, shape and dtype, how its numbers compare, and their histogram."""
    numbers = weight.double()
    spread = numbers.std().item() if numbers.numel() > 1 else 0.0
    rows = {
        "in the .pth file": pair.old,
        "in model.safetensors": pair.new,
        "shape": f"{list(pair.shape)}, {numbers.numel():,} numbers",
        "dtype": pair.dtype,
        "same bits": "yes" if pair.identical else "NO",
        "mean, spread": f"{numbers.mean().item():.4g}, {spread:.4g}",
    }
    lines = "".join(
        f'<tr style="background:none"><th style="{CELL};opacity:0.65">{name}</th>'
        f'<td style="{CELL}">{html.escape(value)}</td></tr>'
        for name, value in rows.items()
    )
    return f"<table style='line-height:1.6'>{lines}</table>{histogram_svg(weight)}"


class ConversionInspector(widgets.VBox):
    """Choose a tensor by its old or its new name, and see both, its shape and dtype, and its numbers.

    Args:
        weights: of the checkpoint, by their old names.
        converted: of the directory, by their new names.
        rename: from an old name to the new one.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        converted: Mapping[str, Tensor],
        rename: Callable[[str], str] = hub_name,
    ):
        self.weights, self.converted, self.rename = weights, converted, rename
        self.names = {old: rename(old) for old in weights}
        narrow = {"style": {"description_width": "55px"}, "layout": widgets.Layout(width="340px")}
        self.search = widgets.Text(placeholder="for example: 0 att weight", description="Find", **narrow)
        self.list = widgets.Select(rows=12, description="Tensor", **narrow)
        self.status, self.view = widgets.HTML(), widgets.HTML()
        left = widgets.VBox([self.search, self.list, self.status])
        super().__init__([widgets.HBox([left, self.view], layout=widgets.Layout(flex_flow="row wrap"))])
        self.search.observe(self.filter, names="value")
        self.list.observe(self.update, names="value")
        self.filter()

    def filter(self, _change: object = None) -> None:
        found = matching(self.names, self.search.value)
        self.status.value = f"{len(found)} of {len(self.names)} tensors"
        self.list.options = found
        self.list.value = found[0] if found else None

    def update(self, _change: object = None) -> None:
        old = self.list.value
        if old is None:
            self.view.value = "No tensor has such a name."
            return
        self.view.value = pair_html(pair_of(old, self.weights, self.converted, self.rename), self.weights[old])

    def __repr__(self) -> str:
        """What a page without a running kernel shows."""
        return "[Conversion inspector: run this cell in JupyterLab to look at every tensor]"
