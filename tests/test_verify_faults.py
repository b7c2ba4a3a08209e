"""Plant one fault at a time in a converted directory: each must be refused, or fail, in a sentence that names it.

Three kinds: faults of files, which ``verify`` finds by comparing them with what a conversion writes; faults of code,
which only run because they are trusted, and show in what the model computes; and edits after the certificate was made.
"""

import hashlib
import json
import math
import os
import shutil
import socket

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers import __main__ as cli
from helpers.checkpoints import synthetic
from helpers.checkpoints.files import sha256
from helpers.conversion import directory
from helpers.conversion.reading import load_converted
from helpers.lambada.passages import SAMPLE
from helpers.proof import contents, judging, precision, verify, vocabulary
from helpers.proof.certificate import read_certificate
from helpers.proof.results import TokenizersResult
from helpers.tokenizer.check import reference_tokenizer
from helpers.tokenizer.fast import python_tokenizer, save_tokenizers

SIZES = {"vocab_size": 300, "hidden_size": 32, "head_size": 16, "dtype": torch.float32}
QUICK = ["--lengths", "9", "--seeds", "0"]
GOOD_TOKENIZERS = TokenizersResult(2, 0, 0, 9, 0, 0, [])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """``{version: (checkpoint, converted directory in two shards)}``."""
    base = tmp_path_factory.mktemp("faults")
    made = {}
    for version in ("4", "5.0"):
        checkpoint = synthetic.write_random_checkpoint(base / f"{version}.pth", version, **SIZES)
        made[version] = (
            checkpoint,
            directory.convert(checkpoint, base / f"model-{version}", max_shard_size="110KB", progress=False),
        )
        assert len(list(made[version][1].glob("*.safetensors"))) == 2
    return made


@pytest.fixture(scope="module")
def good_answers(models):
    """``{version: (runs, checks, lower precision)}`` of a right model, computed once: for faults not of numbers."""
    found = {}
    for version, (checkpoint, folder) in models.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(verify, "compare_tokenizers", lambda *_: GOOD_TOKENIZERS)
            certificate = verify.verify(checkpoint, folder, (9,), (0,), progress=False)
        assert certificate.passed, certificate.failures
        assert certificate.contents.not_covered == []
        found[version] = certificate.runs, certificate.checks, certificate.lower_precision
    return found


@pytest.fixture(autouse=True)
def few_tokens_in_16_bits(monkeypatch):
    """Of the faults here, one shows in bf16 alone, and it shows as well with fewer tokens."""
    monkeypatch.setattr(judging, "TOKENS", 64)
    monkeypatch.setattr(precision, "STEPS", 8)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(self, address):
        if self.family != socket.AF_UNIX:
            pytest.fail(f"{address} was contacted")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def copy(models, version, tmp_path):
    checkpoint, original = models[version]
    return checkpoint, shutil.copytree(original, tmp_path / "model")


def said(capsys, *arguments) -> tuple[int, str]:
    """Run ``verify``; return the exit code and what is printed."""
    code = cli.main(["verify", *map(str, arguments)])
    output = capsys.readouterr()
    return code, output.out + output.err


# faults of files


def change_json(name, **fields):
    """Set fields, or remove those that are None."""

    def fault(folder):
        content = json.loads((folder / name).read_text())
        content |= fields
        kept = {key: value for key, value in content.items() if value is not None}
        (folder / name).write_text(json.dumps(kept, indent=2))

    return fault


def change_text(name, old, new):
    def fault(folder):
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1), encoding="utf-8")

    return fault


def add(name, content="{}"):
    def fault(folder):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)

    return fault


def record(**fields):
    return add("conversion.json", json.dumps({"source": [], "files": {}, "made_with": {}} | fields))


def remove(name):
    return lambda folder: (folder / name).unlink()


def rotate_ids(name):
    """Give each of 20,000 tokens the id of the next one."""

    def fault(folder):
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        vocab = content["model"]["vocab"] if name == "tokenizer.json" else content
        chosen = [token for token, index in vocab.items() if index >= 45_530]
        vocab |= dict(zip(chosen, [vocab[token] for token in chosen[1:] + chosen[:1]], strict=True))
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    return fault


def swap_shards(folder):
    one, two = sorted(folder.glob("*.safetensors"))
    one.rename(folder / "x")
    two.rename(one)
    (folder / "x").rename(two)


def change_weight(function):
    def fault(folder):
        file = sorted(folder.glob("*.safetensors"))[0]
        weights = load_file(file)
        weights["rwkv.blocks.0.ln1.weight"] = function(weights["rwkv.blocks.0.ln1.weight"])
        save_file(weights, file, metadata={"format": "pt"})

    return fault


def one_ulp(weight):
    weight[7] = torch.nextafter(weight[7], torch.tensor(math.inf))
    return weight


CONFIG, GENERATION, SETTINGS = "config.json", "generation_config.json", "tokenizer_config.json"
INDEX = "model.safetensors.index.json"
CODE, WORLD_CODE = "modeling_rwkv5.py", "tokenization_rwkv_world.py"
FILE_FAULTS = {  # what is done to a directory, and what is said about it
    "layer norm 2e-5": (change_json(CONFIG, layer_norm_epsilon=2e-5), "layer_norm_epsilon is 2e-05, not 1e-05"),
    "layer norm 0": (change_json(CONFIG, layer_norm_epsilon=0.0), "layer_norm_epsilon is 0.0"),
    "group norm": (change_json(CONFIG, group_norm_epsilon=1e-5), "group_norm_epsilon is 1e-05"),
    "dtype": (change_json(CONFIG, dtype="float16"), 'dtype is "float16", not "float32"'),
    "no dtype": (change_json(CONFIG, dtype=None), "dtype is nothing"),
    "end of text in the configuration": (change_json(CONFIG, eos_token_id=11), "eos_token_id is 11, not 0"),
    "start of text": (change_json(CONFIG, bos_token_id=2), "bos_token_id is 2"),
    "padding id": (change_json(CONFIG, pad_token_id=1), "pad_token_id is 1"),
    "false for an id": (change_json(CONFIG, pad_token_id=False), "pad_token_id is false, not 0"),
    "no cache": (change_json(CONFIG, use_cache=False), "use_cache is false"),
    "a longer context": (change_json(CONFIG, context_length=True), "says context_length True"),
    "architecture": (change_json(CONFIG, architectures=["LlamaForCausalLM"]), "architectures is"),
    "no code named": (change_json(CONFIG, auto_map=None), "auto_map is nothing"),
    "code of a stranger": (
        change_json(CONFIG, auto_map={"AutoModelForCausalLM": "them/model--modeling_rwkv5.Rwkv5ForCausalLM"}),
        "another repository, which is never asked",
    ),
    "hidden states": (change_json(CONFIG, output_hidden_states=True), "output_hidden_states is true"),
    "a tokenizer's class": (change_json(CONFIG, tokenizer_class="GPT2Tokenizer"), "tokenizer_class is"),
    "labels": (change_json(CONFIG, max_length=5), "max_length is 5, not nothing"),
    "a field twice": (change_text(CONFIG, '"use_cache"', '"vocab_size": 1, "use_cache"'), "each field once"),
    "max_length": (change_json(GENERATION, max_length=3), "max_length is 3, not nothing"),
    "end of text": (change_json(GENERATION, eos_token_id=[0, 261]), "eos_token_id is [0, 261], not 0"),
    "no end of text": (change_json(GENERATION, eos_token_id=None), "eos_token_id is nothing"),
    "sampling": (change_json(GENERATION, do_sample=True, temperature=5.0), "do_sample is true"),
    "beams": (change_json(GENERATION, num_beams=4), "num_beams is 4"),
    "suppressed tokens": (change_json(GENERATION, suppress_tokens=[33]), "suppress_tokens is [33]"),
    "no generation": (remove(GENERATION), "generation_config.json is missing"),
    "no JSON": (add(GENERATION, "{"), "is not an object of JSON"),
    "rotated ids": (rotate_ids("tokenizer.json"), "tokenizer.json is not what this version writes"),
    "rotated ids, Python": (rotate_ids("vocab.json"), "vocab.json is not what this version writes"),
    "a decoder": (
        change_text("tokenizer.json", '"decoder":{"type":"ByteLevel"', '"decoder":{"type":"Fuse"'),
        "tokenizer.json is not",
    ),
    "a pattern": (change_text("tokenizer.json", "(?=", "(?:"), "tokenizer.json is not"),
    "a decoder, Python": (change_text(WORLD_CODE, '"utf-8", self.errors', '"latin-1"'), WORLD_CODE),
    "code of the tokenizer": (change_text(WORLD_CODE, "greedy", "Greedy"), f"{WORLD_CODE} is not what"),
    "padding side": (change_json(SETTINGS, padding_side="right"), f"{SETTINGS} is not"),
    "template": (change_json(SETTINGS, chat_template="{{ messages }}"), f"{SETTINGS} is not"),
    "special tokens": (change_json(SETTINGS, eos_token="\n\n"), f"{SETTINGS} is not"),
    "a template beside": (add("chat_template.jinja"), "chat_template.jinja changes what transformers loads"),
    "more templates": (add("additional_chat_templates/x.jinja"), "additional_chat_templates/x.jinja changes"),
    "added tokens": (add("added_tokens.json", '{"<x>": 1}'), "added_tokens.json changes what"),
    "special tokens beside": (add("special_tokens_map.json"), "special_tokens_map.json changes what"),
    "an adapter": (add("adapter_config.json"), "adapter_config.json changes what"),
    "code of the model": (change_text(CODE, "torch.exp", "torch.expm1"), f"{CODE} of"),
    "code that all share": (add("rwkv_inputs.py", "import os\n"), "rwkv_inputs.py of"),
    "code that fails": (add("rwkv_requirements.py", "1 +"), "rwkv_requirements.py of"),
    "no code": (remove(CODE), f"{CODE} is missing"),
    "code under another name": (
        lambda folder: (
            add("evil.py", "raise SystemExit")(folder),
            change_json(CONFIG, auto_map={"AutoModelForCausalLM": "evil.Rwkv5ForCausalLM"})(folder),
        ),
        "evil.py of",
    ),
    "swapped shards": (swap_shards, f"{INDEX} is not what"),
    "total size": (change_text(INDEX, '"total_size": ', '"total_size": 9'), f"{INDEX} is not"),
    "not a number": (change_weight(lambda w: torch.full_like(w, math.nan)), "1 tensors have other numbers"),
    "infinite": (change_weight(lambda w: w / 0), "1 tensors have other numbers"),
    "one ulp": (change_weight(one_ulp), "the first is blocks.0.ln1.weight"),
    "a record of another source": (
        record(source=[{"file": "a.pth", "bytes": 1, "sha256": "00"}]),
        "another checkpoint was converted",
    ),
    "a record of something else": (add("conversion.json", '{"source": 3}'), "is not the record of a conversion"),
    "a record of other files": (record(files={CODE: "00"}), f"'{CODE}' has changed since the conversion"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FILE_FAULTS)
def test_a_fault_of_a_file(fault, models, good_answers, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(verify, "compare_answers", lambda *_: good_answers["5.0"])
    monkeypatch.setattr(verify, "compare_tokenizers", lambda *_: GOOD_TOKENIZERS)
    checkpoint, folder = copy(models, "5.0", tmp_path)
    spoil, sentence = FILE_FAULTS[fault]
    spoil(folder)
    code, text = said(capsys, checkpoint, folder, *QUICK)
    assert code in (1, 2)
    assert sentence in text
    assert code == 2 or "FAILED" in (folder / "README.md").read_text()


def test_native_rescaling(models, good_answers, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(verify, "compare_answers", lambda *_: good_answers["4"])
    monkeypatch.setattr(verify, "compare_tokenizers", lambda *_: GOOD_TOKENIZERS)
    checkpoint, folder = copy(models, "4", tmp_path)
    change_json(CONFIG, rescale_every=2)(folder)
    code, text = said(capsys, checkpoint, folder, *QUICK)
    assert code == 1
    assert "rescale_every is 2, not 0" in text


@pytest.mark.parametrize("name", [WORLD_CODE, "vocab.json"])
def test_half_of_the_python_tokenizer(name, models, good_answers, tmp_path, monkeypatch, capsys):
    """It does not make the model one of another vocabulary, whose tokenizer is not judged."""
    monkeypatch.setattr(verify, "compare_answers", lambda *_: good_answers["5.0"])
    monkeypatch.setattr(verify, "compare_tokenizers", lambda *_: GOOD_TOKENIZERS)
    checkpoint, folder = copy(models, "5.0", tmp_path)
    for gone in (name, "conversion.json"):
        (folder / gone).unlink(missing_ok=True)
    code, text = said(capsys, checkpoint, folder, *QUICK)
    assert code == 1
    assert f"{name} is missing" in text


def test_a_tokenizer_that_is_not_judged(models, good_answers, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(verify, "compare_answers", lambda *_: good_answers["5.0"])
    checkpoint, folder = copy(models, "5.0", tmp_path)
    for gone in (WORLD_CODE, "vocab.json", "conversion.json"):
        (folder / gone).unlink()
    code, text = said(capsys, checkpoint, folder, *QUICK)
    assert code == 0, text
    assert "note: tokenizer.json is taken for one of another vocabulary than World, and was not judged." in text


def test_a_tokenizer_of_another_kind_is_no_traceback():
    counts = vocabulary.judge("fast", object(), None, ["a"])
    assert counts[:2] == (1, vocabulary.all_ids())
    assert counts[2] == ["The fast tokenizer failed with AttributeError: 'object' object has no attribute 'encode'."]


def test_a_world_model_needs_both_tokenizers(models, tmp_path):
    _, folder = copy(models, "5.0", tmp_path)
    (folder / WORLD_CODE).unlink()
    (folder / "vocab.json").unlink()
    found = contents.compare_contents(folder, load_converted(folder)[1], True, [])
    assert [sentence.split(";")[0] for sentence in found.different] == [
        f"{WORLD_CODE} is missing",
        "vocab.json is missing",
    ]


def test_what_is_no_fault(models, good_answers, tmp_path, monkeypatch, capsys):
    """Another transformers, keys in another order, another context length, files of the user."""
    monkeypatch.setattr(verify, "compare_answers", lambda *_: good_answers["5.0"])
    monkeypatch.setattr(verify, "compare_tokenizers", lambda *_: GOOD_TOKENIZERS)
    checkpoint, folder = copy(models, "5.0", tmp_path)
    config = json.loads((folder / CONFIG).read_text()) | {"transformers_version": "5.15.0", "context_length": 8192}
    (folder / CONFIG).write_text(json.dumps(dict(sorted(config.items()))))
    add("notes.txt")(folder)
    add("figures/a.png")(folder)
    source = {"file": checkpoint.name, "bytes": 1, "sha256": sha256(checkpoint)}
    record(source=[source], files={CODE: sha256(folder / CODE)})(folder)
    code, text = said(capsys, checkpoint, folder, *QUICK)
    assert code == 0, text
    assert "context_length 8,192, which the tensors cannot show" in text
    assert f"note: conversion.json says that the directory was made from '{checkpoint.name}'" in text
    assert "not covered: notes.txt" in text
    assert (
        "Not covered, since they are not the model's: figures/a.png, notes.txt." in (folder / "README.md").read_text()
    )


# faults of the tokenizers, one step further: in what they do


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    folder = save_tokenizers(tmp_path_factory.mktemp("tokenizers"))
    return folder, vocabulary.fast_tokenizer(folder, None)


def test_right_tokenizers(tokenizers):
    for tokenizer in (tokenizers[1], python_tokenizer(tokenizers[0])):
        assert vocabulary.wrong_ids(tokenizer, reference_tokenizer()) == set()
        assert list(vocabulary.wrong_settings(tokenizer)) == []


@pytest.mark.parametrize(("name", "count"), [("tokenizer.json", 20_000), ("vocab.json", 20_000)])
def test_rotated_ids(name, count, tokenizers, tmp_path):
    folder = shutil.copytree(tokenizers[0], tmp_path / "x")
    rotate_ids(name)(folder)
    fast = name == "tokenizer.json"
    tokenizer = vocabulary.fast_tokenizer(folder, None) if fast else python_tokenizer(folder)
    assert len(vocabulary.wrong_ids(tokenizer, reference_tokenizer())) >= count


def test_a_broken_decoder(tokenizers, tmp_path):
    folder = shutil.copytree(tokenizers[0], tmp_path / "x")
    FILE_FAULTS["a decoder"][0](folder)
    assert len(vocabulary.wrong_ids(vocabulary.fast_tokenizer(folder, None), reference_tokenizer())) > 1000
    slow = python_tokenizer(tokenizers[0])
    slow.errors = "ignore"
    assert len(vocabulary.wrong_ids(slow, reference_tokenizer())) >= 486  # those that are no text by themselves


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"padding_side": "right"}, "has padding_side 'right', not 'left'"),
        ({"eos_token": "\n\n"}, "has eos_token"),
        ({"bos_token": "a"}, "has bos_token"),
        ({"pad_token": None}, "has pad_token None"),
        ({"chat_template": "{{ messages }}"}, "has another chat template"),
        ({"split_special_tokens": True}, "has split_special_tokens True"),
        ({"truncation_side": "left"}, "has truncation_side 'left'"),
        ({"model_input_names": ["input_ids"]}, "has model_input_names"),
        ({"added_tokens_decoder": {"5": {"content": "<x>", "special": True}}}, "has added tokens beside"),
    ],
)
def test_wrong_settings(settings, sentence, tokenizers, tmp_path):
    folder = shutil.copytree(tokenizers[0], tmp_path / "x")
    content = json.loads((folder / SETTINGS).read_text()) | settings
    (folder / SETTINGS).write_text(json.dumps(content))
    faults = list(vocabulary.wrong_settings(vocabulary.fast_tokenizer(folder, None)))
    assert any(sentence in fault for fault in faults), faults


def test_an_earlier_template_is_called_so(tokenizers, tmp_path, monkeypatch):
    folder = shutil.copytree(tokenizers[0], tmp_path / "x")
    change_json(SETTINGS, chat_template="old")(folder)
    monkeypatch.setattr(vocabulary, "EARLIER_TEMPLATES", (hashlib.sha256(b"old").hexdigest(),))
    faults = vocabulary.wrong_settings(vocabulary.fast_tokenizer(folder, None))
    assert "has the chat template of an earlier version, without thinking and tools" in faults


# faults of code: it is not this project's, so it is refused; trusted, it runs in a process of its own and shows itself


COMMON, GENERATING = "rwkv_common.py", "rwkv_generation.py"
HEAD = "logits = self.head(output.last_hidden_state[:, keep])"
EIGHT_BITS = "x = x.to(torch.float8_e4m3fn).to(x) if x.dtype == torch.bfloat16 else x"  # a wrong cast
MASK = "if mask is None:\n        return None, None"
CODE_FAULTS = {  # a file, what is replaced there, by what, and what is said about it
    "masks": ("rwkv_inputs.py", MASK, "return None, None", "batch of random ids"),
    "batches": (COMMON, HEAD, f"{HEAD}; logits = logits + (logits[:1] if len(logits) > 1 else 0)", "batch of random"),
    "over 200 tokens": (COMMON, HEAD, f"{HEAD} * (2 if tokens.shape[1] > 200 else 1)", "long of random ids"),
    "pieces": (COMMON, "x[:, size:] for", "x[:, size - 1 :] for", "long of random ids"),
    "bf16": (COMMON, "return x if scale", f"{EIGHT_BITS}; return x if scale", "in bf16"),
    "beams": (GENERATING, "beam_idx.to(part.device)", "0 * beam_idx.to(part.device)", "the most probable text"),
    "loss": (COMMON, "loss = self.loss_function(", "loss = 1.1 * self.loss_function(", "the loss of"),
    "generation": (GENERATING, "= outputs.state\n", "= tuple(0 * x for x in outputs.state)\n", "the most probable"),
    "not a number": (COMMON, HEAD, f"{HEAD} * float('nan')", "begins to differ"),
    "other shapes": (COMMON, HEAD, f"{HEAD}[..., :1]", "failed: RuntimeError"),  # in the loss
    "an error": (COMMON, HEAD, "raise KeyError('no \x1b head')", "failed: KeyError"),
    "an end": (COMMON, HEAD, "import os; os._exit(0)", "ended, or did not"),
    "a forged judge": (COMMON, HEAD, f"import helpers.proof.parity as p; p.Parity.within = lambda *_: True; {HEAD} * 2",
                       "begins to differ"),
}  # fmt: skip


@pytest.mark.parametrize("fault", CODE_FAULTS)
def test_a_fault_of_code(fault, models, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(verify, "compare_tokenizers", lambda *_: GOOD_TOKENIZERS)
    checkpoint, folder = copy(models, "5.0", tmp_path)
    name, old, new, sentence = CODE_FAULTS[fault]
    change_text(name, old, new)(folder)
    code, text = said(capsys, checkpoint, folder, *QUICK)
    assert code == 2
    assert f"{name} of {folder} is not this version's code, and is not run unasked" in text
    assert not (folder / "parity.json").exists() or "FAILED" not in (folder / "README.md").read_text()
    code, text = said(capsys, checkpoint, folder, *QUICK, "--trust-remote-code")
    assert code in (1, 2)
    assert sentence in text
    if fault == "bf16":  # nothing else shows it, and a tenth of the largest logit, which is much, would allow it
        result = read_certificate(folder).lower_precision[0]
        assert result.to_fp32.largest < 0.1 * result.max_abs_logit
        assert text.count("FAILED: ") == 1


def test_harmless_code_of_its_own(models, tmp_path, monkeypatch, capsys):
    """It passes on what it computes, and the certificate says whose code it was; nothing of it runs in this process."""
    monkeypatch.setattr(verify, "compare_tokenizers", lambda *_: GOOD_TOKENIZERS)
    checkpoint, folder = copy(models, "5.0", tmp_path)
    trace = (
        f"import os; open({str(tmp_path / 'trace')!r}, 'a').write(f'{{os.getpid()}} '); print('hello')\nimport torch\n"
    )
    change_text(CODE, "import torch\n", trace)(folder)
    data = ["--data", str(SAMPLE), "--limit", "2"]
    assert cli.main(["lambada", "--model", str(folder), "--limit", "2", "--device", "cpu"]) == 2
    assert "is not run unasked" in capsys.readouterr().err
    assert said(capsys, checkpoint, folder, *QUICK)[0] == 2
    assert not (tmp_path / "trace").exists()
    code, text = said(capsys, checkpoint, folder, *QUICK, "--trust-remote-code")
    assert code == 0, text
    assert "it ran because --trust-remote-code was given" in text
    assert "the directory's own code, in a process of its own" in (folder / "README.md").read_text()
    ran = set((tmp_path / "trace").read_text().split())
    assert ran
    assert str(os.getpid()) not in ran
    assert said(capsys, checkpoint, folder, *QUICK, *data)[0] == 2


# edits after the certificate was made


def append(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes() + b" ")


LATER = {
    **{f"{name} edited": (append(name), f"{name} has changed") for name in (
        "README.md", CONFIG, GENERATION, SETTINGS, "tokenizer.json", "vocab.json", CODE, WORLD_CODE,
        "model-00001-of-00002.safetensors", INDEX, "mine.txt",
    )},
    "code removed": (remove(CODE), f"{CODE} is missing"),
    "a shard removed": (remove("model-00002-of-00002.safetensors"), "model-00002-of-00002.safetensors is missing"),
    "a file added": (add("chat_template.jinja"), "chat_template.jinja is new"),
    "code added": (add("more.py"), "more.py is new"),
    "swapped shards": (swap_shards, "model-00001-of-00002.safetensors has changed"),
    "another verdict": (change_text("parity.json", '"tensors": ', '"tensors": "x", "y": '), "is not readable"),
}  # fmt: skip


@pytest.fixture(scope="module")
def certified(models, good_answers, tmp_path_factory):
    """A directory with a certificate, and a file that is not the model's."""
    folder = shutil.copytree(models["5.0"][1], tmp_path_factory.mktemp("certified") / "model")
    add("mine.txt")(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "compare_answers", lambda *_: good_answers["5.0"])
        patch.setattr(verify, "compare_tokenizers", lambda *_: GOOD_TOKENIZERS)
        assert verify.verify(models["5.0"][0], folder, (9,), (0,), progress=False).passed
    return folder


@pytest.mark.parametrize("edit", LATER)
def test_an_edit_after_the_certificate(edit, certified, tmp_path, capsys):
    folder = shutil.copytree(certified, tmp_path / "model")
    assert said(capsys, folder, "--check")[0] == 0
    spoil, sentence = LATER[edit]
    spoil(folder)
    code, text = said(capsys, folder, "--check")
    assert code in (1, 2)
    assert sentence in text


def test_what_may_change_after_the_certificate(certified, tmp_path, capsys):
    """A file that is not the model's may stay behind, as it does on the way to the Hub; hidden files may come."""
    folder = shutil.copytree(certified, tmp_path / "model")
    remove("mine.txt")(folder)
    add(".gitattributes")(folder)
    code, text = said(capsys, folder, "--check")
    assert code == 0, text
    assert "not covered: mine.txt" in text


def test_a_file_that_changes_meanwhile(models, good_answers, tmp_path, monkeypatch, capsys):
    checkpoint, folder = copy(models, "5.0", tmp_path)

    def edit(*_):
        append(CONFIG)(folder)
        return good_answers["5.0"]

    monkeypatch.setattr(verify, "compare_answers", edit)
    monkeypatch.setattr(verify, "compare_tokenizers", lambda *_: GOOD_TOKENIZERS)
    before = (folder / "README.md").read_text()
    code, text = said(capsys, checkpoint, folder, *QUICK)
    assert code == 2
    assert "config.json changed while it was verified" in text
    assert (folder / "README.md").read_text() == before
