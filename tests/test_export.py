"""The way back to ``.pth``, and old directories brought up to date: bit for bit, or not at all."""

import json
import os
import shutil

import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, RwkvForCausalLM

from helpers import __main__ as cli
from helpers.checkpoints import files, names, oracle, synthetic
from helpers.conversion import directory
from helpers.conversion.export import export
from helpers.conversion.reading import load_converted
from helpers.conversion.refresh import old_context_length, refresh
from helpers.errors import InputError
from helpers.proof import parity

FORMS = tiny_models.FORMS | {
    "5.0 raw bonus": {"version": "5.0", "bonus_name": "time_faaaa", "decay_shape": (2, 1)},
    "5.0 time_state": {"version": "5.0", "has_time_state": True},
    "5.1": {"version": "5.1", "head_size": 8},
    "5.2": {"version": "5.2", "head_size": 16},
    "5.2 odd sizes": {"version": "5.2", "hidden_size": 72, "head_size": 24, "ffn_size": 100, "has_time_state": True},
    "6 odd sizes": {"version": "6", "hidden_size": 72, "head_size": 24, "mix_rank": 5, "decay_rank": 7},
    "6 time_state": {"version": "6", "has_time_state": True},
    "7 odd ranks": {"version": "7", "head_size": 16, "decay_low_rank_dim": 3, "v_low_rank_dim": 5},
}


@pytest.fixture
def small(tmp_path):
    """The path of a small RWKV-5.0 checkpoint, and its converted directory."""
    path = synthetic.write_random_checkpoint(tmp_path / "small.pth", vocab_size=300)
    return path, directory.convert(path, tmp_path / "converted", progress=False)


def assert_same_tensors(path, original):
    tensors, expected = files.load_checkpoint(path), files.load_checkpoint(original)
    assert list(tensors) == list(expected)
    for name, weight in expected.items():
        assert tensors[name].dtype == weight.dtype, name
        assert torch.equal(tensors[name], weight), name


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_export_is_the_original(form, dtype, tmp_path):
    path = synthetic.write_random_checkpoint(tmp_path / "a.pth", vocab_size=300, dtype=dtype, **FORMS[form])
    folder = directory.convert(path, tmp_path / "converted", max_shard_size="50KB", progress=False)
    assert_same_tensors(export(folder, tmp_path / "back.pth"), path)


@pytest.mark.parametrize("form", FORMS)
def test_the_rwkv_package_loads_an_export(form, tmp_path):
    """Original, export and converted model give the same logits and states, whatever form the file has."""
    options = {"vocab_size": 300, "dtype": torch.float32, **FORMS[form]}
    path = synthetic.write_random_checkpoint(tmp_path / "a.pth", **options)
    folder = directory.convert(path, tmp_path / "converted", progress=False)
    back = oracle.load_oracle(export(folder, tmp_path / "back.pth"))
    ids = torch.randint(1, 300, (65,), generator=torch.Generator().manual_seed(0)).tolist()
    expected, _ = oracle.load_oracle(path).forward(ids, None, full_output=True)
    assert torch.equal(back.forward(ids, None, full_output=True)[0], expected)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    for result in (parity.compare_prefill(back, model, ids), parity.compare_decode(back, model, ids)):
        assert result.max_abs_logit_diff <= 1e-4  # a hundred roundings of logits near 10
        assert result.where(1e-4) is None


def test_export_refuses(small, tmp_path, capsys):
    path, folder = small
    (tmp_path / "empty").mkdir()
    for target, message in ((path, "already exists"), (folder, "already exists"), (tmp_path / "empty", "a directory")):
        with pytest.raises(InputError, match=message):
            export(folder, target)
    with pytest.raises(InputError, match="not a converted model"):
        export(tmp_path / "empty", tmp_path / "new.pth")
    assert cli.main(["export", str(tmp_path / "nowhere"), str(tmp_path / "new.pth")]) == 2
    assert "not a converted model" in capsys.readouterr().err
    assert cli.main(["export", str(folder), str(tmp_path / "new.pth")]) == 0
    assert_same_tensors(tmp_path / "new.pth", path)


def test_refresh_keeps_what_is_not_the_model(small):
    """Other tensors than the model's, such as an adapter's, and files that only look like weights."""
    _, folder = small
    kept = ["adapter_model.safetensors", "adapter_config.json", "training_args.bin", "optimizer.bin", "a.safetensors",
            "model.safetensors.bak", "model-best.safetensors", "pytorch_model.bin.old"]  # fmt: skip
    stale = ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json",
             "model-00002-of-00003.safetensors", "model.safetensors.index.json", "modeling_rwkv9.py"]  # fmt: skip
    for name in kept + stale:
        (folder / name).write_text(name)
    refresh(folder, progress=False)
    assert [(folder / name).read_text() for name in kept] == kept
    assert not [name for name in stale if (folder / name).exists()]


def test_refresh_drops_shards_of_any_name(small):
    _, folder = small
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    index = {"weight_map": dict.fromkeys(load_file(folder / "part.safetensors"), "part.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refresh(folder, progress=False)
    assert [file.name for file in folder.glob("*.safetensors*")] == ["model.safetensors"]


def cards(folder):
    return {file.name: file.read_text(encoding="utf-8") for file in folder.glob("README*")}


def test_refresh_loses_no_card(small):
    """An edited card is kept each time, under a name of its own; a generated one, or one that is kept, is not."""
    _, folder = small
    (folder / "README.md").write_text("mine")
    refresh(folder, progress=False)
    generated = cards(folder)["README.md"]
    assert cards(folder) == {"README.md": generated, "README.old.md": "mine"}
    (folder / "README.md").write_text("edited")
    refresh(folder, progress=False)
    expected = {"README.md": generated, "README.old.md": "mine", "README.old2.md": "edited"}
    assert cards(folder) == expected
    for card in (generated, "mine", "edited"):
        (folder / "README.md").write_text(card, encoding="utf-8")
        refresh(folder, progress=False)
        assert cards(folder) == expected
    (folder / "README.md").write_text("again")
    refresh(folder, progress=False)
    assert cards(folder) == expected | {"README.old3.md": "again"}


def test_a_refreshed_card_does_not_say_what_happened_before(tmp_path):
    """Whether numbers were rounded when the directory was made cannot be seen in it."""
    path = synthetic.write_random_checkpoint(tmp_path / "a.pth", vocab_size=300, dtype=torch.float32)
    folder = directory.convert(path, tmp_path / "converted", torch.float16, progress=False)
    refresh(folder, progress=False)
    card = cards(folder)["README.md"]
    assert "The numbers are those of the model directory that this one was refreshed from" in card
    assert "Converted" not in card
    assert "rounded to float16" in cards(folder)["README.old.md"]


def test_refresh_leaves_the_tokenizer_of_another_vocabulary(tmp_path, capsys):
    """The published RWKV/rwkv-4-*-pile repositories have GPT-NeoX's tokenizer, and keep it."""
    path = synthetic.write_random_checkpoint(tmp_path / "a.pth", "4", hidden_size=8, vocab_size=50277)
    folder = tmp_path / "pile"
    old_directory(folder, path, "4", 1, ".bin")
    theirs = {name: f"content of {name}" for name in (
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt",
        "tokenization_gpt.py", "added_tokens.json", "vocab.txt")}  # fmt: skip
    for name, text in theirs.items():
        (folder / name).write_text(text)
    assert cli.main(["refresh", str(folder)]) == 0
    assert {name: (folder / name).read_text() for name in theirs} == theirs
    assert "# RWKV-4, converted" in cards(folder)["README.md"]
    assert "AutoTokenizer" not in cards(folder)["README.md"]
    assert not (folder / "pytorch_model.bin").exists()
    assert cli.main(["refresh", str(folder), "--tokenizer"]) == 0
    assert (folder / "tokenization_rwkv_world.py").is_file()
    assert not (folder / "tokenization_gpt.py").exists()
    assert "World" in cards(folder)["README.md"]


def damage(folder, how):
    weights = folder / "model.safetensors"
    if how == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "index":
        weights.unlink()
        (folder / "model.safetensors.index.json").write_text('{"weight_map": 3}')
    elif how == "empty index":
        weights.unlink()
        (folder / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    elif how == "no tensors":
        save_file({}, weights)
    elif how == "adapter":
        weights.unlink()
        (folder / "adapter_config.json").write_text("{}")
    elif how == "shard":
        weights.unlink()
        (folder / "model.safetensors.index.json").write_text('{"weight_map": {"head.weight": "gone.safetensors"}}')
    elif how == "foreign":
        save_file({**load_file(weights), "lm_head.weight": torch.ones(3, 3)}, weights)
    elif how == "missing":
        tensors = load_file(weights)
        del tensors["head.weight"]
        save_file(tensors, weights)
    elif how == "infinite":
        save_file({**load_file(weights), "rwkv.ln_out.bias": torch.full((64,), float("inf"))}, weights)
    elif how == "config":
        (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut", "damaged"),
        ("index", "not an index"),
        ("empty index", "names no file of weights"),
        ("no tensors", "has no tensors"),
        ("adapter", "holds an adapter without its model"),
        ("shard", "has no gone.safetensors"),
        ("foreign", "lm_head.weight is not a tensor of a converted RWKV model"),
        ("missing", "no tensor head.weight"),
        ("infinite", "ln_out.bias has numbers that are not finite"),
        ("config", "not a configuration"),
    ],
)
def test_a_damaged_directory_is_refused_and_left_alone(how, message, small, tmp_path):
    _, folder = small
    damage(folder, how)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(InputError, match=message):
        refresh(folder, progress=False)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["converted", "small.pth"]


def old_directory(folder, checkpoint, version, shards, suffix):
    """Write what the older converters made of a checkpoint, as the published repositories have it."""
    folder.mkdir()
    tensors = {names.hub_name(n): w.clone() for n, w in files.load_checkpoint(checkpoint).items()}
    new_names = list(tensors)
    parts = [new_names[i::shards] for i in range(shards)]
    stem = {".bin": "pytorch_model", ".safetensors": "model"}[suffix]
    index = {}
    for number, part in enumerate(parts, start=1):
        file = f"{stem}{suffix}" if shards == 1 else f"{stem}-{number:05d}-of-{shards:05d}{suffix}"
        part_tensors = {name: tensors[name] for name in part}
        if suffix == ".bin":
            torch.save(part_tensors, folder / file)
        else:
            save_file(part_tensors, folder / file)
        index |= dict.fromkeys(part, file)
    if shards > 1:
        (folder / f"{stem}{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    config = {"architectures": ["RwkvForCausalLM"], "model_type": "rwkv", "context_length": 1024, "rescale_every": 6,
              "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 65536, "transformers_version": "4.34.0",
              "intermediate_size": None, "bos_token_id": 0, "eos_token_id": 0}  # fmt: skip
    if version != "4":
        auto_map = {
            "AutoConfig": "configuration_rwkv5.Rwkv5Config",
            "AutoModelForCausalLM": "modeling_rwkv5.Rwkv5ForCausalLM",
        }
        config |= {"model_type": "rwkv5", "architectures": ["Rwkv5ForCausalLM"], "auto_map": auto_map, "head_size": 32}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = {"tokenizer_class": "RWKVWorldTokenizer", "auto_map": {
        "AutoTokenizer": ["tokenization_rwkv_world.RWKVWorldTokenizer", None]}}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    code = ("configuration_rwkv5.py", "modeling_rwkv5.py", "tokenization_rwkv_world.py")
    for name in (*code, "rwkv_vocab_v20230424.json", "special_tokens_map.json", "vocab.txt"):
        (folder / name).write_text("raise RuntimeError('code for transformers 4')")
    (folder / "README.md").write_text("an old card")
    (folder / "LICENSE").write_text("Apache")
    (folder / ".git" / "objects").mkdir(parents=True)
    (folder / ".git" / "objects" / "1").write_text("an object")


@pytest.mark.parametrize(("shards", "suffix"), [(1, ".bin"), (2, ".bin"), (1, ".safetensors"), (2, ".safetensors")])
@pytest.mark.parametrize("version", ["4", "5.0", "5.2"])
def test_refresh(version, shards, suffix, tmp_path):
    path = synthetic.write_random_checkpoint(tmp_path / "a.pth", version, hidden_size=64)
    folder = tmp_path / "old"
    old_directory(folder, path, version, shards, suffix)
    assert cli.main(["refresh", str(folder)]) == 0
    present = {file.name for file in folder.iterdir()}
    today = {file.name for file in directory.convert(path, tmp_path / "new", progress=False).iterdir()}
    assert present == today | {"LICENSE", ".git", "README.old.md"}
    assert (folder / "README.old.md").read_text() == "an old card"
    assert (folder / ".git" / "objects" / "1").read_text() == "an object"
    assert json.loads((folder / "config.json").read_text())["context_length"] == 1024
    weights, _ = load_converted(folder)
    assert all(torch.equal(weights[name], w) for name, w in files.load_checkpoint(path).items())
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    assert type(model).__name__ == ("Rwkv4ForCausalLM" if version == "4" else "Rwkv5ForCausalLM")
    if version == "4":
        assert isinstance(AutoModelForCausalLM.from_pretrained(folder), RwkvForCausalLM)
        assert model.config.rescale_every == 0
    assert AutoTokenizer.from_pretrained(folder, trust_remote_code=False)("你好").input_ids == [10464, 11685]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.pth", "new", "old"]


def test_refreshing_twice_changes_nothing_more(small):
    _, folder = small
    (folder / "notes.txt").write_text("kept")
    refresh(folder, progress=False)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    refresh(folder, progress=False)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_refresh_refuses(tmp_path, small, monkeypatch, capsys):
    _, folder = small
    monkeypatch.chdir(folder)
    assert cli.main(["refresh", "."]) == 2
    assert "holds the current directory" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert cli.main(["refresh", "nowhere"]) == 2
    assert cli.main(["refresh", "small.pth"]) == 2
    shutil.rmtree(folder)
    folder.mkdir()
    assert cli.main(["refresh", "converted"]) == 2
    assert "no model.safetensors" in capsys.readouterr().err


def test_a_configuration_that_is_none(tmp_path):
    """A pipe is not waited for, deep JSON is no traceback, and true is no length."""
    path = tmp_path / "config.json"
    for content, length in (
        ('{"context_length": 512}', 512),
        ('{"max_position_embeddings": 8192}', 8192),
        ('{"context_length": true}', 4096),
        ("{}", 4096),
    ):
        path.write_text(content)
        assert old_context_length(tmp_path) == length
    for content in ("[" * 10**5, "[]", "{"):
        path.write_text(content)
        with pytest.raises(InputError, match="is not a configuration"):
            old_context_length(tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="it is no regular file; correct it, or remove it"):
        old_context_length(tmp_path)
