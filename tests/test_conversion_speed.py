"""The benchmark of conversion: that its checkpoints are real and its numbers are measured. Never how fast it is."""

import json
import os
import sys

import pytest

from helpers import __main__ as cli
from helpers.bench import conversion as speed
from helpers.checkpoints import files, format

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(speed.SIZES, "tiny", ("5.2", 2, 64))
    monkeypatch.setattr(speed, "settle", lambda: None)


@pytest.mark.usefixtures("tiny")
def test_the_checkpoint_is_one_and_has_random_numbers(tmp_path):
    parameters = speed.write_large_checkpoint(tmp_path / "a.pth", "tiny")
    info = format.describe_checkpoint(tmp_path / "a.pth")
    assert (info.version, info.layers, info.hidden_size, info.parameters) == ("5.2", 2, 64, parameters)
    weights = files.load_checkpoint(tmp_path / "a.pth")
    assert all(weight.std() > 0 for weight in weights.values())
    assert info.dtypes == {"bfloat16": len(weights)}


@pytest.mark.usefixtures("tiny")
def test_a_whole_run(tmp_path):
    """Both sides run as often as asked, and only the results are left, beside what was in the folder before."""
    (tmp_path / "work" / "inner").mkdir(parents=True)
    (tmp_path / "work" / "inner" / "thesis.txt").write_text("precious")
    (tmp_path / "work" / "tiny.pth").write_text("precious")
    options = [
        "--sizes",
        "tiny",
        "--repeat",
        "2",
        "--folder",
        str(tmp_path / "work"),
        "--out",
        str(tmp_path / "new" / "out.json"),
    ]
    assert cli.main(["bench", "conversion", *options]) == 0
    (row,) = json.loads((tmp_path / "new" / "out.json").read_text())["rows"]
    runs = row["runs"]
    assert len(runs["convert_seconds"]) == len(runs["cp_seconds"]) == len(runs["peak_bytes"]) == 2
    assert min(runs["convert_seconds"] + runs["cp_seconds"]) > 0
    assert row["peak_anonymous_mb"] == round(max(runs["peak_bytes"]) / 1e6)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"new/out.json", "work/inner/thesis.txt", "work/tiny.pth"}
    assert (tmp_path / "work" / "tiny.pth").read_text() == "precious"


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeat", "0"], "--repeat is 0; give a number from 1 on"),
        (["--repeat", "-1"], "--repeat is -1; give a number from 1 on"),
        (["--out", "."], "--out . is a directory; give the name of a file"),
        (["--out", "file/out.json"], "Cannot write into {}/file: File exists; give another --out"),
        (["--out", "file/deeper/out.json"], "Cannot write into {}/file/deeper: Not a directory; give another --out"),
        (["--folder", "file"], "Cannot write into {}/file: File exists; give another --folder"),
    ],
)
def test_wrong_arguments(arguments, message, tmp_path, monkeypatch, capsys):
    """Refused before anything is measured, so that nothing is lost."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(speed, "measure", lambda *args: pytest.fail("measured"))
    (tmp_path / "file").touch()
    assert cli.main(["bench", "conversion", "--sizes", "tiny", *arguments]) == 2
    assert message.format(tmp_path) in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_memory_of_a_process_that_has_ended_is_none():
    assert speed.anonymous_bytes(os.getpid()) > 10_000_000
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert speed.anonymous_bytes(child) == 0


def test_unknown_sizes_are_refused(tmp_path, capsys):
    assert cli.main(["bench", "conversion", "--sizes", "9T", "--folder", str(tmp_path)]) == 2
    assert "There is no size 9T; choose of 0.1B, 0.4B" in capsys.readouterr().err
