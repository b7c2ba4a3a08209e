"""The exercises of notebook 08."""

import json
import struct

import torch

from ..checkpoints.format import checkpoint_info, expected_shapes
from ..checkpoints.names import hub_name
from .checking import Exercise, Function

# 1. the name of the .pth file


def old_name(name):
    new = {
        "embeddings": "emb",
        "pre_ln": "ln0",
        "attention": "att",
        "feed_forward": "ffn",
        "time_mix_key": "time_mix_k",
        "time_mix_value": "time_mix_v",
        "time_mix_receptance": "time_mix_r",
        "time_mix_gate": "time_mix_g",
    }
    return ".".join(new.get(part, part) for part in name.removeprefix("rwkv.").split("."))


def names() -> list[tuple[str]]:
    shapes = expected_shapes(checkpoint_info("5.2", layers=2, hidden_size=64, head_size=32))
    return [(hub_name(name),) for name in shapes]


def by_replacing(name):
    for new, old in (("embeddings", "emb"), ("pre_ln", "ln0"), ("attention", "att"), ("feed_forward", "ffn")):
        name = name.replace(new, old)
    return name.removeprefix("rwkv.").replace("key", "k").replace("value", "v").replace("receptance", "r")


NAMES = Exercise(
    solution=old_name,
    cases=names,
    mistakes={
        "The prefix `rwkv.` is not in a .pth file; `str.removeprefix` takes it away.": lambda name: (
            name if name == "head.weight" else f"rwkv.{old_name(name)}"
        ),
        "You replace letters inside parts: `att.key.weight` keeps its `key`. Look up whole parts between dots.": (
            by_replacing
        ),
        "The eight parts keep their new names; look each part up in the table, read from right to left.": lambda name: (
            name.removeprefix("rwkv.")
        ),
    },
    why="The table has an inverse because no two old parts get one new part; that is what makes `export` possible.",
)

# 2. a tensor out of bytes


def read_tensor(data, name):
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    entry = header[name]
    begin, end = (8 + length + offset for offset in entry["data_offsets"])
    dtype = {"F32": torch.float32, "BF16": torch.bfloat16}[entry["dtype"]]
    return torch.frombuffer(bytearray(data[begin:end]), dtype=dtype).reshape(entry["shape"])


def files() -> list[tuple[bytes, str]]:
    from safetensors.torch import save

    draw = torch.Generator().manual_seed(8)
    tensors = {
        "rwkv.ln_out.weight": torch.randn(6, generator=draw),
        "rwkv.embeddings.weight": torch.randn(3, 2, generator=draw),
        "rwkv.blocks.0.attention.time_decay": torch.randn(2, 2, generator=draw).bfloat16(),
    }
    return [(save(tensors), name) for name in tensors]


def read_otherwise(data, name, behind_header=True, shaped=True, any_dtype=True):
    (length,) = struct.unpack("<Q", data[:8])
    entry = json.loads(data[8 : 8 + length])[name]
    begin, end = entry["data_offsets"]
    start = 8 + length if behind_header else 0
    dtype = torch.bfloat16 if any_dtype and entry["dtype"] == "BF16" else torch.float32
    x = torch.frombuffer(bytearray(data[start + begin : start + end]), dtype=dtype)
    return x.reshape(entry["shape"]) if shaped else x


def same_tensor(given, expected) -> bool:
    return given.dtype == expected.dtype and torch.equal(given, expected)


BYTES = Exercise(
    solution=read_tensor,
    cases=files,
    same=same_tensor,
    mistakes={
        "You count the offsets from the start of the file; they count from the end of the header: 8 + its length.": (
            lambda data, name: read_otherwise(data, name, behind_header=False)
        ),
        "The numbers are right, but lie in a row; give them the shape that the header names.": (
            lambda data, name: read_otherwise(data, name, shaped=False)
        ),
        "You read every tensor as fp32; the header names the dtype, and BF16 has two bytes per number.": (
            lambda data, name: read_otherwise(data, name, any_dtype=False)
        ),
    },
    why="That is the whole format. Nothing in it can run, so a stranger's file can give you wrong numbers at worst.",
)

# 3. how large is it?


def count_parameters(layers, hidden, ffn, vocab):
    norms = 2 * 2 * hidden  # ln1, ln2
    time_mix = 4 * hidden + 5 * hidden**2 + 2 * hidden + 2 * hidden  # ratios, matrices, decay and bonus, ln_x
    channel_mix = 2 * hidden + 2 * hidden * ffn + hidden**2
    return 2 * vocab * hidden + layers * (norms + time_mix + channel_mix) + 2 * 2 * hidden  # ln0 and ln_out


def sizes() -> list[tuple[int, int, int, int]]:
    return [(2, 64, 224, 512), (24, 2048, 7168, 65536), (24, 1024, 3584, 65536), (3, 128, 448, 1000)]


def without(rows: int = 0, matrices: int = 0, rows_once: int = 0, matrices_with_ffn: int = 0) -> Function:
    """Return a count that forgets rows of D numbers and matrices in each layer, and rows outside of the layers."""

    def counted(layers, hidden, ffn, vocab):
        forgotten = rows * hidden + matrices * hidden**2 + matrices_with_ffn * hidden * ffn
        return count_parameters(layers, hidden, ffn, vocab) - layers * forgotten - rows_once * hidden

    return counted


PARAMETERS = Exercise(
    solution=count_parameters,
    cases=sizes,
    mistakes={
        "The head is a table of its own in RWKV, not the embedding again: count V x D twice.": lambda *s: (
            count_parameters(*s) - s[3] * s[1]
        ),
        "One norm is missing that stands outside of the layers: ln0, which block 0 alone has, or ln_out; a weight and "
        "a bias each.": without(rows_once=2),
        "ln0 and ln_out are missing: two norms outside of the layers, a weight and a bias each.": without(rows_once=4),
        "One square matrix of each layer is missing. Time-mix has five in 5.2, key, value, receptance, gate, and "
        "output; channel-mix has one, receptance.": without(matrices=1),
        "One matrix with F in each layer is missing: channel-mix has key and value, D x F numbers each.": without(
            matrices_with_ffn=1
        ),
        "D numbers of each layer are missing: decay and bonus have D each, and a norm has a weight and a bias.": (
            without(rows=1)
        ),
        "2 D numbers of each layer are missing: decay and bonus (D each), a norm (ln1, ln2, ln_x: a weight and a "
        "bias), or the two mixing ratios of channel-mix.": without(rows=2),
        "4 D numbers of each layer are missing: decay and bonus together with ln_x, or ln1 and ln2, or the four mixing "
        "ratios of time-mix.": without(rows=4),
        "6 D numbers of each layer are missing: four mixing ratios of time-mix and two of channel-mix, or the norms "
        "ln1, ln2 and ln_x.": without(rows=6),
        "A norm has a weight and a bias, D numbers each; you count one of them.": without(rows=3, rows_once=2),
    },
    reveal=False,
    why="24 layers, D = 2048, F = 7168: 1,577,754,624 parameters, 3.16 GB in bf16. That is the published 1.5B model.",
)

# 4. where is the damage?


def find_damage(whole, broken, ids):
    import torch

    def outputs_of(model):
        seen = {}

        def note(name):
            return lambda module, inputs, output: seen.setdefault(name, output)

        parts = [(name, module) for name, module in model.named_modules() if not list(module.children())]
        hooks = [module.register_forward_hook(note(name)) for name, module in parts]
        with torch.inference_mode():
            model(ids)
        for hook in hooks:
            hook.remove()
        return seen

    right, wrong = outputs_of(whole), outputs_of(broken)
    return next((name for name in right if not torch.allclose(right[name], wrong[name], atol=1e-6)), None)


def tiny_model(damage: str = "", how: str = "scale"):
    from ..hub_code.configuration_rwkv5 import Rwkv5Config
    from ..hub_code.modeling_rwkv5 import Rwkv5ForCausalLM

    config = Rwkv5Config(
        version="5.2", vocab_size=64, hidden_size=32, head_size=16, num_hidden_layers=3, intermediate_size=64
    )
    torch.manual_seed(8)
    model = Rwkv5ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(torch.randn(parameter.shape) * parameter.shape[1] ** -0.5)
        if damage and how == "scale":
            model.get_submodule(damage).weight.mul_(1.05)
        if damage and how == "eps":
            model.get_submodule(damage).eps = 0.1
    return model


def damages() -> list[tuple]:
    ids = torch.arange(1, 13)[None]
    chosen = (
        ("rwkv.blocks.1.attention.gate", "scale"),
        ("rwkv.blocks.0.feed_forward.key", "scale"),
        ("rwkv.blocks.2.ln2", "eps"),
        ("", ""),
    )
    return [(tiny_model(), tiny_model(damage, how), ids) for damage, how in chosen]


def by_weights(whole, broken, ids):
    pairs = zip(whole.named_parameters(), broken.named_parameters(), strict=True)
    return next((name.rpartition(".")[0] for (name, a), (_, b) in pairs if not torch.equal(a, b)), None)


def only_block(whole, broken, ids):
    name = find_damage(whole, broken, ids)
    return name and ".".join(name.split(".")[:3])


def in_order_of_names(whole, broken, ids):
    name = find_damage(whole, broken, ids)
    return name and "rwkv"


DAMAGE = Exercise(
    solution=find_damage,
    cases=damages,
    mistakes={
        "You compare the weights; one model has another epsilon, and no weight shows that. Compare what modules put "
        "out.": by_weights,
        "That is only the block. Look at modules that have no modules inside: they name the place.": only_block,
        "A module that contains the damaged one differs as well. Look at modules that have no modules inside.": (
            in_order_of_names
        ),
    },
    why="Against the `rwkv` package this is not possible, since its code has no modules: there the state is all that "
    "both sides have, and it narrows the damage down to a few tensors. Decay, bonus and mixing ratios are no modules "
    "either; damage there shows first in the module that reads their result.",
)

EXERCISES = (NAMES, BYTES, PARAMETERS, DAMAGE)
