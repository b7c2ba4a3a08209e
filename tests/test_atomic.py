"""Output directories: complete or not there, in odd places, with two writers, and after a process was killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import atomic
from helpers.atomic import new_directory, new_file, replaced_directory, write_text
from helpers.errors import InputError


def write(target, text="new", at_the_end=lambda: None):
    with new_directory(Path(target)) as folder:
        (folder / "file").write_text(text)
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text(text)
        at_the_end()


def listing(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize(
    "name", ["out", "out/", "a/b/out", "ünï 你好 space/ö", "empty", "link to empty", "broken link"]
)
def test_places(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("link to empty").symlink_to("empty")
    if name == "broken link":
        Path(name).symlink_to("nowhere")
        with pytest.raises(InputError, match="already exists"):
            write(name)
        assert listing(tmp_path) == ["broken link", "empty", "link to empty"]
    else:
        write(name)
        assert listing(Path(name)) == ["file", "inner", "inner/file"]
        assert not [path for path in listing(tmp_path) if "partial" in path]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (".", "is the current directory"),
        ("..", "already exists"),
        ("/", "already exists"),
        ("full", "already exists"),
        ("link to full", "already exists"),
        ("file", "already exists"),
        ("file/out", "Not a directory"),
        ("n" * 300, "name too long"),
        (os.devnull, "already exists"),
    ],
)
def test_places_that_cannot_be_written(name, message, tmp_path, monkeypatch):
    here = tmp_path / "here"
    (here / "full").mkdir(parents=True)
    (here / "full" / "file").touch()
    (here / "file").touch()
    (here / "link to full").symlink_to("full")
    before = listing(tmp_path)
    monkeypatch.chdir(here)
    with pytest.raises(InputError, match=message):
        write(name)
    assert listing(tmp_path) == before


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("a bug"), KeyboardInterrupt()])
def test_an_error_leaves_nothing(error, tmp_path):
    def fail():
        raise error

    with pytest.raises(InputError if isinstance(error, OSError) else type(error)):
        write(tmp_path / "a" / "b" / "out", at_the_end=fail)
    assert listing(tmp_path) == []


def test_two_writers(tmp_path):
    """While one process writes a target, a second one is refused, and changes nothing."""
    target = tmp_path / "out"
    code = (
        "import sys\nfrom pathlib import Path\nfrom helpers.atomic import new_directory\n"
        "with new_directory(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'file').write_text('first'); print('ready', flush=True); input()\n"
    )
    command = [sys.executable, "-c", code, str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "ready\n"
        with pytest.raises(InputError, match="Another process is writing"):
            write(target, "second")
        first.communicate("\n", timeout=60)
    assert first.returncode == 0
    assert (target / "file").read_text() == "first"
    assert listing(tmp_path) == ["out", "out/file"]
    with pytest.raises(InputError, match="already exists"):
        write(target, "second")


def test_a_target_that_appears_meanwhile_is_kept(tmp_path):
    def appear():
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "other").write_text("kept")

    with pytest.raises(InputError, match="not empty"):
        write(tmp_path / "out", at_the_end=appear)
    assert listing(tmp_path) == ["out", "out/other"]


def test_what_a_killed_process_left_is_cleared(tmp_path):
    left = tmp_path / ".out.partial" / "inner"
    left.mkdir(parents=True)
    (left / "half").touch()
    (left.parent / "half").touch()
    write(tmp_path / "out")
    assert listing(tmp_path) == ["out", "out/file", "out/inner", "out/inner/file"]
    other = tmp_path / "precious"
    other.mkdir()
    (other / "file").touch()
    (tmp_path / ".again.partial").symlink_to("precious")
    with pytest.raises(InputError, match="Cannot write"):
        write(tmp_path / "again")
    assert (other / "file").exists()


def replace(target, text="new", at_the_end=lambda: None):
    with replaced_directory(Path(target)) as folder:
        (folder / "file").write_text(text)
        at_the_end()


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_directory_is_replaced(can_exchange, tmp_path, monkeypatch):
    if not can_exchange:
        monkeypatch.setattr(atomic, "exchange", lambda one, other: False)
    target = tmp_path / "out"
    write(target, "old")
    (tmp_path / "link").symlink_to("out")
    replace(tmp_path / "link")
    assert listing(tmp_path) == ["link", "out", "out/file"]
    assert (target / "file").read_text() == "new"
    with pytest.raises(ZeroDivisionError):
        replace(target, "newer", at_the_end=lambda: 1 / 0)
    assert listing(tmp_path) == ["link", "out", "out/file"]
    assert (target / "file").read_text() == "new"


def test_a_process_killed_between_two_renames(tmp_path):
    """Where directories cannot be exchanged in one step, the old one waits under another name."""
    write(tmp_path / "out", "old")
    (tmp_path / "out").rename(tmp_path / ".out.old")
    replace(tmp_path / "out")
    assert listing(tmp_path) == ["out", "out/file"]
    assert (tmp_path / "out" / "file").read_text() == "new"


def test_what_cannot_be_replaced(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for name, message in (("file", "not a directory"), ("nowhere", "not a directory")):
        with pytest.raises(InputError, match=message):
            replace(tmp_path / name)
    write(tmp_path / "out", "old")
    monkeypatch.chdir(tmp_path / "out" / "inner")
    with pytest.raises(InputError, match="holds the current directory"):
        replace(tmp_path / "out")
    assert listing(tmp_path) == ["file", "out", "out/file", "out/inner", "out/inner/file"]


def test_two_replacing_at_once(tmp_path):
    """A second process that starts at any moment of the first is refused, and disturbs nothing."""
    write(tmp_path / "out", "old")

    def second():
        with pytest.raises(InputError, match="Another process is writing"):
            replace(tmp_path / "out", "second")

    replace(tmp_path / "out", "first", at_the_end=second)
    assert (tmp_path / "out" / "file").read_text() == "first"
    assert listing(tmp_path) == ["out", "out/file"]


def test_a_lock_moves_with_its_folder(tmp_path):
    """One writer has just renamed its folder: what the next one prepares under the old name is left alone."""
    with atomic.working_folder(tmp_path / "out") as folder:
        folder.rename(tmp_path / "out")
        folder.mkdir()
        (folder / "of the next writer").touch()
    assert listing(tmp_path) == [".out.partial", ".out.partial/of the next writer", "out"]


def test_new_file(tmp_path):
    with new_file(tmp_path / "a" / "b.pth") as partial:
        partial.write_text("new")
    assert listing(tmp_path) == ["a", "a/b.pth"]
    for name, message in (("a/b.pth", "already exists"), ("a", "already exists"), ("empty", "is a directory")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(InputError, match=message), new_file(tmp_path / name):
            pass
    write_text(tmp_path / "a" / "b.pth", "newer")
    assert (tmp_path / "a" / "b.pth").read_text() == "newer"
    with pytest.raises(InputError, match="Cannot write"):
        write_text(tmp_path / "nowhere" / "x", "")
    assert listing(tmp_path) == ["a", "a/b.pth", "empty"]
