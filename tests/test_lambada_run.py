"""The commands lambada and lambada-compare: files of results, killed runs, several processes, wrong arguments."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hub_stand_in import environment, local_hub

from helpers import __main__ as cli
from helpers.checkpoints import synthetic
from helpers.conversion import directory, loading
from helpers.errors import InputError
from helpers.lambada import passages, protocol, run
from helpers.lambada.comparison import bootstrap, compare_paired
from helpers.lambada.results import Header, read_complete, read_results, write_results
from helpers.paths import ROOT

SIZES = {"hidden_size": 32, "head_size": 16, "dtype": torch.float32}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
HEADER = Header("model", "data", 4, "none", "transformers", "float32", False, {"model": "m", "transformers": "5"})
SLOWLY = """
import sys, time
from helpers import __main__
from helpers.lambada import protocol
score_targets = protocol.score_targets
protocol.score_targets = lambda *args: time.sleep(0.2) or score_targets(*args)
sys.exit(__main__.main())
"""
RESULTS = {i: protocol.Result(-1.0 - i, i % 2 == 0) for i in range(4)}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A random checkpoint, and the directory converted from it."""
    folder = tmp_path_factory.mktemp("models")
    path = synthetic.write_random_checkpoint(folder / "model.pth", **SIZES)
    return path, directory.convert(path, folder / "converted", progress=False)


@pytest.fixture(scope="module")
def expected(models):
    """What one process makes of our first 40 passages."""
    documents = protocol.encode_world(passages.read_texts(limit=40), "none")
    model = loading.load_model(models[1])
    return protocol.collect(protocol.score_converted(model, documents, 300), len(documents), show=False)


def arguments(model: Path, out: Path) -> list[str]:
    return ["lambada", "--model", str(model), "--limit", "40", "--batch-tokens", "300", "--out", str(out)]


def test_both_sides_from_the_command_line(models, tmp_path, capsys):
    lines = []
    for option, path in (("--checkpoint", models[0]), ("--model", models[1])):
        out = tmp_path / f"{option[2:]}.jsonl"
        assert cli.main(["lambada", option, str(path), "--limit", "12", "--device", "cpu", "--out", str(out)]) == 0
        line, summary = capsys.readouterr().out.splitlines()
        lines.append(line.split())
        assert summary.startswith("12 documents, prefix none, float32, TF32 off, ")
        assert " on cpu, " in summary
        header, results = read_complete(out)
        assert header.documents == len(results) == 12
        assert line == protocol.running_line(results)
    assert lines[0][:3] == lines[1][:3] == ["#", "12", "ppl"]
    assert float(lines[0][3]) == pytest.approx(float(lines[1][3]), rel=1e-4)  # of a random model: about 1e6
    assert lines[0][4:] == lines[1][4:]

    files = [str(tmp_path / "checkpoint.jsonl"), str(tmp_path / "model.jsonl")]
    assert cli.main(["lambada-compare", *files]) == 0
    text = capsys.readouterr().out
    assert "A: rwkv, prefix none, float32, TF32 off; model model.pth" in text
    assert "the other wrong: 0 of 12" in text


def test_dtype_and_prefix_change_the_result_and_are_stated(models, tmp_path, capsys):
    seen = set()
    for extra in ([], ["--dtype", "bfloat16"], ["--prefix", "eot"], ["--prefix", "newline"]):
        assert cli.main(["lambada", "--model", str(models[1]), "--limit", "3", *extra]) == 0
        line, summary = capsys.readouterr().out.splitlines()
        assert all(word in summary for word in extra[1:])
        seen.add(line)
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--limit", "0"], "The limit is 0"),
        (["--batch-tokens", "0"], "--batch-tokens is 0"),
        (["--data", "nothing.jsonl"], "Cannot read the passages nothing.jsonl"),
        (["--model", "nothing"], "nothing is not a converted model: it has no config.json"),
        (["--model", "{checkpoint}"], "model.pth is not a converted model: it has no config.json"),
        (["--model", "."], "is not a converted model: it has no config.json"),
        (["--out", "no/such/folder.jsonl"], "There is no directory no/such for --out"),
        (["--out", "."], "--out . is a directory"),
        (["--device", "nonsense"], "Cannot use the device nonsense"),
        (["--device", "meta"], "Cannot use the device meta"),
        (["--device", "cpu", "--device-map", "auto"], "Give --device or --device-map, not both"),
    ],
)
def test_wrong_arguments(models, tmp_path, capsys, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    changes = [change.format(checkpoint=models[0]) for change in changes]
    assert cli.main([*arguments(models[1], tmp_path / "out.jsonl"), *changes]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert message in output.err
    assert list(tmp_path.iterdir()) == []


def test_wrong_checkpoints(tmp_path, capsys):
    small = synthetic.write_random_checkpoint(tmp_path / "small.pth", vocab_size=100, **SIZES)
    for path, message in (
        (tmp_path / "nothing.pth", "nothing.pth"),
        (tmp_path, "is a directory"),
        (small, "knows 100 tokens, but the passages use World id"),
    ):
        assert cli.main(["lambada", "--checkpoint", str(path), "--limit", "2", "--device", "cpu"]) == 2
        assert message in capsys.readouterr().err


def test_a_hub_without_network(tmp_path, models):
    """The test set comes from the Hub under its name there; without a network there is one sentence."""
    repository = tmp_path / "hub" / passages.HUB_REPO
    (repository / "data").mkdir(parents=True)
    (repository / passages.HUB_FILE).write_text('{"text": "the lamp was out and so he lit the lamp"}\n')
    command = [sys.executable, "-m", "helpers", "lambada", "--model", str(models[1]), "--data", "hub"]
    with local_hub(tmp_path / "hub") as (address, requests):
        settings = ENVIRONMENT | environment(address, tmp_path / "cache")
        done = subprocess.run(command, env=settings, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# 1 ppl ")
    assert any(f"/datasets/{passages.HUB_REPO}/resolve/main/{passages.HUB_FILE}" in request for request in requests)
    empty = settings | {"HF_HOME": str(tmp_path / "empty"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=empty, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Cannot get data/lambada_test_en.jsonl" in done.stderr


def test_results_go_to_a_file_and_back(tmp_path):
    path = tmp_path / "results.jsonl"
    write_results(path, HEADER, RESULTS)
    assert read_results(path) == (HEADER, RESULTS)
    assert read_complete(path) == (HEADER, list(RESULTS.values()))
    assert len(path.read_text().splitlines()) == 5


def test_an_unfinished_line_is_left_out(tmp_path):
    path = tmp_path / "results.jsonl"
    write_results(path, HEADER, RESULTS)
    path.write_bytes(path.read_bytes()[:-5])
    assert read_results(path)[1].keys() == {0, 1, 2}
    with pytest.raises(InputError, match="has 3 of 4 documents; run the same lambada command again"):
        read_complete(path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "no line end",
        "not json\n",
        '{"text": "a passage"}\n',
        "{header}\n{}\n",
        '{header}\n{"document": 4, "logprob": -1.0, "correct": true}\n',
    ],
)
def test_other_files_are_no_results(tmp_path, content):
    path = tmp_path / "results.jsonl"
    write_results(path, HEADER, {})
    path.write_text(content.replace("{header}", path.read_text().strip()))
    before = path.read_text()
    with pytest.raises(InputError, match="is not a file of LAMBADA results"):
        read_results(path)
    with pytest.raises(InputError, match="is not a file of LAMBADA results"):
        run.score_all(lambda batch: [], [], [], HEADER, path, show=False)
    assert path.read_text() == before


def fake_run(out: Path, header: Header = HEADER, fail_at: int | None = None) -> list[int]:
    """Run with results that are known, perhaps fail at one document, and return the documents that were scored."""
    documents = [passages.Document([index], [index]) for index in range(4)]
    scored = []

    def score(batch):
        for document in batch:
            if document.context[0] == fail_at:
                raise KeyboardInterrupt
            scored.append(document.context[0])
        return [RESULTS[document.context[0]] for document in batch]

    try:
        assert run.score_all(score, documents, [[3, 1], [2], [0]], header, out, show=False) == list(RESULTS.values())
    except KeyboardInterrupt:
        assert fail_at is not None
    return scored


def test_a_stopped_run_goes_on(tmp_path):
    out = tmp_path / "out.jsonl"
    assert fake_run(out, fail_at=2) == [3, 1]
    assert read_results(out)[1].keys() == {1, 3}
    with open(out, "a") as file:
        file.write('{"document": 2, "logp')  # killed while it wrote
    assert fake_run(out) == [2, 0]
    assert read_complete(out)[1] == list(RESULTS.values())
    assert fake_run(out) == []
    assert [json.loads(line).get("document") for line in out.read_text().splitlines()] == [None, 0, 1, 2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_a_batch_that_is_not_complete_is_made_again_as_a_whole(tmp_path):
    out = tmp_path / "out.jsonl"
    write_results(out, HEADER, {3: RESULTS[3]})
    assert fake_run(out) == [3, 1, 2, 0]


def test_what_other_processes_of_a_killed_run_made_is_used(tmp_path):
    out = tmp_path / "out.jsonl"
    write_results(out, HEADER, {2: RESULTS[2]})
    write_results(run.part(out, 1), HEADER, {0: RESULTS[0]})
    assert fake_run(out) == [3, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


@pytest.mark.parametrize("name", ["model", "data", "prefix", "dtype", "engine", "tf32", "documents"])
def test_results_of_something_else_are_refused(tmp_path, name):
    out = tmp_path / "out.jsonl"
    fake_run(out)
    before = out.read_bytes()
    other = replace(HEADER, **{name: 5 if name == "documents" else "other"})
    with pytest.raises(InputError, match=f"has results of another {name}; give another --out, or remove it"):
        fake_run(out, other)
    assert out.read_bytes() == before


def test_a_changed_model_or_data_file_is_noticed(models, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in passages.read_texts(limit=3)))
    command = ["lambada", "--model", str(models[1]), "--data", str(data), "--out", str(out)]
    assert cli.main(command) == 0
    assert cli.main(command) == 0
    data.write_text(data.read_text().replace(" the ", " that ", 1))
    assert cli.main(command) == 2
    assert "has results of another data" in capsys.readouterr().err
    config = models[1] / "config.json"
    original = config.read_text()
    try:
        config.write_text(original + "\n")
        assert cli.main(command) == 2
        assert "has results of another model and data" in capsys.readouterr().err
    finally:
        config.write_text(original)


def test_a_killed_process_leaves_what_it_made(models, expected, tmp_path):
    """SIGKILL in the middle of a run, then the same command again: the numbers of a run without a break."""
    out = tmp_path / "out.jsonl"
    command = [sys.executable, "-c", SLOWLY, *arguments(models[1], out)]
    process = subprocess.Popen(command, env=ENVIRONMENT, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (out.exists() and len(read_results(out)[1]) >= 4):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    made = len(read_results(out)[1])
    assert 4 <= made < 40
    assert cli.main(arguments(models[1], out)) == 0
    assert_same(read_complete(out)[1], expected)


@pytest.mark.parametrize(
    "launcher",
    [
        ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
        ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
         "--mixed_precision", "no", "--dynamo_backend", "no"],
    ],
    ids=["torchrun", "accelerate"],
)  # fmt: skip
def test_two_processes_give_the_result_of_one(models, expected, tmp_path, launcher):
    out = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", *launcher, "-m", "helpers", *arguments(models[1], out)]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line]
    assert lines[0] == protocol.running_line(expected)
    assert len(lines) == 2
    assert ", 2 processes, " in lines[1]
    assert_same(read_complete(out)[1], expected)
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def assert_same(ours: list[protocol.Result], expected: list[protocol.Result]) -> None:
    """1e-5: another number of threads adds up in another order."""
    assert [r.correct for r in ours] == [r.correct for r in expected]
    assert [r.logprob for r in ours] == pytest.approx([r.logprob for r in expected], abs=1e-5)


def test_a_model_in_parts_on_several_devices(models, expected, tmp_path):
    """What device_map="auto" does with several GPUs, done with the memory and the disk."""
    places = {"rwkv.embeddings": "cpu", "rwkv.blocks.0": "cpu", "rwkv.blocks.1": "disk", "rwkv.ln_out": "cpu"}
    model = loading.load_model(models[1], device_map={**places, "head": "cpu"}, offload_folder=tmp_path)
    documents = protocol.encode_world(passages.read_texts(limit=40), "none")
    assert_same(protocol.collect(protocol.score_converted(model, documents, 300), 40, show=False), expected)


def test_device_map_from_the_command_line(models, tmp_path, expected):
    out = tmp_path / "out.jsonl"
    assert cli.main([*arguments(models[1], out), "--device-map", "auto"]) == 0
    assert_same(read_complete(out)[1], expected)


@pytest.mark.parametrize("allowed", [True, False])
def test_the_precision_of_the_process_is_put_back(models, monkeypatch, allowed):
    """Also when the run ends in an error."""
    seen = []
    load_scorer = run.load_scorer
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", allowed)

    def look(*args):
        seen.append(torch.backends.cuda.matmul.allow_tf32)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return load_scorer(*args)

    monkeypatch.setattr(run, "load_scorer", look)
    options = run.RunOptions(model=models[1], limit=1, device="cpu", tf32=not allowed)
    run.evaluate(options)
    with pytest.raises(KeyboardInterrupt):
        run.evaluate(options)
    assert seen == [not allowed] * 2
    assert torch.backends.cuda.matmul.allow_tf32 is allowed


def test_a_dtype_that_is_not_there():
    with pytest.raises(InputError, match="There is no dtype bf16; choose one of float32, bfloat16, float16"):
        run.RunOptions(model=Path("model"), dtype="bf16")


def test_repeated_passages_are_noted(models, tmp_path, capsys):
    data = tmp_path / "data.jsonl"
    data.write_text(3 * '{"text": "the lamp was out and so he lit the lamp"}\n')
    assert cli.main(["lambada", "--model", str(models[1]), "--data", str(data)]) == 0
    output = capsys.readouterr()
    assert "note: 2 of 3 passages are repeated; each one counts" in output.err
    assert output.out.startswith("# 3 ppl ")


def test_paired_comparison():
    """B is better by 0.1 everywhere: the interval has no width, however hard the documents are."""
    a = [protocol.Result(-float(i), False) for i in range(50)]
    b = [protocol.Result(-float(i) + 0.1, i < 5) for i in range(50)]
    c = compare_paired(a, b)
    assert c.logprob_difference == pytest.approx(0.1)
    assert c.logprob_interval == pytest.approx((0.1, 0.1))
    assert c.accuracy_difference == pytest.approx(10)
    assert 0 <= c.accuracy_interval[0] < 10 < c.accuracy_interval[1] <= 25
    assert c.changed == [0, 1, 2, 3, 4]
    assert c.max_abs_logprob_difference == pytest.approx(0.1)
    assert compare_paired(a, b) == c, "the resamples are the same each time"


def test_bootstrap_agrees_with_the_normal_distribution():
    """For 2,000 numbers of variance 1 the interval of the mean is about +-1.96 / sqrt(2000)."""
    values = torch.randn(1, 2000, generator=torch.Generator().manual_seed(0)).numpy()
    ((low, high),) = bootstrap(values, resamples=2000, seed=1)
    assert high - low == pytest.approx(2 * 1.96 / 2000**0.5, rel=0.1)  # 10 %: of 2,000 resamples
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=3e-3)


def test_wrong_comparisons(tmp_path, capsys):
    a, b, other = (tmp_path / name for name in ("a.jsonl", "b.jsonl", "other.jsonl"))
    write_results(a, HEADER, RESULTS)
    write_results(b, HEADER, {0: RESULTS[0]})
    write_results(other, replace(HEADER, data="other"), RESULTS)
    for files, message in (
        ([a, b], "b.jsonl has 1 of 4 documents"),
        ([a, other], "are about other passages"),
        ([a, tmp_path / "nothing"], "Cannot read the results"),
        ([a, a, "--resamples", "0"], "--resamples is 0"),
    ):
        assert cli.main(["lambada-compare", *map(str, files)]) == 2
        assert message in capsys.readouterr().err


def test_changed_documents_are_listed(tmp_path, capsys):
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    write_results(a, HEADER, RESULTS)
    write_results(b, HEADER, {**RESULTS, 2: protocol.Result(-9.0, False)})
    assert cli.main(["lambada-compare", str(a), str(b)]) == 0
    text = capsys.readouterr().out
    assert "the other wrong: 1 of 4" in text
    assert "document     2   A right   -3.0000   B wrong   -9.0000" in text


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_results_that_are_not_finite_fail(number, tmp_path, capsys):
    """Wherever they stand: Python's max() passes over a NaN that is not first."""
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    write_results(a, HEADER, RESULTS)
    bad = {**RESULTS, 2: protocol.Result(number, False)}
    write_results(b, HEADER, bad)
    for files in ([a, b], [b, a], [b, b]):
        assert cli.main(["lambada-compare", *map(str, files)]) == 1
        assert "1 of 4 results of" in capsys.readouterr().out
    good, bad_list = list(RESULTS.values()), list(bad.values())
    assert math.isnan(protocol.compare_results(good, bad_list)[0])
    with pytest.raises(InputError, match="results of B are not finite, the first of document 2"):
        compare_paired(good, bad_list)


def test_numbers_beyond_all_bounds():
    assert protocol.summarize([protocol.Result(-1e6, False)]) == (math.inf, 0)
    with pytest.raises(InputError, match="There are 1 results and 2"):
        compare_paired([protocol.Result(-1.0, True)], [protocol.Result(-1.0, True)] * 2)


def test_a_broken_model_fails(models, monkeypatch, capsys):
    score = run.score_batch
    nothing = float("nan")
    monkeypatch.setattr(
        run, "score_batch", lambda *args, **kw: [replace(r, logprob=nothing) for r in score(*args, **kw)]
    )
    assert cli.main(["lambada", "--model", str(models[1]), "--limit", "2", "--device", "cpu"]) == 2
    assert "2 of 2 results of" in capsys.readouterr().err


def test_the_exit_code_says_whether_original_and_converted_agree(tmp_path, capsys):
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    for engine, dtype, difference, options, code in (
        ("rwkv", "float32", 5e-4, [], 0),
        ("rwkv", "float32", 2e-3, [], 1),
        ("rwkv", "float32", 2e-3, ["--max-difference", "0.01"], 0),
        ("rwkv", "bfloat16", 2e-3, [], 0),  # another dtype: they differ by right
        ("transformers", "float32", 2e-3, [], 0),  # so do two models
        ("transformers", "float32", 2e-3, ["--max-difference", "0.001"], 1),
    ):
        write_results(a, HEADER, RESULTS)
        header = replace(HEADER, engine=engine, dtype=dtype)
        write_results(b, header, {**RESULTS, 3: protocol.Result(RESULTS[3].logprob - difference, RESULTS[3].correct)})
        assert cli.main(["lambada-compare", str(a), str(b), *options]) == code
        assert ("FAILED: a document's log-probability differs by more than" in capsys.readouterr().out) == (code == 1)
    assert cli.main(["lambada-compare", str(a), str(b), "--max-difference", "nan"]) == 2


def test_documents_that_occur_twice_are_refused(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    write_results(path, HEADER, RESULTS)
    path.write_text(path.read_text() + '{"document": 2, "logprob": -9.0, "correct": true}\n')
    assert cli.main(["lambada-compare", str(path), str(path)]) == 2
    assert "a.jsonl has document 2 twice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"documents": 4', '"documents": "4"'),
        ('"documents": 4', '"documents": 4.0'),
        ('"documents": 4', '"documents": true'),
        ('"documents": 4', '"documents": 0'),
        ('"documents": 4', '"documents": -1'),
        ('"prefix": "none"', '"prefix": 3'),
        ('"tf32": false', '"tf32": "no"'),
        ('"dtype"', '"kind"'),
        ('"logprob": -2.0', '"logprob": "x"'),
        ('"logprob": -2.0', '"logprob": true'),
        ('"logprob": -2.0', '"logprob": null'),
        ('"logprob": -2.0', '"logprob": 1' + "0" * 400),
        ('"logprob": -2.0', '"x": ' + "[" * 10**5),
        ('"correct": false', '"correct": 0'),
        ('"document": 3', '"document": "3"'),
        ('"document": 3', '"document": 3.0'),
        ('"document": 3', '"document": -1'),
        ('"document": 3', '"document": [3]'),
    ],
)
def test_wrong_counts_and_types_are_one_sentence(old, new, tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    write_results(path, HEADER, RESULTS)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert cli.main(["lambada-compare", str(path), str(path)]) == 2
    error = capsys.readouterr().err
    assert "is not a file of LAMBADA results" in error
    assert error.count("\n") == 1


def test_other_counts_of_the_same_passages(tmp_path, capsys):
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    write_results(a, HEADER, RESULTS)
    write_results(b, replace(HEADER, documents=3), {i: RESULTS[i] for i in range(3)})
    assert cli.main(["lambada-compare", str(a), str(b)]) == 2
    assert "are about other passages" in capsys.readouterr().err


def test_code_of_a_directory_runs_in_a_process_of_its_own(models, expected, tmp_path, capsys):
    """Only if it is trusted; from what it computes come the numbers of our own class."""
    folder = shutil.copytree(models[1], tmp_path / "model")
    code = folder / "modeling_rwkv5.py"
    code.write_text(code.read_text() + "print('hello')\n")
    out = tmp_path / "out.jsonl"
    assert cli.main(arguments(folder, out)) == 2
    assert f"modeling_rwkv5.py of {folder} is not this version's code" in capsys.readouterr().err
    assert not out.exists()
    assert cli.main([*arguments(folder, out), "--trust-remote-code"]) == 0
    assert_same(read_complete(out)[1], expected)
