"""The one place that knows how the versions of RWKV differ, apart from their mathematics in ``hub_code/``.

:data:`VERSIONS` has one row a version. A row says how to recognize a checkpoint, which tensors it has, what the
converted model is called and configured with, and what the ``rwkv`` package can run. All else in this package asks the
row and never compares a version's name. A new version is a row here, a configuration and a modeling file in
``hub_code/``, and tests.

Sources: ``model.py`` of BlinkDL/RWKV-LM (RWKV-v4neo, RWKV-v5), and ``rwkv/model.py`` of BlinkDL/ChatRWKV.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .fla import FLA_6, FLA_7, FlaLayout

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]  # of tensors, by their names in the checkpoint
Details = dict[str, Any]

WORLD_IDS = 65530  # of the World vocabulary, 0 to 65,529
WORLD_ROWS = 65536  # of the embeddings of World models; the last six are never used

SHARED_CODE = tuple(  # of all versions
    f"rwkv_{part}.py" for part in ("common", "decoding", "generation", "inputs", "linear", "requirements")
)


@dataclass(frozen=True)
class Layout:
    """How tensors are named in a converted model.

    Args:
        prefix: of all names but that of the head.
        renames: part of a name in the .pth file -> the same in the converted model.
    """

    prefix: str
    renames: Mapping[str, str]


RENAMES = {
    "emb": "embeddings",
    "ln0": "pre_ln",
    "att": "attention",
    "ffn": "feed_forward",
    "time_mix_k": "time_mix_key",
    "time_mix_v": "time_mix_value",
    "time_mix_r": "time_mix_receptance",
    "time_mix_g": "time_mix_gate",
}
LAYOUT_4_TO_6 = Layout("rwkv", RENAMES)  # of the published RWKV/rwkv-*-world repositories
LAYOUT_7 = Layout("rwkv7", {})  # of the published RWKV/RWKV7-* repositories


@dataclass(frozen=True)
class CheckpointInfo:
    """What the tensors of a checkpoint say about it. Sizes are numbers of channels, rows or blocks."""

    version: str  # a key of VERSIONS
    layers: int  # L
    hidden_size: int  # D
    attention_size: int  # A
    heads: int  # H; 1 for a version without heads
    ffn_size: int
    vocab_size: int  # V
    details: Details  # what may differ between checkpoints of this version; see the row
    dtypes: dict[str, int]  # number of tensors of each
    parameters: int

    @property
    def row(self) -> "VersionRow":
        return VERSIONS[self.version]

    @property
    def head_size(self) -> int:  # N
        return self.attention_size // self.heads

    @property
    def main_dtype(self) -> str:
        """The name of the dtype of most tensors, for example ``bfloat16``."""
        return max(self.dtypes, key=lambda name: self.dtypes[name])


@dataclass(frozen=True)
class VersionRow:
    """What makes a version that version."""

    name: str
    # the checkpoint
    recognize: Callable[[Shapes], bool]  # is a checkpoint of this version, and of no other?
    count_heads: Callable[[Shapes], int]
    read_details: Callable[[Shapes, int, int], Details]  # of a checkpoint with H heads of N channels
    usual_details: Callable[[int, int], Details]  # what BlinkDL's files of this version have, for H and N
    inputs: Mapping[str, str]  # letter of a mixing ratio of time-mix -> the matrix that reads that mixture
    block: Callable[[CheckpointInfo, int], dict[str, Shape]]  # names and shapes of the tensors of the block of a number
    ffn_size: Callable[[int], int]  # width of channel-mix in BlinkDL's training code, for D
    has_heads: bool
    # the converted model
    layout: Layout
    model_type: str
    config_class: str  # in hub_code/, as "file.Class"; without a file it is a class of transformers itself
    config_fields: Callable[[CheckpointInfo], Details]  # beyond the sizes that all versions have
    class_prefix: str  # "file.Prefix": the classes are PrefixModel and PrefixForCausalLM
    native_class: str | None  # transformers' own class for the same directory,
    native_layers: int  # which needs at least so many layers
    code_files: tuple[str, ...]  # that travel with the model
    # what others can do with it
    oracle_limits: Callable[[CheckpointInfo], Iterable[str]]  # why the rwkv package cannot run a model, if it cannot
    summary: Callable[[CheckpointInfo], dict[str, str]]  # lines that only inspect shows
    oddities: Callable[[CheckpointInfo], Iterable[str]]  # sentences on what is unlike the published models
    oracle_apart: bool = False  # the rwkv package runs it only in a process that runs no other version
    fla: FlaLayout | None = None  # how flash-linear-attention has it, if it does
    kernel: str | None = None  # in training/, as "file.function", if there is a faster one for training

    def runs_natively(self, layers: int) -> bool:
        """Say whether transformers' own class loads a model of so many layers."""
        return self.native_class is not None and layers >= self.native_layers


def first_block(shapes: Shapes, name: str) -> Shape | None:
    """Return the shape of a tensor of the first time-mix, or None if there is no such tensor."""
    return shapes.get(f"blocks.0.att.{name}")


def norms(hidden: int) -> dict[str, Shape]:
    """Return the layer norms of a block."""
    return {f"{norm}.{part}": (hidden,) for norm in ("ln1", "ln2") for part in ("weight", "bias")}


def time_state(info: CheckpointInfo) -> dict[str, Shape]:
    """Return the trained initial state of a block, if the checkpoint has one."""
    shape = info.heads, info.head_size, info.head_size
    return {"att.time_state": shape} if info.details["has_time_state"] else {}


def channel_mix(info: CheckpointInfo, ratio: str) -> dict[str, Shape]:
    """Return the tensors of a channel-mix with a receptance, whose ratios have names that begin with ``ratio``."""
    hidden, inner = info.hidden_size, info.ffn_size
    return {
        f"ffn.{ratio}_k": (1, 1, hidden),
        f"ffn.{ratio}_r": (1, 1, hidden),
        "ffn.key.weight": (inner, hidden),
        "ffn.value.weight": (hidden, inner),
        "ffn.receptance.weight": (hidden, hidden),
    }


def initial_state(info: CheckpointInfo) -> str:
    return "trained (time_state)" if info.details["has_time_state"] else "zeros"


def odd_state(info: CheckpointInfo) -> Iterator[str]:
    if info.details["has_time_state"]:
        state = "It has a trained initial state (time_state, from state tuning)"
        yield f"{state}; the converted model starts there too."


# RWKV-4 and RWKV-5: decay and bonus are plain tensors, mixing ratios one vector each


def has_static_decay(shapes: Shapes) -> bool:
    """Say whether the text does not change decays and mixing ratios, as it does from RWKV-6 on."""
    return first_block(shapes, "time_decay") is not None and first_block(shapes, "time_maa_x") is None


def has_head_norm(shapes: Shapes) -> bool:
    return first_block(shapes, "ln_x.weight") is not None


def has_gate(shapes: Shapes) -> bool:
    return first_block(shapes, "gate.weight") is not None


def has_decay_of_channels(shapes: Shapes) -> bool:
    decay = first_block(shapes, "time_decay") or ()
    return len(decay) > 1 and decay[1] > 1


def block_4_and_5(info: CheckpointInfo, layer: int) -> dict[str, Shape]:
    """Return names and shapes of one block's tensors, the same in every block."""
    hidden, width, details = info.hidden_size, info.attention_size, info.details
    block = norms(hidden)
    for letter, name in info.row.inputs.items():
        block[f"att.time_mix_{letter}"] = (1, 1, hidden)
        block[f"att.{name}.weight"] = (width, hidden)
    block["att.output.weight"] = (hidden, width)
    block["att.time_decay"] = details["decay_shape"]
    block[f"att.{details['bonus_name']}"] = details["bonus_shape"]
    if info.row.has_heads:
        block |= {"att.ln_x.weight": (width,), "att.ln_x.bias": (width,)}
    return block | time_state(info) | channel_mix(info, "time_mix")


def summary_4_and_5(info: CheckpointInfo) -> dict[str, str]:
    details = info.details
    return {
        "decay": f"time_decay {list(details['decay_shape'])}",
        "bonus": f"{details['bonus_name']} {list(details['bonus_shape'])}",
        "initial state": initial_state(info),
    }


def width_limit(info: CheckpointInfo) -> Iterator[str]:
    if info.attention_size != info.hidden_size:
        yield "one with a time-mix of another width"


def details_4(heads: int, head_size: int) -> Details:
    """Decay and bonus have one number a channel."""
    channels = (heads * head_size,)
    return {"decay_shape": channels, "bonus_name": "time_first", "bonus_shape": channels, "has_time_state": False}


RWKV4 = VersionRow(
    name="4",
    recognize=lambda shapes: has_static_decay(shapes) and not has_head_norm(shapes),
    count_heads=lambda shapes: 1,
    read_details=lambda shapes, heads, head_size: details_4(heads, head_size),
    usual_details=details_4,
    inputs={"k": "key", "v": "value", "r": "receptance"},
    block=block_4_and_5,
    ffn_size=lambda hidden: 4 * hidden,
    has_heads=False,
    layout=LAYOUT_4_TO_6,
    model_type="rwkv",
    config_class="RwkvConfig",
    # rescale_every > 0 makes the native class divide weights in place, and save the divided ones
    config_fields=lambda info: {"rescale_every": 0},
    class_prefix="modeling_rwkv4.Rwkv4",
    native_class="RwkvForCausalLM",
    native_layers=2,  # with one, it divides by zero
    code_files=("modeling_rwkv4.py", "rwkv_triton.py", "wkv4_triton.py", *SHARED_CODE),
    oracle_limits=width_limit,
    summary=summary_4_and_5,
    oddities=lambda info: (),
    kernel="wkv_triton.wkv4",
)


def read_details_5(shapes: Shapes, heads: int, head_size: int) -> Details:
    """Read what may differ: a shape that fits no version becomes ``(H,)``, which the check of all shapes then names."""
    possible = ((heads,), (heads, 1), (heads, head_size))

    def allowed(shape: Shape | None) -> Shape:
        return shape if shape in possible else (heads,)

    bonus_name = "time_faaaa" if first_block(shapes, "time_faaaa") is not None else "time_first"
    return {
        "decay_shape": allowed(first_block(shapes, "time_decay")),
        "bonus_name": bonus_name,
        "bonus_shape": allowed(first_block(shapes, bonus_name)),
        "has_time_state": first_block(shapes, "time_state") is not None,
    }


def oracle_limits_5(info: CheckpointInfo) -> Iterator[str]:
    if info.layers == 1:
        yield f"an RWKV-{info.version[0]} of one layer"
    if info.head_size == 1:
        yield f"an RWKV-{info.version[0]} with heads of a single channel"
    yield from width_limit(info)


def oracle_limits_of_one_number_a_head(info: CheckpointInfo) -> Iterator[str]:
    yield from oracle_limits_5(info)
    if info.heads == 1:
        yield "an RWKV-5.0 or 5.1 of one head"
    if info.details["bonus_shape"] == (info.heads, info.head_size):
        yield "an RWKV-5.0 or 5.1 with a bonus per channel"


def oracle_limits_of_one_number_a_channel(info: CheckpointInfo) -> Iterator[str]:
    yield from oracle_limits_5(info)
    usual = not info.details["has_time_state"] and info.details["bonus_shape"] == (1, info.head_size)
    if info.heads == 1 and not usual:
        yield "an RWKV-5.2 of one head with a trained state, or with one bonus"


def odd_decay(info: CheckpointInfo) -> Iterator[str]:
    if len(info.details["decay_shape"]) == 2:
        yield f"The decay has shape {list(info.details['decay_shape'])}, not [{info.heads}]; the numbers are the same."


def odd_logarithm(info: CheckpointInfo) -> Iterator[str]:
    if info.details["bonus_name"] == "time_first":
        yield f"The bonus is stored as a logarithm (time_first); RWKV-{info.version} stores it as it is (time_faaaa)."


def odd_5_0(info: CheckpointInfo) -> Iterator[str]:
    if info.details["bonus_name"] == "time_faaaa":
        yield "The bonus is stored as it is (time_faaaa); RWKV-5.0 World stores its logarithm (time_first)."
    yield from odd_decay(info)


def odd_5_1(info: CheckpointInfo) -> Iterator[str]:
    yield from odd_logarithm(info)
    yield from odd_decay(info)


def rwkv5(
    name: str,
    recognize: Callable[[Shapes], bool],
    oracle_limits: Callable[[CheckpointInfo], Iterable[str]],
    oddities: Callable[[CheckpointInfo], Iterable[str]],
    gated: bool = True,
    a_number_per_channel: bool = False,
) -> VersionRow:
    """Return a row of RWKV-5, whose versions differ in the gate, in the shapes of decay and bonus, and in widths."""

    def all_oddities(info: CheckpointInfo) -> Iterator[str]:
        yield from oddities(info)
        yield from odd_state(info)

    def usual_details(heads: int, head_size: int) -> Details:
        shape = (heads, head_size) if a_number_per_channel else (heads,)
        bonus_name = "time_faaaa" if gated else "time_first"
        return {"decay_shape": shape, "bonus_name": bonus_name, "bonus_shape": shape, "has_time_state": False}

    return VersionRow(
        name=name,
        recognize=lambda shapes: has_static_decay(shapes) and has_head_norm(shapes) and recognize(shapes),
        count_heads=lambda shapes: shapes["blocks.0.att.time_decay"][0],
        read_details=read_details_5,
        usual_details=usual_details,
        inputs={"k": "key", "v": "value", "r": "receptance"} | ({"g": "gate"} if gated else {}),
        block=block_4_and_5,
        ffn_size=lambda hidden: int(3.5 * hidden) // 32 * 32 if gated else 4 * hidden,
        has_heads=True,
        layout=LAYOUT_4_TO_6,
        model_type="rwkv5",
        config_class="configuration_rwkv5.Rwkv5Config",
        config_fields=lambda info: {"version": info.version, "head_size": info.head_size} | as_json(info.details),
        class_prefix="modeling_rwkv5.Rwkv5",
        native_class=None,
        native_layers=0,
        code_files=("configuration_rwkv5.py", "modeling_rwkv5.py", "rwkv_triton.py", "wkv6_triton.py", *SHARED_CODE),
        oracle_limits=oracle_limits,
        summary=summary_4_and_5,
        oddities=all_oddities,
        kernel="wkv_triton.wkv5",
    )


# RWKV-6: as 5.2, but the text sets decays and mixing ratios


def block_6(info: CheckpointInfo, layer: int) -> dict[str, Shape]:
    """Return names and shapes of one block's tensors."""
    hidden, width, details = info.hidden_size, info.attention_size, info.details
    mix_rank, decay_rank, letters = details["mix_rank"], details["decay_rank"], "wkvrg"
    block = norms(hidden)
    block |= {f"att.time_maa_{letter}": (1, 1, hidden) for letter in "x" + letters}
    block |= {"att.time_maa_w1": (hidden, len(letters) * mix_rank), "att.time_maa_w2": (len(letters), mix_rank, hidden)}
    block["att.time_decay"] = (1, 1, width)
    block |= {"att.time_decay_w1": (hidden, decay_rank), "att.time_decay_w2": (decay_rank, width)}
    block["att.time_faaaa"] = (info.heads, info.head_size)
    block |= {f"att.{name}.weight": (width, hidden) for name in info.row.inputs.values()}
    block |= {"att.output.weight": (hidden, width), "att.ln_x.weight": (width,), "att.ln_x.bias": (width,)}
    return block | time_state(info) | channel_mix(info, "time_maa")


def read_details_6(shapes: Shapes, heads: int, head_size: int) -> Details:
    """Read the ranks; one that cannot be read becomes 1, which the check of all shapes then names."""
    mix, decay = first_block(shapes, "time_maa_w2") or (), first_block(shapes, "time_decay_w2") or ()
    return {
        "mix_rank": mix[1] if len(mix) > 1 else 1,
        "decay_rank": decay[0] if decay else 1,
        "has_time_state": first_block(shapes, "time_state") is not None,
    }


def fla_limits_6(info: CheckpointInfo) -> Iterator[str]:
    yield (
        "fla's configuration has one epsilon for all norms, 1e-5, and the norm of the heads needs 64e-5: "
        "after loading, set layer.attn.g_norm.eps = 64e-5 for each layer in model.model.layers."
    )


def fla_fields_6(info: CheckpointInfo) -> Details:
    return {
        "expand_k": info.attention_size / info.hidden_size,
        "expand_v": info.attention_size / info.hidden_size,
        "num_heads": info.heads,
        "proj_low_rank_dim": info.details["mix_rank"],
        "gate_low_rank_dim": info.details["decay_rank"],  # despite its name, fla/layers/rwkv6.py
    }


RWKV6 = VersionRow(
    name="6",
    recognize=lambda shapes: first_block(shapes, "time_maa_x") is not None,
    count_heads=lambda shapes: (first_block(shapes, "time_faaaa") or (1,))[0],
    read_details=read_details_6,
    usual_details=lambda heads, head_size: {
        "mix_rank": 32 if heads * head_size < 4096 else 64,
        "decay_rank": 64 if heads * head_size < 4096 else 128,
        "has_time_state": False,
    },
    inputs={"r": "receptance", "k": "key", "v": "value", "g": "gate"},
    block=block_6,
    ffn_size=lambda hidden: int(3.5 * hidden) // 32 * 32,
    has_heads=True,
    layout=LAYOUT_4_TO_6,
    model_type="rwkv6",
    config_class="configuration_rwkv6.Rwkv6Config",
    config_fields=lambda info: {"head_size": info.head_size} | info.details,
    class_prefix="modeling_rwkv6.Rwkv6",
    native_class=None,
    native_layers=0,
    code_files=("configuration_rwkv6.py", "modeling_rwkv6.py", "rwkv_triton.py", "wkv6_triton.py", *SHARED_CODE),
    oracle_limits=oracle_limits_5,
    summary=lambda info: {
        "mixing ratios": f"set by the text, rank {info.details['mix_rank']}",
        "decay": f"set by the text, rank {info.details['decay_rank']}",
        "initial state": initial_state(info),
    },
    oddities=odd_state,
    fla=FlaLayout(FLA_6, "RWKV6ForCausalLM", fla_fields_6, fla_limits_6),
    kernel="wkv67_triton.wkv6",
)


# RWKV-7: the state erases before it writes

RANKS_7 = {"w": "decay_low_rank_dim", "a": "a_low_rank_dim", "v": "v_low_rank_dim", "g": "gate_low_rank_dim"}


def block_7(info: CheckpointInfo, layer: int) -> dict[str, Shape]:
    """Return names and shapes of one block's tensors; the first need not have ``v0``, ``v1`` and ``v2``."""
    hidden, inner, details = info.hidden_size, info.ffn_size, info.details
    block = norms(hidden)
    block |= {f"att.x_{letter}": (1, 1, hidden) for letter in "rwkvag"}
    for letter, name in RANKS_7.items():
        if letter == "v" and layer == 0 and not details["has_first_value_mix"]:
            continue
        block |= {f"att.{letter}1": (hidden, details[name]), f"att.{letter}2": (details[name], hidden)}
        if letter != "g":
            block[f"att.{letter}0"] = (1, 1, hidden)
    block |= {"att.k_k": (1, 1, hidden), "att.k_a": (1, 1, hidden), "att.r_k": (info.heads, info.head_size)}
    block |= {f"att.{name}.weight": (hidden, hidden) for name in (*info.row.inputs.values(), "output")}
    block |= {"att.ln_x.weight": (hidden,), "att.ln_x.bias": (hidden,)}
    return block | {"ffn.x_k": (1, 1, hidden), "ffn.key.weight": (inner, hidden), "ffn.value.weight": (hidden, inner)}


def read_details_7(shapes: Shapes, heads: int, head_size: int) -> Details:
    """Read the ranks; one that cannot be read becomes 1, which the check of all shapes then names."""

    def rank(letter: str) -> int:
        shape = shapes.get(f"blocks.1.att.{letter}1") or first_block(shapes, f"{letter}1") or ()
        return shape[1] if len(shape) > 1 else 1

    ranks = {name: rank(letter) for letter, name in RANKS_7.items()}
    return ranks | {"has_first_value_mix": first_block(shapes, "v1") is not None}


def usual_details_7(heads: int, head_size: int) -> Details:
    """Return the ranks of BlinkDL's training code for H x N channels."""
    hidden = heads * head_size

    def rank(factor: float) -> int:
        return max(32, round(factor * math.sqrt(hidden) / 32) * 32)

    ranks = {"w": 2.5, "a": 2.5, "v": 1.7, "g": 5.0}
    return {RANKS_7[letter]: rank(factor) for letter, factor in ranks.items()} | {"has_first_value_mix": False}


def oracle_limits_7(info: CheckpointInfo) -> Iterator[str]:
    if info.vocab_size == 1 or info.hidden_size == 1:
        yield "one of a single channel or token"


def fla_limits_7(info: CheckpointInfo) -> Iterator[str]:
    if info.head_size != 64:
        n = info.head_size
        yield f"fla normalizes heads of {n} channels with an epsilon of {n}e-5, and RWKV-7 has 64e-5."
    if info.layers == 1:
        yield "fla cannot make a model of one layer: it divides by the number of layers less one."


def fla_fields_7(info: CheckpointInfo) -> Details:
    return {
        "head_dim": info.head_size,
        "num_heads": info.heads,
        "value_dim": [info.hidden_size] * info.layers,
        **{name: info.details[name] for name in RANKS_7.values()},
    }


RWKV7 = VersionRow(
    name="7",
    recognize=lambda shapes: first_block(shapes, "r_k") is not None,
    count_heads=lambda shapes: (first_block(shapes, "r_k") or (1,))[0],
    read_details=read_details_7,
    usual_details=usual_details_7,
    inputs={"r": "receptance", "k": "key", "v": "value"},
    block=block_7,
    ffn_size=lambda hidden: 4 * hidden,
    has_heads=True,
    layout=LAYOUT_7,
    model_type="rwkv7",
    config_class="configuration_rwkv7.Rwkv7Config",
    config_fields=lambda info: {"head_dim": info.head_size, "num_heads": info.heads} | info.details,
    class_prefix="modeling_rwkv7.Rwkv7",
    native_class=None,
    native_layers=0,
    code_files=("configuration_rwkv7.py", "modeling_rwkv7.py", "rwkv_triton.py", "wkv7_triton.py", *SHARED_CODE),
    oracle_limits=oracle_limits_7,
    oracle_apart=True,
    summary=lambda info: {f"rank of {letter}": str(info.details[name]) for letter, name in RANKS_7.items()},
    oddities=lambda info: (),
    fla=FlaLayout(FLA_7, "RWKV7ForCausalLM", fla_fields_7, fla_limits_7),
    kernel="wkv67_triton.wkv7",
)


def as_json(details: Details) -> Details:
    """Return details with shapes as lists, as they come back from ``config.json``."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in details.items()}


VERSIONS: dict[str, VersionRow] = {
    row.name: row
    for row in (
        RWKV4,
        rwkv5(
            "5.0",
            lambda shapes: not has_gate(shapes),
            oracle_limits_of_one_number_a_head,
            odd_5_0,
            gated=False,
        ),
        rwkv5(
            "5.1",
            lambda shapes: has_gate(shapes) and not has_decay_of_channels(shapes),
            oracle_limits_of_one_number_a_head,
            odd_5_1,
        ),
        rwkv5(
            "5.2",
            lambda shapes: has_gate(shapes) and has_decay_of_channels(shapes),
            oracle_limits_of_one_number_a_channel,
            odd_logarithm,
            a_number_per_channel=True,
        ),
        RWKV6,
        RWKV7,
    )
}

# by the model_type of a configuration: a row of that type; versions of one type share code and classes
MODEL_TYPES = {row.model_type: row for row in VERSIONS.values()}

SUPPORTED = ", ".join(dict.fromkeys(f"RWKV-{name[0]}" for name in VERSIONS))  # for messages

LAYOUTS = {row.layout.prefix: row.layout for row in VERSIONS.values()}

# versions that are known and not supported: the name, and a part of a tensor's name that no other version has
UNSUPPORTED = {"RWKV-7b": ".qkv.", "RWKV-7a": ".ffn.s_emb"}
