"""The layout of flash-linear-attention: there and back bit for bit, and a sentence for what cannot be read."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers import __main__ as cli
from helpers.checkpoints import synthetic
from helpers.checkpoints.files import load_checkpoint
from helpers.checkpoints.fla import FLA_6, FLA_7, LAYER, UNUSED, from_fla, to_fla
from helpers.checkpoints.versions import VERSIONS
from helpers.conversion.directory import convert
from helpers.conversion.export import export
from helpers.conversion.fla import export_fla
from helpers.conversion.loading import check_directory, load_model
from helpers.conversion.reading import load_converted
from helpers.conversion.refresh import refresh
from helpers.errors import InputError
from helpers.tokenizer.vocab import read_vocab

FORMS = {
    "6": {"version": "6"},
    "6 odd sizes": {"version": "6", "hidden_size": 72, "head_size": 24, "mix_rank": 5, "decay_rank": 7},
    "7": {"version": "7"},
    "7 all": {"version": "7", "has_first_value_mix": True},
    "7 one layer": {"version": "7", "layers": 1},
    "7 odd ranks": {"version": "7", "head_size": 16, "decay_low_rank_dim": 3, "v_low_rank_dim": 5},
}
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def made(folder, vocab_size=300, **form):
    """Return a random checkpoint, its converted directory, and that in fla's layout."""
    path = synthetic.write_random_checkpoint(folder / "a.pth", vocab_size=vocab_size, **form)
    converted = convert(path, folder / "converted", progress=False, with_tokenizer=vocab_size == 65536)
    return path, converted, export_fla(converted, folder / "fla", max_shard_size="50KB", progress=False)[0]


@pytest.fixture
def small(tmp_path):
    """A small RWKV-7 with everything, in fla's layout, in one file of weights."""
    path = synthetic.write_random_checkpoint(tmp_path / "a.pth", "7", vocab_size=300, has_first_value_mix=True)
    converted = convert(path, tmp_path / "converted", progress=False, with_tokenizer=False)
    return path, export_fla(converted, tmp_path / "fla", progress=False)[0]


def change(folder, edit):
    """Replace the weights by what ``edit`` makes of them."""
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / "model.safetensors")


def pth_of(folder, out):
    """Return the bytes of the .pth file that a directory gives; the file's own name is in them."""
    out.mkdir()
    return export(folder, out / "back.pth").read_bytes()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_there_and_back_is_the_original(form, dtype, tmp_path):
    """Names, order, shapes and bits, and the same bytes as without the way over fla."""
    path, converted, folder = made(tmp_path, dtype=dtype, **FORMS[form])
    assert pth_of(folder, tmp_path / "one") == pth_of(converted, tmp_path / "other")
    back, original = load_checkpoint(tmp_path / "one" / "back.pth"), load_checkpoint(path)
    assert list(back) == list(original)
    for name, weight in original.items():
        assert back[name].dtype == weight.dtype, name
        assert torch.equal(back[name], weight), name


@pytest.mark.parametrize("form", FORMS)
def test_refresh_makes_the_converted_directory_again(form, tmp_path):
    _, converted, folder = made(tmp_path, **FORMS[form])
    refresh(folder, progress=False)
    same = ("model.safetensors", "config.json", "generation_config.json")
    assert all((folder / name).read_bytes() == (converted / name).read_bytes() for name in same)
    assert not list(folder.glob("pth_*"))
    check_directory(folder)


@pytest.mark.parametrize(("version", "table"), [("6", FLA_6), ("7", FLA_7)])
def test_the_tables_have_every_tensor_once(version, table, tmp_path):
    parts = [part for _, parts in table.values() for part in parts]
    assert len(parts) == len(set(parts))
    path = synthetic.write_random_checkpoint(tmp_path / "a.pth", version, vocab_size=300)
    renamed, unused = to_fla(load_checkpoint(path), VERSIONS[version].fla)
    assert not unused
    assert {LAYER.fullmatch(name)[2] for name in renamed if LAYER.fullmatch(name)} == set(table)


def test_regrouping_by_hand():
    """RWKV-6 has its five mixtures in the order w, k, v, r, g, and fla in the order r, w, k, v, g."""
    hidden, rank = 3, 2
    down = torch.arange(hidden * 5 * rank).reshape(hidden, 5 * rank)
    up = torch.arange(5 * rank * hidden).reshape(5, rank, hidden)
    there = FLA_6["attn.x_proj.0.linear.weight"][0].there([down])
    assert there[:rank].equal(down[:, 3 * rank : 4 * rank].t())  # r comes first
    assert there[rank : 2 * rank].equal(down[:, :rank].t())  # then w
    assert there[4 * rank :].equal(down[:, 4 * rank :].t())  # g stays the last
    there = FLA_6["attn.x_proj.2.weight"][0].there([up])
    assert there[:, :rank].equal(up[3].t())
    assert there[:, rank : 2 * rank].equal(up[0].t())


def test_what_other_programs_need(tmp_path):
    """llama.cpp asks for the vocabulary and these fields, fla for the class, and all for the end of text as id 0."""
    _, _, folder = made(tmp_path, vocab_size=65536, version="7", head_size=64)
    config = json.loads((folder / "config.json").read_text())
    expected = {
        "model_type": "rwkv7", "architectures": ["RWKV7ForCausalLM"], "head_dim": 64, "num_heads": 1, "norm_eps": 1e-5,
        "intermediate_size": 256, "hidden_ratio": 4, "value_dim": [64, 64], "bos_token_id": 0, "eos_token_id": 0,
        "decay_low_rank_dim": 32, "gate_low_rank_dim": 32, "tie_word_embeddings": False, "dtype": "bfloat16",
    }  # fmt: skip
    assert {name: config[name] for name in expected} == expected
    assert "pad_token_id" not in config  # fla would never train the row of the end of text
    assert b"\r" not in (folder / "rwkv_vocab_v20230424.txt").read_bytes()
    assert read_vocab(folder / "rwkv_vocab_v20230424.txt") == read_vocab()
    assert AutoTokenizer.from_pretrained(folder, trust_remote_code=False)("你好").input_ids == [10464, 11685]
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert not any(name.startswith("model.layers.0.attn.v_lora") for name in index)
    assert index.keys() >= {"model.embeddings.weight", "model.layers.0.pre_norm.weight", "model.layers.1.attn.x_r"}


def test_the_older_form_of_the_ratios(small, tmp_path):
    """Earlier versions of fla had the six ratios as the rows of one tensor."""
    path, folder = small

    def stack(weights):
        for layer in range(2):
            name = f"model.layers.{layer}.attn.x_"
            weights[f"{name}x"] = torch.stack([weights.pop(name + letter).reshape(-1) for letter in "rwkvag"])

    expected = pth_of(folder, tmp_path / "one")
    change(folder, stack)
    assert pth_of(folder, tmp_path / "two") == expected
    weights, original = load_converted(folder)[0], load_checkpoint(path)
    assert all(torch.equal(weights[name], weight) for name, weight in original.items())


def test_what_another_converter_wrote(small, tmp_path):
    """Without the notes for the way back, nothing is known of the order, nor of what fla has no place for."""
    path, folder = small
    for name in ("pth_names.json", "pth_unused.pth"):
        (folder / name).unlink()
    weights, info = load_converted(folder)
    original = {name: weight for name, weight in load_checkpoint(path).items() if name not in UNUSED}
    assert weights.keys() == original.keys()
    assert all(torch.equal(weights[name], weight) for name, weight in original.items())
    assert not info.details["has_first_value_mix"]
    refresh(folder, progress=False)
    ids = torch.arange(1, 40)[None]
    with torch.inference_mode():
        assert torch.equal(load_model(folder)(ids).logits, load_model(tmp_path / "converted")(ids).logits)


def rename(old, new):
    return lambda weights: weights.update({new: weights.pop(old)})


LORA = "model.layers.1.attn.w_lora.lora"
STORED = {"model.embed_tokens.weight": torch.ones(300, 64), "model.layers.0.linear_attn.x_r": torch.ones(64)}
WRONG = {
    "missing": (lambda w: w.pop(f"{LORA}.0.weight"), "has no tensor blocks.1.att.w1"),
    "missing layer": (lambda w: [w.pop(n) for n in list(w) if ".layers.0." in n], "has no tensor blocks.0.att.key"),
    "unknown": (rename(f"{LORA}.0.weight", f"{LORA}.1.weight"), "lora.1.weight is not a tensor of a converted"),
    "hub name": (rename("lm_head.weight", "head.weight"), "is not a tensor of a converted"),
    "a layer -1": (rename("model.layers.1.attn.k_k", "model.layers.-1.attn.k_k"), "-1.attn.k_k is not a tensor"),
    "flat matrix": (lambda w: w.update({f"{LORA}.0.weight": torch.ones(9)}), r"lora.0.weight has shape \[9\], unlike"),
    "not turned": (lambda w: w.update({f"{LORA}.0.weight": torch.ones(64, 32)}), "att.w1 has shape"),
    "square bias": (lambda w: w.update({f"{LORA}.2.bias": torch.ones(8, 8)}), r"2.bias has shape \[8, 8\], unlike"),
    "short bias": (lambda w: w.update({f"{LORA}.2.bias": torch.ones(8)}), "att.w0 has shape"),
    "five ratios": (lambda w: w.update({"model.layers.1.attn.x_x": torch.ones(5, 64)}), r"x_x has shape \[5, 64\]"),
    "twice": (lambda w: w.update({"model.layers.1.attn.x_x": torch.ones(6, 64)}), "which is there twice"),
    "integers": (lambda w: w.update({f"{LORA}.2.bias": torch.ones(64).int()}), "w0 is torch.int32"),
    "stored as rwkv": (lambda w: w.update(STORED), "is of an RWKV-7 stored as model_type rwkv"),
}


@pytest.mark.parametrize("how", WRONG)
def test_a_wrong_directory_is_refused_and_left_alone(how, small, tmp_path):
    _, folder = small
    edit, message = WRONG[how]
    change(folder, edit)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for use in (lambda: export(folder, tmp_path / "b.pth"), lambda: refresh(folder, progress=False)):
        with pytest.raises(InputError, match=message) as error:
            use()
        assert str(error.value).count(". ") == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth", "converted", "fla"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not a list of names"),
        ("[" * 10**5, "is not a list of names"),
        ("[1, 2]", "is not a list of names"),
        ('["emb.weight", "emb.weight"]', "does not name the tensors"),
    ],
)
def test_wrong_notes_are_refused(content, message, small, tmp_path):
    _, folder = small
    (folder / "pth_names.json").write_text(content)
    with pytest.raises(InputError, match=message):
        export(folder, tmp_path / "b.pth")


def test_other_tensors_beside_the_weights_are_refused(small, tmp_path):
    """Else they could replace any tensor of the model."""
    _, folder = small
    torch.save({"emb.weight": torch.zeros(300, 64)}, folder / "pth_unused.pth")
    with pytest.raises(InputError, match=r"holds more than blocks\.0\.att\.v0"):
        export(folder, tmp_path / "b.pth")


def test_rwkv7_stored_as_rwkv_is_refused_by_every_command(tmp_path, capsys):
    """Its configuration says what that of RWKV-4 says, and transformers would load it with random numbers."""
    folder = tmp_path / "stored"
    folder.mkdir()
    save_file({"lm_head.weight": torch.ones(300, 64), **STORED}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "rwkv", "architecture_version": "rwkv7"}))
    (folder / "tokenizer.json").write_text("{}")
    for command in (["export", str(folder), str(tmp_path / "b.pth")], ["refresh", str(folder)],
                    ["push", str(folder), "me/model", "--dry-run"]):  # fmt: skip
        assert cli.main(command) == 2
        assert "stored as model_type rwkv" in capsys.readouterr().err
    with pytest.raises(InputError, match="stored as model_type rwkv"):
        load_model(folder)


def test_a_directory_of_fla_is_not_loaded_as_ours(small):
    _, folder = small
    with pytest.raises(InputError, match=r"only refresh and export read; run python -m helpers refresh .*fla"):
        load_model(folder)


def test_the_command(tmp_path, capsys):
    path, converted, _ = made(tmp_path, version="7")
    assert cli.main(["export", str(converted), str(tmp_path / "new"), "--layout", "fla"]) == 0
    assert "heads of 32 channels with an epsilon of 32e-5" in capsys.readouterr().out
    assert cli.main(["export", str(converted), str(tmp_path / "new"), "--layout", "fla"]) == 2
    assert "already exists" in capsys.readouterr().err
    assert cli.main(["export", str(tmp_path / "new"), str(tmp_path / "again"), "--layout", "fla"]) == 0
    names = ("config.json", "model.safetensors", "pth_names.json")
    assert all((tmp_path / "new" / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in names)
    old = convert(synthetic.write_random_checkpoint(tmp_path / "5.pth", vocab_size=300), tmp_path / "5", progress=False)
    assert cli.main(["export", str(old), str(tmp_path / "5-fla"), "--layout", "fla"]) == 2
    assert "RWKV-5.0, which flash-linear-attention does not have (it has RWKV-6 and RWKV-7)" in capsys.readouterr().err
    state = synthetic.write_random_checkpoint(tmp_path / "s.pth", "6", vocab_size=300, has_time_state=True)
    convert(state, tmp_path / "state", progress=False)
    assert cli.main(["export", str(tmp_path / "state"), str(tmp_path / "s-fla"), "--layout", "fla"]) == 2
    assert "has no place for blocks.0.att.time_state" in capsys.readouterr().err
    assert not (tmp_path / "s-fla").exists()
    assert path.is_file()


def test_tensors_of_two_dtypes_are_not_joined(tmp_path):
    """As rows of one tensor they would have one dtype, and the way back would give another file."""
    path = synthetic.write_random_checkpoint(tmp_path / "a.pth", "6", vocab_size=300)
    weights = {**load_checkpoint(path)}
    weights["blocks.1.att.time_maa_k"] = weights["blocks.1.att.time_maa_k"].float()
    with pytest.raises(InputError, match=r"joins blocks.1.att.time_maa_\w with tensors of another dtype"):
        to_fla(weights, VERSIONS["6"].fla)


def test_an_unknown_name_is_no_name():
    with pytest.raises(KeyError):
        from_fla("model.layer.0.attn.k_k", torch.ones(3))


@pytest.mark.parametrize("form", ["6", "7", "7 all"])
def test_the_classes_of_fla_find_every_tensor(form, tmp_path):
    """Where flash-linear-attention is installed. Its kernels need a GPU, its names do not."""
    pytest.importorskip("fla")
    _, _, folder = made(tmp_path, **FORMS[form])
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    assert type(model).__module__.startswith("fla.models")
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))


@pytest.mark.cuda
@pytest.mark.parametrize("version", ["6", "7"])
@torch.inference_mode()
def test_fla_computes_the_same(version, tmp_path):
    """With 70 tokens its chunked kernel runs, with 9 its recurrent one; products may be in TF32, logits are near 10."""
    pytest.importorskip("fla")
    _, converted, folder = made(tmp_path, version=version, hidden_size=128, head_size=64, dtype=torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").cuda().eval()
    if version == "6":
        for layer in theirs.model.layers:
            layer.attn.g_norm.eps = 64e-5  # which its configuration cannot say
    ours = load_model(converted, device="cuda")
    for length in (9, 70):
        ids = torch.randint(1, 300, (1, length), device="cuda")
        torch.testing.assert_close(theirs(ids).logits, ours(ids).logits, atol=2e-2, rtol=2e-2)
