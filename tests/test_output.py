"""What commands print, where the terminal or the file behind it does not know all characters of a path."""

import json
import os
import subprocess
import sys

import pytest
import torch

from helpers.checkpoints.synthetic import write_random_checkpoint
from helpers.paths import ROOT

CODE = (
    "import json, sys\nfrom helpers.__main__ import main\n"
    "for arguments in json.loads(sys.stdin.read()):\n    print('exit', main(arguments), flush=True)\n"
)
FOLDER = "模型 ü\udcff"  # the last one is a byte that is no text


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_every_command_prints_in_any_encoding(encoding, tmp_path):
    folder = tmp_path / FOLDER
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system has no such names")
    checkpoint = write_random_checkpoint(folder / "小.pth", hidden_size=16, head_size=8, dtype=torch.float32)
    out, text = tmp_path / "模型", folder / "段落.jsonl"
    text.write_text('{"text": "Anna saw the boat, and she took the boat"}\n')
    commands = [
        (0, ["convert", checkpoint, out], "模型 is complete:"),
        (2, ["convert", checkpoint, out], "模型 already exists"),
        (0, ["export", out, folder / "回.pth"], "回.pth: "),
        (2, ["export", folder / "没有", folder / "回2.pth"], "没有 is not a converted model"),
        (0, ["inspect", checkpoint], "version"),
        (2, ["inspect", folder / "没有.pth"], "There is no file"),
        (0, ["verify", checkpoint, out, "--lengths", "3", "--seeds", "0"], "passed: see"),
        (0, ["refresh", out], "模型 is up to date"),
        (2, ["refresh", folder], "is not a converted model"),
        (0, ["push", out, "me/model", "--dry-run"], "would upload"),
        (0, ["lambada", "--checkpoint", checkpoint, "--data", text, "--out", folder / "一"], "# 1 ppl"),
        (0, ["lambada", "--model", out, "--data", text, "--out", folder / "二"], "# 1 ppl"),
        (2, ["lambada", "--checkpoint", checkpoint, "--data", folder / "没有.jsonl"], "没有.jsonl"),
        (0, ["lambada-compare", folder / "一", folder / "二"], "documents"),
        (2, ["lambada-compare", folder / "一", folder / "没有"], "没有"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        input=json.dumps([[str(part) for part in command] for _, command, _ in commands]),
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": encoding, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding=encoding,
        timeout=300,
    )
    assert "Traceback" not in done.stderr
    codes = [line for line in done.stdout.splitlines() if line.startswith("exit ")]
    assert codes == [f"exit {code}" for code, _, _ in commands], done.stderr[-2000:]
    for code, command, sentence in commands:
        shown = sentence.encode(encoding, "backslashreplace").decode(encoding)
        assert shown in (done.stderr if code else done.stdout), command


def test_a_plain_shell_with_an_encoding_of_its_own(tmp_path):
    """As a user calls it: ``python -m helpers``, output into a file."""
    checkpoint = write_random_checkpoint(tmp_path / "小.pth", hidden_size=16, head_size=8)
    command = [sys.executable, "-m", "helpers", "convert", str(checkpoint), str(tmp_path / "模型")]
    for encoding in ("ascii", "cp1252:strict"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == (0 if encoding == "ascii" else 2), done.stderr
        assert r"\u6a21\u578b" in done.stdout + done.stderr
