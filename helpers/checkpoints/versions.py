"""The one place that knows how the versions of RWKV differ, apart from their mathematics in ``hub_code/``.

:data:`VERSIONS` has one row a version. A row says how to recognize a checkpoint, which tensors it has, what the
converted model is called and configured with, and what the ``rwkv`` package can run. All else in this package asks the
row and never compares a version's name. A new version is a row here, a configuration and a modeling file in
``hub_code/``, and tests.

Sources: ``model.py`` of BlinkDL/RWKV-LM (RWKV-v4neo, RWKV-v5), and ``rwkv/model.py`` of BlinkDL/ChatRWKV.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]  # of tensors, by their names in the checkpoint
Details = dict[str, Any]

WORLD_IDS = 65530  # of the World vocabulary, 0 to 65,529
WORLD_ROWS = 65536  # of the embeddings of World models; the last six are never used

SHARED_CODE = tuple(  # of all versions
    f"rwkv_{part}.py" for part in ("common", "decoding", "generation", "inputs", "linear", "requirements")
)


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
    block: Callable[[CheckpointInfo], dict[str, Shape]]  # names and shapes of one block's tensors, in their order
    ffn_size: Callable[[int], int]  # width of channel-mix in BlinkDL's training code, for D
    has_heads: bool
    # the converted model
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
    kernel: str | None = None  # name of a function in training/wkv_triton.py, if there is a faster one for training

    def runs_natively(self, layers: int) -> bool:
        """Say whether transformers' own class loads a model of so many layers."""
        return self.native_class is not None and layers >= self.native_layers


def first_block(shapes: Shapes, name: str) -> Shape | None:
    """Return the shape of a tensor of the first time-mix, or None if there is no such tensor."""
    return shapes.get(f"blocks.0.att.{name}")


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


def block_4_and_5(info: CheckpointInfo) -> dict[str, Shape]:
    """Return names and shapes of one block's tensors, the same in every block."""
    hidden, width, inner, details = info.hidden_size, info.attention_size, info.ffn_size, info.details
    block: dict[str, Shape] = {f"{norm}.{part}": (hidden,) for norm in ("ln1", "ln2") for part in ("weight", "bias")}
    for letter, name in info.row.inputs.items():
        block[f"att.time_mix_{letter}"] = (1, 1, hidden)
        block[f"att.{name}.weight"] = (width, hidden)
    block["att.output.weight"] = (hidden, width)
    block["att.time_decay"] = details["decay_shape"]
    block[f"att.{details['bonus_name']}"] = details["bonus_shape"]
    if info.row.has_heads:
        block |= {"att.ln_x.weight": (width,), "att.ln_x.bias": (width,)}
    if details["has_time_state"]:
        block["att.time_state"] = (info.heads, info.head_size, info.head_size)
    block |= {"ffn.time_mix_k": (1, 1, hidden), "ffn.time_mix_r": (1, 1, hidden)}
    block |= {"ffn.key.weight": (inner, hidden), "ffn.value.weight": (hidden, inner)}
    block["ffn.receptance.weight"] = (hidden, hidden)
    return block


def summary_4_and_5(info: CheckpointInfo) -> dict[str, str]:
    details = info.details
    return {
        "decay": f"time_decay {list(details['decay_shape'])}",
        "bonus": f"{details['bonus_name']} {list(details['bonus_shape'])}",
        "initial state": "trained (time_state)" if details["has_time_state"] else "zeros",
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
    model_type="rwkv",
    config_class="RwkvConfig",
    # rescale_every > 0 makes the native class divide weights in place, and save the divided ones
    config_fields=lambda info: {"rescale_every": 0},
    class_prefix="modeling_rwkv4.Rwkv4",
    native_class="RwkvForCausalLM",
    native_layers=2,  # with one, it divides by zero
    code_files=("modeling_rwkv4.py", *SHARED_CODE),
    oracle_limits=width_limit,
    summary=summary_4_and_5,
    oddities=lambda info: (),
    kernel="wkv4",
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
        yield "an RWKV-5 of one layer"
    if info.head_size == 1:
        yield "an RWKV-5 with heads of a single channel"
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
        if info.details["has_time_state"]:
            state = "It has a trained initial state (time_state, from state tuning)"
            yield f"{state}; the converted model starts there too."

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
        model_type="rwkv5",
        config_class="configuration_rwkv5.Rwkv5Config",
        config_fields=lambda info: {"version": info.version, "head_size": info.head_size} | as_json(info.details),
        class_prefix="modeling_rwkv5.Rwkv5",
        native_class=None,
        native_layers=0,
        code_files=("configuration_rwkv5.py", "modeling_rwkv5.py", *SHARED_CODE),
        oracle_limits=oracle_limits,
        summary=summary_4_and_5,
        oddities=all_oddities,
        kernel="wkv5",
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
    )
}

# by the model_type of a configuration: a row of that type; versions of one type share code and classes
MODEL_TYPES = {row.model_type: row for row in VERSIONS.values()}

SUPPORTED = " and ".join(dict.fromkeys(f"RWKV-{name[0]}" for name in VERSIONS))  # for messages

# versions that are known and not supported: the name, and a part of a tensor's name that no other version has
UNSUPPORTED = {"RWKV-7": "att.x_r", "RWKV-6": "time_maa"}
