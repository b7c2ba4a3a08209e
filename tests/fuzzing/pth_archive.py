"""What can be wrong with the archive that a checkpoint is: its bytes, headers, members. Most keep the CRC-32 right."""

import io
import random
import struct
import zipfile
import zlib

import torch

from .archive import CENTRAL_FIELDS, END64_FIELDS, END_FIELDS, LOCAL_FIELDS, Record, read_archive, write_archive
from .runner import Kinds
from .values import odd_bytes, odd_name, odd_number, spoil

KINDS = Kinds()


def is_data(record: Record) -> bool:
    return record.short_name.startswith("data/")


def pick(rng: random.Random, records: list[Record], data: bool | None = None) -> int:
    """Return the number of a record: any, or one that holds numbers (``data``) or does not."""
    return rng.choice([i for i, record in enumerate(records) if data is None or is_data(record) == data])


def one_changed(rng: random.Random, records: list[Record], **changes: object) -> bytes:
    number = pick(rng, records)
    records[number] = records[number].but(**changes)
    return write_archive(records)


# the bytes of the file


@KINDS(weight=12)
def spoiled_bytes(rng, model):
    """Bits flipped, pages zeroed, bytes lost, repeated, moved, or added, anywhere."""
    return spoil(rng, model.data)


@KINDS()
def spoiled_directory(rng, model):
    start = model.data.rindex(b"PK\x01\x02") - rng.randrange(1500)
    return model.data[:start] + spoil(rng, model.data[start:])


@KINDS()
def truncated(rng, model):
    return model.data[: rng.randrange(len(model.data))]


@KINDS()
def appended(rng, model):
    return model.data + odd_bytes(rng)


@KINDS()
def two_archives(rng, model):
    """One after the other: which is read depends on the reader."""
    other = rng.choice(model.others).data
    return model.data + other if rng.random() < 0.5 else model.data + other[: rng.randrange(len(other))]


@KINDS()
def prefixed(rng, model):
    """Something before the archive, with and without offsets that know of it."""
    before = odd_bytes(rng)
    return before + model.data if rng.random() < 0.5 else write_archive(read_archive(model.data), before=before)


# headers


@KINDS(weight=8)
def odd_local_field(rng, model):
    return one_changed(rng, read_archive(model.data), local={rng.choice(LOCAL_FIELDS): odd_number(rng)})


@KINDS(weight=8)
def odd_central_field(rng, model):
    return one_changed(rng, read_archive(model.data), central={rng.choice(CENTRAL_FIELDS): odd_number(rng)})


@KINDS()
def odd_fields_alike(rng, model):
    """The same wrong value in both headers of a record."""
    field = {rng.choice([name for name in LOCAL_FIELDS if name in CENTRAL_FIELDS]): odd_number(rng)}
    return one_changed(rng, read_archive(model.data), local=field, central=field)


@KINDS()
def other_size(rng, model):
    """A size a little too small or large, in the directory: torch maps the bytes that follow."""
    records = read_archive(model.data)
    number = pick(rng, records, data=True)
    size = max(0, len(records[number].data) + rng.choice([-64, -2, -1, 1, 2, 64]))
    records[number] = records[number].but(central={"size": size, "packed": size})
    return write_archive(records)


@KINDS()
def other_offset(rng, model):
    """A record whose place in the directory is that of another, or beside its own."""
    records = read_archive(model.data)
    start = model.data.find(records[pick(rng, records)].name) - 30
    return one_changed(rng, records, central={"offset": start + rng.choice([0, 0, 1, -1, 64])})


@KINDS()
def overlapping(rng, model):
    """The data of one record runs over the headers and the data of the next ones."""
    records = read_archive(model.data)
    number = pick(rng, records[:-1], data=True)
    size = len(records[number].data) + rng.randrange(64, 4096)
    fields = {"size": size, "packed": size}
    records[number] = records[number].but(central=fields, local=fields)
    return write_archive(records)


@KINDS()
def odd_end(rng, model):
    return write_archive(read_archive(model.data), end={rng.choice(END_FIELDS): odd_number(rng)})


@KINDS()
def zip64(rng, model):
    """The end of the directory in its large form: right, or with a wrong field."""
    odd = {rng.choice(END64_FIELDS): odd_number(rng)} if rng.random() < 0.8 else {}
    end = {"records": 0xFFFF, "directory_offset": 0xFFFFFFFF} if rng.random() < 0.7 else {}
    locator = {rng.choice(["offset", "disks"]): odd_number(rng)} if rng.random() < 0.3 else {}
    return write_archive(read_archive(model.data), end=end, end64=odd, locator=locator)


@KINDS()
def zip64_extra(rng, model):
    """A record whose sizes stand in an extra field, right or not."""
    records = read_archive(model.data)
    size = rng.choice([len(records[0].data), odd_number(rng) & (1 << 64) - 1])
    extra = struct.pack("<HHQQ", 1, 16, size, size)
    fields = {"size": 0xFFFFFFFF, "packed": 0xFFFFFFFF}
    return one_changed(rng, records, extra=extra, local=fields, central=fields)


@KINDS()
def commented(rng, model):
    """Comments of records and of the archive; one may look like another end of the directory."""
    false_end = b"PK\x05\x06" + bytes(18)
    comment = rng.choice([odd_bytes(rng)[:60000], false_end, false_end * 100])
    if rng.random() < 0.5:
        return one_changed(rng, read_archive(model.data), comment=comment[:60000])
    return write_archive(read_archive(model.data), comment=comment)


# members


@KINDS(weight=8)
def duplicate_member(rng, model):
    """A name that is there twice, with other contents: readers differ in which they take."""
    records = read_archive(model.data)
    number = pick(rng, records)
    twin = records[number].but(data=spoil(rng, records[number].data))
    if rng.random() < 0.2:
        twin = twin.but(name=twin.name.upper())
    records.insert(rng.choice([number, number + 1, len(records)]), twin)
    return write_archive(records)


@KINDS()
def hidden_member(rng, model):
    """A record that the directory does not name."""
    return one_changed(rng, read_archive(model.data), hidden=True)


@KINDS()
def missing_member(rng, model):
    records = read_archive(model.data)
    del records[pick(rng, records)]
    return write_archive(records)


@KINDS()
def extra_member(rng, model):
    records = read_archive(model.data)
    name = rng.choice([b"archive/data/99", b"archive/code/x.py", b"../../x", b"/etc/x", b"archive/constants.pkl", b""])
    records.insert(rng.randrange(len(records) + 1), Record(name, odd_bytes(rng)))
    return write_archive(records)


@KINDS()
def empty_member(rng, model):
    return one_changed(rng, read_archive(model.data), data=b"")


@KINDS(weight=8)
def resized_member(rng, model):
    """A record that is shorter or longer than the tensors that lie in it, and says so, with a right CRC-32."""
    records = read_archive(model.data)
    number = pick(rng, records, data=True)
    data = records[number].data
    size = rng.choice([0, 1, len(data) // 2, len(data) - 1, len(data) - 2, len(data) + 1, len(data) + 2, 2 * len(data)])
    records[number] = records[number].but(data=(data * 2)[:size])
    return write_archive(records)


@KINDS()
def spoiled_member(rng, model):
    """Other contents with a right CRC-32: nobody can see that in numbers, but in the pickle."""
    records = read_archive(model.data)
    number = pick(rng, records, data=rng.random() < 0.2)
    records[number] = records[number].but(data=spoil(rng, records[number].data))
    return write_archive(records)


@KINDS()
def swapped_members(rng, model):
    records = read_archive(model.data)
    one, other = pick(rng, records), pick(rng, records)
    a, b = records[one], records[other]
    records[one], records[other] = a.but(data=b.data), b.but(data=a.data)
    return write_archive(records)


@KINDS()
def shuffled_members(rng, model):
    records = read_archive(model.data)
    rng.shuffle(records)
    return write_archive(records)


@KINDS()
def renamed_member(rng, model):
    records = read_archive(model.data)
    return one_changed(rng, records, name=odd_name(rng).encode(errors="surrogatepass")[:60000])


@KINDS()
def other_folder(rng, model):
    """Records under names of several archives."""
    records = read_archive(model.data)
    folder = rng.choice([b"", b"other/", b"./archive/", b"archive//", b"..", b"a" * 5000 + b"/"])
    chosen = records if rng.random() < 0.5 else [records[pick(rng, records)]]
    return write_archive([
        record.but(name=folder + record.short_name.encode()) if record in chosen else record for record in records
    ])  # fmt: skip


@KINDS()
def odd_version(rng, model):
    """The small records that say how the others are to be read."""
    records = read_archive(model.data)
    name = rng.choice([b"version", b"byteorder", b".format_version", b".storage_alignment"])
    contents = [b"", b"0", b"-1", b"99999999999999999999", b"big", b"little", b"\xff\xfe", b"nonsense", bytes(10**6)]
    folder = records[0].name.partition(b"/")[0]
    kept = [record for record in records if record.short_name.encode() != name]
    return write_archive([*kept, Record(folder + b"/" + name, rng.choice(contents))])


@KINDS()
def compressed_member(rng, model):
    """Deflated, as zip programs do when a checkpoint is packed again; or stored and said to be."""
    records = read_archive(model.data)
    method = rng.choice([8, 8, 8, 1, 12, 14, 93, 99])
    if rng.random() < 0.3:
        return write_archive([record.but(method=method) for record in records])
    return one_changed(rng, records, method=method)


@KINDS()
def packed_again(rng, model):
    """By Python's zipfile, with and without compression: a good file, if it is not compressed."""
    target = io.BytesIO()
    method = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    with zipfile.ZipFile(target, "w", method) as opened:
        for record in read_archive(model.data):
            opened.writestr(record.name.decode(), record.data)
    return target.getvalue()


@KINDS()
def encrypted_member(rng, model):
    return one_changed(rng, read_archive(model.data), local={"flags": 1}, central={"flags": 1})


@KINDS(weight=1)
def deflated_bomb(rng, model):
    """Few bytes that become 300 MB: the pickle itself, or the numbers."""
    records = read_archive(model.data)
    number = pick(rng, records, data=rng.random() < 0.5)
    data = bytes(rng.choice([10, 100, 300]) * 10**6)
    data = records[number].data + data if rng.random() < 0.5 else data
    records[number] = records[number].but(data=data, method=8)
    return write_archive(records)


@KINDS(weight=1)
def many_members(rng, model):
    """Far more records than there are tensors."""
    records = read_archive(model.data)
    count = rng.choice([1000, 30_000])
    return write_archive([*records, *(Record(b"archive/data/x%d" % number, b"") for number in range(count))])


@KINDS()
def wrong_checksum(rng, model):
    """The CRC-32 of the directory, of the local header or of both is not that of the data."""
    fields = {"crc": rng.choice([0, 0xFFFFFFFF, zlib.crc32(b"x")])}
    local, central = rng.choice([(fields, {}), ({}, fields), (fields, fields)])
    return one_changed(rng, read_archive(model.data), local=local, central=central)


@KINDS()
def torchscript(rng, model):
    """A program, not a checkpoint."""
    target = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), target)
    return target.getvalue() if rng.random() < 0.5 else spoil(rng, target.getvalue())
