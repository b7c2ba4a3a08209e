"""What can be wrong with a converted directory: its JSON, its weights, its code, its files."""

import io
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .runner import Kinds
from .values import json_bytes, mutate, odd_bytes, odd_name, odd_number, odd_value, spoil

KINDS = Kinds()
STRAY = [".env", "id_rsa", "token.txt", "optimizer.pt", "venv", "notes.key", "training_args.bin", ".git",
         "secrets.json", "runs"]  # fmt: skip
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
FIELDS = ["model_type", "architectures", "auto_map", "vocab_size", "hidden_size", "attention_hidden_size",
          "num_hidden_layers", "intermediate_size", "head_size", "layer_norm_epsilon", "rescale_every",
          "tie_word_embeddings", "use_cache", "dtype", "context_length", "version", "quantization_config",
          "transformers_version", "bos_token_id", "torch_dtype", "custom_pipelines", "_name_or_path",
          "head_size_divisor"]  # fmt: skip


def pick(rng: random.Random, folder: Path, *patterns: str) -> Path:
    return rng.choice(sorted({path for pattern in patterns for path in folder.glob(pattern)}))


def weights_file(rng: random.Random, folder: Path) -> Path:
    return pick(rng, folder, "*.safetensors")


@KINDS()
def right(rng, folder, canary):
    """As convert made it."""


# JSON


@KINDS(weight=12)
def mutated_json(rng, folder, canary):
    file = pick(rng, folder, "*.json")
    layout = {} if file.stat().st_size > 10**6 else {"indent": 2}
    content = json.loads(file.read_bytes())
    if file.name == "tokenizer.json":  # rarely in its 65,536 tokens
        content = content | mutate(rng, {key: content[key] for key in content if key != "model"})
    else:
        content = mutate(rng, content)
    file.write_bytes(json_bytes(rng, content, **layout))


@KINDS(weight=12)
def odd_config(rng, folder, canary):
    file = folder / "config.json"
    content = json.loads(file.read_bytes())
    for _ in range(rng.choice([1, 1, 2])):
        content[rng.choice(FIELDS)] = rng.choice([odd_value(rng), odd_number(rng), float("nan"), [5], {"a": 1}])
    file.write_bytes(json_bytes(rng, content))


@KINDS()
def missing_field(rng, folder, canary):
    file = folder / "config.json"
    content = json.loads(file.read_bytes())
    del content[rng.choice(list(content))]
    file.write_text(json.dumps(content))


@KINDS()
def other_config(rng, folder, canary):
    """A right-looking configuration of another model."""
    file = folder / "config.json"
    content = json.loads(file.read_bytes())
    content |= rng.choice([
        {"model_type": "llama"}, {"model_type": "rwkv"}, {"model_type": "rwkv5"}, {"hidden_size": 32},
        {"num_hidden_layers": 1}, {"num_hidden_layers": 10**9}, {"vocab_size": 10**12}, {"hidden_size": 10**9},
        {"head_size": 0}, {"head_size": 3}, {"layer_norm_epsilon": 0}, {"layer_norm_epsilon": "0.1"},
        {"quantization_config": {"quant_method": "bitsandbytes"}}, {"quantization_config": {}},
        {"quantization_config": 5}, {"dtype": "float8_e4m3fn"}, {"dtype": "nonsense"}, {"tie_word_embeddings": True},
        {"context_length": True}, {"context_length": -5}, {"context_length": 10**30}, {"architectures": ["os.system"]},
        {"is_encoder_decoder": True}, {"attn_implementation": "flash_attention_2"},
    ])  # fmt: skip
    file.write_text(json.dumps(content))


@KINDS()
def odd_index(rng, folder, canary):
    """The list of shards names other files, or there is one beside a whole file."""
    file = folder / "model.safetensors.index.json"
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    names = [
        *shards,
        "../model.safetensors",
        "/etc/passwd",
        "config.json",
        "",
        ".",
        "nothing.safetensors",
        "model.bin",
        "a\0b",
    ]
    usual = {"metadata": {}, "weight_map": {"rwkv.embeddings.weight": shards[0]}}
    content = json.loads(file.read_bytes()) if file.exists() else usual
    table = content["weight_map"]
    change = rng.randrange(4)
    if change == 0:
        content["weight_map"] = rng.choice([{}, [], None, {"a": 5}, {"a": None}, {"a": []}, odd_value(rng)])
    elif change == 1:
        table[rng.choice(list(table))] = rng.choice(names)
    elif change == 2:
        content["weight_map"] = dict.fromkeys(table, rng.choice(names))
    else:
        table[odd_name(rng)] = rng.choice(names)
    file.write_bytes(json_bytes(rng, content))


# weights


def rewritten(file: Path, change: Callable[[dict[str, Any], bytearray], None]) -> None:
    """Change header and numbers of a safetensors file, in whatever way."""
    data = file.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header, numbers = json.loads(data[8:start]), bytearray(data[start:])
    change(header, numbers)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + numbers)


@KINDS(weight=12)
def odd_header(rng, folder, canary):
    """One entry of the header of a weights file says something else."""

    def change(header: dict[str, Any], numbers: bytearray) -> None:
        name = rng.choice([name for name in header if name != "__metadata__"])
        entry, other = header[name], rng.choice(list(header.values()))
        way = rng.randrange(10)
        first, last = entry["data_offsets"]
        if way == 0:
            entry["dtype"] = rng.choice(["F32", "BF16", "F64", "I32", "U8", "BOOL", "F8_E4M3", "f32", "", 5, None])
        elif way == 1:
            entry["shape"] = rng.choice(
                [entry["shape"][::-1], [*entry["shape"], 1], [], [0], [-1], [2**40, 2**40], "x", [1.5]]
            )
        elif way == 2:
            entry["data_offsets"] = rng.choice(
                [[last, first], [first, last + 4], [first + 4, last], [0, 0], [-4, 4], [0, 2**63], []]
            )
        elif way == 3:
            entry["data_offsets"] = other.get("data_offsets", [0, 4])
        elif way == 4:
            header[odd_name(rng)] = header.pop(name)
        elif way == 5:
            header[odd_name(rng)] = dict(entry)
        elif way == 6:
            del header[name]
        elif way == 7:
            header["__metadata__"] = rng.choice([None, 5, {}, {"format": "tf"}, {"a": 5}, {"format": "x" * 10**6}])
        elif way == 8:
            header[name] = odd_value(rng)
        else:
            entry["shape"] = [length * 2 for length in entry["shape"]]

    rewritten(weights_file(rng, folder), change)


@KINDS()
def other_numbers(rng, folder, canary):
    """One bit, a page of zeros, or numbers that are not finite."""

    def change(header: dict[str, Any], numbers: bytearray) -> None:
        place = rng.randrange(len(numbers) // 4) * 4
        way = rng.randrange(3)
        if way == 0:
            numbers[place] ^= 1
        elif way == 1:
            numbers[place : place + 512] = bytes(len(numbers[place : place + 512]))
        else:
            numbers[place : place + 4] = rng.choice([b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f"])

    rewritten(weights_file(rng, folder), change)


@KINDS()
def odd_length(rng, folder, canary):
    """The length of the header, or of the file."""
    file = weights_file(rng, folder)
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    new = rng.choice([0, 1, length - 1, length + 1, length + 8, len(data), 2**31, 2**63, 2**64 - 1])
    file.write_bytes(rng.choice([
        new.to_bytes(8, "little") + data[8:], data[:-4], data[:-1], data + bytes(4), data + b"x",
        data[: rng.randrange(len(data))], length.to_bytes(8, "big") + data[8:],
    ]))  # fmt: skip


@KINDS()
def swapped_tensors(rng, folder, canary):
    """Two names change places: of the same shape, only a certificate can see it."""

    def change(header: dict[str, Any], numbers: bytearray) -> None:
        names = [name for name in header if name != "__metadata__"]
        one, other = rng.choice(names), rng.choice(names)
        header[one], header[other] = header[other], header[one]

    rewritten(weights_file(rng, folder), change)


@KINDS()
def bin_file(rng, folder, canary):
    """Weights in the format of pickles, in the place of the others or beside them, some of which would run code."""
    for file in folder.glob("model*.safetensors*") if rng.random() < 0.7 else []:
        file.unlink()
    target = io.BytesIO()
    torch.save({"rwkv.embeddings.weight": torch.ones(4, 4)}, target)
    system = b"cos\nsystem\n(S'touch " + os.fsencode(canary) + b"'\ntR."
    name = rng.choice(["pytorch_model.bin", "model.bin", "pytorch_model.bin.index.json", "adapter_model.bin"])
    (folder / name).write_bytes(
        rng.choice([target.getvalue(), spoil(rng, target.getvalue()), system, b"\x80\x02" + system, b""])
    )


# code


def leaves_a_trace(canary: Path) -> str:
    return f"open({str(canary)!r}, 'w').close()\n"


@KINDS(weight=8)
def changed_code(rng, folder, canary):
    """A file of code says that it ran: it must not, unasked."""
    file = rng.choice(sorted(folder.glob("*.py")) or [folder / "modeling_rwkv7.py"])  # fla's layout has none
    text = file.read_text() if file.exists() else ""
    file.write_text(leaves_a_trace(canary) + text if rng.random() < 0.5 else text + leaves_a_trace(canary))


@KINDS()
def other_code(rng, folder, canary):
    """The configuration names other code: of this directory, of another repository, of the Hub."""
    (folder / "other.py").write_text(leaves_a_trace(canary))
    file = folder / "config.json"
    content = json.loads(file.read_bytes())
    names = [
        "other.Model",
        "someone/else--modeling.Model",
        "../other.Model",
        "os.system",
        "other",
        "",
        None,
        5,
        ["other.Model"],
    ]
    maps = ["AutoConfig", "AutoModelForCausalLM", "AutoTokenizer", "AutoModel"]
    content["auto_map"] = {name: rng.choice(names) for name in rng.sample(maps, rng.randrange(1, 5))}
    if rng.random() < 0.3:
        content["auto_map"] = rng.choice([None, 5, [], "other.Model", {}])
    file.write_text(json.dumps(content))


@KINDS()
def stray_code(rng, folder, canary):
    """Files that Python or a library might run by their names."""
    for name in [
        "conftest.py",
        "sitecustomize.py",
        "torch.py",
        "setup.py",
        "custom_generate/generate.py",
        "__init__.py",
    ]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(leaves_a_trace(canary))


# files


@KINDS(weight=8)
def spoiled_file(rng, folder, canary):
    file = pick(rng, folder, "*")
    file.write_bytes(spoil(rng, file.read_bytes()))


@KINDS(weight=8)
def missing_file(rng, folder, canary):
    pick(rng, folder, "*").unlink()


@KINDS(weight=8)
def replaced_file(rng, folder, canary):
    """Something else under the name of a file: empty, a pointer, a folder, a link, a pipe."""
    file = pick(rng, folder, "*")
    file.unlink()
    way = rng.randrange(9)
    if way == 0:
        file.write_bytes(b"")
    elif way == 1:
        file.write_bytes(POINTER)
    elif way == 2:
        file.mkdir()
    elif way == 3:
        os.mkfifo(file)
    elif way == 4:
        file.symlink_to(file.name)
    elif way == 5:
        file.symlink_to("/etc/passwd")
    elif way == 6:
        file.symlink_to("nothing")
    elif way == 7:
        file.symlink_to("/dev/zero")
    else:
        file.write_bytes(odd_bytes(rng))


@KINDS()
def linked_outside(rng, folder, canary):
    """A file that lies elsewhere, or a link in a folder."""
    outside = folder.parent / "outside"
    outside.mkdir()
    file = pick(rng, folder, "*")
    if rng.random() < 0.5:
        shutil.move(file, outside / file.name)
        file.symlink_to(outside / file.name)
    else:
        (outside / "secret").write_text("secret")
        (folder / "more").symlink_to(outside)
        (folder / "secret.md").symlink_to(outside / "secret")


@KINDS()
def stray_files(rng, folder, canary):
    """What lies about in a folder, and is nobody else's business."""
    for name in rng.sample(STRAY, 3):
        target = folder / name / "x" if "." not in name[1:] and name != "id_rsa" else folder / name
        target.parent.mkdir(exist_ok=True)
        target.write_text("secret")


@KINDS()
def odd_names(rng, folder, canary):
    for name in ["\x1b[31m", "a\nb", "\udcff", "x" * 200, "-rf", "漢", " "]:
        (folder / name).write_text("x")


@KINDS(weight=1)
def huge_file(rng, folder, canary):
    """A file that says that it is 3 GB, in the place of a small one."""
    with open(pick(rng, folder, "*"), "r+b") as file:
        file.truncate(3 << 30)


@KINDS(weight=1)
def many_files(rng, folder, canary):
    for number in range(200):
        (folder / f"{number}.txt").write_text("x")
