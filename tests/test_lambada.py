"""LAMBADA: the protocol by hand, original against converted, any batch size, and bad data."""

import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from helpers import __main__ as cli
from helpers import conversion, lambada, oracle, synthetic
from helpers.errors import InputError
from helpers.trie import TrieTokenizer
from helpers.vocab import read_vocab

TEXTS = [
    "Anna gave the lantern to Peter. When the light failed, she called for Peter",
    "There were two dogs. One of them was called Rex and the other, a small and very old one, was called Bess",
    'He opened the letter.\n\n"It is from my brother," he said',
    "x y",
    "The map showed an island, and so they sailed for the island",
]


@pytest.fixture(scope="module")
def documents():
    return lambada.encode(TEXTS, TrieTokenizer(read_vocab()).encode)


@pytest.fixture(scope="module", params=["4", "5.0"])
def pair(request, tmp_path_factory):
    """The rwkv package, and transformers' native RWKV-4 or our RWKV-5, on the same random fp32 checkpoint."""
    folder = tmp_path_factory.mktemp("lambada")
    path = folder / "model.pth"
    synthetic.write_random_checkpoint(path, request.param, hidden_size=32, head_size=16, dtype=torch.float32)
    converted = conversion.convert(path, folder / "converted", progress=False)
    custom = request.param != "4"
    model = AutoModelForCausalLM.from_pretrained(converted, trust_remote_code=custom, dtype=torch.float32).eval()
    return oracle.load_oracle(path), model


def test_context_and_target_are_encoded_apart(documents):
    tokens = read_vocab()
    for text, document in zip(TEXTS, documents, strict=True):
        context = b"".join(tokens[i] for i in document.context).decode()
        target = b"".join(tokens[i] for i in document.target).decode()
        assert context + target == text
        assert target == " " + text.split(" ")[-1]


def test_prefixes():
    tokenizer = TrieTokenizer(read_vocab())
    starts = {prefix: lambada.encode(["a b"], tokenizer.encode, prefix)[0].context for prefix in lambada.PREFIXES}
    assert starts["eot"] == [0, *starts["none"]]
    assert starts["newline"] == [*tokenizer.encode("\n"), *starts["none"]]


def test_score_by_hand():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]))
    result = lambada.score_target(logits, [0, 1])
    assert result.logprob == pytest.approx(math.log(0.5 * 0.8))
    assert result.correct
    wrong = lambada.score_target(logits, [1, 1])
    assert wrong.logprob == pytest.approx(math.log(0.25 * 0.8))
    assert not wrong.correct
    perplexity, accuracy = lambada.summarize([result, wrong])
    assert perplexity == pytest.approx(1 / math.sqrt(0.4 * 0.2))
    assert accuracy == 50
    assert lambada.running_line([result, wrong]) == "# 2 ppl 3.54 acc 50.00"


def test_original_equals_converted(pair, documents):
    """1e-4: fp32 rounding of logits of size 10, see test_modeling."""
    reference, model = pair
    theirs = list(lambada.score_original(reference, documents))
    ours = list(lambada.score_converted(model, documents))
    difference, disagreements = lambada.compare(ours, theirs)
    assert difference <= 1e-4
    assert disagreements == []


@pytest.mark.parametrize("tokens_per_batch", [1, 30, 64, 10_000])
def test_results_depend_neither_on_the_batch_nor_on_the_order(pair, documents, tokens_per_batch):
    model = pair[1]
    expected = [lambada.score_batch(model, [document])[0] for document in documents]
    ours = list(lambada.score_converted(model, documents, tokens_per_batch))
    backwards = list(lambada.score_converted(model, documents[::-1], tokens_per_batch))[::-1]
    for results in (ours, backwards):
        assert [r.correct for r in results] == [r.correct for r in expected]
        assert [r.logprob for r in results] == pytest.approx([r.logprob for r in expected], abs=1e-5)


def test_compare_finds_differences():
    a, b = lambada.Result(-1.0, True), lambada.Result(-1.5, False)
    assert lambada.compare([a, a], [a, b]) == (0.5, [1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no passages"),
        ("not json\n", "line 1: expected an object"),
        ('{"text": "two words"}\n{"words": "x y"}\n', "line 2: expected an object"),
        ('{"text": 3}\n', "line 1: expected an object"),
        ("[1]\n", "line 1: expected an object"),
        ('{"text": "word"}\n', "line 1: a passage needs at least two words"),
        ('{"text": "ends with a space "}\n', "line 1: a passage needs at least two words"),
    ],
)
def test_bad_data_is_refused(content, message, tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        lambada.read_texts(path)


def test_missing_data(tmp_path):
    with pytest.raises(InputError, match="Cannot read the passages"):
        lambada.read_texts(tmp_path / "nothing.jsonl")


def test_command_line(tmp_path, capsys):
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    path = synthetic.write_random_checkpoint(tmp_path / "model.pth", hidden_size=32, head_size=16, dtype=torch.float32)
    converted = conversion.convert(path, tmp_path / "converted", progress=False)
    lines = []
    for source in (["--checkpoint", str(path)], ["--model", str(converted)]):
        out = tmp_path / f"{source[0][2:]}.jsonl"
        assert cli.main(["lambada", *source, "--data", str(data), "--limit", "4", "--out", str(out)]) == 0
        lines.append(capsys.readouterr().out)
        assert len(out.read_text().splitlines()) == 4
    original, converted_line = (line.split() for line in lines)
    assert original[:3] == converted_line[:3] == ["#", "4", "ppl"]
    assert float(original[3]) == pytest.approx(float(converted_line[3]), rel=1e-5)  # of a random model: about 1e6
    assert original[4:] == converted_line[4:]
    assert cli.main(["lambada", "--model", str(tmp_path), "--data", str(data)]) == 2
    assert "no config.json" in capsys.readouterr().err
