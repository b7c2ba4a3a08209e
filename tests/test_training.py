"""Training: the rewritten text, the windows, the model that is trained against the model that is exported, and resume.

The corpus is the project's own passages. Models are tiny, so that each test takes a few seconds.
"""

import argparse
import dataclasses
import json
import lzma
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers import __main__ as cli
from helpers.atomic import MARK, owned_folder
from helpers.checkpoints.files import load_checkpoint
from helpers.checkpoints.format import describe_checkpoint
from helpers.checkpoints.oracle import load_oracle
from helpers.checkpoints.synthetic import write_random_checkpoint
from helpers.checkpoints.versions import VERSIONS
from helpers.conversion.directory import convert
from helpers.errors import InputError
from helpers.generation import serve
from helpers.lambada import run as lambada_run
from helpers.lambada.passages import read_texts
from helpers.paths import ROOT
from helpers.tokenizer.trie import TrieTokenizer
from helpers.tokenizer.vocab import read_vocab
from helpers.training import augment, fast, model, options, run, trainer, windows

TINY = options.TrainOptions(
    layers=2, hidden=32, attention=32, ffn=64, windows=options.WindowOptions(length=32), batch=8, steps=12, warmup=4
)
TINY_52 = dataclasses.replace(TINY, version="5.2")


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


def test_a_folder_with_other_windows_is_refused(corpus, epochs, tmp_path):
    with pytest.raises(InputError, match="holds windows of another run: length 32, not 64"):
        windows.Windows(corpus, epochs.folder, dataclasses.replace(TINY.windows, length=64))
    other = tmp_path / "other.txt"  # as many characters
    other.write_text(corpus.read_text(encoding="utf-8").replace(" the ", " tho "), encoding="utf-8")
    with pytest.raises(InputError, match=r"another run: corpus [0-9a-f]{12}, not [0-9a-f]{12}; give another folder"):
        windows.Windows(other, epochs.folder, TINY.windows)


def test_a_folder_of_something_else_is_left_alone(corpus, tmp_path):
    """Nothing is written there, and what is not ours outlives a run."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds notes\.txt, which this program did not put there"):
        windows.Windows(corpus, tmp_path, TINY.windows)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    made = windows.Windows(corpus, tmp_path / "windows", TINY.windows)
    made.epoch(0)
    (made.folder / "notes.txt").write_text("mine")
    made.remove()
    assert [path.name for path in made.folder.iterdir()] == ["notes.txt"]


def test_damaged_windows_are_one_sentence(corpus, tmp_path):
    made = windows.Windows(corpus, tmp_path, TINY.windows)
    made.epoch(0)
    ids, _ = windows.shard_paths(tmp_path, 0, 5)
    ids.write_bytes(ids.read_bytes()[:100])
    with pytest.raises(InputError, match=r"ids-0000-05\.npy: .*; remove that file, and it is made again"):
        made.epoch(0)
    ids.unlink()
    windows.shard_paths(tmp_path, 0, 5)[1].unlink()
    assert len(made.epoch(0)[0]) > 300
    (tmp_path / windows.OPTIONS).write_text("{")
    with pytest.raises(InputError, match=r"options\.json is damaged"):
        windows.Windows(corpus, tmp_path, TINY.windows)


# the model


def new_model(version: str = "5.0", rows: int = 300, **tricks) -> model.TrainedModel:
    torch.manual_seed(0)
    config = model.mini_config(version, rows, layers=2, hidden=32, attention=32, ffn=64)
    trained = model.TrainedModel(config, counts=torch.rand(rows) * 100, **tricks)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return trained


@pytest.mark.parametrize("version", ["4", "5.0", "5.2", "6", "7"])
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


@pytest.mark.parametrize("version", ["4", "5.0", "5.2", "6", "7"])
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


def test_the_log_and_the_evaluations_of_a_killed_run(corpus, tmp_path, monkeypatch):
    """Lines of steps that are made again are taken back, and what was measured before the kill is kept."""
    monkeypatch.setattr(run, "measure", lambda run, documents: {"sample": "x"})
    out, whole = tmp_path / "killed", tmp_path / "whole"
    arguments = {"processes": 0, "device": "cpu", "progress": False, "save_every": 7}
    run.train_from_text(corpus, whole, TINY, **arguments)
    log = run.TrainingRun.log

    def killed_at_step_11(self, bar, means):
        if self.position.step == 11:
            raise KeyboardInterrupt
        return log(self, bar, means)

    monkeypatch.setattr(run.TrainingRun, "log", killed_at_step_11)
    with pytest.raises(KeyboardInterrupt):
        run.train_from_text(corpus, out, TINY, **arguments)
    monkeypatch.undo()
    monkeypatch.setattr(run, "measure", lambda run, documents: {"sample": "x"})
    with open(out / "log.jsonl", "a") as file:
        file.write('{"step": 11, "tok')  # killed while it wrote
    run.train_from_text(corpus, out, TINY, **arguments)

    def steps(folder):
        lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
        result = json.loads((folder / "result.json").read_text())
        return [line["step"] for line in lines], [line["step"] for line in result["evaluations"]]

    assert steps(out) == steps(whole) == (list(range(1, 13)), [3, 6, 9, 12])
    assert (out / "model.pth").read_bytes() == (whole / "model.pth").read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 1e-3}, "learning_rate 0.003, not 0.001"),
        ({"windows": dataclasses.replace(TINY.windows, seed=2)}, "windows.seed 1, not 2"),
        ({"layers": 1}, "layers 2, not 1"),
        ({"tied": False}, "tied True, not False"),
    ],
)
def test_another_run_is_not_resumed(epochs, tmp_path, changes, message):
    first = small_run(epochs, tmp_path)
    assert not first.resume()
    list(first.train(save_every=3, progress=False, stop_after=3))
    before = (tmp_path / "log.jsonl").read_bytes()
    with pytest.raises(InputError, match=f"state.pt was saved by another run: {message}; give another folder"):
        small_run(epochs, tmp_path, **changes).resume()
    assert (tmp_path / "log.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("corpus", "0" * 64, "corpus 0{12}, not"), ("device_type", "cuda", "device_type cuda, not cpu"),
     ("package", "0.0.1", "package 0.0.1, not")],
)  # fmt: skip
def test_a_state_of_other_origin_is_not_resumed(epochs, tmp_path, name, value, message):
    """Another corpus, a state that was saved on a GPU, another version of the package."""
    first = small_run(epochs, tmp_path)
    first.save()
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    state["origin"][name] = value
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(InputError, match=f"was saved by another run: {message}"):
        small_run(epochs, tmp_path).resume()


def test_a_damaged_state_is_one_sentence(epochs, tmp_path):
    first = small_run(epochs, tmp_path)
    first.save()
    path = tmp_path / "state.pt"
    content, state = path.read_bytes(), torch.load(path, weights_only=True)
    for damaged in (b"", b"not a state", content[: len(content) // 2], content[:100] + b"?" * 100 + content[200:]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"state\.pt is damaged, or of an older version; remove it to begin again"):
            small_run(epochs, tmp_path).resume()
    state["model"]["delta"] = state["model"]["delta"][:-1]  # a table of another size
    torch.save(state, path)
    with pytest.raises(InputError, match=r"state\.pt does not fit this run, or is damaged"):
        small_run(epochs, tmp_path).resume()
    for older in ({"options": "{}"}, [1], {"origin": 5}):
        torch.save(older, path)
        with pytest.raises(InputError, match=r"state\.pt"):
            small_run(epochs, tmp_path).resume()
    path.unlink()
    (tmp_path / "log.jsonl").write_text("my own notes\nin two lines\n")
    with pytest.raises(InputError, match=r"log\.jsonl is not the log of a training run"):
        small_run(epochs, tmp_path).resume()
    assert (tmp_path / "log.jsonl").read_text() == "my own notes\nin two lines\n"


def test_a_run_that_goes_astray_says_so(epochs, tmp_path):
    astray = small_run(epochs, tmp_path)
    with torch.no_grad():
        astray.model.delta[5] = float("nan")
    with pytest.raises(InputError, match=r"The loss is nan after step 1: .* give a smaller learning rate"):
        list(astray.train(progress=False))


FULL = """
import resource, signal, sys
from helpers.__main__ import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))  # as a disk with little room
sys.exit(main())
"""


@pytest.mark.parametrize(("every", "name"), [("2", "state.pt"), ("0", "model.pth")])
def test_a_full_disk_is_one_sentence(corpus, tmp_path, every, name):
    sizes = ["--layers", "1", "--hidden", "8", "--attention", "8", "--ffn", "8", "--batch", "8", "--window", "16"]
    command = ["train", "--corpus", str(corpus), "--out", str(tmp_path / "out"), "--steps", "4", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-c", FULL, *command, *sizes, "--processes", "0", "--save-every", every],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: Cannot write {tmp_path / 'out' / name}: the disk may be full")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out" / name).exists()


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


def command(corpus, out, *changes) -> list[str]:
    sizes = {"layers": 2, "hidden": 32, "attention": 32, "ffn": 32, "batch": 8, "window": 32, "processes": 1}
    sizes = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    arguments = ["train", "--corpus", str(corpus), "--out", str(out), "--steps", "8", "--device", "cpu", *sizes]
    return [*arguments, *map(str, changes)]


def test_the_command(corpus, tmp_path, capsys):
    data = tmp_path / "passages.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in read_texts(limit=5)), encoding="utf-8")
    out = tmp_path / "out"
    assert cli.main(command(corpus, out, "--lambada", data)) == 0
    result = json.loads((out / "result.json").read_text())
    assert [line["step"] for line in result["evaluations"]] == [2, 4, 6, 8]
    assert result["evaluations"][-1]["lambada_perplexity"] > 1
    assert result["evaluations"][-1]["sample"].startswith(run.PROMPT)
    assert (result["options"]["layers"], result["device_type"], len(result["corpus"])) == (2, "cpu", 64)
    assert sorted(path.name for path in out.iterdir()) == [MARK, "log.jsonl", "model.pth", "result.json"]
    assert cli.main(["train", "--corpus", str(tmp_path / "none"), "--out", str(out), "--steps", "1"]) == 2
    assert "Cannot read the corpus" in capsys.readouterr().err
    assert cli.main(["train", "--corpus", str(corpus), "--out", str(corpus), "--steps", "1"]) == 2
    assert "Cannot write into" in capsys.readouterr().err


def test_a_finished_run_is_left_as_it_is(corpus, tmp_path, capsys, monkeypatch):
    """The same run does nothing; another corpus or another option is refused, and never given the old model."""
    monkeypatch.setattr(run, "measure", lambda run, documents: {})
    out = tmp_path / "out"
    assert cli.main(command(corpus, out, "--save-every", 3)) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert "state.pt" in before
    capsys.readouterr()

    assert cli.main(command(corpus, out)) == 0
    assert "model.pth was made by this run before; nothing is left to do" in capsys.readouterr().out
    packed = tmp_path / "corpus.xz"
    packed.write_bytes(lzma.compress(corpus.read_bytes()))
    assert cli.main(command(packed, out)) == 0, "the same text"

    other = tmp_path / "other.txt"
    other.write_text(corpus.read_text(encoding="utf-8").replace(" the ", " tho "), encoding="utf-8")
    for arguments, message in (
        (command(other, out), r"made by another run: corpus [0-9a-f]{12}, not"),
        (command(corpus, out, "--layers", 1), "made by another run: layers 2, not 1; give another --out"),
        (command(corpus, out, "--steps", 9), "made by another run: steps 8, not 9"),
        (command(corpus, out, "--window", 48), r"made by another run: windows\.length 32, not 48"),
        (command(corpus, out, "--no-rename"), r"made by another run: windows\.rename True, not False"),
    ):
        capsys.readouterr()
        assert cli.main(arguments) == 2
        assert re.search(message, capsys.readouterr().err)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before

    (out / "model.pth").unlink()  # a saved state, and windows, of another corpus are no better
    assert cli.main(command(other, out)) == 2
    assert re.search("state.pt was saved by another run: corpus", capsys.readouterr().err)
    assert cli.main(command(corpus, out, "--no-styles")) == 2
    assert "state.pt was saved by another run: corpus" not in (error := capsys.readouterr().err)
    assert "state.pt was saved by another run: windows.styles" in error
    assert not (out / "windows").exists()


def test_a_model_of_unknown_origin_is_not_overwritten(corpus, tmp_path, capsys):
    (tmp_path / "model.pth").write_text("mine")
    for content in (None, "{", "[]", "{}"):
        if content:
            (tmp_path / "result.json").write_text(content)
        assert cli.main(command(corpus, tmp_path)) == 2
        assert "model.pth" in capsys.readouterr().err
    assert (tmp_path / "model.pth").read_text() == "mine"
    assert not (tmp_path / "windows").exists()


@pytest.mark.parametrize(
    "name",
    ["windows/ids-0000-00.npy", "windows/.hidden", "windows/options.json", "state.pt", "log.jsonl", "result.json"],
)
def test_what_no_run_of_ours_wrote_is_left_alone(name, corpus, tmp_path, capsys):
    """Neither overwritten nor removed, and nothing is put beside it."""
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text('{"step": 5, "precious": true}\n')
    before = sorted((tmp_path / "out").rglob("*"))
    assert cli.main(command(corpus, tmp_path / "out")) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(
        r"error: .* holds .*, which this program did not put there; give another path, or move it\.\n", error
    )
    assert sorted((tmp_path / "out").rglob("*")) == before
    assert path.read_text() == '{"step": 5, "precious": true}\n'


def test_a_folder_with_other_things_can_be_trained_in(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "measure", lambda run, documents: {})
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".model.pth.1.partial").touch()
    assert cli.main(command(corpus, tmp_path, "--processes", 0)) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        MARK,
        "log.jsonl",
        "model.pth",
        "notes.txt",
        "result.json",
    ]


def test_a_second_run_in_a_folder_is_refused(corpus, tmp_path):
    """A real second process, while the first one trains; when the first is killed, the folder is free at once."""
    out = tmp_path / "out"
    python = [sys.executable, "-m", "helpers", *command(corpus, out, "--save-every", 1)]
    python[python.index("--steps") + 1] = "100000"
    with subprocess.Popen(python, cwd=ROOT, stdout=subprocess.DEVNULL) as first:
        try:
            for _ in range(1200):
                if (out / "state.pt").exists() or first.poll() is not None:
                    break
                time.sleep(0.1)
            before = sorted(out.iterdir())
            second = subprocess.run(python, cwd=ROOT, capture_output=True, text=True, timeout=120)
            assert second.returncode == 2
            assert second.stderr == f"error: Another process is writing {out}; wait for it, or give another path.\n"
            assert first.poll() is None
            assert {path.name for path in before} >= {MARK, "log.jsonl", "state.pt", "windows"} - {"log.jsonl"}
        finally:
            first.kill()
    with owned_folder(out):
        assert (out / "state.pt").exists()


def test_a_process_of_the_pool_that_is_killed(corpus, tmp_path, monkeypatch):
    """A pool replaces it, and loses its work: waiting for that would never end."""
    monkeypatch.setattr(windows, "LOOK", 0.05)
    made = windows.Windows(corpus, tmp_path / "windows", TINY.windows, processes=2)
    try:
        results = [made.pool.apply_async(killed_once, (tmp_path / "killed",)) for _ in range(2)]
        with pytest.raises(InputError, match="was killed, perhaps for want of memory; give fewer --processes"):
            [made.wait_for(result) for result in results]
    finally:
        made.close()


def killed_once(path):
    """In a process of a pool: die while working, if no other has yet."""
    with suppress(FileExistsError):
        path.touch(exist_ok=False)
        os.kill(os.getpid(), signal.SIGKILL)


def test_pipes_are_no_input(corpus, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    for arguments in (
        command(tmp_path / "pipe", tmp_path / "out"),
        command(corpus, tmp_path / "out", "--lambada", tmp_path / "pipe"),
    ):
        assert cli.main(arguments) == 2
        assert "pipe: it is no regular file; give" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_too_little_memory_is_one_sentence(corpus, tmp_path, monkeypatch, capsys, error):
    def fail(*args):
        raise error

    monkeypatch.setattr(run, "train", fail)
    assert cli.main(command(corpus, tmp_path / "out", "--processes", 0)) == 2
    assert "There is too little memory for this run" in capsys.readouterr().err


# options


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": 200}, "attention is 200, which cannot be split into heads"),
        ({"attention": 33}, "attention is 33, which cannot be split into heads"),
        ({"attention": 1}, "attention is 1; give a whole number from 4 to 65,536"),
        ({"version": "9"}, "There is no version '9'; choose one of 4, 5.0"),
        ({"layers": 2.0}, "layers is 2.0; give a whole number"),
        ({"batch": True}, "batch is True; give a whole number"),
        ({"cooldown": 0.0}, "cooldown is 0.0"),
        ({"warmup": 0}, "warmup is 0"),
        ({"inserted_weight": -1.0}, "inserted_weight is -1.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; give a number from 1e-09 to 1"),
    ],
)
def test_options_that_cannot_be(changes, message):
    with pytest.raises(InputError, match=re.escape(message)):
        dataclasses.replace(TINY, **changes)


def test_options_of_windows_that_cannot_be():
    for changes, message in (({"length": 1}, "The window's length is 1; give"), ({"seed": -1}, "seed is -1")):
        with pytest.raises(InputError, match=message):
            options.WindowOptions(**changes)


@pytest.mark.parametrize(
    ("version", "attention", "length", "message"),
    [
        ("5.2", 32, 24, "The window's length is 24; on a GPU give a multiple of 16"),
        ("5.2", 96, 32, "attention is 96; on a GPU give 32, 64, or a multiple of 64"),
        ("5.0", 16, 32, "attention is 16; on a GPU"),
        ("4", 48, 24, "attention is 48; on a GPU give a multiple of 32"),
        ("4", 96, 24, None),
        ("5.2", 64, 48, None),
        ("5.0", 192, 256, None),
    ],
)
def test_what_the_kernels_cannot_do_is_said_before(version, attention, length, message, epochs, tmp_path):
    sizes = dataclasses.replace(
        TINY, version=version, attention=attention, windows=options.WindowOptions(length=length)
    )
    if message is None:
        sizes.check_kernel()
        return
    with pytest.raises(InputError, match=message):
        trainer.TrainingRun(sizes, epochs, tmp_path, device="cuda")


def test_the_limits_are_those_of_the_kernels():
    source = (ROOT / "helpers" / "training" / "wkv_triton.py").read_text(encoding="utf-8")
    assert f"\nCHUNK = {options.KERNEL_TOKENS} " in source
    assert f"\nBLOCK = {options.KERNEL_CHANNELS} " in source


VALUES = ("-1", "0", "1", "1.5", "300", "1e9", "nan", "inf", "-inf", "x", "", "9" * 30)
TAKEN = {  # of these, by options whose numbers mean something; whole numbers below 300 by many more
    "--learning-rate": {"1"},
    "--minutes": {"1", "1.5", "300"},
    "--repeated-weight": {"0", "1", "1.5", "300"},
    "--layers": {"1", "300"},
    "--hidden": {"300"},
    "--attention": set(),  # 300 cannot be split into heads
    "--ffn": {"300"},
    "--batch": {"1", "300"},
    "--window": {"300"},
    "--head-rows": {"1", "300"},
    "--table-bits": {"0", "1"},
    "--seed": {"0", "1", "300"},
    "--processes": {"0", "1"},
    "--save-every": {"0", "1", "300"},
    "--steps": {"1", "300"},
    "--port": {"0"},  # lower ones may be in use, or reserved
    "--max-tokens": {"1", "300", "9" * 30},
    "--max-prompt": {"1", "300", "9" * 30},
    "--queue": {"0", "1", "300", "9" * 30},
    "--limit": {"1", "300", "9" * 30},
    "--batch-tokens": {"1", "300", "9" * 30},
}


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("options")
    checkpoint = write_random_checkpoint(folder / "m.pth", hidden_size=32, head_size=16, dtype=torch.float32)
    return convert(checkpoint, folder / "model", progress=False)


@pytest.mark.parametrize("name", ["train", "serve", "lambada"])
def test_every_number_that_a_command_is_given(name, corpus, converted, tmp_path, monkeypatch, capsys):
    """Taken, or refused in one sentence with exit code 2; never a traceback. The work itself is left out."""

    def work(*args, **kwargs):
        raise KeyboardInterrupt  # exit code 130: the command came so far

    monkeypatch.setattr(run, "Windows", lambda *args: SimpleNamespace(close=lambda: None))
    for module, function in ((run, "train"), (serve, "start"), (lambada_run, "load_scorer")):
        monkeypatch.setattr(module, function, work)
    base = {
        "train": ["--corpus", str(corpus), "--out", str(tmp_path / "out"), "--device=cpu"],
        "serve": [str(converted), "--device=cpu", "--port=0"],
        "lambada": ["--model", str(converted), "--device=cpu", "--limit=1"],
    }[name]
    parser = argparse.ArgumentParser()
    cli.command_module(name).add_arguments(parser)
    numbers = [action.option_strings[0] for action in parser._actions if action.type in (int, float)]
    assert set(numbers) <= TAKEN.keys()
    for option in numbers:
        length = ["--steps=1"] if name == "train" and option not in ("--steps", "--minutes") else []
        taken = set()
        for value in VALUES:
            try:
                code = cli.main([name, *base, *length, f"{option}={value}"])
            except SystemExit as error:  # by argparse
                code = error.code
            output = capsys.readouterr().err.splitlines()
            if code == 130:
                taken.add(value)
                continue
            assert code == 2, (option, value)
            assert output[0].startswith(("usage: ", "error: ")), (option, value)
            assert output[0].startswith("usage: ") or len(output) == 1, (option, value)
        allowed = {value for value in VALUES if value.isdigit()} if option == "--port" else TAKEN[option]
        assert TAKEN[option] <= taken <= allowed, option


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


def test_kernels_of_versions_exist():
    """The table of versions names functions that there are; without Triton, they are found in the source."""
    for module, function in (row.kernel.split(".") for row in VERSIONS.values() if row.kernel):
        assert f"\ndef {function}(" in (ROOT / "helpers" / "training" / f"{module}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("kernel", ["wkv_triton.wkv5", None])
def test_a_fast_step_leaves_nothing_behind(kernel, monkeypatch):
    """On a GPU: the precision of matrix products, the functions of the model, and its kernel are put back."""
    trained = new_model("5.2")
    own = trained.model.blocks[0].attention.wkv
    rows = {"5.2": dataclasses.replace(VERSIONS["5.2"], kernel=kernel)}
    monkeypatch.setattr(fast, "VERSIONS", rows)
    monkeypatch.setattr(fast, "triton_kernel", lambda name: name)
    monkeypatch.setattr(torch, "compile", lambda function, **options: ("compiled", function))
    monkeypatch.setattr(fast, "RecordedStep", lambda update: update)
    on_gpu = SimpleNamespace(device=torch.device("cuda"), model=trained, options=TINY_52, update="step")
    before = torch.get_float32_matmul_precision()
    with suppress(KeyboardInterrupt), fast.fast_step(on_gpu) as step:
        assert step == "step"
        assert torch.get_float32_matmul_precision() == "high"
        assert trained.run_block[0] == "compiled"
        assert (trained.model.blocks[0].attention.wkv is own) == (kernel is None)
        raise KeyboardInterrupt
    assert torch.get_float32_matmul_precision() == before
    assert trained.run_block is model.block_forward
    assert trained.model.blocks[0].attention.wkv is own


@pytest.mark.parametrize("check", ["check", "check_reading"])
def test_kernels_equal_the_models_own_functions(check):
    """On a GPU directly; without one in Triton's interpreter, which must be chosen before Triton is imported."""
    pytest.importorskip("triton")
    code = f"from tests.kernel_check import {check}; {check}()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
