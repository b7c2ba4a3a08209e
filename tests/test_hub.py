"""Downloads and uploads against a Hub on this machine: resumed, checked, private, refused in one sentence."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from hub_stand_in import COMMIT, environment, local_hub

from helpers import __main__ as cli
from helpers.checkpoints import synthetic
from helpers.checkpoints.files import sha256
from helpers.conversion import directory, hub
from helpers.proof.certificate import Certificate
from helpers.proof.results import (
    CheckResult,
    Deviation,
    FilesResult,
    LambadaResult,
    OriginalFile,
    PrecisionResult,
    RunResult,
    Score,
    Setting,
    TokenizersResult,
    WeightsResult,
)

DOWNLOAD = """
import json, sys
from helpers.errors import InputError
from helpers.conversion.hub import download_checkpoint
for arguments in json.loads(sys.argv[1]):
    try:
        print(download_checkpoint(*arguments).resolve())
    except InputError as error:
        print("InputError:", error)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small checkpoint and its converted directory."""
    folder = tmp_path_factory.mktemp("hub_model")
    path = synthetic.write_random_checkpoint(folder / "a.pth", vocab_size=300)
    return path, directory.convert(path, folder / "converted", progress=False)


def run(code, address, cache, *arguments):
    """Run Python code with the stand-in as its Hub, and return what it prints, line by line."""
    command = [sys.executable, "-c", code, *arguments]
    variables = {**os.environ, **environment(address, cache)}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def blobs(cache):
    return cache / "hub" / "models--BlinkDL--world" / "blobs"


def test_a_download_is_resumed_and_checked(model, tmp_path):
    content = model[0].read_bytes()
    (tmp_path / "BlinkDL" / "world").mkdir(parents=True)
    (tmp_path / "BlinkDL" / "world" / "a.pth").write_bytes(content)
    digest = sha256(model[0])
    ask = json.dumps([["BlinkDL/world", "a.pth"]])
    with local_hub(tmp_path) as (address, requests):
        cache = tmp_path / "cache"
        partial = blobs(cache) / f"{digest}.partial"
        partial.mkdir(parents=True)
        (partial / "data").write_bytes(content[:1000])  # a process was killed there
        assert run(DOWNLOAD, address, cache, ask) == [str(blobs(cache) / digest)]
        assert (blobs(cache) / digest).read_bytes() == content
        assert not partial.exists()
        assert "GET /BlinkDL/world/resolve/main/a.pth bytes=1000-" in requests
        requests.clear()
        assert run(DOWNLOAD, address, cache, ask) == [str(blobs(cache) / digest)]
        assert not any(request.startswith("GET") for request in requests), "it is in the cache"

        damaged = tmp_path / "damaged"
        partial = blobs(damaged) / f"{digest}.partial"
        partial.mkdir(parents=True)
        (partial / "data").write_bytes(b"?" * 1000)  # not what the Hub has there
        thrice = json.dumps([["BlinkDL/world", "a.pth"], ["BlinkDL/world", "a.pth"], ["BlinkDL/world", "a.pth", "v2"]])
        first, second, third = run(DOWNLOAD, address, damaged, thrice)
        assert first.startswith("InputError: a.pth of BlinkDL/world arrived damaged")
        assert second == third == str(blobs(damaged) / digest)
        assert "HEAD /BlinkDL/world/resolve/v2/a.pth" in requests
    assert run(DOWNLOAD, address, cache, ask) == [str(blobs(cache) / digest)]  # no network now: the cache


def test_downloads_that_fail(model, tmp_path):
    (tmp_path / "BlinkDL" / "world").mkdir(parents=True)
    ask = json.dumps([["BlinkDL/world", "b.pth"], ["BlinkDL/none", "a.pth", "v2"], ["not/a/name", "a.pth"]])
    with local_hub(tmp_path) as (address, _):
        missing, unknown, malformed = run(DOWNLOAD, address, tmp_path / "cache", ask)
    assert missing.startswith("InputError: Cannot download b.pth of BlinkDL/world: Entry Not Found")
    assert unknown.startswith("InputError: Cannot download a.pth of BlinkDL/none at v2: Repository Not Found")
    assert malformed.startswith("InputError: Cannot download a.pth of not/a/name: Repo id must be")
    unreachable = run(DOWNLOAD, address, tmp_path / "cache", ask)[0]
    assert "the Hub cannot be reached, and there is no copy in the cache" in unreachable


def serve_checkpoint(tmp_path, model):
    (tmp_path / "BlinkDL" / "world").mkdir(parents=True)
    (tmp_path / "BlinkDL" / "world" / "a.pth").write_bytes(model[0].read_bytes())


ANY_FILE = """
import sys
from huggingface_hub import hf_hub_download
print(hf_hub_download("BlinkDL/world", "a.pth", local_files_only=True))
"""


def test_a_mirror_that_names_no_commit(model, tmp_path):
    """huggingface_hub issues 1600 and 1796: the checked file is used, under its name, and found again offline."""
    serve_checkpoint(tmp_path, model)
    cache, commit = tmp_path / "cache", "f" * 40
    asked = [["BlinkDL/world", "a.pth"], ["BlinkDL/world", "a.pth", "v2"], ["BlinkDL/world", "a.pth", commit]]
    with local_hub(tmp_path, without=("X-Repo-Commit",)) as (address, requests):
        found = run(DOWNLOAD, address, cache, json.dumps(asked))
        assert len([request for request in requests if request.startswith("GET")]) == 1
    snapshots, digest = blobs(cache).parent / "snapshots", sha256(model[0])
    assert found == [str(snapshots / name / "a.pth") for name in (digest, digest, commit)]
    assert all(sha256(path) == digest for path in snapshots.rglob("*.pth"))
    assert run(ANY_FILE, address, cache) == found[:1]  # no network now
    (tmp_path / "BlinkDL" / "world" / "a.pth").write_bytes(b"a newer one")
    with local_hub(tmp_path, without=("X-Repo-Commit",)) as (address, _):
        (newer,) = run(DOWNLOAD, address, cache, json.dumps(asked[:1]))
    assert run(ANY_FILE, address, cache) == [newer] != found[:1]
    with local_hub(tmp_path) as (address, _):  # the Hub itself: its commit takes the place
        run(DOWNLOAD, address, cache, json.dumps(asked[:1]))
    assert (blobs(cache).parent / "refs" / "main").read_text() == COMMIT
    with local_hub(tmp_path, without=("X-Repo-Commit",)) as (address, _):  # and stays there
        run(DOWNLOAD, address, cache, json.dumps(asked[:1]))
    assert (blobs(cache).parent / "refs" / "main").read_text() == COMMIT


@pytest.mark.parametrize("without", [("X-Repo-Commit", "ETag"), ("ETag",)])
def test_a_mirror_that_sends_no_checksum(without, model, tmp_path):
    serve_checkpoint(tmp_path, model)
    with local_hub(tmp_path, without=without) as (address, requests):
        (line,) = run(DOWNLOAD, address, tmp_path / "cache", json.dumps([["BlinkDL/world", "a.pth"]]))
    assert f"{address} sends no commit or no checksum of the file" in line
    assert "cannot be reached" not in line
    assert not any(request.startswith("GET") for request in requests), "refused before the download"


@pytest.mark.parametrize("without", [(), ("X-Repo-Commit",)])
def test_a_cache_that_cannot_be_written(without, model, tmp_path):
    serve_checkpoint(tmp_path, model)
    (tmp_path / "file").touch()
    with local_hub(tmp_path, without=without) as (address, _):
        (line,) = run(DOWNLOAD, address, tmp_path / "file", json.dumps([["BlinkDL/world", "a.pth"]]))
    assert f"the cache {tmp_path / 'file' / 'hub'} cannot be written (Not a directory)" in line
    assert "set HF_HOME to another folder" in line


PUSH = """
import json, sys
from helpers.__main__ import main
for arguments in json.loads(sys.argv[1]):
    print("exit", main(["push", *arguments]))
"""


def test_push(model, tmp_path):
    folder = str(model[1])
    (tmp_path / "me" / "public").mkdir(parents=True)
    calls = [[folder, "me/new", "--dry-run"], [folder, "me/new", "--private"], [folder, "me/new", "--private"],
             [folder, "me/public", "--private"], [folder, "me/public"], [folder, "not a name"]]  # fmt: skip
    with local_hub(tmp_path) as (address, requests):
        lines = run(PUSH, address, tmp_path / "cache", json.dumps(calls))
        assert [line for line in lines if line.startswith("exit")] == [f"exit {code}" for code in (0, 0, 0, 2, 0, 2)]
        assert sum("POST /api/repos/create" in request for request in requests) == 4
        assert run(PUSH, address, tmp_path / "cache", json.dumps([[folder, "me/other", "--dry-run"]]))[-1] == "exit 0"
        assert not (tmp_path / "me" / "other").exists()
    for name in ("new", "public"):
        uploaded = {path.name: path.read_bytes() for path in (tmp_path / "me" / name).iterdir()}
        assert uploaded == {path.name: path.read_bytes() for path in model[1].iterdir()}
    assert run(PUSH, address, tmp_path / "cache", json.dumps([[folder, "me/new"]]))[-1] == "exit 2"  # no network


def precision(off, **fields):
    """Return what is left in fp16, where logits may be off by 0.4."""
    half = Deviation(0.2, 0.1)
    result = PrecisionResult(
        "Rwkv5ForCausalLM",
        "fp16",
        "ids",
        200,
        48,
        8.0,
        half,
        half,
        Deviation(0.4, 0.2),
        Deviation(0.5, 0.3),
        "why",
        half,
        half,
        1.0,
        1.0,
    )
    return replace(result, to_fp32=Deviation(off, 0.1), **fields)


def certificate(files):
    return Certificate(
        original=OriginalFile("a.pth", "0" * 64, "5.0"),
        files=files,
        compared_in=Setting("float32", "none", 1e-4, "this project's classes"),
        versions={"torch": "2.13.0"},
        weights=WeightsResult(tensors=3, identical=3, different=[], cast_to=[]),
        contents=FilesResult(compared=9, different=[], remarks=[], not_covered=[]),
        tokenizers=TokenizersResult(2, 0, 0, 9, 0, 0, []),
        runs=[
            RunResult("Rwkv5ForCausalLM", "prefill", "English", 9, 1e-6, 8e-4, 1e-7, 8.0, 1.0, 1e-7, 1e-4, "x", None)
        ],
        checks=[CheckResult("Rwkv5ForCausalLM", "the loss", 1e-6, 1e-3, "2 times 1e-4 of the largest logit, 5")],
        lower_precision=[precision(0.3), precision(99.0, limit=None, steps_limit=None, package_to_fp32=None)],
    )


@pytest.mark.parametrize("lambada", [None, LambadaResult(5, Score(9.5, 40.0), Score(9.5, 40.0), 1e-5, 1e-3, "x", 0)])
def test_a_certificate_comes_back_from_its_file(lambada):
    written = replace(certificate({"model.safetensors": "0" * 64}), lambada=lambada)
    assert Certificate.from_json(written.to_json()) == written


def test_a_certificate_hides_nothing():
    """One comparison that is not a number, none at all, or a tolerance that forgives everything: it shows."""
    good = certificate({})
    assert good.passed
    bad = replace(good, runs=[*good.runs, replace(good.runs[0], max_abs_logit_diff=math.nan, max_state_diff=math.nan)])
    assert math.isnan(bad.worst.max_abs_logit_diff)
    assert not bad.passed
    assert not replace(good, runs=[replace(good.runs[0], max_state_diff=math.nan)]).passed
    for other in (precision(math.nan), precision(0.41), replace(precision(0.3), in_steps=Deviation(0.1, 0.31))):
        assert not replace(good, lower_precision=[other]).passed
    assert not replace(good, runs=[]).passed
    for difference in (math.nan, math.inf, 0.1):
        assert not replace(good, checks=[replace(good.checks[0], difference=difference)]).passed
    assert not replace(good, contents=replace(good.contents, different=["x differs."])).passed
    assert not replace(good, tokenizers=replace(good.tokenizers, settings=["It pads on the right."])).passed
    assert good.is_proof
    assert replace(good, compared_in=replace(good.compared_in, tolerance=0.1)).verdict.endswith("not a proof")


@pytest.fixture
def folder(model, tmp_path):
    return directory.convert(model[0], tmp_path / "converted", progress=False)


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def pushed(folder, *options):
    """Return the exit code of a dry run."""
    return cli.main(["push", str(folder), "me/model", "--dry-run", *options])


OURS = ("README.old.md", "LICENSE", "conversion.json", "parity.json")  # beside what convert writes
THEIRS = ("optimizer.pt", "notes.md", "token", "key.pem", "evil.py", "figures/a.png", "venv/bin/x", "pytorch_model.bin")


def test_what_is_pushed(model, folder, capsys):
    """What belongs to a model, and what is asked for; hidden files never."""
    put(folder, ".git/config", ".cache/x", "__pycache__/x.pyc", "runs/.hidden", *OURS, *THEIRS)
    names = {path.relative_to(folder).as_posix() for path in hub.files_to_push(folder)}
    assert names == {path.name for path in model[1].iterdir()} | set(OURS)
    also = {path.relative_to(folder).as_posix() for path in hub.files_to_push(folder, ("figures/*", "*.md"))}
    assert also == names | {"figures/a.png", "notes.md"}
    everything = {path.relative_to(folder).as_posix() for path in hub.files_to_push(folder, ("*",))}
    assert everything == names | set(THEIRS)
    (folder / "parity.json").unlink()
    assert pushed(folder, "--also", "figures/*") == 0
    out = capsys.readouterr().out
    assert "left out  optimizer.pt" in out
    assert "figures/a.png" in out
    assert "left out  figures/a.png" not in out
    assert pushed(folder, "--also", ".git/*") == 2
    assert "--also .git/* matches no file" in capsys.readouterr().err


def test_links_are_not_pushed(folder, tmp_path, capsys):
    (tmp_path / "secret").write_text("password")
    (tmp_path / "secrets").mkdir()
    put(tmp_path / "secrets", "a")
    (folder / "notes").symlink_to(tmp_path / "secret")
    (folder / "figures").symlink_to(tmp_path / "secrets")
    assert pushed(folder) == 0  # they are not asked for
    assert "left out  figures" in capsys.readouterr().out
    for pattern in ("notes", "figures"):
        assert pushed(folder, "--also", pattern) == 2
        assert f"{folder / pattern} is a symbolic link, which is not uploaded" in capsys.readouterr().err
    (folder / "LICENSE").symlink_to(tmp_path / "secret")
    assert pushed(folder) == 2
    assert "LICENSE is a symbolic link" in capsys.readouterr().err


def test_a_certificate_about_other_files_is_not_pushed(folder, capsys):
    passed = certificate({path.name: sha256(path) for path in folder.iterdir()})
    failed = replace(passed, weights=replace(passed.weights, different=["emb.weight"]))
    for content, code, sentence in (
        (passed.to_json(), 0, "The parity certificate passed."),
        (failed.to_json(), 0, "FAILED"),
        (certificate({}).to_json(), 2, "is not about these files: config"),
        (
            passed.to_json().replace('"edition": 2,', ""),
            2,
            "is of an older edition than 2, whose figures have no limits",
        ),
        (
            passed.to_json().replace('"edition": 2,', '"edition": 3,'),
            2,
            "is of edition 3, and this version reads edition 2",
        ),
        (passed.to_json().replace('"files":', '"converted":'), 2, "not readable"),
        ("[]", 2, "not readable"),
        ("{}", 2, "not readable"),
        ("[" * 10**5, 2, "not readable"),
    ):
        (folder / "parity.json").write_text(content)
        assert pushed(folder) == code
        output = capsys.readouterr()
        assert sentence in (output.err if code else output.out.splitlines()[-1])
    (folder / "parity.json").write_text(passed.to_json())
    put(folder, "notes.txt")  # it stays here
    (folder / "README.md").write_text("# Mine\n")  # people rightly edit it
    assert pushed(folder) == 0
    assert "note: README.md has changed since the certificate was made." in capsys.readouterr().out
    (folder / "generation_config.json").write_text("{}")
    assert pushed(folder) == 2
    assert "generation_config.json has changed since" in capsys.readouterr().err


def test_no_model_is_not_pushed(folder, tmp_path):
    (folder / "config.json").unlink()
    assert pushed(folder) == 2
    assert pushed(tmp_path) == 2
