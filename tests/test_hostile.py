"""Checkpoints made to harm: ``inspect`` needs little memory and time for each, and says one sentence."""

import pickle
import struct
import subprocess
import sys
import zipfile

import pytest
import torch

from helpers import __main__ as cli
from helpers.checkpoints import files, synthetic
from helpers.checkpoints.format import describe_checkpoint
from helpers.checkpoints.layout import LARGEST_PICKLE
from helpers.errors import InputError, printable
from helpers.paths import ROOT

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
MEMORY, SECONDS = 256 << 20, 10  # above ``import torch``
CHILD = """
import resource, sys
import torch
used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
seconds = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1 + int(sys.argv[2]),) * 2)
from helpers.__main__ import main
import os
size = os.path.getsize(sys.argv[1])  # of a map, which is no memory
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[3]) + size,) * 2)
sys.exit(main(["inspect", sys.argv[1]]))
"""
STORAGE = b"ctorch\nFloatStorage\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def text(content: str) -> bytes:
    data = content.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def tensor(size=(2,), stride=(1,), offset=0, count=2, more=b"", key="0") -> bytes:
    """Return the pickle of a tensor, as torch writes it."""
    storage = b"(" + text("storage") + STORAGE + text(key) + text("cpu") + number(count) + b"tQ"
    shape = b"".join(b"(" + b"".join(map(number, numbers)) + b"t" for numbers in (size, stride))
    return REBUILD + b"(" + storage + number(offset) + shape + b"\x89ccollections\nOrderedDict\n)R" + more + b"tR"


def named(*pairs: tuple[bytes, bytes]) -> bytes:
    """Return the pickle of a dictionary."""
    return b"\x80\x02}(" + b"".join(name + value for name, value in pairs) + b"u."


def archive(path, described: bytes, numbers: bytes = bytes(8), **options):
    with zipfile.ZipFile(path, "w", **options) as file:
        file.writestr("a/data.pkl", described)
        file.writestr("a/data/0", numbers)
        file.writestr("a/version", "3\n")
    return path


def many_tensors(path):
    """500,000 names for the same numbers."""
    named_once = b"".join(text(f"t{i}") + b"h\1" for i in range(500_000))
    return archive(path, b"\x80\x02" + tensor() + b"q\x01}(" + named_once + b"u.")


def many_different_tensors(path):
    return archive(path, named(*[(text(f"t{i}"), tensor()) for i in range(60_000)]))


def many_records(path):
    with zipfile.ZipFile(path, "w") as file:
        for i in range(60_000):
            file.writestr(f"a/data/{i}", b"")
        file.writestr("a/data.pkl", named((text("a"), tensor())))
    return path


HOSTILE = {  # how to make it, and what is said
    "stride 0": (lambda path: archive(path, named((text("emb.weight"), tensor((1 << 40,), (0,))))), "claims 1,099,"),
    "many with stride 0": (
        lambda path: archive(path, named(*[(text(f"t{i}"), tensor((1 << 28,), (0,))) for i in range(200)])),
        "claims 268,435,456 numbers where the file has fewer",
    ),
    "beyond the storage": (lambda path: archive(path, named((text("a"), tensor((2,), (1,), 1)))), "claims 2 numbers"),
    "a large storage": (
        lambda path: archive(path, named((text("a"), tensor((1 << 40,), count=1 << 40)))),
        "its record a/data/0 has 8 bytes, and its pickle says 4,398,046,511,104",
    ),
    "a negative size": (lambda path: archive(path, named((text("a"), tensor((-1,))))), "makes no sense"),
    "a size beyond 64 bits": (
        lambda path: archive(path, named((text("a"), tensor((1 << 62,) * 3, (0,) * 3)))),
        "where the file has fewer",
    ),
    "many dimensions": (
        lambda path: archive(path, named((text("a"), tensor((1,) * 1000, (1,) * 1000)))),
        "makes no sense",
    ),
    "the same numbers again and again": (
        lambda path: archive(
            path, named(*[(text(f"t{i}"), tensor((25_000,), count=25_000)) for i in range(100)]), bytes(100_000)
        ),
        "claims 10,000,000 for its tensors",
    ),
    "a deflated pickle": (
        lambda path: archive(path, b"\x80\x02}" + b"N0" * (1 << 28), compression=zipfile.ZIP_DEFLATED),
        "compressed",
    ),
    "deflated numbers": (
        lambda path: archive(
            path, named((text("a"), tensor())), bytes(1 << 28), compression=zipfile.ZIP_DEFLATED
        ),
        "compressed",
    ),
    "a large pickle": (lambda path: archive(path, b"\x80\x02}" + bytes(LARGEST_PICKLE)), "is the most that is read"),
    "a huge name": (
        lambda path: archive(path, named((text("n\n\x1b[31m" * (1 << 20)), tensor()))),
        "has a tensor with a name of 7,340,032 characters",
    ),
    "names that act on a terminal": (
        lambda path: archive(path, named((text("\x1b]0;title\x07\nerror: \u202e"), tensor()))),
        r"\x1b]0;title\x07\nerror: \u202e",
    ),
    "a nested key": (
        lambda path: archive(path, b"\x80\x02}(" + b")" + b"\x85" * 900_000 + tensor() + b"u."),
        "names that are neither texts nor numbers",
    ),
    "nested tuples without end": (
        lambda path: archive(path, b"\x80\x02}(" + text("a") + b")" + b"\x85" * 5_000_000 + b"u."),
        "more than 1,000,000 instructions",
    ),
    "nested lists": (
        lambda path: archive(path, b"\x80\x02}(" + text("a") + b"]" * 400_000 + b"a" * 399_999 + b"u."),
        "'a': list",
    ),
    "marks without end": (lambda path: archive(path, b"\x80\x02" + b"(" * 2_000_000 + b"."), "instructions"),
    "500,000 names": (many_tensors, "instructions"),
    "60,000 tensors": (many_different_tensors, "instructions"),
    "60,000 records": (many_records, "claims 60,001 records"),
    "a large index of the memo": (
        lambda path: archive(path, b"\x80\x02Nr\xff\xff\xff\xff."),
        "does not hold tensors by name",
    ),
    "calls with large arguments": (
        lambda path: archive(
            path, b"\x80\x02(" + b"N" * 500_000 + b"tq\1ctorch\nSize\nq\2h\1R" + b"h\2h\1R" * 99_000 + b"."
        ),
        "makes no sense",
    ),
    "texts again and again": (
        lambda path: archive(
            path,
            b"\x80\x02" + text("x" * (1 << 23)) + b"q\x01" + b"c_codecs\nencode\nq\x02"
            + b"(h\x02h\x01" + text("latin1") + b"\x86R" * 1 + b"h\x02h\x01\x85R" * 100_000 + b"t.",
        ),
        "does not hold tensors by name",
    ),
    "a function": (lambda path: archive(path, b"\x80\x02cos\nsystem\n" + text("true") + b"\x85R."), "could run code"),
    "an instruction that calls": (
        lambda path: archive(path, b"\x80\x02(" + text("true") + b"ios\nsystem\n."),
        "makes no sense",
    ),
    "a negative bit": (
        lambda path: archive(path, named((text("a"), tensor(more=b"}(" + text("neg") + b"\x88u")))),
        "a is a tensor with the negative bit",
    ),
    "a conjugate bit": (
        lambda path: archive(path, named((text("a"), tensor(more=b"}(" + text("conj") + b"\x88u")))),
        "a is a tensor with the conjugate bit",
    ),
    "the old format, cut": (
        lambda path: path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) * 3),
        "damaged",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_made_to_harm(kind, tmp_path):
    make, message = HOSTILE[kind]
    path = tmp_path / "a.pth"
    make(path)
    command = [sys.executable, "-c", CHILD, str(path), str(SECONDS), str(MEMORY)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, (done.returncode, done.stderr[-2000:])
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.removesuffix("\n").isprintable()
    assert len(done.stderr) < 1000
    assert done.stdout == ""


KINDS = {
    "negative": (
        lambda w: torch.ones(64, dtype=torch.complex64).conj().imag,
        "the negative bit",
    ),
    "conjugate": (lambda w: torch.ones(64, dtype=torch.complex64).conj(), "the conjugate bit"),
    "quantized": (lambda w: torch.quantize_per_tensor(torch.ones(64), 0.1, 0, torch.qint8), "is a quantized tensor"),
    "sparse": (lambda w: torch.eye(8).to_sparse(), "is a sparse tensor"),
    "compressed rows": (lambda w: torch.eye(8).to_sparse_csr(), "is a sparse tensor"),
    "meta": (lambda w: torch.ones(64, device="meta"), "is a tensor without numbers"),
    "expanded": (lambda w: torch.ones(1).expand(64), "claims 64 numbers where the file has fewer"),
    "eight bits": (lambda w: torch.ones(64).to(torch.float8_e4m3fn), "of a kind that|torch.float8"),
    "sixteen bits without sign": (lambda w: torch.ones(64).to(torch.uint16), "of a kind that|torch.uint16"),
    "complex": (lambda w: torch.ones(64, dtype=torch.complex64), "is torch.complex64, expected floating-point"),
    "bool": (lambda w: torch.ones(64).bool(), "is torch.bool, expected floating-point"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_of_tensors_are_named(kind, old, tmp_path):
    make, message = KINDS[kind]
    weights = dict(files.load_checkpoint(synthetic.write_random_checkpoint(tmp_path / "a.pth", vocab_size=300)))
    weights["ln_out.bias"] = make(weights)
    torch.save(weights, tmp_path / "b.pth", _use_new_zipfile_serialization=not old)
    with pytest.raises(InputError, match=rf"ln_out\.bias.*({message})"):
        describe_checkpoint(tmp_path / "b.pth")


@pytest.mark.parametrize("old", [False, True])
def test_what_torch_saves_in_other_ways_is_read(old, tmp_path):
    """Parameters, a ``state_dict`` with its attributes, parts of a storage, whole numbers: as torch does."""
    layer = torch.nn.Linear(3, 4)
    whole = torch.randn(6, 5)
    for value in (
        layer.state_dict(),
        dict(layer.named_parameters()),
        {"a": whole[2:4], "b": whole.t(), "c": whole[:, 1:3], "d": torch.tensor(3.0), "e": whole[::2]},
        {
            "a": torch.arange(5),
            "b": torch.ones(2, 3).half(),
            "c": torch.ones(2).double(),
            "d": torch.ones(2).bfloat16(),
        },
    ):
        torch.save(value, tmp_path / "a.pth", _use_new_zipfile_serialization=not old)
        expected, found = torch.load(tmp_path / "a.pth"), files.load_checkpoint(tmp_path / "a.pth")
        assert list(found) == list(expected)
        for name, weight in expected.items():
            assert torch.equal(found[name], weight)
            assert (found[name].dtype, found[name].stride()) == (weight.dtype, weight.stride())
            numbers = torch.cat([piece.clone() for piece in files.read_pieces(found, name)])
            assert torch.equal(numbers, weight.detach().flatten())
        torch.save(found, tmp_path / "again.pth")
        assert list(torch.load(tmp_path / "again.pth", weights_only=True)) == list(expected)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 4), (2, 1, 9), (3, 2, 25)])
def test_pieces_of_views_are_cut_alike(shape, monkeypatch):
    """Of tensors that lie in order or not, whatever a row's length; in order, and none is too large."""
    monkeypatch.setattr(files, "NUMBERS_AT_ONCE", 10)
    weight = torch.arange(float(torch.Size(shape).numel())).view(shape)
    order = tuple(range(len(shape)))[::-1]
    other = weight.permute(order).contiguous().permute(order)
    first, second = list(files.pieces(weight)), list(files.pieces(other))
    assert [len(piece) for piece in first] == [len(piece) for piece in second]
    assert torch.equal(torch.cat(first), weight.flatten())
    assert torch.equal(torch.cat(second), weight.flatten())
    assert max(map(len, first)) <= 10


def test_names_are_shown_as_they_are_or_escaped():
    assert printable("blocks.0.att.key.weight 你好") == "blocks.0.att.key.weight 你好"
    assert printable("a\x1b[2J\nb\udcff") == r"a\x1b[2J\nb\udcff"
    assert printable("x" * 10**6) == "x" * 100 + "..." + "x" * 100


@pytest.mark.parametrize(
    "path", ["a\0.pth", "a" * 5000, "loop/a.pth", "a.pth/b.pth"], ids=["nul", "long", "loop", "file"]
)
def test_paths_that_lead_nowhere(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "a.pth").write_bytes(b"")
    with_checkpoint = [["inspect", path], ["convert", path, "out"], ["verify", path, path]]
    with_folder = [
        ["lambada", "--model", path],
        ["lambada", "--checkpoint", path],
        ["export", path, "new.pth"],
        ["refresh", path],
    ]
    for command in with_checkpoint + with_folder:
        assert cli.main(command) == 2, command
        assert capsys.readouterr().err.startswith("error: ")
