"""Killed at any moment, or on a full disk: the earlier state is there, or the new one, and the next run succeeds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.checkpoints.synthetic import write_random_checkpoint
from helpers.conversion.directory import convert

SCRIPT = Path(__file__).parent / "killed_writer.py"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks processes")


@pytest.mark.parametrize("kind", ["convert", "refresh", "export"])
def test_nothing_half_made(kind, tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "out").mkdir()
    source = write_random_checkpoint(tmp_path / "source" / "a.pth", vocab_size=300)
    target = tmp_path / "out" / "target"
    if kind == "refresh":
        (convert(source, target, progress=False) / "LICENSE").write_text("kept")
    if kind == "export":
        source = convert(source, tmp_path / "source" / "converted", progress=False)
    command = [sys.executable, str(SCRIPT), kind, str(source), str(target), "32"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["killed"] >= min(20, report["moments"])  # an alarm may come when everything is done
    assert report["half_made"] == []
    assert report["again"]
    assert all(report["full_disks"])
    assert report["left_over"] == []
