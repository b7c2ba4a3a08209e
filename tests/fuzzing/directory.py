"""Converted directories: each command refuses one, or makes of it what a strict reader finds; no code of it runs."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helpers.checkpoints.fla import from_fla, is_fla_name
from helpers.checkpoints.names import pth_name
from helpers.checkpoints.synthetic import write_random_checkpoint
from helpers.conversion.reading import is_file
from helpers.errors import InputError

from . import directory_kinds
from .judge import Ending, Fault, call, check_unchanged, fingerprint, listing, refused, run
from .runner import Case, enter

KINDS = directory_kinds.KINDS
DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
PASSAGES = '{"text": "one two three"}\n{"text": "four five six"}\n'
CERTIFIED = (".json", ".py", ".safetensors", ".jinja")  # files of which a certificate should notice any change


@dataclass
class Model:
    """A right directory, and the commands that it can be given to; one in our layout has a certificate."""

    folder: Path
    commands: list[str]
    sentence: str = ""  # what push says about its certificate


def prepare(folder: Path) -> list[Model]:
    import helpers.conversion.hub
    import helpers.generation.serve
    import helpers.lambada.run
    import helpers.proof.verify  # noqa: F401  # before the forks

    (folder / "passages.jsonl").write_text(PASSAGES)
    models = []
    quick = ["export", "refresh", "push", "check", "load"]
    every = [*quick, "lambada", "serve"]
    sizes = (("4", 24, quick), ("5.2", 24, quick), ("6", 24, quick), ("7", 24, quick), ("5.0", 65536, every))
    for version, rows, commands in sizes:
        path = write_random_checkpoint(
            folder / f"{version}.pth", version, hidden_size=16, head_size=8, vocab_size=rows, dtype=torch.float32
        )
        options = ["--max-shard-size", "5KB"] if version == "5.2" else []
        options += [] if rows == 65536 else ["--no-tokenizer"]
        out = folder / f"model-{version}"
        for ending in (
            run("convert", *options, path, out),
            run("verify", "--lengths", "3", "--seeds", "0", "--", path, out, cpu=0),  # of whole vocabularies
        ):
            assert ending.code == 0, ending
        sentence = run("push", out, "me/model", "--dry-run").out.splitlines()[-1]
        assert "passed" in sentence, sentence
        models.append(Model(out, commands, sentence))
        if version in ("6", "7"):
            in_fla = folder / f"fla-{version}"
            assert run("export", out, in_fla, "--layout", "fla").code == 0
            models.append(Model(in_fla, ["export", "refresh"]))
    return models


def judge(models: list[Model], case: Case, folder: Path) -> str:
    """Say whether the directory was ``refused`` or ``accepted``; see :class:`.judge.Fault` for the rest."""
    rng = case.rng()
    model = rng.choices(models, [1 if "serve" in model.commands else 4 for model in models])[0]
    directory = folder / "model"
    shutil.copytree(model.folder, directory)
    intact = listing(directory)
    canary = folder / "code-ran"
    KINDS[case.kind](rng, directory, canary)
    before = listing(folder)
    command = rng.choice(model.commands)
    enter(folder, command)
    ending = COMMANDS[command](directory, folder)
    if canary.exists():
        raise Fault("code ran", f"of the directory, by {command}")
    is_refused = refused(ending, *([1] if command == "check" else []))
    if is_refused or command in ("push", "check", "load", "lambada", "serve"):
        check_unchanged(before, folder)
    if is_refused:
        if case.kind == "right":
            raise Fault("wrong refusal", f"by {command}: {ending.messages}")
        return "refused"
    if command == "push":
        check_push(model, intact, directory, ending)
    if command == "check" and ending.code == 0 and (changed := certified_changes(intact, directory)):
        raise Fault("wrong success", f"verify --check passes though {min(changed)} changed")
    return "accepted" if ending.code == 0 else "refused"


# the commands, each of which is compared with what a strict reader finds


def as_command(work: Callable[[], object]) -> Ending:
    """Call a function as the command line does."""

    def main() -> int:
        try:
            work()
            return 0
        except (InputError, MemoryError) as error:
            print(f"error: {error or 'There is too little memory.'}", file=sys.stderr)
            return 2

    return call(main)


def export(directory: Path, folder: Path) -> Ending:
    ending = run("export", directory, folder / "out.pth")
    if ending.code == 0:
        compare(tensors(directory), torch.load(folder / "out.pth", weights_only=True), "export")
        (folder / "out.pth").unlink()
    return ending


def refresh(directory: Path, folder: Path) -> Ending:
    try:
        old: dict[str, Tensor] | Fault = tensors(directory)
    except Fault as fault:
        old = fault
    world = (directory / "tokenizer.json").exists()
    ending = run("refresh", directory, "--tokenizer" if world else "--no-tokenizer")
    if ending.code == 0:
        if isinstance(old, Fault):
            raise old
        compare(old, tensors(directory), "refresh")
    return ending


def push(directory: Path, folder: Path) -> Ending:
    return run("push", directory, "me/model", "--dry-run")


def check(directory: Path, folder: Path) -> Ending:
    return run("verify", "--check", directory)


def load(directory: Path, folder: Path) -> Ending:
    """Load the model, and compare its parameters."""
    from helpers.conversion.loading import load_model

    found: dict[str, Tensor] = {}
    ending = as_command(lambda: found.update(load_model(directory).state_dict()))
    if ending.code == 0:
        loaded = {pth_name(name): weight for name, weight in found.items()}
        compare(tensors(directory), loaded, "load_model", cast=True)
    return ending


def lambada(directory: Path, folder: Path) -> Ending:
    return run("lambada", "--model", directory, "--data", folder.parent / "passages.jsonl", "--device", "cpu")


def serve(directory: Path, folder: Path) -> Ending:
    """Start a server and end it at once."""
    from helpers.generation.serve import serving

    def start() -> None:
        with serving(directory, device="cpu"):
            pass

    return as_command(start)


COMMANDS = {"export": export, "refresh": refresh, "push": push, "check": check, "load": load, "lambada": lambada,
            "serve": serve}  # fmt: skip


def check_push(model: Model, intact: dict[str, str], directory: Path, ending: Ending) -> None:
    """Raise Fault if push would upload what does not belong to a model, or what its certificate is not about."""
    uploaded = re.findall(r"^ +[\d,]+  (.*)$", ending.out, re.MULTILINE)
    for name in uploaded:
        path = directory / name
        if path.is_symlink() or not path.resolve().is_relative_to(directory.resolve()):
            raise Fault("wrong success", f"push would upload the link {name}")
        if Path(name).parts[0] in directory_kinds.STRAY:
            raise Fault("wrong success", f"push would upload {name}")
    changed = [name for name in certified_changes(intact, directory) if name in intact or name in uploaded]
    if changed and model.sentence in ending.out:
        raise Fault("wrong success", f"push says {model.sentence!r} though {min(changed)} changed")


def certified_changes(intact: dict[str, str], directory: Path) -> list[str]:
    """Return the files that a certificate should be about, and that are not as they were; not the certificate itself.

    Whoever can write there can write another one, which is as good as any until it is made again.
    """
    now = {name: fingerprint((directory / name).resolve()) for name in listing(directory) if is_file(directory / name)}
    changed = (name for name in intact.keys() | now.keys() if intact.get(name) != now.get(name))
    return [name for name in changed if name.endswith(CERTIFIED) and name != "parity.json"]


def compare(wanted: dict[str, Tensor], found: dict[str, Tensor], who: str, cast: bool = False) -> None:
    """Raise Fault unless the same names have the same bits, or with ``cast`` the same after a change of dtype."""
    if wanted.keys() != found.keys():
        raise Fault("wrong success", f"{who} has other names: {sorted(wanted.keys() ^ found.keys())[:3]}")
    for name, weight in wanted.items():
        other = found[name]
        weight = weight.to(other.dtype) if cast else weight
        if weight.shape != other.shape or weight.dtype != other.dtype or bits(weight) != bits(other):
            raise Fault("wrong success", f"{who}: {name} is another")


def bits(weight: Tensor) -> bytes:
    return weight.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def tensors(directory: Path) -> dict[str, Tensor]:
    """Return the tensors of a directory by the names of the checkpoint, read strictly.

    Raises:
        Fault: its weights are not exactly what they should be, so that no command should have taken it.
    """

    def wrong(why: str) -> Fault:
        return Fault("wrong success", why)

    whole, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    try:
        if whole.is_file():
            files = [whole]
        elif index.is_file():
            names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
            files = [directory / name for name in names]
        else:
            weights = torch.load(directory / "pytorch_model.bin", weights_only=True)
            return {pth_name(name): weight for name, weight in weights.items()}
    except Exception as error:
        raise wrong(f"there are no weights: {error!r:.200}") from None
    found: dict[str, Tensor] = {}
    for file in files:
        if file.parent != directory:  # a link is right: such are the files in the cache of the Hub
            raise wrong(f"{file} leads out of the directory")
        for name, weight in strict_file(file).items():
            try:
                parts = from_fla(name, weight) if is_fla_name(name) else {pth_name(name): weight}
            except InputError as error:
                raise wrong(str(error)) from None
            if found.keys() & parts.keys():
                raise wrong(f"{name} is there twice")
            found |= parts
    return found


def strict_file(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, of which every byte must belong to exactly one."""

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in found}) < len(found):
            raise ValueError("a key is there twice")
        return dict(found)

    try:
        data = file.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start].decode(), object_pairs_hook=pairs)
        header.pop("__metadata__", None)
        end, weights = 0, {}
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            first, last = entry["data_offsets"]
            if first != end:
                raise ValueError(f"a gap before {name}")
            end = last
            content = bytearray(data[start + first : start + last])
            weights[name] = torch.frombuffer(content, dtype=DTYPES[entry["dtype"]]).reshape(entry["shape"])
        if start + end != len(data):
            raise ValueError("more bytes than tensors")
        return {name: weights[name] for name in header}
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError, OSError, MemoryError) as error:
        raise Fault("wrong success", f"{file.name} should have been refused: {error!r}") from None
