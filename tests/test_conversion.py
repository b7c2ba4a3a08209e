"""Checkpoints and their conversion: complete directories, exact numbers, clear refusals, nothing half-made."""

import errno
import json
import os
import pickle
import re
import runpy
import shutil
import subprocess
import sys
import warnings
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import VERSIONS
from transformers import AutoTokenizer, RwkvForCausalLM

from helpers import __main__ as cli
from helpers.checkpoints import bundled, files, format, names, synthetic, versions
from helpers.conversion import directory, hub
from helpers.conversion.sizes import parse_size
from helpers.errors import InputError
from helpers.paths import ROOT


@pytest.fixture
def small(tmp_path):
    """The path of a small RWKV-5.0 checkpoint."""
    return synthetic.write_random_checkpoint(tmp_path / "small.pth", vocab_size=300)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_number_arrives(version, dtype, tmp_path):
    path = synthetic.write_random_checkpoint(tmp_path / "model.pth", version, vocab_size=300, dtype=dtype)
    converted = load_file(directory.convert(path, tmp_path / "out", progress=False) / "model.safetensors")
    original = files.load_checkpoint(path)
    assert len(converted) == len(original)
    for name, weight in original.items():
        new_name = names.hub_name(name, versions.VERSIONS[version].layout)
        assert torch.equal(converted[new_name], weight), name
        assert converted[new_name].dtype == dtype


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("head_size", [8, 32, 64])
def test_sizes_are_inferred(version, head_size, tmp_path):
    sizes = {"layers": 3, "hidden_size": 128, "head_size": head_size, "vocab_size": 77, "ffn_size": 96}
    path = synthetic.write_random_checkpoint(tmp_path / "model.pth", version, **sizes)
    info = format.describe_checkpoint(path)
    assert info.version == version
    assert (info.layers, info.hidden_size, info.vocab_size, info.ffn_size) == (3, 128, 77, 96)
    assert info.heads == (1 if version == "4" else 128 // head_size)
    assert info.parameters == sum(w.numel() for w in files.load_checkpoint(path).values())


def test_shards_and_dtype(small, tmp_path):
    whole = load_file(directory.convert(small, tmp_path / "one", progress=False) / "model.safetensors")
    out = directory.convert(small, tmp_path / "many", torch.float32, max_shard_size="100KB", progress=False)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(whole)
    files = {name: load_file(out / name) for name in set(index["weight_map"].values())}
    assert len(files) > 2
    for name, file in index["weight_map"].items():
        assert torch.equal(files[file][name], whole[name].float())


@pytest.mark.parametrize("version", ["4", "5.0"])
def test_another_process_in_another_folder_loads_it(version, tmp_path):
    path = synthetic.write_random_checkpoint(tmp_path / "model.pth", version, hidden_size=32, head_size=16)
    out = directory.convert(path, tmp_path / "out", progress=False)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = (
        "import sys; from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "folder, trust = sys.argv[1], sys.argv[2] == 'True'\n"
        "tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)\n"
        "model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trust)\n"
        "ids = tokenizer('Hello 你好', return_tensors='pt')\n"
        "print(type(model).__name__, model.generate(**ids, max_new_tokens=3, eos_token_id=None).shape[1])\n"
    )
    command = [sys.executable, "-c", code, str(out), str(version != "4")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    name, length = done.stdout.split()
    assert name == ("RwkvForCausalLM" if version == "4" else "Rwkv5ForCausalLM")
    assert int(length) == len(AutoTokenizer.from_pretrained(out, trust_remote_code=True)("Hello 你好").input_ids) + 3


def test_native_rwkv4_equals_the_rwkv_package(tmp_path):
    from helpers.checkpoints.oracle import load_oracle

    path = synthetic.write_random_checkpoint(tmp_path / "model.pth", "4", vocab_size=300, dtype=torch.float32)
    model = RwkvForCausalLM.from_pretrained(directory.convert(path, tmp_path / "out", progress=False)).eval()
    ids = list(range(1, 200))
    expected, _ = load_oracle(path).forward(ids, None, full_output=True)
    with torch.inference_mode():
        assert (model(torch.tensor([ids])).logits[0] - expected).abs().max() <= 1e-4  # fp32 rounding


def save(weights, path):
    torch.save(weights, path)
    return path


class Payload:
    """Unpickling this would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture(scope="module")
def unusable(tmp_path_factory):
    """A folder of files that are no checkpoints, each in its own way."""
    folder = tmp_path_factory.mktemp("unusable")
    small = synthetic.write_random_checkpoint(folder / "small.pth", vocab_size=300)
    weights = files.load_checkpoint(small)
    whole = small.read_bytes()
    (folder / "truncated.pth").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.pth").write_bytes(b"")
    (folder / "text.pth").write_text("hello")
    save_file(dict(weights), folder / "model.safetensors")
    save({"a": Payload(folder / "executed")}, folder / "evil.pth")
    (folder / "pickle.pth").write_bytes(pickle.dumps(Payload(folder / "executed")))
    save({"model": weights, "step": 3}, folder / "nested.pth")
    save({"transformer.wte.weight": torch.ones(3, 3)}, folder / "gpt2.pth")
    save({f"module.{name}": weight for name, weight in weights.items()}, folder / "prefixed.pth")
    save({names.hub_name(name): weight for name, weight in weights.items()}, folder / "converted.pth")
    save([torch.ones(3)], folder / "list.pth")
    save({name: weight for name, weight in weights.items() if name != "emb.weight"}, folder / "no table.pth")
    save({**weights, "note": "hello"}, folder / "note.pth")
    save({1: torch.ones(3)}, folder / "number.pth")
    (folder / "pointer.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (folder / "loop.pth").symlink_to("loop.pth")
    save({}, folder / "no tensors.pth")
    save({f"blocks.{i}.att.time_state": torch.ones(2, 32, 32) for i in range(2)}, folder / "states.pth")
    save({"blocks.0.att.key.lora_A": torch.ones(2, 64)}, folder / "lora.pth")
    save({**weights, "blocks.0.att.key.lora_A": torch.ones(2, 64)}, folder / "not merged.pth")
    save({"base_model.model.rwkv.blocks.0.attention.key.lora_B.weight": torch.ones(64, 2)}, folder / "peft.bin")
    save({"blocks.0.att.key.bone": torch.ones(2, 64)}, folder / "bone.pth")
    save({**weights, "_strategy": "cpu fp16i8", "_version": "0.7", "_rescale_layer": 6}, folder / "strategy.pth")
    (folder / "page.pth").write_text("<!DOCTYPE html><html>")
    (folder / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    (folder / "packed.pth.gz").write_bytes(b"\x1f\x8b" + bytes(100))
    with warnings.catch_warnings(action="ignore"):  # they are on their way out, but people have such files
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), folder / "program.pth")
    with zipfile.ZipFile(folder / "archive.pth", "w") as archive:
        archive.write(small, "small.pth")
    return folder


@pytest.mark.parametrize(
    ("name", "message"),
    {
        "missing.pth": "There is no file",
        ".": "is a directory",
        "truncated.pth": "damaged",
        "empty.pth": "damaged",
        "text.pth": "not a PyTorch checkpoint",
        "model.safetensors": "is a safetensors file",
        "evil.pth": "could run code",
        "pickle.pth": "not a PyTorch checkpoint|could run code",
        "nested.pth": "training state, with the tensors under 'model'",
        "gpt2.pth": "not an RWKV checkpoint",
        "no table.pth": "has no tensor emb.weight, which every RWKV model has",
        "prefixed.pth": "begin with 'module.'",
        "converted.pth": "names of a converted model",
        "list.pth": "does not hold tensors",
        "note.pth": "'note': str",
        "number.pth": "1: Tensor",
        "pointer.pth": "Git LFS pointer",
        "loop.pth": "Cannot read",
        "no tensors.pth": "does not hold tensors",
        "states.pth": "only initial states, from state tuning",
        "lora.pth": "tensors of an adapter, such as blocks.0.att.key.lora_A; merge",
        "not merged.pth": "tensors of an adapter, such as blocks.0.att.key.lora_A; merge",
        "peft.bin": "tensors of an adapter, such as base_model.*lora_B.weight; merge",
        "bone.pth": "tensors of an adapter, such as blocks.0.att.key.bone; merge",
        "strategy.pth": "made by the rwkv package for its strategy 'cpu fp16i8'",
        "page.pth": "is a web page",
        "model.gguf": "is a GGUF file",
        "packed.pth.gz": "compressed with gzip; unpack it",
        "program.pth": "is a TorchScript program",
        "archive.pth": "not a PyTorch checkpoint",
        "small.pth/x.pth": "There is no file",
        os.devnull: "not a regular file",
    }.items(),
)
def test_unusable_files_are_refused(unusable, name, message, tmp_path):
    with pytest.raises(InputError, match=message):
        directory.convert(unusable / name, tmp_path / "out", progress=False)
    assert not (unusable / "executed").exists()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("old", [False, True])
def test_too_little_memory_is_not_called_damage(tmp_path, old):
    """A process that may not map or allocate more says so; the remedy is not to download the file again."""
    path = tmp_path / "large.pth"
    torch.save({"emb.weight": torch.zeros(50_000_000)}, path, _use_new_zipfile_serialization=not old)
    code = (
        "import resource, sys\nfrom helpers.checkpoints import load_checkpoint\nfrom helpers.errors import InputError\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000,) * 2)\n"
        "try:\n    load_checkpoint(sys.argv[1])\nexcept InputError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert "emory; the file itself may be intact" in done.stdout, done.stderr
    assert "damaged" not in done.stdout


def test_a_file_that_cannot_be_mapped_is_read(small, tmp_path, monkeypatch):
    """Some network file systems map no files. Too little memory for a mapping is too little for reading, too."""
    numbers = []

    def without_mmap(*args, **options):
        raise OSError(numbers[-1], os.strerror(numbers[-1]))

    expected = files.load_checkpoint(small)
    monkeypatch.setattr(files.mmap, "mmap", without_mmap)
    for number in (errno.ENODEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EACCES):
        numbers.append(number)
        weights = files.load_checkpoint(small)
        assert all(torch.equal(weights[name], weight) for name, weight in expected.items())
    out = load_file(directory.convert(small, tmp_path / "out", progress=False) / "model.safetensors")
    assert all(torch.equal(out[names.hub_name(name)], weight) for name, weight in expected.items())
    numbers.append(errno.ENOMEM)
    with pytest.raises(InputError, match=r"Cannot read .*: Cannot allocate memory; the file itself may be intact"):
        files.load_checkpoint(small)


@pytest.mark.parametrize("name", [b"m\xff\xe4.pth", "你好.pth".encode("gbk"), b"model.safetensors", b" a\n.pth "])
def test_odd_names_of_files(name, small, tmp_path, capsys):
    """Bytes that are no UTF-8, and a name that makes torch expect another format."""
    path = tmp_path / os.fsdecode(name)
    try:
        shutil.copy(small, path)
    except OSError:
        pytest.skip("this file system has no such names")
    assert cli.main(["inspect", str(path)]) == 0
    assert cli.main(["convert", str(path), str(tmp_path / "out"), "--no-tokenizer"]) == 0
    assert "out is complete" in capsys.readouterr().out
    assert (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    out = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(out[names.hub_name(name)], weight) for name, weight in files.load_checkpoint(small).items())
    assert cli.main(["export", str(tmp_path / "out"), f"{path}.back"]) == 0
    assert files.load_checkpoint(f"{path}.back").keys() == files.load_checkpoint(small).keys()


def test_convert_opens_a_checkpoint_once(small, tmp_path, monkeypatch):
    read, calls = files.read_archive, []
    monkeypatch.setattr(files, "read_archive", lambda *args: (calls.append(args), read(*args))[1])
    assert cli.main(["convert", str(small), str(tmp_path / "out"), "--no-tokenizer"]) == 0
    assert cli.main(["inspect", str(small)]) == 0
    assert len(calls) == 2


def without(name):
    return lambda w: w.pop(name)


def replaced(name, value):
    return lambda w: w.__setitem__(name, value(w))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("blocks.1.ln2.bias"), "no tensor blocks.1.ln2.bias"),
        (without("head.weight"), "no tensor head.weight"),
        (replaced("extra.weight", lambda w: torch.ones(2)), "has a tensor extra.weight"),
        (replaced("blocks.1.att.key.weight", lambda w: torch.ones(2, 2)), "blocks.1.att.key.weight has shape"),
        (replaced("blocks.0.att.time_decay", lambda w: torch.ones(5)), "cannot be split"),
        (replaced("blocks.0.att.time_decay", lambda w: torch.tensor(1.0)), "too few dimensions"),
        (replaced("blocks.0.att.time_decay", lambda w: torch.ones(0)), "blocks.0.att.time_decay is an empty tensor"),
        (
            replaced("blocks.0.att.time_decay", lambda w: torch.ones(2).to_sparse()),
            "blocks.0.att.time_decay is a sparse tensor",
        ),
        (
            replaced("emb.weight", lambda w: torch.ones(300, 64, device="meta")),
            "emb.weight is a tensor without numbers, of the device meta",
        ),
        (replaced("emb.weight", lambda w: torch.ones(300, 64).to(torch.int8)), "emb.weight is torch.int8"),
        (replaced("blocks.99999999999.ln1.bias", lambda w: torch.ones(64)), "no tensor blocks.2"),
        (replaced("ln_out.bias", lambda w: torch.ones(64, dtype=torch.int64)), "expected floating-point"),
        (replaced("ln_out.bias", lambda w: torch.full((64,), float("nan"))), "ln_out.bias has numbers that are not"),
        (replaced("head.weight", lambda w: w["emb.weight"]), "share memory"),
        (replaced("blocks.0.att.time_maa_x", lambda w: torch.ones(1)), "time_maa_x has shape"),
        (replaced("blocks.0.ffn.s_emb.weight", lambda w: torch.ones(1)), "RWKV-7a"),
        (replaced("blocks.0.qkv.k1", lambda w: torch.ones(1)), "RWKV-7b"),
    ],
)
def test_unusable_tensors_are_named(small, tmp_path, change, message):
    weights = dict(files.load_checkpoint(small))
    change(weights)
    with pytest.raises(InputError, match=message):
        directory.convert(save(weights, tmp_path / "bad.pth"), tmp_path / "out", progress=False)
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def flat(weights):
    """Return the same tensors as parts of one buffer, as DeepSpeed's ZeRO saves them, with unused room at its end."""
    buffer = torch.cat([weight.flatten() for weight in weights.values()] + [torch.zeros(5, dtype=torch.bfloat16)])
    parts = buffer.split([weight.numel() for weight in weights.values()] + [5])
    return {name: part.view(weights[name].shape) for name, part in zip(weights, parts, strict=False)}


def columns(weights):
    """Key and value side by side in one matrix: the rows of one lie between those of the other."""
    key, value = (f"blocks.1.att.{name}.weight" for name in ("key", "value"))
    both = torch.cat([weights[key], weights[value]], dim=1)
    return {**weights, key: both.narrow(1, 0, 64), value: both.narrow(1, 64, 64)}


def stacked(weights):
    """All norms of a size as columns of one tensor: no two numbers of one lie side by side."""
    norms = [name for name in weights if ".ln" in name]
    columns = torch.stack([weights[name] for name in norms], dim=1).unbind(1)
    return weights | dict(zip(norms, columns, strict=True))


@pytest.mark.parametrize("arrange", [flat, columns, stacked, lambda weights: columns(flat(weights))])
def test_parts_of_a_buffer_share_no_memory(arrange, small, tmp_path):
    weights = files.load_checkpoint(small)
    path = save(arrange(weights), tmp_path / "arranged.pth")
    loaded = files.load_checkpoint(path)
    assert len({weight.untyped_storage().data_ptr() for weight in loaded.values()}) < len(loaded)
    out = load_file(directory.convert(path, tmp_path / "out", progress=False) / "model.safetensors")
    assert all(torch.equal(out[names.hub_name(name)], weight) for name, weight in weights.items())


def overlapping(start, columns):
    """Let ln1 and ln2 be parts of one buffer of 64 rows, the second from number ``start`` on."""
    buffer = torch.randn(200 * columns).bfloat16()
    return buffer[: 64 * columns : columns], buffer[start : start + 64 * columns : columns]


@pytest.mark.parametrize(("start", "columns"), [(0, 1), (63, 1), (0, 2), (2, 2), (126, 2)])
def test_tensors_that_overlap_are_named(start, columns, small, tmp_path):
    weights = dict(files.load_checkpoint(small))
    weights["blocks.0.ln1.weight"], weights["blocks.0.ln2.bias"] = overlapping(start, columns)
    with pytest.raises(InputError, match=r"blocks\.0\.ln1\.weight and blocks\.0\.ln2\.bias share memory"):
        directory.convert(save(weights, tmp_path / "bad.pth"), tmp_path / "out", progress=False)


@pytest.mark.parametrize(("start", "columns"), [(64, 1), (1, 2), (127, 2), (128, 2)])
def test_tensors_that_nearly_overlap_convert(start, columns, small, tmp_path):
    weights = dict(files.load_checkpoint(small))
    weights["blocks.0.ln1.weight"], weights["blocks.0.ln2.bias"] = overlapping(start, columns)
    directory.convert(save(weights, tmp_path / "good.pth"), tmp_path / "out", progress=False)


def test_an_existing_directory_is_kept(small, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    directory.convert(small, out, progress=False)  # an empty one may be used
    before = sorted((path.name, path.stat().st_mtime_ns) for path in out.iterdir())
    with pytest.raises(InputError, match="already exists"):
        directory.convert(small, out, progress=False)
    assert sorted((path.name, path.stat().st_mtime_ns) for path in out.iterdir()) == before


def test_numbers_too_large_for_the_wanted_dtype(small, tmp_path):
    weights = {**files.load_checkpoint(small), "ln_out.bias": torch.full((64,), 1e5)}
    with pytest.raises(InputError, match=r"ln_out\.bias has numbers too large for torch\.float16"):
        directory.convert(save(weights, tmp_path / "large.pth"), tmp_path / "out", torch.float16, progress=False)
    assert not (tmp_path / "out").exists()


def test_a_disk_that_is_too_small(small, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(directory.shutil, "disk_usage", lambda path: usage._replace(free=10**6))
    with pytest.raises(InputError, match=r"has 0\.00 GB free"):
        directory.convert(small, tmp_path / "a" / "out", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["small.pth"]


def test_old_and_strided_files(small, tmp_path):
    """A file in the format from before PyTorch 1.6, in fp64, with a tensor that is not contiguous."""
    weights = {name: weight.double() for name, weight in files.load_checkpoint(small).items()}
    weights["head.weight"] = weights["head.weight"].t().contiguous().t()
    torch.save(weights, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    out = load_file(directory.convert(tmp_path / "old.pth", tmp_path / "out", progress=False) / "model.safetensors")
    assert all(torch.equal(out[names.hub_name(name)], weight) for name, weight in weights.items())


TOKENIZER_FILES = {"tokenizer.json", "tokenizer_config.json", "vocab.json", "tokenization_rwkv_world.py"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (50277, "50,277 rows, too few for the World tokenizers; convert it without them: --no-tokenizer"),
        (300, "300 rows, too few"),
        (65529, "65,529 rows, too few"),
        (65530, "65,530 rows, and World models have 65,536; say --tokenizer if"),
        (65600, "65,600 rows, and World models have 65,536; say --tokenizer if"),
    ],
)
def test_another_vocabulary(rows, message, tmp_path, capsys):
    """A model of another vocabulary gets the World tokenizers only if they are asked for."""
    path = synthetic.write_random_checkpoint(tmp_path / "a.pth", "4", hidden_size=8, vocab_size=rows)
    assert cli.main(["convert", str(path), str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert cli.main(["convert", str(path), str(tmp_path / "out"), "--no-tokenizer"]) == 0
    assert not {file.name for file in (tmp_path / "out").iterdir()} & TOKENIZER_FILES
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "# RWKV-4, converted from a.pth" in card
    assert "The World tokenizers are not for this model" in card
    assert "AutoTokenizer" not in card
    assert "tokenizer.json" not in card
    assert cli.main(["push", str(tmp_path / "out"), "me/model", "--dry-run"]) == 0
    assert cli.main(["convert", str(path), str(tmp_path / "world"), "--tokenizer"]) == 0
    assert {file.name for file in (tmp_path / "world").iterdir()} >= TOKENIZER_FILES
    card = (tmp_path / "world" / "README.md").read_text(encoding="utf-8")
    assert "# RWKV-4 World, converted from a.pth" in card


@pytest.mark.parametrize("rest", [{}, {"tokenizer.json": "{}", "tokenizer_config.json": "{}", "vocab.json": "{}"}])
def test_verify_compares_no_tokenizer_with_another_vocabulary(rest, tmp_path, capsys):
    """There is none, or the model's own, such as GPT-NeoX's of a Pile model."""
    path = synthetic.write_random_checkpoint(tmp_path / "a.pth", "4", hidden_size=8, vocab_size=50277)
    out = directory.convert(path, tmp_path / "out", progress=False, with_tokenizer=False)
    for name, text in rest.items():
        (out / name).write_text(text)
    assert cli.main(["verify", str(path), str(out), "--lengths", "3", "--seeds", "0"]) == 0
    assert "tokenizers (0 texts): none to compare" in capsys.readouterr().out
    assert json.loads((out / "parity.json").read_text(encoding="utf-8"))["passed"]


def test_the_example_of_a_card_without_tokenizer_runs(tmp_path):
    path = synthetic.write_random_checkpoint(tmp_path / "a.pth", vocab_size=300)
    out = directory.convert(path, tmp_path / "out", progress=False, with_tokenizer=False)
    code = (out / "README.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    done = subprocess.run([sys.executable, "-c", code], cwd=out, capture_output=True, text=True, timeout=120)
    assert re.match(r"tensor\(\[ *1, +2, +3, ", done.stdout), done.stderr


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5 * 10**9), ("1.5GB", 1_500_000_000), ("1.5 gb", 1_500_000_000), (".5k", 500), ("200M", 2 * 10**8),
     ("2GiB", 2 * 1024**3), ("1000", 1000), ("7B", 7), ("0.0000000019T", 1900)],
)  # fmt: skip
def test_sizes_of_shards(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "0", "0.2", "-1GB", "1,5GB", "5XB", "5GBB", "1.GB", "1e3", "iB", "5iB"])
def test_what_is_no_size_of_shards(text, small, tmp_path, capsys):
    with pytest.raises(InputError, match="is not a size; write for example 5GB"):
        parse_size(text)
    assert cli.main(["convert", "nowhere.pth", str(tmp_path / "out"), f"--max-shard-size={text}"]) == 2
    message = "is not a size" if text else "is empty"
    assert message in capsys.readouterr().err, "before anything is opened or downloaded"


def test_command_line(tmp_path, capsys, monkeypatch):
    synthetic.write_random_checkpoint(tmp_path / "small.pth", hidden_size=8, head_size=8)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["convert", "small.pth", "out"]) == 0
    assert "config.json" in capsys.readouterr().out
    assert cli.main(["inspect", "small.pth"]) == 0
    assert "RWKV-5.0" in capsys.readouterr().out
    assert cli.main(["convert", "small.pth", "out"]) == 2
    assert capsys.readouterr().err.startswith("error: out already exists")
    assert cli.main(["convert", "small.pth"]) == 2
    assert cli.main(["convert", "--repo-id", "a/b", "out2"]) == 2
    assert cli.main(["convert", "small.pth", "out2", "--revision", "v2"]) == 2
    assert "--revision is of a repository of the Hub" in capsys.readouterr().err
    assert cli.main(["push", "out", "me/model", "--dry-run"]) == 0
    assert "model.safetensors" in capsys.readouterr().out
    assert cli.main(["push", ".", "me/model"]) == 2


def test_no_network_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"a\.pth of BlinkDL/nothing: the Hub cannot be reached"):
        hub.download_checkpoint("BlinkDL/nothing", "a.pth")


def test_bundled_checkpoint_is_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(bundled, "BUILD", tmp_path / "build")
    path = bundled.bundled_checkpoint()
    assert format.describe_checkpoint(path).layers == 14
    with open(path, "r+b") as file:  # damage the unpacked copy: it is unpacked again
        file.write(b"????")
    assert files.sha256(bundled.bundled_checkpoint()) == bundled.BUNDLED_SHA256["rwkv5-world-mini"]
    monkeypatch.setattr(bundled, "DATA", tmp_path)
    packed = tmp_path / "rwkv5-world-mini.pth.xz"
    packed.write_bytes(b"not xz")
    path.unlink()
    with pytest.raises(InputError, match="Cannot unpack"):
        bundled.bundled_checkpoint()
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("name", bundled.BUNDLED_SHA256)
def test_each_bundled_checkpoint_is_what_its_card_says(name):
    info = format.describe_checkpoint(bundled.bundled_checkpoint(name))
    card = (bundled.DATA / f"{name}.md").read_text(encoding="utf-8")
    assert info.version[0] == name[len("rwkv")]
    assert bundled.BUNDLED_SHA256[name] in card
    assert f"| {info.layers} / {info.hidden_size} / " in card
    assert (bundled.DATA / f"{name}.pth.xz").stat().st_size < 21e6


def test_the_included_data_stay_small():
    assert sum(path.stat().st_size for path in bundled.DATA.iterdir()) < 60e6


def test_an_installed_package_says_where_the_trained_checkpoints_are(tmp_path, monkeypatch):
    monkeypatch.setattr(bundled, "IS_CHECKOUT", False)
    monkeypatch.setattr(bundled, "DATA", tmp_path)
    monkeypatch.setattr(bundled, "BUILD", tmp_path / "build")
    with pytest.raises(InputError, match="rwkv5-world-mini is not in an installed package; run this in a clone"):
        bundled.bundled_checkpoint()
    assert list(tmp_path.iterdir()) == []


def test_an_installed_package_writes_nothing_beside_itself(tmp_path):
    package = tmp_path / "site-packages" / "helpers"
    package.mkdir(parents=True)
    shutil.copy(ROOT / "helpers" / "paths.py", package)
    installed = runpy.run_path(str(package / "paths.py"))
    assert not installed["IS_CHECKOUT"]
    for name in ("BUILD", "RESULTS"):
        assert not installed[name].is_relative_to(tmp_path)
    assert runpy.run_path(str(ROOT / "helpers" / "paths.py"))["RESULTS"] == ROOT / "benchmarks" / "results"
