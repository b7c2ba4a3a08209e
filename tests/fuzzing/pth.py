"""Checkpoints: ``inspect`` and ``convert`` refuse a file, or make of it what plain torch and zipfile read in it."""

import json
import math
import random
import shutil
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from helpers.checkpoints.names import hub_name
from helpers.checkpoints.synthetic import write_random_checkpoint

from . import pth_archive, pth_pickle, pth_tensors
from .judge import Fault, check_unchanged, listing, refused, run
from .runner import Case, Kinds, enter

KINDS = Kinds()
for catalogue in (pth_archive, pth_pickle, pth_tensors):
    KINDS |= catalogue.KINDS
    KINDS.order += catalogue.KINDS.order
random.Random(0).shuffle(KINDS.order)

FORMS = [("4", torch.bfloat16), ("5.0", torch.float32), ("5.1", torch.float16), ("5.2", torch.bfloat16)]
SIZES = {"layers": 2, "hidden_size": 16, "head_size": 8, "vocab_size": 24}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
VERIFIED = 25  # of so many cases, one is verified too if it was accepted


@dataclass
class Model:
    """A right checkpoint: its tensors, its file, and the other ones."""

    weights: dict[str, Tensor]
    data: bytes
    others: list["Model"] = field(default_factory=list)


def prepare(folder: Path) -> list[Model]:
    import transformers  # noqa: F401  # before the forks, which then start at once

    import helpers.conversion.directory
    import helpers.proof.verify  # noqa: F401

    models = []
    for number, (version, dtype) in enumerate(FORMS):
        path = write_random_checkpoint(folder / f"{version}.pth", version, **SIZES, dtype=dtype, seed=number)
        models.append(Model(torch.load(path, weights_only=True), path.read_bytes()))
    for model in models:
        model.others = [other for other in models if other is not model]
    return models


def judge(models: list[Model], case: Case, folder: Path) -> str:
    """Say whether the checkpoint was ``refused`` or ``accepted``; see :class:`.judge.Fault` for the rest."""
    rng = case.rng()
    torch.manual_seed(case.seed)
    enter(folder, "making the case")
    made = KINDS[case.kind](rng, rng.choice(models))
    if isinstance(made, bytes):
        path = folder / "x.pth"
        path.write_bytes(made)
    else:
        path = made(folder)
    before = listing(folder)
    enter(folder, "inspect")
    inspected = not refused(run("inspect", "--", path))
    check_unchanged(before, folder)
    dtype = rng.choice([None, None, *DTYPES])
    out = folder / "out"
    options = [] if dtype is None else ["--dtype", dtype]
    options += rng.choice([[], [], ["--max-shard-size", "5KB"]])
    enter(folder, "convert")
    converted = not refused(run("convert", "--no-tokenizer", *options, "--", path, out))
    if not converted:
        check_unchanged(before, folder)
        if inspected:
            check_source(path)
        return "refused"
    if not inspected:
        raise Fault("wrong success", "convert takes what inspect refuses")
    enter(folder, "reading the case with plain torch")
    compare(check_source(path), out, DTYPES.get(dtype or ""))
    if case.seed % VERIFIED == 0:
        enter(folder, "verify")
        verified = run("verify", "--lengths", "3", "--seeds", "0", "--", path, out)
        if refused(verified, 1) and "has no tokenizer.json" not in verified.messages[0]:  # one of World's size needs it
            raise Fault("verify", f"refuses what convert made: {verified.messages}")
    shutil.rmtree(out)
    check_unchanged(before, folder)
    return "accepted"


def check_source(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file as zipfile and plain torch read them.

    Raises:
        Fault: they refuse it, or read it in two ways; then no command should have taken it.
    """
    if zipfile.is_zipfile(path) and path.read_bytes()[:4] == b"PK\x03\x04":
        try:
            with zipfile.ZipFile(path) as opened:
                names = opened.namelist()
                bad = opened.testzip()
        except Exception as error:
            raise Fault("wrong success", f"zipfile refuses it: {error}") from None
        if bad:
            raise Fault("wrong success", f"the CRC-32 of {bad} is wrong")
        if len(set(names)) < len(names):
            raise Fault("wrong success", "a member is there twice")
    try:
        with open(path, "rb") as file:  # by Python, whatever the name
            weights = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise Fault("wrong success", f"plain torch.load refuses it: {type(error).__name__}: {error!s:.200}") from None
    if not isinstance(weights, dict) or not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise Fault("wrong success", "it does not hold tensors by name")
    return weights


def compare(weights: dict[str, Tensor], out: Path, dtype: torch.dtype | None) -> None:
    """Raise Fault unless the converted directory has these tensors, bit for bit."""
    converted = read_converted(out)
    names = {hub_name(name): name for name in weights}
    if names.keys() != converted.keys():
        raise Fault("wrong success", f"other names: {sorted(names.keys() ^ converted.keys())[:3]}")
    for new, old in names.items():
        wanted = weights[old].to(dtype or weights[old].dtype).contiguous()
        shape, data = converted[new]
        if shape != list(wanted.shape):
            raise Fault("wrong success", f"{old} has another shape")
        if data != wanted.detach().flatten().view(torch.uint8).numpy().tobytes():
            raise Fault("wrong success", f"{old} has other numbers")
        if not torch.isfinite(wanted).all():
            raise Fault("wrong success", f"{old} has numbers that are not finite")


def read_converted(folder: Path) -> dict[str, tuple[list[int], bytes]]:
    """Return shape and bytes of each tensor in the safetensors files of a folder; see that format's README."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        data = file.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        for name, entry in json.loads(data[8:start]).items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                width = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}[entry["dtype"]]
                assert math.prod(entry["shape"]) * width == end - begin
                found[name] = entry["shape"], data[start + begin : start + end]
    return found
