"""Conversion as pictures: from a .pth file to a directory, and what the bytes of its largest file are."""

from collections.abc import Mapping

from matplotlib.figure import Figure
from torch import Tensor

from .drawing import INPUT, MEMORY, OUTPUT, UNUSED, WORK, arrow, box, canvas, cells, label
from .plotting import new_figure

NAMES = {
    "emb.weight": "rwkv.embeddings.weight",
    "blocks.0.att.key.weight": "rwkv.blocks.0.attention.key.weight",
    "head.weight": "head.weight",
}
DIRECTORY = {  # file -> what it holds, and the color of where it comes from
    "model.safetensors": ("the same numbers, new names", WORK),
    "config.json": ("version and sizes", MEMORY),
    "configuration_*.py, modeling_*.py": ("the model's code", UNUSED),
    "tokenizer.json, vocab.json": ("both tokenizers", UNUSED),
    "README.md, conversion.json": ("card and checksums", UNUSED),
}


def way_figure() -> Figure:
    """Draw the whole way: the zip file on the left, names and shapes in the middle, the directory on the right."""
    figure, axes = canvas(4.1, "The numbers stay, the names change, the sizes are read from the shapes", width=9.6)
    label(axes, 0.85, 3.75, "rwkv.pth, a zip file", weight="bold")
    for row, text in enumerate(("data.pkl:\nnames, shapes", "data/0:\nnumbers", "data/1:\nnumbers", "…")):
        cells(axes, 0.15, 3.05 - 0.5 * row, [text], INPUT, width=1.4, height=0.46)
    label(axes, 3.95, 3.75, "rename", weight="bold")
    for row, (old, new) in enumerate(NAMES.items()):
        y = 3.2 - 0.72 * row
        label(axes, 3.95, y + 0.14, old, size=8, family="monospace")
        label(axes, 3.95, y - 0.14, "→ " + new, size=8, family="monospace")
    box(axes, 3.95, 0.75, "shapes [65536, 128], [2], …\n→ version, L, D, H, N, F, V", MEMORY, width=2.7, height=0.7)
    arrow(axes, (1.6, 2.6), (2.35, 2.6))
    arrow(axes, (1.2, 1.5), (2.55, 0.85))
    label(axes, 7.85, 3.75, "rwkv-hf/, a directory", weight="bold")
    for row, (name, (text, color)) in enumerate(DIRECTORY.items()):
        cells(axes, 6.2, 2.95 - 0.68 * row, [f"{name}\n{text}"], color, width=3.3, height=0.58)
    arrow(axes, (5.55, 3.2), (6.15, 3.24), color=WORK)
    arrow(axes, (5.35, 0.95), (6.15, 2.45), color=MEMORY)
    label(axes, 1.2, 0.62, "code and tokenizers\ncome from this project", color="#555555", size=8)
    figure.set_label(
        "On the left a .pth file, a zip of a pickle and numbers; in the middle names that are replaced, and "
        "shapes from which version and sizes follow; on the right the files of a model directory."
    )
    return figure


def bytes_figure(sizes: Mapping[str, int], header: int) -> Figure:
    """Draw a safetensors file as a row of cells: the header's length, the header, and the parts of the numbers.

    Args:
        sizes: bytes of each part, in the order of the file.
        header: bytes of the header.
    """
    figure, axes = canvas(1.5, "model.safetensors from its first byte to its last", width=8.0)
    cells(axes, 0.1, 0.35, ["8"], UNUSED, width=0.35, height=0.6)
    cells(axes, 0.45, 0.35, ["JSON"], MEMORY, width=0.6, height=0.6)
    left, room = 1.05, 6.85
    for (name, size), color in zip(sizes.items(), (INPUT, WORK, OUTPUT), strict=False):
        width = room * size / sum(sizes.values())
        cells(axes, left, 0.35, [f"{name}\n{size / 1e6:.1f} MB"], color, width=width, height=0.6)
        left += width
    label(axes, 0.28, 0.15, "bytes", size=8)
    label(axes, 0.75, 1.1, f"header, {header / 1e3:.0f} kB", size=8)
    label(axes, 1.05 + room / 2, 0.15, "numbers, one tensor after the other, no gaps", size=8)
    return figure


def histograms_figure(weights: Mapping[str, Tensor], names: Mapping[str, str]) -> Figure:
    """Draw how the numbers of some tensors are spread, each under its old and its new name.

    Args:
        weights: tensors by their old names.
        names: the new name of each that is drawn, by the old one.
    """
    figure, grid = new_figure(1, len(names), height=2.7, width=9.6)
    for axes, (old, new) in zip(grid, names.items(), strict=True):
        numbers = weights[old].float().flatten()
        axes.hist(numbers.numpy(), bins=40, color=WORK)
        axes.set(xlabel=f"{list(weights[old].shape)}", ylabel="numbers")
        axes.set_title(f"{old}\n→ {new.removeprefix('rwkv.')}", fontsize=7)
        axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 4))
    return figure
