"""What is odd about a checkpoint: each thing is said, and nothing is said of a usual one."""

import pytest
import torch
from tiny_models import VERSIONS

from helpers import __main__ as cli
from helpers.checkpoints import files, inspection, synthetic


def write(tmp_path, version="5.0", **options):
    return synthetic.write_random_checkpoint(tmp_path / "a.pth", version, **{"head_size": 64, **options})


@pytest.mark.parametrize("version", VERSIONS)
def test_a_usual_checkpoint(version, tmp_path, capsys):
    assert cli.main(["inspect", str(write(tmp_path, version))]) == 0
    out = capsys.readouterr().out
    assert f"RWKV-{version}\n" in out
    assert "odd            nothing" in out


@pytest.mark.parametrize(
    ("version", "options", "sentence"),
    [
        ("5.0", {"vocab_size": 50277}, "as the Pile models do"),
        ("5.0", {"vocab_size": 300}, "300 rows, not 65,536: World ids from there on have no row"),
        ("5.0", {"vocab_size": 65529}, "65,529 rows, not 65,536: World ids from there on have no row"),
        ("5.0", {"vocab_size": 65530}, "65,530 rows, not 65,536; the largest World id is 65,529"),
        ("5.0", {"vocab_size": 65600}, "65,600 rows, not 65,536; the largest World id is 65,529"),
        ("5.0", {"layers": 1}, "one layer"),
        ("5.2", {"head_size": 32}, "32 channels, not 64"),
        ("5.2", {"attention_size": 128}, "Time-mix is 128 channels wide, the model 64"),
        ("4", {"ffn_size": 100}, "100 channels wide; 256 is usual for RWKV-4"),
        ("5.0", {"bonus_name": "time_faaaa"}, "stored as it is"),
        ("5.2", {"bonus_name": "time_first"}, "stored as a logarithm"),
        ("5.1", {"decay_shape": (1, 1)}, "shape [1, 1], not [1]"),
        ("5.0", {"has_time_state": True}, "trained initial state"),
        ("5.0", {"dtype": torch.float64}, "64 bits"),
    ],
)
def test_sizes(version, options, sentence, tmp_path):
    found = inspection.inspect(write(tmp_path, version, **options), quick=True).odd
    assert len(found) == 1
    assert sentence in found[0]


def with_numbers(weights, name, value):
    weights[name] = torch.full_like(weights[name], value)


def parts_of_a_buffer(weights):
    buffer = torch.cat([weight.flatten() for weight in weights.values()] + [torch.zeros(7).bfloat16()])
    parts = buffer.split([weight.numel() for weight in weights.values()] + [7])
    weights |= {name: part.view(weights[name].shape) for name, part in zip(weights, parts, strict=False)}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda w: w.update({"ln_out.bias": w["ln_out.bias"].float()}), "mixes dtypes: 45 bfloat16, 1 float32"),
        (lambda w: w.update({"head.weight": w["emb.weight"]}), "emb.weight and head.weight share memory; convert"),
        (parts_of_a_buffer, "holds 14 bytes that no tensor"),
        (
            lambda w: w.update({"head.weight": torch.ones(65537, 64).bfloat16()[:65536]}),
            "holds 128 bytes that no tensor",
        ),
        (lambda w: w.update({"head.weight": w["head.weight"].t().contiguous().t()}), "the first is head.weight"),
        (lambda w: with_numbers(w, "ln_out.weight", float("nan")), "ln_out.weight has numbers that are not finite"),
        (lambda w: with_numbers(w, "head.weight", 0.0), "head.weight is all zeros"),
        (lambda w: None, "before PyTorch 1.6"),
    ],
)
def test_storage_and_numbers(change, sentence, tmp_path, capsys):
    weights = {name: w.clone() for name, w in files.load_checkpoint(write(tmp_path)).items()}
    change(weights)
    torch.save(weights, tmp_path / "odd.pth", _use_new_zipfile_serialization="1.6" not in sentence)
    assert cli.main(["inspect", str(tmp_path / "odd.pth")]) == 0
    odd = [line for line in capsys.readouterr().out.splitlines() if line.startswith("odd ")]
    assert len(odd) == 1
    assert sentence in odd[0]


def test_quick_reads_no_numbers(tmp_path, capsys):
    weights = {name: w.clone() for name, w in files.load_checkpoint(write(tmp_path)).items()}
    with_numbers(weights, "ln_out.weight", float("inf"))
    torch.save(weights, tmp_path / "odd.pth")
    assert cli.main(["inspect", "--quick", str(tmp_path / "odd.pth")]) == 0
    assert "odd            nothing" in capsys.readouterr().out
