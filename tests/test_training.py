"""Training: the rewritten text, the windows, the model that is trained against the model that is exported, and resume.

The corpus is the project's own passages. Models are tiny, so that each test takes a few seconds.
"""

import dataclasses
import json
import random
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers import __main__ as cli
from helpers.checkpoints.files import load_checkpoint
from helpers.checkpoints.format import describe_checkpoint
from helpers.checkpoints.oracle import load_oracle
from helpers.checkpoints.versions import VERSIONS
from helpers.errors import InputError
from helpers.lambada.passages import read_texts
from helpers.paths import ROOT
from helpers.tokenizer.trie import TrieTokenizer
from helpers.tokenizer.vocab import read_vocab
from helpers.training import augment, fast, model, options, run, trainer, windows

TINY = options.TrainOptions(
    layers=2, hidden=32, attention=32, ffn=64, windows=options.WindowOptions(length=32), batch=8, steps=12, warmup=4
)


@pytest.fixture(scope="module")
def vocabulary():
    return read_vocab()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "passages.txt"
    path.write_text("\n\n".join(read_texts()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def lexicon(corpus, vocabulary):
    return augment.build_lexicon(windows.count_words([corpus.read_text(encoding="utf-8")]), vocabulary)


@pytest.fixture(scope="module")
def epochs(corpus, tmp_path_factory):
    """Windows that all runs of this file share."""
    return windows.Windows(corpus, tmp_path_factory.mktemp("windows"), TINY.windows)


# the text


def test_names_are_told_from_other_words(vocabulary):
    counts = Counter(
        {"Mary": 50, "The": 900, "the": 9000, "Rose": 10, "rose": 30, "Captain": 40, "Tom": 2, "lantern": 9}
    )
    lexicon = augment.build_lexicon(counts, vocabulary)
    assert lexicon.names == {"Mary"}  # The and Rose occur in lower case, Captain is a title, Tom is too rare
    assert "Mary" in lexicon.vocabulary_names
    assert not lexicon.vocabulary_names.count("The")


TEXT = "Mary saw the lantern. “Tom,” said Mary, “take the lantern!” The lantern was Tom's; Maryland was not."
LEXICON = augment.Lexicon(
    names=frozenset({"Mary", "Tom"}),
    nouns=frozenset({"lantern"}),
    corpus_names=["Dora", "Said"],
    vocabulary_names=["Chicago", "Tom"],
    corpus_nouns=["garden", "the"],
    noun_weights=[2.0, 1.0],
    vocabulary_nouns=["violin"],
    common_words=frozenset({"the"}),
)


@pytest.mark.parametrize("seed", range(40))
def test_a_name_is_replaced_everywhere_by_the_same_other_name(seed):
    text, inserted = augment.Augmenter(LEXICON, styles=False)(TEXT, random.Random(seed))
    before, after = augment.WORD.findall(TEXT), augment.WORD.findall(text)
    assert augment.WORD.sub("x", text) == augment.WORD.sub("x", TEXT), "only words change"
    becomes = dict(zip(before, after, strict=True))
    assert [becomes[word] for word in before] == after, "one word becomes one word"
    assert len(set(becomes.values())) == len(becomes), "two words never become one"
    changed = {old: new for old, new in becomes.items() if old != new}
    assert changed.keys() <= {"Mary", "Tom", "lantern"}
    assert set(changed.values()) == set(inserted) or not changed


def test_renaming_happens_and_can_be_switched_off():
    results = [augment.Augmenter(LEXICON, styles=False)(TEXT, random.Random(seed))[0] for seed in range(100)]
    assert 40 < sum(text != TEXT for text in results) < 95
    plain = augment.Augmenter(LEXICON, rename=False, styles=False)
    assert all(plain(TEXT, random.Random(seed)) == (TEXT, []) for seed in range(20))


def test_invented_names_are_words():
    names = [augment.invented_name(random.Random(seed)) for seed in range(300)]
    assert all(name.isascii() and name.istitle() and 3 <= len(name) <= 10 for name in names)
    assert len(set(names)) > 250


def test_styles_keep_every_word():
    text = '"Well," said he, "it\'s late—too late."\n\n(\'Indeed!\')'
    results = {augment.restyle(text, random.Random(seed)) for seed in range(300)}
    assert len(results) > 15
    assert all(augment.WORD.findall(result) == augment.WORD.findall(text) for result in results)
    assert augment.curly_quotes(text) == "“Well,” said he, “it’s late—too late.”\n\n(‘Indeed!’)"


# the windows


def test_windows_are_text_with_marks(corpus, epochs, vocabulary):
    ids, kinds = epochs.epoch(0)
    assert ids.shape == kinds.shape == (len(ids), 33)
    assert len(ids) > 300
    decoder = TrieTokenizer(vocabulary)
    for row, marks in zip(ids[::40], kinds[::40], strict=True):
        body = row[marks != windows.Kind.PADDING].tolist()
        text = decoder.decode(body[1:] if body[0] == 0 else body)
        assert decoder.encode(text) == (body[1:] if body[0] == 0 else body), "windows hold whole, greedy tokens"
        assert "\ufffd" not in text
    for row, marks in zip(ids, kinds, strict=True):
        for position in np.flatnonzero(marks == windows.Kind.REPEATED):
            assert row[position] in row[:position]
    shares = np.bincount(kinds.ravel(), minlength=4) / kinds.size
    assert shares[windows.Kind.INSERTED] > 0.002
    assert shares[windows.Kind.REPEATED] > 0.003
    assert 0.2 < (ids[:, 0] == 0).mean() < 0.4


def test_an_inserted_word_is_marked_where_it_first_occurs(lexicon, vocabulary):
    maker = windows.WindowMaker(lexicon, vocabulary, options.WindowOptions(length=20))
    text = "He met Zanzibaroo, and Zanzibaroo laughed."
    encoding = maker.tokenizer.encode(text)
    for seed in range(6):
        ids, kinds = maker.window(encoding, text, ["Zanzibaroo"], random.Random(seed))
        marked = b"".join(vocabulary[index] for index in ids[kinds == windows.Kind.INSERTED])
        assert marked == b" Zanzibaroo"
        assert np.flatnonzero(kinds == windows.Kind.INSERTED)[0] == 2 + (ids[0] == 0)


def test_seen_before():
    ids = np.array([[5, 3, 5, 5, 9], [1, 2, 3, 4, 1]])
    assert windows.seen_before(ids).tolist() == [[False, False, True, True, False], [False] * 4 + [True]]


def test_epochs_differ_and_do_not_depend_on_the_number_of_processes(corpus, epochs, tmp_path):
    pooled = windows.Windows(corpus, tmp_path, TINY.windows, processes=2)
    try:
        for ours, theirs in zip(pooled.epoch(1), epochs.epoch(1), strict=True):
            assert np.array_equal(ours, theirs)
    finally:
        pooled.close()
    assert not np.array_equal(epochs.epoch(0)[0][:50], epochs.epoch(1)[0][:50])


def test_a_folder_with_other_windows_is_refused(corpus, epochs):
    with pytest.raises(InputError, match="other options"):
        windows.Windows(corpus, epochs.folder, dataclasses.replace(TINY.windows, length=64))


# the model


def new_model(version: str = "5.0", rows: int = 300, **tricks) -> model.TrainedModel:
    torch.manual_seed(0)
    config = model.mini_config(version, rows, layers=2, hidden=32, attention=32, ffn=64)
    trained = model.TrainedModel(config, counts=torch.rand(rows) * 100, **tricks)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return trained


@pytest.mark.parametrize("version", ["4", "5.0", "5.2"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_loss_is_that_of_the_exported_model(version, tied):
    """With all rows in the softmax; the difference is the rounding of the export, 2^-7 of each number."""
    trained = new_model(version, tied=tied, z_loss=0.0)
    tokens = torch.arange(0, 3000, 10)
    exported = model.loaded_model(trained.export(tokens, torch.full((300,), 10.0)))
    ids = torch.randint(0, 300, (3, 25))
    loss, losses = trained(ids, torch.ones(3, 24))
    logits = exported(tokens[ids[:, :-1]]).logits[:, :, tokens]
    expected = F.cross_entropy(logits.mT, ids[:, 1:], reduction="none")
    torch.testing.assert_close(losses, expected, atol=0.1, rtol=0.02)
    torch.testing.assert_close(loss, losses.mean())


def test_a_sampled_softmax_is_right_on_average():
    full, sampled = new_model(rows=2000), new_model(rows=2000, head_rows=400)
    ids = torch.randint(0, 50, (2, 20))
    with torch.no_grad():
        exact = full(ids, torch.ones(2, 19))[0]
        values = torch.stack([sampled(ids, torch.ones(2, 19))[0] for _ in range(100)])
    assert abs(values.mean() - exact) < 0.01 * exact
    assert values.std() < 0.02 * exact


def test_targets_beyond_the_sampled_rows_are_left_out():
    trained = new_model(head_rows=16)
    ids = torch.arange(1, 42).view(1, 41)
    loss, losses = trained(ids, torch.ones(1, 40))
    assert torch.isfinite(loss)
    assert torch.isfinite(losses).all()


@pytest.mark.parametrize("bits", [4, 5])
def test_short_numbers(bits):
    numbers = torch.tensor([1.0, -3.14159, 1e-5, 0.0, 65504.0])
    short = model.short(numbers, bits)
    assert ((short - numbers).abs() <= numbers.abs() * 2.0 ** -(bits + 1)).all()
    assert torch.equal(short, short.bfloat16().float())


# the run


def small_run(epochs, folder, **changes) -> trainer.TrainingRun:
    return trainer.TrainingRun(dataclasses.replace(TINY, **changes), epochs, folder)


@pytest.mark.parametrize("version", ["4", "5.0", "5.2"])
def test_the_loss_falls_and_the_file_is_the_model(version, epochs, tmp_path):
    """The trained model and the exported file in the rwkv package agree within bf16."""
    run = small_run(epochs, tmp_path, version=version, steps=30)
    losses = [line["cross_entropy"] for line in run.train(progress=False)]
    assert losses[-1] < losses[0] - 0.3
    path = run.export()
    info = describe_checkpoint(path)
    assert (info.version, info.vocab_size, info.dtypes.keys()) == (version, 65536, {"bfloat16"})

    ids, _ = run.next_batch()
    with torch.no_grad():
        ours = run.model.hidden(ids[:1]) @ run.model.head(torch.arange(len(run.tokens))).mT
    fp32 = tmp_path / "fp32.pth"
    torch.save({name: weight.float() for name, weight in load_checkpoint(path).items()}, fp32)
    theirs, _ = load_oracle(fp32).forward(run.tokens[ids[0]].tolist(), None, full_output=True)
    ours, theirs = ours[0].log_softmax(-1), theirs[:, run.tokens].log_softmax(-1)
    assert (ours - theirs).abs().max() < 0.1
    assert (ours - theirs).abs().mean() < 0.01


def test_a_killed_run_goes_on_as_if_nothing_had_happened(epochs, tmp_path):
    whole = small_run(epochs, tmp_path / "whole")
    list(whole.train(progress=False))
    killed = small_run(epochs, tmp_path / "killed")
    list(killed.train(save_every=5, progress=False, stop_after=7))  # what came after step 5 is lost
    resumed = small_run(epochs, tmp_path / "killed")
    assert resumed.resume()
    assert resumed.position.step == 5
    list(resumed.train(progress=False))
    for (name, a), b in zip(whole.weights().items(), resumed.weights().values(), strict=True):
        assert torch.equal(a, b), name


def test_another_run_is_not_resumed(epochs, tmp_path):
    run = small_run(epochs, tmp_path)
    assert not run.resume()
    list(run.train(save_every=3, progress=False, stop_after=3))
    with pytest.raises(InputError, match="other options"):
        small_run(epochs, tmp_path, learning_rate=1e-3).resume()


def test_the_learning_rate_warms_up_and_falls(epochs, tmp_path):
    run = small_run(epochs, tmp_path, steps=100, warmup=10)
    rates = []
    for step in range(100):
        run.position.step = step
        run.set_learning_rate()
        rates.append(run.optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(0.1 * TINY.learning_rate)
    assert rates[10:60] == pytest.approx([TINY.learning_rate] * 50)
    assert rates[80] == pytest.approx(TINY.learning_rate * (0.02 + 0.98 * 0.5))
    assert rates[-1] < 0.05 * TINY.learning_rate


def test_the_command(corpus, tmp_path, capsys):
    sizes = {"layers": 2, "hidden": 32, "attention": 32, "ffn": 32, "batch": 8, "window": 32, "processes": 1}
    sizes = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    data = tmp_path / "passages.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in read_texts(limit=5)), encoding="utf-8")
    out = tmp_path / "out"
    arguments = ["train", "--corpus", str(corpus), "--out", str(out), "--steps", "8", "--lambada", str(data)]
    assert cli.main([*arguments, *sizes, "--device", "cpu"]) == 0
    result = json.loads((out / "result.json").read_text())
    assert [line["step"] for line in result["evaluations"]] == [2, 4, 6, 8]
    assert result["evaluations"][-1]["lambada_perplexity"] > 1
    assert result["evaluations"][-1]["sample"].startswith(run.PROMPT)
    assert sorted(path.name for path in out.iterdir()) == ["log.jsonl", "model.pth", "result.json"]
    assert cli.main(["train", "--corpus", str(tmp_path / "none"), "--out", str(out), "--steps", "1"]) == 2
    assert "Cannot read the corpus" in capsys.readouterr().err
    assert cli.main(["train", "--corpus", str(corpus), "--out", str(corpus), "--steps", "1"]) == 2
    assert "Cannot write into" in capsys.readouterr().err


def test_a_kernel_takes_the_place_of_the_models_function():
    """Without Triton, with stand-ins: while they are in place the models call them, and then no longer."""
    calls = []
    for version in ("4", "5.2"):
        trained = new_model(version)
        own = trained.model.blocks[0].attention.wkv
        expected = trained.hidden(torch.ones(1, 20, dtype=torch.int64))
        with fast.use_kernel(trained.model, lambda *args, own=own: (calls.append(1), own(*args))[1]):
            assert torch.equal(trained.hidden(torch.ones(1, 20, dtype=torch.int64)), expected)
        assert len(calls) == 2, "one call a block"
        calls.clear()
        trained.hidden(torch.zeros(1, 20, dtype=torch.int64))
        assert not calls
        assert all(block.attention.wkv is own for block in trained.model.blocks)


def test_every_version_has_a_kernel():
    """The table of versions names functions that exist; without Triton, they are found in the source."""
    source = (ROOT / "helpers" / "training" / "wkv_triton.py").read_text(encoding="utf-8")
    assert all(f"\ndef {row.kernel}(" in source for row in VERSIONS.values())


def test_kernels_equal_the_models_own_functions():
    """On a GPU directly; without one in Triton's interpreter, which must be chosen before Triton is imported."""
    pytest.importorskip("triton")
    code = "from tests.kernel_check import check; check()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
