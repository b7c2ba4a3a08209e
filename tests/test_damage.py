"""Damaged checkpoints: whatever happens to a file, it is refused in one sentence, or its numbers are the same."""

import hashlib
import os
import struct
import threading
import zipfile
import zlib

import pytest
import torch
from tiny_models import VERSIONS

from helpers import __main__ as cli
from helpers.checkpoints import files, intact, synthetic
from helpers.checkpoints.archive import END, ENTRY, LOCAL, read_records
from helpers.conversion import weights
from helpers.conversion.directory import convert
from helpers.errors import InputError

SIZES = {"layers": 1, "hidden_size": 16, "head_size": 8, "vocab_size": 20}


@pytest.fixture(scope="module", params=VERSIONS)
def checkpoint(request, tmp_path_factory):
    return synthetic.write_random_checkpoint(tmp_path_factory.mktemp("damage") / "a.pth", request.param, **SIZES)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A checkpoint of one version, where the version does not matter."""
    return synthetic.write_random_checkpoint(tmp_path_factory.mktemp("one") / "a.pth", **SIZES)


def records_of(path):
    with open(path, "rb", buffering=0) as file:
        return read_records(file, path.stat().st_size)


def entries(data: bytes) -> dict[str, int]:
    """Return the places of the directory's entries by the names of records."""
    length, position = END.unpack(data[-END.size :])[5:7]
    found = {}
    end = position + length
    while position < end:
        lengths = struct.unpack_from("<3H", data, position + 28)
        found[data[position + ENTRY.size :][: lengths[0]].decode()] = position
        position += ENTRY.size + sum(lengths)
    return found


# changes of one record: the bytes of the file, the record, and the place of its entry in the directory


def at(offset, change):
    """Change one number of an entry in the directory."""

    def damage(data, record, entry):
        form = {4: "<I", 2: "<H"}[change[0]]
        old = struct.unpack_from(form, data, entry + offset)[0]
        struct.pack_into(form, data, entry + offset, change[1](old) % (1 << 8 * change[0]))

    return damage


def local(offset, form, change):
    """Change one number of a record's own header."""

    def damage(data, record, entry):
        place = struct.unpack_from("<I", data, entry + 42)[0]
        struct.pack_into(form, data, place + offset, change(struct.unpack_from(form, data, place + offset)[0]))

    return damage


def flip(where):
    def damage(data, record, entry):
        data[record.start + int(where * (record.size - 1))] ^= 4

    return damage


def zeroed(data, record, entry):
    data[record.start : record.end] = bytes(record.size)


def removed(count):
    """Take bytes out of a record, so that everything after it lies elsewhere."""

    def damage(data, record, entry):
        del data[record.end - min(count, record.size) : record.end]

    return damage


def doubled(data, record, entry):
    data[record.end : record.end] = data[record.start : record.end]


def sizes(change):
    def damage(data, record, entry):
        for offset in (20, 24):
            at(offset, (4, change))(data, record, entry)

    return damage


DAMAGES = {
    "a bit at the begin": flip(0),
    "a bit in the middle": flip(0.5),
    "a bit at the end": flip(1),
    "zeros": zeroed,
    "one byte too few": removed(1),
    "half a page too few": removed(2048),
    "twice": doubled,
    "another checksum": at(16, (4, lambda crc: crc ^ 1)),
    "no checksum": at(16, (4, lambda crc: 0)),
    "compressed": at(10, (2, lambda method: 8)),
    "stored by another method": at(10, (2, lambda method: 93)),
    "encrypted": at(8, (2, lambda flags: flags | 1)),
    "other flags": at(8, (2, lambda flags: flags ^ 0x800)),
    "packed size": at(20, (4, lambda size: size + 1)),
    "real size": at(24, (4, lambda size: size + 1)),
    "both sizes one larger": sizes(lambda size: size + 1),
    "both sizes one smaller": sizes(lambda size: size - 1),
    "both sizes doubled": sizes(lambda size: 2 * size + 1),
    "both sizes 0": sizes(lambda size: 0),
    "both sizes of 64 bits": sizes(lambda size: 0xFFFFFFFF),
    "a place one byte on": at(42, (4, lambda place: place + 1)),
    "a place outside": at(42, (4, lambda place: 1 << 30)),
    "the place of another": at(42, (4, lambda place: 0 if place else 64)),
    "another name in the directory": lambda data, record, entry: data.__setitem__(entry + ENTRY.size, ord("?")),
    "a control character in the name": lambda data, record, entry: data.__setitem__(entry + ENTRY.size, 27),
    "a longer name in the directory": at(28, (2, lambda length: length + 1)),
    "a longer extra field": at(30, (2, lambda length: length + 1)),
    "a comment": at(32, (2, lambda length: 1)),
    "another sign in the directory": lambda data, record, entry: data.__setitem__(entry + 1, 0),
    "another sign in the header": local(0, "<I", lambda sign: sign ^ 0xFF),
    "another name in the header": local(LOCAL.size, "<B", lambda letter: letter ^ 1),
    "a longer name in the header": local(26, "<H", lambda length: length + 1),
    "compressed in the header": local(8, "<H", lambda method: 8),
    "numbers one byte on": local(28, "<H", lambda length: length + 1),
    "numbers one byte before": local(28, "<H", lambda length: length - 1),
    "other flags in the header": local(6, "<H", lambda flags: flags ^ 8),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record(damage, checkpoint, tmp_path, capsys):
    """Of the pickle, of the first, a middle and the last tensor: ``inspect`` and ``convert`` refuse alike."""
    records = [record for record in records_of(checkpoint) if "/data" in record.name and record.size > 2]
    assert len(records) > 20
    path = tmp_path / "damaged.pth"
    for record in (records[0], records[1], records[len(records) // 2], records[-1]):
        data = bytearray(checkpoint.read_bytes())
        DAMAGES[damage](data, record, entries(bytes(data))[record.name])
        path.write_bytes(data)
        refused(path, tmp_path / "out", capsys)


def refused(path, out, capsys) -> None:
    """Both commands refuse a file with exit code 2, one printable sentence and no output."""
    for command in (["inspect", str(path)], ["convert", str(path), str(out), "--no-tokenizer"]):
        assert cli.main(command) == 2, command
        output = capsys.readouterr()
        assert output.out == ""
        message = output.err.rpartition("\r")[2].removesuffix("\n")  # after the bar
        message = message[message.index("error: ") :]
        assert message.isprintable(), message
        assert "damaged" in message or "finite" in message or "no checksums" in message, message
    assert not out.exists()


def rewritten(path, target, change, **options):
    """Write the records of an archive anew: ``change`` gets and returns a list of names and contents."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", **options) as new:
        for name, content in change([(name, old.read(name)) for name in old.namelist()]):
            new.writestr(name, content)


def number_of(records):
    return next(i for i, (name, _) in enumerate(records) if name.endswith("/data/3"))


def with_content(change):
    """Change the content of one tensor's record."""

    def changed(records):
        i = number_of(records)
        return [*records[:i], (records[i][0], change(records[i][1])), *records[i + 1 :]]

    return changed


REWRITES = {  # with checksums that fit, as a program would do that writes another archive
    "an empty record": with_content(lambda content: b""),
    "a record one number shorter": with_content(lambda content: content[:-2]),
    "a record twice as long": with_content(lambda content: content * 2),
    "no record": lambda records: [records[i] for i in range(len(records)) if i != number_of(records)],
    "no pickle": lambda records: records[1:],
    "two pickles": lambda records: [*records, ("other/data.pkl", records[0][1])],
    "the other byte order": lambda records: [(n, b"big" if n.endswith("byteorder") else c) for n, c in records],
    "half a pickle": lambda records: [(records[0][0], records[0][1][: len(records[0][1]) // 2]), *records[1:]],
    "two pickles in one": lambda records: [(records[0][0], records[0][1] * 2), *records[1:]],
    "a name outside": lambda records: [(n.replace("data/3", "../3"), c) for n, c in records],
}


@pytest.mark.parametrize("change", REWRITES)
def test_an_archive_that_was_written_anew(change, one, tmp_path, capsys):
    rewritten(one, tmp_path / "new.pth", REWRITES[change])
    refused(tmp_path / "new.pth", tmp_path / "out", capsys)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_record_that_is_there_twice(one, tmp_path, capsys):
    rewritten(one, tmp_path / "new.pth", lambda records: [*records, records[number_of(records)]])
    refused(tmp_path / "new.pth", tmp_path / "out", capsys)


def test_an_archive_that_is_compressed(one, tmp_path, capsys):
    rewritten(one, tmp_path / "new.pth", list, compression=zipfile.ZIP_DEFLATED)
    refused(tmp_path / "new.pth", tmp_path / "out", capsys)


def test_an_archive_that_another_program_stored_is_read(one, tmp_path):
    """Not every one has gaps, and flags, as torch writes them."""
    rewritten(one, tmp_path / "new.pth", list)
    expected, found = files.load_checkpoint(one), files.load_checkpoint(tmp_path / "new.pth")
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    convert(tmp_path / "new.pth", tmp_path / "out", progress=False)


@pytest.mark.parametrize("end", ["cut", "more", "comment", "count", "length", "place", "disk"])
def test_the_end_of_an_archive(end, one, tmp_path, capsys):
    data = bytearray(one.read_bytes())
    place = len(data) - END.size
    wide = place - 20 - 56  # its numbers of 64 bits
    if end == "cut":
        del data[-1]
    elif end == "more":
        data += b"\0"
    elif end == "comment":
        data[-2:] = b"\1\0"
        data += b"c"
    else:
        offset = {"count": 32, "length": 40, "place": 48, "disk": 16}[end]
        data[wide + offset] ^= 1
    (tmp_path / "bad.pth").write_bytes(data)
    refused(tmp_path / "bad.pth", tmp_path / "out", capsys)


@pytest.mark.parametrize("part", range(1, 20))
def test_a_file_that_is_cut_off(part, one, tmp_path, capsys):
    data = one.read_bytes()
    (tmp_path / "cut.pth").write_bytes(data[: len(data) * part // 20])
    refused(tmp_path / "cut.pth", tmp_path / "out", capsys)


@pytest.mark.parametrize("seed", range(40))
def test_random_bytes_that_change(seed, one, tmp_path):
    """Where nothing is said, the numbers are the same: what changed is padding, a date, or a version."""
    generator = torch.Generator().manual_seed(seed)
    data = bytearray(one.read_bytes())
    start = int(torch.randint(len(data), (), generator=generator))
    length = int(torch.randint(1, 64, (), generator=generator))
    data[start : start + length] = bytes(torch.randint(256, (len(data[start : start + length]),), generator=generator))
    (tmp_path / "random.pth").write_bytes(data)
    expected = files.load_checkpoint(one)
    try:
        found = files.load_checkpoint(tmp_path / "random.pth")
        found.file.check()
    except InputError:
        return
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_every_command_looks_at_the_checksums(tmp_path, capsys):
    """``verify``, LAMBADA and files of older directories, too."""
    one = synthetic.write_random_checkpoint(tmp_path / "a.pth", **(SIZES | {"layers": 2, "vocab_size": 65536}))
    folder = convert(one, tmp_path / "model", progress=False)
    data = bytearray(one.read_bytes())
    record = next(record for record in records_of(one) if record.name.endswith("/data/5"))
    data[record.start] ^= 1  # the last bit of a number
    bad = tmp_path / "bad.pth"
    bad.write_bytes(data)
    old = tmp_path / "old"
    old.mkdir()
    torch.save(files.load_checkpoint(one), old / "pytorch_model.bin")
    shard = bytearray((old / "pytorch_model.bin").read_bytes())
    shard[records_of(old / "pytorch_model.bin")[6].start] ^= 1
    (old / "pytorch_model.bin").write_bytes(shard)
    for command in (
        ["verify", str(bad), str(folder), "--lengths", "1", "--seeds", "0"],
        ["lambada", "--checkpoint", str(bad), "--limit", "1", "--device", "cpu"],
        ["export", str(old), str(tmp_path / "new.pth")],
        ["refresh", str(old)],
    ):
        assert cli.main(command) == 2, command
        assert "another checksum than when it was saved" in capsys.readouterr().err
    assert not (tmp_path / "new.pth").exists()


def test_files_without_checksums(one, tmp_path, capsys):
    """PyTorch can leave them out; then ``inspect`` says so."""
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(dict(files.load_checkpoint(one)), tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert cli.main(["inspect", str(tmp_path / "a.pth")]) == 0
    assert "The file carries no checksums" in capsys.readouterr().out
    convert(tmp_path / "a.pth", tmp_path / "out", progress=False)


# the format from before PyTorch 1.6, which carries no checksums


@pytest.fixture(scope="module")
def old(one):
    path = one.with_name("old.pth")
    torch.save(dict(files.load_checkpoint(one)), path, _use_new_zipfile_serialization=False)
    return path


def test_the_old_format_gives_the_same_tensors(one, old):
    expected, found = torch.load(one), files.load_checkpoint(old)
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    for name in found:
        assert torch.equal(
            torch.cat([piece.clone() for piece in files.read_pieces(found, name)]), found[name].flatten()
        )


@pytest.mark.parametrize("change", ["cut", "more", "a size", "half"])
def test_a_damaged_old_file(change, old, tmp_path, capsys):
    data = bytearray(old.read_bytes())
    if change == "cut":
        del data[-1]
    elif change == "more":
        data += b"\0"
    elif change == "half":
        del data[len(data) // 2 :]
    else:
        weight = files.load_checkpoint(old)["head.weight"]
        place = data.index(weight.view(torch.uint8).numpy().tobytes())
        data[place - 8] ^= 1
    (tmp_path / "bad.pth").write_bytes(data)
    refused(tmp_path / "bad.pth", tmp_path / "out", capsys)


@pytest.mark.parametrize("seed", range(60))
def test_random_bytes_that_change_in_an_old_file(seed, old, tmp_path):
    """No checksum shows other numbers, but there is one sentence, or a tensor for every name, in its shape."""
    generator = torch.Generator().manual_seed(seed)
    data = bytearray(old.read_bytes())
    limit = 4000 if seed % 2 else len(data)  # often in the pickles
    start = int(torch.randint(limit, (), generator=generator))
    data[start] = int(torch.randint(256, (), generator=generator))
    (tmp_path / "random.pth").write_bytes(data)
    try:
        found = files.load_checkpoint(tmp_path / "random.pth")
    except InputError:
        return
    assert all(isinstance(weight.sum(), torch.Tensor) for weight in found.values())


# a file that changes while it is read


def cut_off(path):
    os.truncate(path, path.stat().st_size // 2)


def copied_over(path):
    path.write_bytes(bytes(path.stat().st_size))


def replaced(path):
    other = path.with_name("other.pth")
    other.write_bytes(path.read_bytes())
    other.replace(path)


@pytest.mark.parametrize("change", [cut_off, copied_over, replaced, os.remove])
def test_a_source_that_changes_meanwhile(change, one, tmp_path, monkeypatch, capsys):
    """After the first piece: a sentence and no output, where a map of the file would end the process."""
    path = tmp_path / "source" / "a.pth"
    path.parent.mkdir()
    path.write_bytes(one.read_bytes())
    is_finite, done = weights.is_finite, threading.Event()

    def changing(piece):
        if not done.is_set():
            done.set()
            change(path)
        return is_finite(piece)

    monkeypatch.setattr(weights, "is_finite", changing)
    assert cli.main(["convert", str(path), str(tmp_path / "out"), "--no-tokenizer"]) == 2
    error = capsys.readouterr().err
    assert f"{path} was changed while it was read" in error or "is damaged" in error
    assert [inner.name for inner in tmp_path.iterdir()] == ["source"]


def test_the_sum_of_a_file_is_that_of_its_bytes(one):
    """Whatever lies between the records."""
    file = files.load_checkpoint(one).file
    assert file.check(hashed=True) == hashlib.sha256(one.read_bytes()).hexdigest()
    assert intact.crc32(b"abc", intact.crc32(b"")) == zlib.crc32(b"abc")
