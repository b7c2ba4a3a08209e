"""The layout of flash-linear-attention (fla), which llama.cpp and mlx-lm read as well: names, forms, and the way back.

Tensors are renamed, and some are turned, squeezed, regrouped or stacked; no number changes. A :class:`Form` has both
directions. :data:`FLA_6` and :data:`FLA_7` are the tables; a row of :mod:`.versions` has the one of its version.

Sources: ``fla/layers/rwkv6.py``, ``fla/layers/rwkv7.py``, ``fla/models/rwkv7/modeling_rwkv7.py`` and
``utils/convert_from_rwkv7.py`` of fla-org/flash-linear-attention.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import InputError, printable

if TYPE_CHECKING:  # the table of versions, which holds these, needs no torch
    from torch import Tensor

    from .versions import CheckpointInfo

Tensors = Sequence["Tensor"]
LAYER = re.compile(r"model\.layers\.(0|[1-9][0-9]{0,5})\.(.+)")
BLOCK = re.compile(r"blocks\.(0|[1-9][0-9]{0,5})\.(.+)")


@dataclass(frozen=True)
class Form:
    """How tensors of a checkpoint become one of fla, and back.

    Args:
        fits: says whether ``back`` can take a tensor; the shape of what it gives is checked later.
    """

    there: Callable[[Tensors], Tensor]
    back: Callable[[Tensor], Tensors]
    fits: Callable[[Tensor], bool]


def with_dimensions(count: int) -> Callable[[Tensor], bool]:
    return lambda weight: weight.dim() == count


def stacked(count: int) -> Form:
    """Return the form of ``count`` ratios [1, 1, D] as the rows of one tensor [count, D]."""

    def stack(weights: Tensors) -> Tensor:
        import torch

        return torch.stack([weight.reshape(-1) for weight in weights])

    return Form(
        there=stack,
        back=lambda weight: [row.clone().reshape(1, 1, -1) for row in weight],  # small, and saved apart
        fits=lambda weight: weight.dim() == 2 and len(weight) == count,
    )


SAME = Form(lambda weights: weights[0], lambda weight: [weight], lambda weight: True)
TURNED = Form(lambda weights: weights[0].t(), lambda weight: [weight.t()], with_dimensions(2))
FLAT = Form(lambda weights: weights[0].reshape(-1), lambda weight: [weight.reshape(1, 1, -1)], with_dimensions(1))

# RWKV-6 has its five mixtures in the order w, k, v, r, g, and fla in the order r, w, k, v, g
TO_FLA, FROM_FLA = [3, 0, 1, 2, 4], [1, 2, 3, 0, 4]


def regroup_columns(weight: Tensor, order: list[int]) -> Tensor:
    """Return a matrix [D, 5 R] with its five groups of columns in another order."""
    return weight.reshape(len(weight), 5, -1)[:, order].reshape(len(weight), -1)


MIX_DOWN = Form(  # time_maa_w1 [D, 5 R] <-> [5 R, D]
    there=lambda weights: regroup_columns(weights[0], TO_FLA).t(),
    back=lambda weight: [regroup_columns(weight.t(), FROM_FLA)],
    fits=lambda weight: weight.dim() == 2 and len(weight) % 5 == 0,
)
MIX_UP = Form(  # time_maa_w2 [5, R, D] <-> [D, 5 R]
    there=lambda weights: weights[0][TO_FLA].flatten(0, 1).t(),
    back=lambda weight: [weight.t().reshape(5, -1, len(weight))[FROM_FLA]],
    fits=lambda weight: weight.dim() == 2 and weight.shape[1] % 5 == 0,
)

Table = dict[str, tuple[Form, tuple[str, ...]]]  # name in a layer of fla -> form, and names in a block

TOP = {
    "model.embeddings.weight": "emb.weight",
    "model.norm.weight": "ln_out.weight",
    "model.norm.bias": "ln_out.bias",
    "lm_head.weight": "head.weight",
}
NORMS = {"pre_norm": "ln0", "attn_norm": "ln1", "ffn_norm": "ln2", "attn.g_norm": "att.ln_x"}
SHARED: Table = {
    f"{new}.{part}": (SAME, (f"{old}.{part}",)) for new, old in NORMS.items() for part in ("weight", "bias")
}

FLA_6: Table = SHARED | {
    "attn.x_proj.0.mu": (FLAT, ("att.time_maa_x",)),
    "attn.x_proj.0.linear.weight": (MIX_DOWN, ("att.time_maa_w1",)),
    "attn.x_proj.2.weight": (MIX_UP, ("att.time_maa_w2",)),
    "attn.x_bias": (stacked(5), tuple(f"att.time_maa_{letter}" for letter in "rwkvg")),
    "attn.r_proj.linear.weight": (SAME, ("att.receptance.weight",)),
    "attn.k_proj.linear.weight": (SAME, ("att.key.weight",)),
    "attn.v_proj.linear.weight": (SAME, ("att.value.weight",)),
    "attn.g_proj.linear.weight": (SAME, ("att.gate.weight",)),
    "attn.o_proj.weight": (SAME, ("att.output.weight",)),
    "attn.w_proj.linear.lora.0.weight": (TURNED, ("att.time_decay_w1",)),
    "attn.w_proj.linear.lora.2.weight": (TURNED, ("att.time_decay_w2",)),
    "attn.w_proj.linear.lora.2.bias": (FLAT, ("att.time_decay",)),
    "attn.bonus": (SAME, ("att.time_faaaa",)),
    "ffn.key.mu": (FLAT, ("ffn.time_maa_k",)),
    "ffn.key.linear.weight": (SAME, ("ffn.key.weight",)),
    "ffn.receptance.mu": (FLAT, ("ffn.time_maa_r",)),
    "ffn.receptance.linear.weight": (SAME, ("ffn.receptance.weight",)),
    "ffn.value.weight": (SAME, ("ffn.value.weight",)),
}

LORA = {"0": (FLAT, "2.bias"), "1": (TURNED, "0.weight"), "2": (TURNED, "2.weight")}
FLA_7: Table = (
    SHARED
    | {f"attn.x_{letter}": (SAME, (f"att.x_{letter}",)) for letter in "rwkvag"}
    | {
        f"attn.{letter}_lora.lora.{place}": (form, (f"att.{letter}{number}",))
        for letter in "wavg"
        for number, (form, place) in LORA.items()
        if letter + number != "g0"
    }
    | {
        "attn.k_k": (FLAT, ("att.k_k",)),
        "attn.k_a": (FLAT, ("att.k_a",)),
        "attn.r_k": (SAME, ("att.r_k",)),
        "attn.r_proj.weight": (SAME, ("att.receptance.weight",)),
        "attn.k_proj.weight": (SAME, ("att.key.weight",)),
        "attn.v_proj.weight": (SAME, ("att.value.weight",)),
        "attn.o_proj.weight": (SAME, ("att.output.weight",)),
        "ffn.x_k": (FLAT, ("ffn.x_k",)),
        "ffn.key.weight": (SAME, ("ffn.key.weight",)),
        "ffn.value.weight": (SAME, ("ffn.value.weight",)),
    }
)
# of earlier versions of fla; only read. No name has two meanings, so one table reads all
EARLIER: Table = {"attn.x_x": (stacked(6), tuple(f"att.x_{letter}" for letter in "rwkvag"))}
READABLE: Table = FLA_6 | FLA_7 | EARLIER

UNUSED = tuple(f"blocks.0.att.v{number}" for number in range(3))  # that nothing reads, and fla has no place for


@dataclass(frozen=True)
class FlaLayout:
    """What a version of RWKV is in fla.

    Args:
        table: of the tensors in a layer.
        model_class: that fla loads.
        fields: of ``config.json``, beyond those that both versions have.
        limits: sentences on what fla computes otherwise than the checkpoint's own code.
    """

    table: Table
    model_class: str
    fields: Callable[[CheckpointInfo], dict[str, Any]]
    limits: Callable[[CheckpointInfo], Iterator[str]]


def is_fla_name(name: str) -> bool:
    """Say whether a tensor of a model of fla can have that name."""
    layer = LAYER.fullmatch(name)
    return name in TOP or (layer is not None and layer[2] in READABLE)


def from_fla(name: str, weight: Tensor) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint that one tensor of fla holds, by their names, as views where that is possible.

    Raises:
        InputError: the tensor has a shape that they cannot come from.
        KeyError: fla has no such name; see :func:`is_fla_name`.
    """
    if name in TOP:
        return {TOP[name]: weight}
    layer = LAYER.fullmatch(name)
    if layer is None:
        raise KeyError(name)
    form, parts = READABLE[layer[2]]
    if not form.fits(weight):
        raise InputError(f"{name} has shape {list(weight.shape)}, unlike any in fla; get the original directory.")
    return {f"blocks.{layer[1]}.{part}": found for part, found in zip(parts, form.back(weight), strict=True)}


def to_fla(weights: Mapping[str, Tensor], layout: FlaLayout) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors of a checkpoint under fla's names, in order, and those that fla has no place for.

    The large ones are views. Only what is stacked or regrouped, about a fiftieth of an RWKV-6, is copied.

    Raises:
        InputError: fla has no place for a tensor that the model needs, or would join tensors of two dtypes.
    """
    places = {part: name for name, (_, parts) in layout.table.items() for part in parts}
    tops = {old: new for new, old in TOP.items()}
    renamed: dict[str, Tensor] = {}
    unused: dict[str, Tensor] = {}
    for name, weight in weights.items():
        block = BLOCK.fullmatch(name)
        if name in tops:
            renamed[tops[name]] = weight
        elif name in UNUSED:
            unused[name] = weight
        elif block is None or block[2] not in places:
            raise InputError(f"The layout of fla has no place for {printable(name)}; export to a .pth file instead.")
        elif (new := f"model.layers.{block[1]}.{places[block[2]]}") not in renamed:
            form, parts = layout.table[places[block[2]]]
            group = [weights[f"blocks.{block[1]}.{part}"] for part in parts]
            if len({part.dtype for part in group}) > 1:
                raise InputError(f"The layout of fla joins {name} with tensors of another dtype; convert with --dtype.")
            renamed[new] = form.there(group)
    return renamed, unused
