"""Downloads and uploads against a Hub on this machine: resumed, checked, private, refused in one sentence."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from hub_stand_in import environment, local_hub

from helpers import __main__ as cli
from helpers.checkpoints import synthetic
from helpers.checkpoints.files import sha256
from helpers.conversion import directory, hub
from helpers.proof.certificate import (
    Certificate,
    LambadaResult,
    OriginalFile,
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


def certificate(converted):
    return Certificate(
        original=OriginalFile("a.pth", "0" * 64, "5.0"),
        converted=converted,
        compared_in=Setting("float32", "none", 1e-4),
        versions={"torch": "2.13.0"},
        weights=WeightsResult(tensors=3, identical=3, different=[], cast_to=[]),
        tokenizers=TokenizersResult(texts=2, fast_mismatches=0, slow_mismatches=0),
        runs=[RunResult("Rwkv5ForCausalLM", "prefill", "English", 9, 1e-6, 1e-7, 8.0, 1.0, 1e-7, True, None)],
    )


@pytest.mark.parametrize("lambada", [None, LambadaResult(5, Score(9.5, 40.0), Score(9.5, 40.0), 1e-5, 0)])
def test_a_certificate_comes_back_from_its_file(lambada):
    written = replace(certificate({"model.safetensors": "0" * 64}), lambada=lambada)
    assert Certificate.from_json(written.to_json()) == written


def test_what_is_pushed(model, tmp_path, capsys):
    folder = directory.convert(model[0], tmp_path / "converted", progress=False)
    for name in (".git/config", ".cache/x", "__pycache__/x.pyc", "runs/.hidden", "figures/a.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    names = {path.relative_to(folder).as_posix() for path in hub.files_to_push(folder)}
    assert names == {path.name for path in model[1].iterdir()} | {"figures/a.png"}
    passed = certificate({"model.safetensors": sha256(folder / "model.safetensors")})
    failed = replace(passed, weights=replace(passed.weights, different=["emb.weight"]))
    for content, sentence in (
        (passed.to_json(), "passed"),
        (failed.to_json(), "FAILED"),
        (certificate({}).to_json(), "about other weights"),
        ("[]", "not readable"),
        ("{}", "not readable"),
    ):
        (folder / "parity.json").write_text(content)
        assert cli.main(["push", str(folder), "me/model", "--dry-run"]) == 0
        assert sentence in capsys.readouterr().out.splitlines()[-1]
    (folder / "config.json").unlink()
    assert cli.main(["push", str(folder), "me/model", "--dry-run"]) == 2
    assert cli.main(["push", str(tmp_path), "me/model", "--dry-run"]) == 2
