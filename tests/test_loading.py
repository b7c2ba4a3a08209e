"""Directories that are damaged are refused by every command alike; those that transformers wrote are accepted."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Trainer, TrainingArguments

from helpers import __main__ as cli
from helpers.checkpoints.synthetic import write_random_checkpoint
from helpers.conversion.directory import convert
from helpers.conversion.loading import check_directory, choose_device, load_model
from helpers.errors import InputError
from helpers.generation import serve
from helpers.generation.chat import Chat
from helpers.generation.sampling import Sampling
from helpers.tokenizer.fast import python_tokenizer

SIZES = {"hidden_size": 32, "head_size": 16, "dtype": torch.float32}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
IDS = torch.tensor([[33, 1097, 22799, 64, 1097]])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """``{version: (checkpoint, converted directory)}``."""
    base = tmp_path_factory.mktemp("loading")
    made = {}
    for version in ("4", "5.0"):
        checkpoint = write_random_checkpoint(base / f"{version}.pth", version, **SIZES)
        made[version] = checkpoint, convert(checkpoint, base / f"model-{version}", progress=False)
    return made


# directories that are damaged


def change_weights(change):
    def fault(folder: Path) -> None:
        path = folder / "model.safetensors"
        weights = load_file(path)
        change(weights)
        path.unlink()
        save_file(weights, path, metadata={"format": "pt"})

    return fault


def change_config(**fields):
    def fault(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return fault


def overwrite(name, content=POINTER):
    return lambda folder: (folder / name).write_text(content)


def truncate(name):
    def fault(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return fault


def misspell(weights):
    weights["rwkv.blocks.1.ln3.weight"] = weights.pop("rwkv.blocks.1.ln2.weight")


def in_shards(spoil):
    """Put the weights into two files with an index, and spoil one."""

    def fault(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        files = {name: f"model-0000{1 + ('head' in name)}-of-00002.safetensors" for name in weights}
        for file in set(files.values()):
            save_file({name: weights[name] for name in weights if files[name] == file}, folder / file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
        (folder / "model.safetensors").unlink()
        spoil(folder)

    return fault


def only_adapter(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


WEIGHT_FAULTS = {  # what happens to a converted RWKV-5.0, and what is said about it
    "a misspelt tensor": (change_weights(misspell), "has no tensor rwkv.blocks.1.ln2.weight"),
    "no head": (change_weights(lambda weights: weights.pop("head.weight")), "has no tensor head.weight"),
    "no embedding": (change_weights(lambda weights: weights.pop("rwkv.embeddings.weight")), "rwkv.embeddings.weight"),
    "a tensor too many": (
        change_weights(lambda weights: weights.update({"rwkv.blocks.0.ln3.bias": torch.ones(32)})),
        "has a tensor rwkv.blocks.0.ln3.bias",
    ),
    "a tensor of something else": (
        change_weights(lambda weights: weights.update({"model.layers.0": torch.ones(3)})),
        "model.layers.0 is not a tensor of a converted RWKV model",
    ),
    "a tensor of another shape": (
        change_weights(lambda weights: weights.update({"rwkv.ln_out.bias": torch.ones(31)})),
        "rwkv.ln_out.bias has shape [31]",
    ),
    "a tensor of whole numbers": (
        change_weights(lambda weights: weights.update({"rwkv.ln_out.bias": torch.ones(32, dtype=torch.int8)})),
        "ln_out.bias is torch.int8",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
    "half of the weights": (truncate("model.safetensors"), "model.safetensors is not a safetensors file"),
    "an empty file": (overwrite("model.safetensors", ""), "model.safetensors is not a safetensors file"),
    "a pointer for the weights": (overwrite("model.safetensors"), "model.safetensors is a Git LFS pointer"),
    "a shard too few": (
        in_shards(lambda folder: (folder / "model-00002-of-00002.safetensors").unlink()),
        "has no model-00002-of-00002.safetensors",
    ),
    "a pointer for a shard": (
        in_shards(overwrite("model-00002-of-00002.safetensors")),
        "model-00002-of-00002.safetensors is a Git LFS pointer",
    ),
    "half of a shard": (in_shards(truncate("model-00001-of-00002.safetensors")), "model-00001-of-00002.safetensors"),
    "half of an index": (in_shards(truncate("model.safetensors.index.json")), "index.json is not an index"),
}
OTHER_FAULTS = {
    "a layer too many in the configuration": (change_config(num_hidden_layers=3), "says num_hidden_layers 3"),
    "a layer too few": (change_config(num_hidden_layers=1), "says num_hidden_layers 1"),
    "layers beyond counting": (change_config(num_hidden_layers=10**12), "says num_hidden_layers 1000000000000"),
    "another vocabulary": (change_config(vocab_size=65535), "rwkv.embeddings.weight has shape [65536, 32]"),
    "another hidden size": (change_config(hidden_size=64), "has shape [65536, 32], and"),
    "another width of time-mix": (change_config(attention_hidden_size=64), "has shape [32, 32], and"),
    "another width of channel-mix": (change_config(intermediate_size=64), "has shape [128, 32], and"),
    "another version": (change_config(version="5.1"), "has no tensor rwkv.blocks.0.attention.time_mix_gate"),
    "another size of heads": (change_config(head_size=8), "says head_size 8, and the weights 16"),
    "another bonus": (change_config(bonus_name="time_faaaa"), "has no tensor rwkv.blocks.0.attention.time_faaaa"),
    "no version of ours": (change_config(version="9"), "config.json is not usable: version is '9'"),
    "no number of heads": (change_config(head_size=0), "config.json is not usable"),
    "text for a number": (change_config(hidden_size="32"), "config.json is not usable"),
    "another kind of model": (change_config(model_type="llama"), "says model_type 'llama'"),
    "no kind of model": (change_config(model_type=None), "says model_type None"),
    "a list for a configuration": (overwrite("config.json", "[]"), "config.json is not a configuration"),
    "half a configuration": (truncate("config.json"), "config.json is damaged"),
    "brackets without end": (overwrite("config.json", "[" * 10**5), "config.json is damaged"),
    "a pointer for the configuration": (overwrite("config.json"), "config.json is a Git LFS pointer"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "an adapter alone": (only_adapter, "holds an adapter without its model"),
    "a pointer for the tokenizer": (overwrite("tokenizer.json"), "tokenizer.json is a Git LFS pointer"),
    "half of the tokenizer": (truncate("tokenizer.json"), "tokenizer.json is damaged"),
    "half of its settings": (truncate("tokenizer_config.json"), "tokenizer_config.json is damaged"),
}
FAULTS = WEIGHT_FAULTS | OTHER_FAULTS


@pytest.mark.parametrize("fault", FAULTS)
def test_every_command_refuses_what_is_damaged(fault, models, tmp_path, monkeypatch, capsys):
    """In one sentence, with exit code 2, and before anything is loaded, measured, served or uploaded."""
    monkeypatch.setattr(serve, "start", lambda *args, **kwargs: pytest.fail("the server was started"))
    checkpoint, original = models["5.0"]
    folder = tmp_path / "model"
    shutil.copytree(original, folder)
    spoil, message = FAULTS[fault]
    spoil(folder)
    for command in (
        ["lambada", "--model", str(folder), "--limit", "1", "--device", "cpu"],
        ["serve", str(folder), "--device", "cpu", "--port", "0"],
        ["push", str(folder), "me/model", "--dry-run"],
        ["verify", str(checkpoint), str(folder), "--lengths", "1", "--seeds", "0"],
    ):
        assert cli.main(command) == 2, command
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.startswith("error: ")
        assert output.err.count("\n") == 1
        assert message in output.err


def test_the_tokenizer_is_asked_for_where_it_is_needed(models, tmp_path, capsys):
    """A measurement brings its own; to serve or to upload without one makes no sense."""
    folder = tmp_path / "model"
    shutil.copytree(models["5.0"][1], folder)
    (folder / "tokenizer.json").unlink()
    for command in (["serve", str(folder), "--port", "0"], ["push", str(folder), "me/model", "--dry-run"]):
        assert cli.main(command) == 2
        assert (
            f"has no tokenizer.json: no tokenizer was saved with the model, or the Python one; run python -m helpers \
refresh {folder}"
            in capsys.readouterr().err
        )
    load_model(folder)
    (folder / "tokenizer.json").write_text('{"model": {}}')
    with pytest.raises(InputError, match=r"Cannot load the tokenizer of .* run python -m helpers refresh"):
        serve.load_tokenizer(folder, load_model(folder))


def test_refresh_mends_the_configuration(models, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(models["5.0"][1], folder)
    change_config(num_hidden_layers=3, head_size=8)(folder)
    with pytest.raises(InputError, match=f"run python -m helpers refresh {folder}"):
        load_model(folder)
    assert cli.main(["refresh", str(folder)]) == 0
    load_model(folder)


def test_code_that_does_not_run_is_one_sentence(models, tmp_path):
    for number, line in enumerate(("raise AttributeError('old')", "import transformers.nothing", "1 +")):
        folder = tmp_path / f"model{number}"  # transformers remembers the code of a folder
        shutil.copytree(models["5.0"][1], folder)
        (folder / "modeling_rwkv5.py").write_text(line + "\n")
        with pytest.raises(InputError, match="Cannot load the model"):
            load_model(folder, "directory")
        load_model(folder)  # this project's own code does


@pytest.mark.parametrize("name", ["cuda", "cuda:7", "meta", "nonsense", "0"])
def test_devices_that_are_not_there(name):
    if name.startswith("cuda") and torch.cuda.device_count() > 7:
        pytest.skip("it is there")
    if name == "cuda" and torch.cuda.is_available():
        pytest.skip("it is there")
    with pytest.raises(InputError, match=f"Cannot use the device {name}: .*; try --device cpu"):
        choose_device(name)


# directories that transformers wrote


def trainable(folder: Path, **options):
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, **options)


def saved(folder: Path, out: Path) -> None:
    trainable(folder).save_pretrained(out)


def saved_natively(folder: Path, out: Path) -> None:
    """By the class of transformers itself: ``config.json`` names code that is not there."""
    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False).save_pretrained(out)


def tied(folder: Path, out: Path) -> None:
    model = trainable(folder)
    model.config.tie_word_embeddings = True
    model.head.weight = model.rwkv.embeddings.weight
    model.save_pretrained(out)
    assert "head.weight" not in load_file(out / "model.safetensors")


def resized(folder: Path, out: Path) -> None:
    model = trainable(folder)
    model.resize_token_embeddings(65600)
    model.save_pretrained(out)


def in_parts(folder: Path, out: Path) -> None:
    trainable(folder).save_pretrained(out, max_shard_size="5MB")
    assert (out / "model.safetensors.index.json").exists()


def trained(folder: Path, out: Path) -> None:
    """By ``Trainer``, with a tokenizer: the last checkpoint of a run."""
    rows = [{"input_ids": IDS[0], "labels": IDS[0]}] * 2
    arguments = TrainingArguments(out / "run", max_steps=2, save_steps=2, report_to=[], use_cpu=True, disable_tqdm=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    Trainer(trainable(folder), arguments, train_dataset=rows, processing_class=tokenizer).train()
    for path in (out / "run" / "checkpoint-2").iterdir():
        path.rename(out / path.name)


def merged(folder: Path, out: Path) -> None:
    """LoRA, merged into the model."""
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(trainable(folder), LoraConfig(target_modules=["key", "value"], r=2))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.01)
    adapted.merge_and_unload().save_pretrained(out)


def with_python_tokenizer(folder: Path, out: Path) -> None:
    saved(folder, out)
    python_tokenizer(folder).save_pretrained(out)


WRITERS = [saved, saved_natively, tied, resized, in_parts, trained, merged, with_python_tokenizer]
CASES = [("4", writer) for writer in WRITERS] + [("5.0", writer) for writer in WRITERS if writer != saved_natively]


@pytest.mark.parametrize(("version", "write"), CASES, ids=lambda x: getattr(x, "__name__", x))
def test_what_transformers_saves_is_loaded(version, write, models, tmp_path):
    """Whichever class takes it, the model is the one that was saved; and the fast tokenizer goes with it."""
    folder = models[version][1]
    write(folder, tmp_path)
    check_directory(tmp_path)
    expected = trainable(tmp_path) if list(tmp_path.glob("modeling_*.py")) else trainable(folder)
    with torch.no_grad():
        expected = expected.eval()(IDS).logits
        for code in ("ours", "directory") if list(tmp_path.glob("modeling_*.py")) else ("ours",):
            torch.testing.assert_close(load_model(tmp_path, code=code)(IDS).logits, expected)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (tmp_path / name).exists() and write != with_python_tokenizer:
            shutil.copy(folder / name, tmp_path)
    if write == with_python_tokenizer and not (tmp_path / "tokenizer.json").exists():
        assert cli.main(["refresh", str(tmp_path)]) == 0
    model = load_model(tmp_path)
    tokenizer = serve.load_tokenizer(tmp_path, model)
    assert tokenizer("The sea.")["input_ids"] == AutoTokenizer.from_pretrained(folder)("The sea.")["input_ids"]
    *_, heard = Chat(model, tokenizer, Sampling(max_new_tokens=3)).reply("hello")
    assert isinstance(heard, str)


def test_lambada_measures_what_was_fine_tuned(models, tmp_path, capsys):
    merged(models["4"][1], tmp_path)
    assert cli.main(["lambada", "--model", str(tmp_path), "--limit", "2", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.startswith("# 2 ppl ")


def test_a_tokenizer_without_a_template_or_with_more_tokens_than_the_model(models, tmp_path):
    folder = models["5.0"][1]
    model = load_model(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "no template")
    with pytest.raises(InputError, match="has no chat template; run python -m helpers refresh"):
        serve.load_tokenizer(tmp_path / "no template", model)
    small = write_random_checkpoint(tmp_path / "small.pth", vocab_size=300, **SIZES)
    small = convert(small, tmp_path / "small", progress=False)
    with pytest.raises(InputError, match=r"has a model of 300 tokens and a tokenizer of 65,530"):
        serve.load_tokenizer(small, load_model(small))


def test_shapes_of_quantized_weights_are_not_compared(models, tmp_path):
    """The files are looked at all the same."""
    folder = tmp_path / "model"
    shutil.copytree(models["5.0"][1], folder)
    change_config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})(folder)
    change_weights(lambda weights: weights.update({"head.weight": torch.ones(9, 1, dtype=torch.uint8)}))(folder)
    check_directory(folder)
    truncate("model.safetensors")(folder)
    with pytest.raises(InputError, match="is not a safetensors file"):
        check_directory(folder)
    overwrite("model.safetensors")(folder)
    with pytest.raises(InputError, match="is a Git LFS pointer"):
        check_directory(folder)
