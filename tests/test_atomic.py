"""Output directories: complete or not there, in odd places, with two writers, and after a process was killed."""

import os
import shutil
import signal
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


def left_by_a_killed_process(target):
    """Leave a working folder as a process does that is killed while it writes."""
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom helpers.atomic import new_directory\n"
        "with new_directory(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'half').touch()\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(target)]).returncode < 0
    assert atomic.has_mark(atomic.working_path(target))


def test_what_a_killed_process_left_is_cleared(tmp_path):
    left_by_a_killed_process(tmp_path / "out")
    write(tmp_path / "out")
    assert listing(tmp_path) == ["out", "out/file", "out/inner", "out/inner/file"]
    other = tmp_path / "precious"
    other.mkdir()
    (other / "file").touch()
    (tmp_path / ".again.partial").symlink_to("precious")
    with pytest.raises(InputError, match="Cannot write"):
        write(tmp_path / "again")
    assert (other / "file").exists()


@pytest.mark.parametrize("mark", [None, "", "mine", atomic.MARK_TEXT[:20], "link"])
def test_a_folder_that_is_not_ours_is_left_alone(mark, tmp_path):
    """Its name is that of a working folder, but it does not carry the mark, or only something like it."""
    theirs = tmp_path / ".out.partial"
    (theirs / "inner").mkdir(parents=True)
    (theirs / "inner" / "file").write_text("precious")
    if mark == "link":
        (tmp_path / "mark").write_text(atomic.MARK_TEXT)
        (theirs / atomic.MARK).symlink_to(tmp_path / "mark")
    elif mark:
        (theirs / atomic.MARK).write_text(mark)
    before = listing(tmp_path)
    with pytest.raises(InputError, match=r"\.out\.partial holds .*, which this program did not put there"):
        write(tmp_path / "out")
    assert listing(tmp_path) == before
    assert (theirs / "inner" / "file").read_text() == "precious"


def test_a_process_killed_while_it_made_the_mark(tmp_path):
    for content in ([], [atomic.MARK]):
        (tmp_path / ".out.partial").mkdir()
        for name in content:
            (tmp_path / ".out.partial" / name).touch()
        write(tmp_path / "out")
        assert listing(tmp_path) == ["out", "out/file", "out/inner", "out/inner/file"]
        shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nul\0", "null"),
        ("loop", "loop|links|already exists"),
        ("loop/out", "loop|links"),
        ("missing/../out", "missing is no directory; give the path without"),
        ("a/./missing/../out", "a/missing is no directory"),
        ("file/../out", "file is no directory"),
    ],
)
def test_paths_that_nothing_can_have(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    Path("file").touch()
    for writer in (new_directory, new_file, replaced_directory):
        with pytest.raises(InputError, match=message), writer(Path(name)):
            pass
    assert listing(tmp_path) == ["file", "loop"]
    Path("real").mkdir()
    write("real/./../out")
    assert listing(tmp_path / "out") == ["file", "inner", "inner/file"]


def test_an_owned_folder(tmp_path):
    """It stays as it was, its parents too, unless something was put there; a second owner is refused."""
    target = tmp_path / "a" / "out"
    with atomic.owned_folder(target) as folder:
        atomic.claim(folder)
        with pytest.raises(InputError, match="Another process is writing"), atomic.owned_folder(target):
            pass
    assert listing(tmp_path) == []
    (tmp_path / "mine").mkdir()
    with atomic.owned_folder(tmp_path / "mine"):
        pass
    with atomic.owned_folder(target) as folder:
        atomic.claim(folder)
        (folder / "file").touch()
    assert listing(tmp_path) == ["a", "a/out", f"a/out/{atomic.MARK}", "a/out/file", "mine"]
    (target / atomic.MARK).unlink()
    with (
        pytest.raises(InputError, match="holds file, which this program did not"),
        atomic.owned_folder(target) as folder,
    ):
        atomic.claim(folder, ["model.pth", "f*"])
    with atomic.owned_folder(target) as folder:
        atomic.claim(folder, ["model.pth"])
    assert not atomic.has_mark(target), "nothing was put there"
    with atomic.owned_folder(target) as folder:
        atomic.claim(folder, ["model.pth"])
        (folder / "model.pth").touch()
    assert atomic.has_mark(target)


@pytest.mark.skipif(sys.platform == "win32", reason="forks a process")
def test_a_fork_does_not_hold_a_lock(tmp_path):
    """Or else what a killed process started would keep the next one out."""
    ready, running = os.pipe()
    with atomic.locked(tmp_path / "out", tmp_path / "out"):
        child = os.fork()
        if child == 0:
            os.write(running, b"!")
            signal.alarm(60)
            signal.pause()
            os._exit(0)
    try:
        assert os.read(ready, 1) == b"!"
        with atomic.locked(tmp_path / "out", tmp_path / "out"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_scratch_folders(tmp_path):
    """Those of killed processes are removed; those of living ones, and of others, are left."""
    left_by_a_killed_process(tmp_path / "verify-1")
    (tmp_path / ".verify-2.partial").mkdir()
    (tmp_path / ".verify-2.partial" / "file").touch()
    with atomic.working_folder(tmp_path / "verify-3") as living:
        with atomic.scratch_folder(tmp_path, "verify") as folder:
            assert list(folder.iterdir()) == []
            (folder / "large").touch()
            assert living.exists()
        assert living.exists()
    assert listing(tmp_path) == [".verify-2.partial", ".verify-2.partial/file"]


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


@pytest.mark.parametrize("end", [KeyboardInterrupt, None])
def test_an_end_between_two_renames(end, tmp_path, monkeypatch):
    """Where directories cannot be exchanged in one step, the old one returns, at once or in the next run."""
    write(tmp_path / "out", "old")
    monkeypatch.setattr(atomic, "exchange", lambda one, other: False)
    rename = Path.replace

    def replaced_once(self, target):
        if self.name == atomic.NEW:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", replaced_once)
    if end is None:  # killed: nothing after it happens
        monkeypatch.setattr(atomic, "clear", lambda folder, final: None)
    with pytest.raises(KeyboardInterrupt):
        replace(tmp_path / "out")
    monkeypatch.undo()
    assert (tmp_path / "out").exists() == (end is not None)
    replace(tmp_path / "out", at_the_end=lambda: None)
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
