"""Killed at any moment, or on a full disk: the earlier state is there, or the new one, and the next run succeeds."""

import json
import signal
import subprocess
import sys
import time
from functools import partial
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


ENDED = """
import os, signal, sys, time
from helpers.__main__ import main
from helpers.conversion import directory

def wait(*args, **kwargs):
    print("ready", flush=True)
    for _ in range(600):
        time.sleep(0.1)

directory.write_model = wait
sys.exit(main())
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_ends_in_good_order(name, tmp_path):
    """Nothing is left, and the exit code says which signal it was; a second one at once changes nothing."""
    number = getattr(signal, name)
    checkpoint = write_random_checkpoint(tmp_path / "a.pth", vocab_size=300)
    command = [sys.executable, "-c", ENDED, "convert", str(checkpoint), str(tmp_path / "out"), "--no-tokenizer"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    heeded = partial(signal.signal, number, signal.SIG_DFL)  # under nohup, or in the background, it may be ignored
    with subprocess.Popen(command, preexec_fn=heeded, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        assert (tmp_path / ".out.partial").exists()
        process.send_signal(number)
        if name == "SIGTERM":
            process.send_signal(number)
        _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (128 + number, "stopped\n")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_an_ignored_signal_stays_ignored(tmp_path):
    """As under nohup; and in the processes of a pool a signal is what it was."""
    code = (
        "import os, signal\nfrom helpers import __main__ as cli\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "with cli.orderly_end():\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    if (child := os.fork()) == 0:\n"
        "        os._exit(signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL)\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL\n"
        "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


STUBBORN = """
import time
from helpers.__main__ import orderly_end
with orderly_end():
    while True:
        try:
            print("ready", flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            pass
"""


def test_a_second_signal_ends_what_does_not_end():
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.stdout.readline() == "ready\n"
        time.sleep(1.2)
        process.terminate()
        assert process.wait(timeout=60) == -signal.SIGTERM
