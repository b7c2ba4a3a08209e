"""LAMBADA: the protocol by hand, original against converted, any batch size, our passages, and bad data."""

import json
import math
import re
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from helpers.checkpoints import oracle, synthetic
from helpers.conversion import directory, loading
from helpers.errors import InputError
from helpers.lambada import passages, protocol
from helpers.tokenizer.trie import TrieTokenizer
from helpers.tokenizer.vocab import read_vocab

TEXTS = [
    "Anna gave the lantern to Peter. When the light failed, she called for Peter",
    "There were two dogs. One of them was called Rex and the other, a small and very old one, was called Bess",
    'He opened the letter.\n\n"It is from my brother," he said',
    "x y",
    "Sie fragte nach dem Schlüssel. Niemand hatte ihn gesehen, den kleinen alten Schlüssel",
    "她把灯交给彼得。灯灭了, 她喊 彼得",
    "The map showed an island, and so they sailed for the island",
]


@pytest.fixture(scope="module")
def tokenizer():
    return TrieTokenizer(read_vocab())


@pytest.fixture(scope="module")
def documents(tokenizer):
    return passages.encode(TEXTS, tokenizer.encode)


@pytest.fixture(scope="module", params=["4", "5.0"])
def pair(request, tmp_path_factory):
    """The rwkv package, and transformers' native RWKV-4 or our RWKV-5, on the same random fp32 checkpoint."""
    folder = tmp_path_factory.mktemp("lambada")
    path = folder / "model.pth"
    synthetic.write_random_checkpoint(path, request.param, hidden_size=32, head_size=16, dtype=torch.float32)
    converted = directory.convert(path, folder / "converted", progress=False)
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


def test_prefixes(tokenizer):
    starts = {prefix: passages.encode(["a b"], tokenizer.encode, prefix)[0].context for prefix in passages.PREFIXES}
    assert starts["eot"] == [0, *starts["none"]]
    assert starts["newline"] == [*tokenizer.encode("\n"), *starts["none"]]


def test_score_by_hand():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]))
    right, wrong = protocol.score_targets(torch.cat([logits, logits]), [[0, 1], [1, 1]])
    assert right.logprob == pytest.approx(math.log(0.5 * 0.8))
    assert right.correct
    assert wrong.logprob == pytest.approx(math.log(0.25 * 0.8))
    assert not wrong.correct
    perplexity, accuracy = protocol.summarize([right, wrong])
    assert perplexity == pytest.approx(1 / math.sqrt(0.4 * 0.2))
    assert accuracy == 50


def test_lines_are_rounded_as_in_the_original_script():
    """34 of 100 is "34.0", 28.300 is "28.3": see check_lambda/lambda_pt.py of BBuf/RWKV-World-HF-Tokenizer."""
    results = [protocol.Result(-math.log(28.3), i < 34) for i in range(100)]
    assert protocol.running_line(results) == "# 100 ppl 28.3 acc 34.0"


def test_original_equals_converted(pair, documents):
    """1e-4: fp32 rounding of logits of size 10, see test_modeling."""
    reference, model = pair
    theirs = protocol.collect(protocol.score_original(reference, documents), len(documents), show=False)
    ours = protocol.collect(protocol.score_converted(model, documents), len(documents), show=False)
    difference, disagreements = protocol.compare_results(ours, theirs)
    assert difference <= 1e-4
    assert disagreements == []


def test_original_is_the_loop_of_the_original_script(pair, documents):
    """Softmax, then the logarithm of one probability at a time."""
    reference = pair[0]
    for document, result in zip(documents, protocol.score_with_oracle(reference, documents), strict=True):
        logits, _ = reference.forward(document.context + document.target, None, full_output=True)
        probabilities = torch.softmax(logits.double(), dim=-1)
        start = len(document.context) - 1
        logprobs = [math.log(probabilities[start + i, index]) for i, index in enumerate(document.target)]
        hits = [int(probabilities[start + i].argmax()) == index for i, index in enumerate(document.target)]
        assert result.logprob == pytest.approx(sum(logprobs), abs=1e-4)
        assert result.correct == all(hits)


@pytest.mark.parametrize("batch_tokens", [1, 7, 30, 64, 10_000])
def test_results_depend_neither_on_the_batch_nor_on_the_order(pair, documents, batch_tokens):
    model, count = pair[1], len(documents)
    expected = [protocol.score_batch(model, [document], piece=10_000)[0] for document in documents]
    ours = protocol.collect(protocol.score_converted(model, documents, batch_tokens), count, show=False)
    backwards = protocol.collect(protocol.score_converted(model, documents[::-1], batch_tokens), count, show=False)[
        ::-1
    ]
    for results in (ours, backwards):
        assert [r.correct for r in results] == [r.correct for r in expected]
        assert [r.logprob for r in results] == pytest.approx([r.logprob for r in expected], abs=1e-5)


def test_plan_batches(documents):
    for batch_tokens in (1, 20, 50, 1000):
        batches = protocol.plan_batches(documents, batch_tokens)
        assert sorted(index for batch in batches for index in batch) == list(range(len(documents)))
        lengths = [[len(documents[index].inputs) for index in batch] for batch in batches]
        assert all(max(batch) * len(batch) <= batch_tokens or len(batch) == 1 for batch in lengths)
        in_order = [length for batch in lengths for length in batch]
        assert in_order == sorted(in_order, reverse=True)
    assert [len(batch) for batch in protocol.plan_batches(documents, 1000)] == [len(documents)]


def test_texts_longer_than_a_piece(pair, tokenizer, monkeypatch):
    """Reading in pieces, with the state carried on, changes nothing; the target may span two pieces."""
    reference, model = pair
    long = "The wind blew and the boat went on. " * 20 + "extraordinarilyunusualname"
    documents = passages.encode([long], tokenizer.encode)
    whole = protocol.score_batch(model, documents, piece=10_000)[0]
    for piece in (1, 50, len(documents[0].inputs) - 1):
        monkeypatch.setattr(protocol, "READ_AT_ONCE", piece)
        for result in (
            protocol.score_batch(model, documents, piece)[0],
            protocol.score_with_oracle(reference, documents)[0],
        ):
            assert result.logprob == pytest.approx(whole.logprob, abs=1e-4)
            assert result.correct == whole.correct


def test_compare_finds_differences():
    a, b = protocol.Result(-1.0, True), protocol.Result(-1.5, False)
    assert protocol.compare_results([a, a], [a, b]) == (0.5, [1])


def test_lines_come_in_the_order_of_documents(capsys):
    """Batches arrive in any order; a line is printed once all documents before it are there."""
    results = {i: protocol.Result(-1.0 - i / 100, i % 3 == 0) for i in range(150)}
    late_first = [{i: results[i]} for i in reversed(range(150))]
    assert protocol.collect(late_first, 150) == list(results.values())
    lines = capsys.readouterr().out.splitlines()
    assert lines == [protocol.running_line(list(results.values())[:count]) for count in (100, 150)]


def test_our_passages():
    """Their form, and that they are what they claim to be: the answer mostly occurs before, no passage repeats."""
    texts = passages.read_texts()
    assert len(texts) == 150
    assert all(text.isascii() for text in texts)
    assert all(50 <= len(text.split()) <= 105 for text in texts)
    answers = [text.rpartition(" ")[2] for text in texts]
    assert all(re.fullmatch(r"[A-Za-z-]+", answer) for answer in answers), "the last word, and nothing behind it"
    occurs = [
        answer.lower() in re.findall(r"\w+", text.rpartition(" ")[0].lower())
        for text, answer in zip(texts, answers, strict=True)
    ]
    assert 0.85 <= sum(occurs) / len(texts) <= 0.95
    assert len(set(answers)) >= 145
    runs: dict[tuple[str, ...], int] = {}
    for number, text in enumerate(texts):
        words = re.findall(r"\w+", text.lower())
        for start in range(len(words) - 7):
            assert runs.setdefault(tuple(words[start : start + 8]), number) == number, words[start : start + 8]


def test_joint_and_separate_encoding_agree_on_our_passages(tokenizer):
    """Other tools encode the whole passage at once; for English text without odd spaces it makes no difference."""
    texts = passages.read_texts()
    for text, document in zip(texts, passages.encode(texts, tokenizer.encode), strict=True):
        assert document.context + document.target == tokenizer.encode(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no passages"),
        ("\n \n", "has no passages"),
        ("not json\n", "line 1: expected an object"),
        ('{"text": "two words"}\n\n{"words": "x y"}\n', "line 3: expected an object"),
        ('{"text": 3}\n', "line 1: expected an object"),
        ("[1]\n", "line 1: expected an object"),
        ('{"text": "half a pair \\ud83d"}\n', "line 1: expected an object"),
        ('{"text": "word"}\n', "line 1: a passage needs at least two words"),
        ('{"text": ""}\n', "line 1: a passage needs at least two words"),
        ('{"text": " word"}\n', "line 1: a passage needs at least two words"),
        ('{"text": "ends with a space "}\n', "line 1: a passage needs at least two words"),
        ('{"text": "ends with a line\\n"}\n', "line 1: the passage ends in white space"),
    ],
)
def test_bad_data_is_refused(content, message, tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        passages.read_texts(path)


def test_odd_but_good_data(tmp_path):
    """A byte order mark, Windows line ends, empty lines, other scripts, U+2028 in a passage, a passage twice."""
    texts = ["a b", "灯灭了 彼得", "one\u2028two three", "a b"]
    path = tmp_path / "data.jsonl"
    content = "\r\n\r\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts)
    path.write_bytes(b"\xef\xbb\xbf" + content.encode())
    assert passages.read_texts(path) == texts
    assert passages.read_texts(path, limit=2) == texts[:2]
    assert passages.read_texts(path, limit=100) == texts
    assert passages.hash_texts(texts) != passages.hash_texts(texts[:3])


@pytest.mark.parametrize("limit", [0, -1])
def test_bad_limit(limit):
    with pytest.raises(InputError, match=f"The limit is {limit}; give a number"):
        passages.read_texts(limit=limit)


def test_missing_data(tmp_path):
    for path in (tmp_path / "nothing.jsonl", tmp_path):
        with pytest.raises(InputError, match="Cannot read the passages"):
            passages.read_texts(path)
    (tmp_path / "latin.jsonl").write_bytes('{"text": "ein Schlüssel"}'.encode("latin-1"))
    with pytest.raises(InputError, match="Cannot read the passages"):
        passages.read_texts(tmp_path / "latin.jsonl")


def test_model_with_another_vocabulary(documents):
    passages.check_vocabulary(65536, documents, "model")
    with pytest.raises(InputError, match=r"model knows 1,000 tokens, but the passages use World id \d+; take a World"):
        passages.check_vocabulary(1000, documents, "model")
    few = [replace(documents[0], context=[1], target=[2])]
    with pytest.raises(InputError, match=r"model knows 50,277 tokens, not the 65,530 of World; take a World"):
        passages.check_vocabulary(50277, few, "model")  # a Pile model, to which these ids are other words
    with pytest.raises(InputError):
        passages.check_vocabulary(5, [replace(documents[0], context=[1], target=[5])], "model")


def test_wrong_model_directories(tmp_path):
    path = synthetic.write_random_checkpoint(tmp_path / "model.pth", hidden_size=32, head_size=16, dtype=torch.float32)
    converted = directory.convert(path, tmp_path / "converted", progress=False)
    with pytest.raises(InputError, match=r"has no config\.json; run convert first"):
        loading.load_model(tmp_path)
    weights = converted / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"model\.safetensors is not a safetensors file, or is damaged"):
        loading.load_model(converted)
    weights.unlink()
    with pytest.raises(InputError, match=r"is not a converted model: it has no model\.safetensors"):
        loading.load_model(converted)
    (converted / "config.json").write_text("{}")
    with pytest.raises(InputError, match="Cannot load the model"):
        loading.load_model(converted)


def test_missing_weights_are_not_replaced_by_random_ones(tmp_path):
    from safetensors.torch import load_file, save_file

    path = synthetic.write_random_checkpoint(tmp_path / "model.pth", hidden_size=32, head_size=16, dtype=torch.float32)
    converted = directory.convert(path, tmp_path / "converted", progress=False)
    weights = load_file(converted / "model.safetensors")
    del weights["rwkv.blocks.1.ln2.weight"]
    save_file(weights, converted / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"has no tensor rwkv\.blocks\.1\.ln2\.weight"):
        loading.load_model(converted)
