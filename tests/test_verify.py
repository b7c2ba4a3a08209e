"""The certificate: it passes for a true conversion, and names what is wrong with a false one."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import VERSIONS

from helpers import __main__ as cli
from helpers.checkpoints import names, synthetic
from helpers.conversion import directory
from helpers.errors import InputError
from helpers.lambada import SAMPLE
from helpers.proof import parity, verify
from helpers.proof.card import BEGIN, with_certificate
from helpers.proof.certificate import read_certificate
from helpers.proof.results import TokenizersResult

QUICK = {"lengths": (1, 65), "seeds": (0,), "progress": False}


@pytest.fixture
def few_texts(monkeypatch):
    """Do not compare tokenizers, which takes seconds, in tests that are not about them."""
    monkeypatch.setattr(verify, "compare_tokenizers", lambda *_: TokenizersResult(2, 0, 0, 9, 0, 0, []))


def make(tmp_path, version="5.0", **options):
    """Return a small checkpoint and its converted directory."""
    path = synthetic.write_random_checkpoint(tmp_path / "a.pth", version, **options)
    return path, directory.convert(path, tmp_path / "converted", progress=False)


def change(folder, name, function):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors[name] = function(tensors[name])
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.usefixtures("few_texts")
@pytest.mark.parametrize("version", VERSIONS)
def test_a_conversion_passes(version, tmp_path):
    path, folder = make(tmp_path, version, vocab_size=300, hidden_size=32, head_size=8)
    certificate = verify.verify(path, folder, **QUICK)
    assert certificate.passed, certificate.failures
    assert certificate == read_certificate(folder)
    assert certificate.weights.identical == certificate.weights.tensors
    classes = {run.class_name for run in certificate.runs}
    assert classes == ({"RwkvForCausalLM", "Rwkv4ForCausalLM"} if version == "4" else {f"Rwkv{version[0]}ForCausalLM"})
    assert {run.mode for run in certificate.runs} == {"prefill", "decode", "long", "batch"}
    assert {check.class_name for check in certificate.checks} == classes
    assert len(certificate.checks) == (6 if version == "4" else 4)
    assert [result.dtype for result in certificate.lower_precision] == ["bf16", "fp16"]
    assert all(result.package_to_fp32 and result.limit for result in certificate.lower_precision)
    assert set(certificate.files) == {file.name for file in folder.iterdir()} - {"parity.json"}
    assert all(run.max_abs_logit_diff <= 1e-4 for run in certificate.runs)
    card = (folder / "README.md").read_text()
    assert "Parity certificate: passed" in card
    assert "| next token | every position of these runs | the same everywhere | none" in card


@pytest.mark.usefixtures("few_texts")
def test_languages_and_lambada(tmp_path, capsys):
    path, folder = make(tmp_path, hidden_size=32, head_size=16)
    data = tmp_path / "passages.jsonl"
    data.write_text("".join(json.dumps({"text": f"Anna saw the {word}, and she took the {word}"}) + "\n"
                            for word in ("boat", "lamp", "key")))  # fmt: skip
    arguments = [
        "verify",
        str(path),
        str(folder),
        "--lengths",
        "5",
        "--seeds",
        "3",
        "--data",
        str(data),
        "--limit",
        "2",
    ]
    assert cli.main(arguments) == 0
    certificate = json.loads((folder / "parity.json").read_text())
    assert set(verify.TEXTS) <= {row["input"] for row in certificate["runs"]}
    assert certificate["lambada"]["documents"] == 2
    assert certificate["lambada"]["max_abs_logprob_diff"] <= 1e-3
    assert certificate["lambada"]["original"]["ppl"] == pytest.approx(
        certificate["lambada"]["converted"]["ppl"], rel=1e-3
    )
    printed, card = capsys.readouterr().out, (folder / "README.md").read_text()
    assert "| LAMBADA | 2 passages |" in card
    assert "passed: see" in printed
    assert certificate["edition"] == 2
    every_figure_has_its_limit(certificate, card, printed)


def every_figure_has_its_limit(certificate, card, printed):
    """In the file, in the card's two tables and in what is printed; and it says how the limit comes about."""
    for row in (*certificate["runs"], *certificate["checks"], *certificate["lower_precision"], certificate["lambada"]):
        assert row["limit_is"]
    for run in certificate["runs"]:
        assert run["logit_limit"] == pytest.approx(run["state_limit"] * max(1, run["max_abs_logit"]))
        assert (run["state_limit"] > 1e-4) == (run["mode"] == "long")  # where the package adds up its roundings
    section = [line for line in card[card.index(BEGIN) :].splitlines() if line.startswith("|")]
    middle = next(n for n, line in enumerate(section) if line.startswith("| largest difference of a logit"))
    results, below = ([[cell.strip() for cell in line.split("|")[1:-1]] for line in part if "---" not in line]
                      for part in (section[:middle], section[middle:]))  # fmt: skip
    assert results[0] == ["what", "compared", "result", "limit"]
    assert all(len(row) == 4 and all(row) for row in results)
    assert any("which is 0.0001 and 2,108 roundings of fp32, of the largest logit" in row[3] for row in results)
    assert below[0][1:] == ["bf16", "limit", "fp16", "limit"]
    assert len(below) == 7
    assert all(len(row) == 5 and all(row) for row in below)
    for what, *_, limit in results[1:]:
        assert any(line.startswith(f"{what} (") and line.endswith(f"; limit {limit}") for line in printed.splitlines())
    for row in below:
        assert any(line.split() == " ".join(row).split() for line in printed.splitlines())


@pytest.mark.usefixtures("few_texts")
@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("rwkv.embeddings.weight", "the embedding or pre_ln"),
        ("rwkv.blocks.1.ln1.weight", "the channel-mix of block 0, or ln1 of block 1"),
        ("rwkv.blocks.1.attention.value.weight", "block 1, inside its time-mix"),
        ("rwkv.blocks.1.attention.output.weight", "block 1, the output of its time-mix"),
        ("rwkv.blocks.0.feed_forward.value.weight", "the channel-mix of block 0"),
        ("rwkv.blocks.1.feed_forward.key.weight", "after the state of block 1"),
        ("head.weight", "the head"),
    ],
)
def test_the_first_difference_is_named(name, where, tmp_path, capsys):
    path, folder = make(tmp_path, vocab_size=300)
    change(folder, name, lambda weight: weight * 1.25)
    assert cli.main(["verify", str(path), str(folder), "--lengths", "9", "--seeds", "0"]) == 1
    out = capsys.readouterr().out
    assert where in out
    old_name = names.pth_name(name)
    assert f"1 tensors have other numbers, the first is {old_name}" in out
    assert "Parity certificate: FAILED" in (folder / "README.md").read_text()


@pytest.mark.usefixtures("few_texts")
def test_a_cast_is_said_and_needs_a_tolerance(tmp_path):
    path = synthetic.write_random_checkpoint(tmp_path / "a.pth", vocab_size=300, dtype=torch.float32)
    folder = directory.convert(path, tmp_path / "converted", torch.bfloat16, progress=False)
    strict = verify.verify(path, folder, **QUICK)
    assert not strict.passed
    assert strict.weights.cast_to == ["bfloat16"]
    assert strict.weights.different == []  # it is the cast, and nothing else
    loose = verify.verify(path, folder, tolerance=0.1, **QUICK)  # bf16 keeps 8 bits of each weight
    assert loose.passed, loose.failures
    assert not loose.is_proof
    assert "## Parity certificate: passed with a tolerance of 0.1: not a proof" in (folder / "README.md").read_text()


def test_another_tokenizer_fails(tmp_path):
    path, folder = make(tmp_path, vocab_size=300)
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    vocab = tokenizer["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    file.write_text(json.dumps(tokenizer), encoding="utf-8")
    certificate = verify.verify(path, folder, **QUICK)
    assert certificate.tokenizers.texts > 2000
    assert certificate.tokenizers.fast_mismatches > 0
    assert certificate.tokenizers.slow_mismatches == 0
    assert certificate.tokenizers.ids == 65530
    assert certificate.tokenizers.fast_wrong_ids >= 2
    assert certificate.tokenizers.slow_wrong_ids == 0
    assert any("fast tokenizer" in sentence for sentence in certificate.failures)
    assert any("tokenizer.json is not what this version writes" in sentence for sentence in certificate.failures)


@pytest.mark.usefixtures("few_texts")
def test_what_cannot_be_compared_is_refused(tmp_path, capsys):
    path, folder = make(tmp_path, vocab_size=300)
    (tmp_path / "more").mkdir()
    other, _ = make(tmp_path / "more", "5.2", vocab_size=300)
    one = synthetic.write_random_checkpoint(tmp_path / "one.pth", vocab_size=300, layers=1)
    one_folder = directory.convert(one, tmp_path / "one", progress=False)
    before = sorted(file.name for file in folder.iterdir())
    for arguments, message in (
        ([other, folder], "its version is 5.0, not 5.2"),
        ([one, one_folder], "an RWKV-5 of one layer"),
        ([tmp_path / "no.pth", folder], "There is no file"),
        ([path, tmp_path], "not a converted model"),
        ([path, folder, "--data", "no.jsonl"], "no.jsonl"),
        ([path, folder, "--data", str(SAMPLE), "--limit", "1"], "take a World model"),
        ([path, folder, "--lengths", "0"], "at least one length"),
        ([path, folder, "--tolerance", "nan"], "The tolerance is nan"),
        ([path, folder, "--tolerance", "inf"], "The tolerance is inf"),
        ([path, folder, "--tolerance", "0"], "The tolerance is 0.0"),
        ([path, folder, "--tolerance", "1e9"], "The tolerance is 1000000000.0; give a number above 0 and below 1"),
        ([path], "Give CHECKPOINT.pth and DIR, or only DIR with --check"),
        ([path, folder, "--check"], "or only DIR with --check"),
        ([folder, "--check"], "has no certificate; make one"),
    ):
        assert cli.main(["verify", *map(str, arguments)]) == 2
        assert message in capsys.readouterr().err
    assert sorted(file.name for file in folder.iterdir()) == before


def test_not_a_number_is_no_agreement():
    state = tuple(torch.zeros(1, 2, 3) for _ in range(3))
    logits = torch.zeros(4, 5)
    bad = logits.clone()
    bad[2, 2] = float("nan")
    assert parity.compare_traces((logits, state), (logits, state)).within(1e-4)
    assert not parity.compare_traces((bad, state), (logits, state)).within(1e-4)
    for shape in ((4, 1), (1, 5), (0,)):  # nothing is broadcast
        other = parity.compare_traces((torch.zeros(shape), state), (logits, state))
        assert not other.within(1e-4)
        assert other.max_abs_logit_diff == math.inf
    broken = (state[0], torch.full((1, 2, 3), float("nan")), state[2])
    assert parity.compare_traces((logits, broken), (logits, state)).first_different_block() == 0


@pytest.mark.usefixtures("few_texts")
def test_the_card_keeps_what_is_around_the_section(tmp_path):
    path, folder = make(tmp_path, vocab_size=300)
    certificate = verify.verify(path, folder, **QUICK)
    assert verify.verify(path, folder, **QUICK) == certificate
    assert (folder / "README.md").read_text().count(BEGIN) == 1
    card = with_certificate("# Mine\n\ntext\n", certificate)
    later = with_certificate(card + "\nmore text\n", certificate)
    assert later.startswith("# Mine\n\ntext\n")
    assert later.count(BEGIN) == 1
    assert "more text" in later
    with pytest.raises(InputError, match="at least one length"):
        verify.verify(path, folder, lengths=())
