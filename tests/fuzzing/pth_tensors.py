"""What can be wrong with the tensors of a checkpoint that torch.save wrote, and files that are no checkpoint."""

import io
import json
import os
import random
import struct
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .runner import Kinds
from .values import odd_bytes, odd_name

KINDS = Kinds()


def saved(weights: Any, **options: Any) -> bytes:
    target = io.BytesIO()
    torch.save(weights, target, **options)
    return target.getvalue()


def one_replaced(rng: random.Random, model: Any, make: Any) -> bytes:
    """Return the checkpoint with one tensor replaced by what ``make`` makes of it, if it can."""
    weights = model.weights
    name = rng.choice(list(weights))
    with warnings.catch_warnings(action="ignore"):
        try:
            return saved(weights | {name: make(weights[name])})
        except (RuntimeError, NotImplementedError):
            return saved(weights | {name: make(torch.ones(4, 4))})


# kinds of tensors


@KINDS(weight=8)
def odd_kind_of_tensor(rng, model):
    return one_replaced(rng, model, rng.choice([
        lambda w: w.to_sparse(), lambda w: w.float().reshape(1, -1).to_sparse_csr(), lambda w: torch.nn.Parameter(w),
        lambda w: torch.quantize_per_tensor(w.float(), 0.1, 0, torch.qint8), lambda w: w.to("meta"),
        lambda w: torch.quantize_per_channel(torch.ones(4, 4), torch.ones(4), torch.zeros(4), 0, torch.qint8),
        lambda w: torch.complex(w.float(), w.float()), lambda w: torch.complex(w.float(), w.float()).conj(),
        lambda w: torch.complex(w.float(), w.float()).conj().imag, lambda w: torch._neg_view(w),
        lambda w: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), lambda w: w.untyped_storage(),
        lambda w: w.detach().requires_grad_(), lambda w: torch.nn.Buffer(w), lambda w: w.numpy,
    ]))  # fmt: skip


@KINDS()
def odd_dtype(rng, model):
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int64,
             torch.bool, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16,
             torch.uint64]  # fmt: skip
    dtype = rng.choice(kinds)
    if rng.random() < 0.3:
        return saved({name: weight.to(dtype) for name, weight in model.weights.items()})
    return one_replaced(rng, model, lambda w: w.to(dtype))


@KINDS()
def odd_shape(rng, model):
    return one_replaced(rng, model, rng.choice([
        lambda w: w[..., :-1], lambda w: w[None], lambda w: w[..., None], lambda w: w.flatten(),
        lambda w: w.new_empty(0), lambda w: w.new_ones(()), lambda w: w.new_empty(0, 5), lambda w: torch.cat([w, w]),
        lambda w: w.reshape(-1, 1), lambda w: w.new_ones([1] * 60), lambda w: w.new_empty(*w.shape, 0),
        lambda w: w.transpose(0, -1).contiguous(),
    ]))  # fmt: skip


@KINDS()
def odd_layout(rng, model):
    """The numbers lie in another order, or with gaps: right, only unusual."""
    return one_replaced(rng, model, rng.choice([
        lambda w: w.transpose(0, -1).contiguous().transpose(0, -1), lambda w: torch.stack([w, w], -1)[..., 0],
        lambda w: torch.cat([w, w])[: len(w)], lambda w: torch.cat([w, w])[len(w) :], lambda w: w[:1].expand(w.shape),
        lambda w: w.flatten()[:1].expand(w.numel()).view(w.shape), lambda w: torch.flip(w, [0]),
    ]))  # fmt: skip


@KINDS()
def shared_storage(rng, model):
    """Tensors that are parts of one buffer, apart or in common, or the very same."""
    weights = dict(model.weights)
    names = rng.sample(list(weights), rng.randrange(2, 6))
    way = rng.randrange(4)
    if way == 0:
        weights[names[0]] = weights[names[1]]
    elif way == 1:
        buffer = torch.cat([weights[name].flatten().float() for name in names])
        start = 0
        for name in names:
            size, shape = weights[name].numel(), weights[name].shape
            weights[name] = buffer[start : start + size].view(shape)
            start += size
    elif way == 2:
        buffer = torch.randn(5000)
        for name in names:
            start = rng.randrange(5000 - weights[name].numel())
            weights[name] = buffer[start : start + weights[name].numel()].view(weights[name].shape)
    else:
        pair = torch.stack([weights[names[0]].flatten()[:16], weights[names[0]].flatten()[:16]], 1)
        weights["blocks.0.ln1.weight"], weights["blocks.0.ln1.bias"] = pair[:, 0], pair[:, 1]
    return saved(weights)


@KINDS()
def odd_numbers(rng, model):
    """Numbers that are not finite, or do not fit into another dtype; and zeros."""
    weights = {name: weight.clone() for name, weight in model.weights.items()}
    for _ in range(rng.choice([1, 1, 5])):
        flat = weights[rng.choice(list(weights))].view(-1)
        numbers = [float("nan"), float("inf"), -float("inf"), 1e38, -1e38, 70000.0, 1e-40, -0.0, 65520.0]
        flat[rng.randrange(len(flat))] = rng.choice(numbers)
    if rng.random() < 0.2:
        weights[rng.choice(list(weights))].zero_()
    return saved(weights)


# models


@KINDS()
def missing_tensor(rng, model):
    weights = dict(model.weights)
    for name in rng.sample(list(weights), rng.choice([1, 1, 2, len(weights) // 2, len(weights)])):
        del weights[name]
    return saved(weights)


@KINDS()
def extra_tensor(rng, model):
    names = [odd_name(rng), "blocks.0.att.time_maa_x", "blocks.0.att.gate.weight", "blocks.0.att.time_state",
             "blocks.9.ln1.weight", "blocks.0.att.key.lora_A", "blocks.0.ffn.key.bias", "optimizer.x"]  # fmt: skip
    return saved(model.weights | {rng.choice(names): rng.choice(list(model.weights.values())).clone()})


@KINDS()
def renamed_tensor(rng, model):
    old = rng.choice(list(model.weights))
    new = rng.choice(
        [odd_name(rng), old + " ", old.upper(), old.replace("0", "7"), "module." + old, old.replace(".", "..")]
    )
    return saved({new if name == old else name: weight for name, weight in model.weights.items()})


@KINDS()
def swapped_tensors(rng, model):
    """Two tensors under each other's names: of the same shape, nobody can see it."""
    weights = dict(model.weights)
    one, other = rng.sample(list(weights), 2)
    weights[one], weights[other] = weights[other], weights[one]
    return saved(weights)


@KINDS()
def shuffled_tensors(rng, model):
    names = list(model.weights)
    rng.shuffle(names)
    return saved({name: model.weights[name] for name in names})


@KINDS()
def odd_layers(rng, model):
    """Layers with gaps, in other numbers, or written otherwise."""
    way = rng.choice(["0", "00", "2", "10", "-1", "\u0661", "1_0", "99999999999999999999", "x", ""])
    return saved({name.replace("blocks.1.", f"blocks.{way}."): weight for name, weight in model.weights.items()})


@KINDS()
def mixed_versions(rng, model):
    """Tensors of another version in the place of some, or beside them."""
    other = rng.choice(model.others).weights
    names = rng.sample(list(other), rng.choice([1, 3, len(other) // 2]))
    return saved(model.weights | {name: other[name] for name in names})


@KINDS()
def odd_width(rng, model):
    """All tensors cut or tiled alike along the width of the model."""
    size = model.weights["emb.weight"].shape[1]
    new = rng.choice([0, 1, 2, size - 1, size + 1, 3 * size])

    def cut(weight: Tensor) -> Tensor:
        for axis, length in enumerate(weight.shape):
            if length == size:
                weight = torch.cat([weight] * 4, axis).narrow(axis, 0, new)
        return weight.contiguous()

    return saved({name: cut(weight) for name, weight in model.weights.items()})


@KINDS()
def odd_vocabulary(rng, model):
    rows = rng.choice([0, 1, 2, 23, 50277, 65529, 65535, 65536])
    tables = {name: torch.ones(rows, model.weights[name].shape[1]) for name in ("emb.weight", "head.weight")}
    return saved(model.weights | tables)


@KINDS()
def training_state(rng, model):
    """What programs save beside a model, or around it."""
    return saved(rng.choice([
        {"model": model.weights, "step": 5}, {"state_dict": dict(model.weights)}, list(model.weights.values()),
        model.weights["emb.weight"], {"optimizer": {0: {"exp_avg": torch.ones(3)}}}, {**model.weights, "epoch": 3},
        {**model.weights, "_strategy": "cpu fp32"}, {}, None, 5, "text",
        {"module." + name: weight for name, weight in model.weights.items()},
    ]))  # fmt: skip


# other formats


@KINDS()
def legacy_of_odd_things(rng, model):
    things = [[1, 2], {"a": 1}, model.weights["emb.weight"], {"a": torch.ones(3).to_sparse()},
              {"a": torch.ones(3, dtype=torch.int8)}, dict(model.weights) | {odd_name(rng): torch.ones(2)}]  # fmt: skip
    return saved(rng.choice(things), _use_new_zipfile_serialization=False, pickle_protocol=rng.choice([2, 3, 4]))


@KINDS()
def other_protocol(rng, model):
    return saved(model.weights, pickle_protocol=rng.choice([0, 1, 3, 4, 5]))


@KINDS(weight=8)
def other_file(rng, model):
    """What people take for a checkpoint."""
    header = json.dumps({"emb.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return rng.choice([
        b"", b"\n", b"PK", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"<!DOCTYPE html><html>404</html>",
        b"GGUF" + bytes(100), b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
        b"\x1f\x8b" + bytes(100), b"Hello, world.\n" * 100, struct.pack("<Q", len(header)) + header + bytes(4),
        b"\x80\x02}.", b"\x80\x02.", b"\x80", b"\x80\x02cos\nsystem\n(S'x'\ntR.", b"\xfd7zXZ\x00",
        b"7z\xbc\xaf\x27\x1c", b"fmgg" + bytes(50), b"%PDF-1.4", b"\x89PNG\r\n", b"MZ", b"\x7fELF", b"{}", b"[]",
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", odd_bytes(rng),
        rng.randbytes(1000),
    ])  # fmt: skip


@KINDS()
def other_path(rng, model):
    """What is no file, or is there under an odd name."""

    def fifo(folder: Path) -> Path:
        os.mkfifo(folder / "x.pth")
        return folder / "x.pth"

    def loop(folder: Path) -> Path:
        (folder / "x.pth").symlink_to("x.pth")
        return folder / "x.pth"

    def named(name: str | bytes):
        def write(folder: Path) -> Path:
            path = folder / os.fsdecode(name)
            path.write_bytes(model.data)
            return path

        return write

    return rng.choice([
        fifo, loop, lambda folder: folder, lambda folder: folder / "nothing.pth", lambda folder: Path("/dev/null"),
        lambda folder: folder / "a" / "b.pth", lambda folder: folder / ("x" * 300), lambda folder: Path("a\0b"),
        lambda folder: Path("/dev/zero"), lambda folder: Path("/proc/self/mem"), named("x y.pth"), named("模型.pth"),
        named(b"\xff.pth"), named("a\nb.pth"), named("\x1b[31m.pth"), named("x.safetensors"), named("x"),
        named("x.pth\u2028"), named("-x.pth"),
    ])  # fmt: skip
