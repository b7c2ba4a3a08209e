"""A ZIP archive as :func:`torch.save` writes it, of which every field can be made wrong.

Format: PKWARE's APPNOTE.TXT, 4.3. Each record has a local header before its data and another in the directory at the
end; readers believe the one or the other.
"""

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass, field, replace

LOCAL = struct.Struct("<IHHHHHIIIHH")
LOCAL_FIELDS = ("signature", "version", "flags", "method", "time", "date", "crc", "packed", "size", "name_length",
                "extra_length")  # fmt: skip
CENTRAL = struct.Struct("<IHHHHHHIIIHHHHHII")
CENTRAL_FIELDS = ("signature", "made_by", "version", "flags", "method", "time", "date", "crc", "packed", "size",
                  "name_length", "extra_length", "comment_length", "disk", "internal", "external",
                  "offset")  # fmt: skip
END = struct.Struct("<IHHHHIIH")
END_FIELDS = ("signature", "disk", "directory_disk", "records_here", "records", "directory_size", "directory_offset",
              "comment_length")  # fmt: skip
END64 = struct.Struct("<IQHHIIQQQQ")
END64_FIELDS = ("signature", "size", "made_by", "version", "disk", "directory_disk", "records_here", "records",
                "directory_size", "directory_offset")  # fmt: skip
LOCATOR = struct.Struct("<IIQI")
LOCATOR_FIELDS = ("signature", "disk", "offset", "disks")
ALIGNMENT = 64  # torch starts the data of each record at such a multiple, with a field of padding before it


@dataclass(frozen=True)
class Record:
    """A record of an archive. ``local`` and ``central`` hold fields that are to be written otherwise than is right.

    Args:
        data: before it is compressed.
        method: 0 stores, 8 deflates.
    """

    name: bytes
    data: bytes
    method: int = 0
    local: dict[str, int] = field(default_factory=dict)
    central: dict[str, int] = field(default_factory=dict)
    comment: bytes = b""
    extra: bytes = b""  # in place of torch's padding; in the directory, too
    hidden: bool = False  # from the directory

    def but(self, **changes: object) -> "Record":
        return replace(self, **changes)  # type: ignore[arg-type]

    @property
    def short_name(self) -> str:
        """The name without that of the archive."""
        return self.name.decode(errors="replace").partition("/")[2]


def read_archive(data: bytes) -> list[Record]:
    """Return the records of an intact archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        return [Record(item.filename.encode(), opened.read(item)) for item in opened.infolist()]


def packed(record: Record) -> bytes:
    if record.method != 8:
        return record.data
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    return deflate.compress(record.data) + deflate.flush()


def write_archive(
    records: list[Record],
    comment: bytes = b"",
    end: dict[str, int] | None = None,
    end64: dict[str, int] | None = None,
    locator: dict[str, int] | None = None,
    before: bytes = b"",
) -> bytes:
    """Return an archive of these records.

    Args:
        end: fields of the end of the directory that are to be written otherwise than is right.
        end64, locator: the same of the ZIP64 form, which is written if one of them is given.
        before: bytes before the first record.
    """
    body, directory = bytearray(before), bytearray()
    for record in records:
        offset, content = len(body), packed(record)
        padding = -(offset + LOCAL.size + len(record.name) + 4) % ALIGNMENT
        extra = record.extra or b"FB" + struct.pack("<H", padding) + b"Z" * padding
        common = {"version": 0, "flags": 0x800, "method": record.method, "time": 0, "date": 0,
                  "crc": zlib.crc32(record.data), "packed": len(content), "size": len(record.data),
                  "name_length": len(record.name)}  # fmt: skip
        local = {"signature": 0x04034B50, **common, "extra_length": len(extra)} | record.local
        body += pack(LOCAL, LOCAL_FIELDS, local) + record.name + extra + content
        central = {"signature": 0x02014B50, "made_by": 0, **common, "extra_length": len(record.extra),
                   "comment_length": len(record.comment), "disk": 0, "internal": 0, "external": 0,
                   "offset": offset} | record.central  # fmt: skip
        if not record.hidden:
            directory += pack(CENTRAL, CENTRAL_FIELDS, central) + record.name + record.extra + record.comment
    count = sum(not record.hidden for record in records)
    start, size = len(body), len(directory)
    places = {"records_here": count, "records": count, "directory_size": size, "directory_offset": start}
    tail = b""
    if end64 is not None or locator is not None:
        right = {"signature": 0x06064B50, "size": END64.size - 12, "made_by": 45, "version": 45, "disk": 0,
                 "directory_disk": 0, **places}  # fmt: skip
        tail = pack(END64, END64_FIELDS, right | (end64 or {}))
        right = {"signature": 0x07064B50, "disk": 0, "offset": start + size, "disks": 1}
        tail += pack(LOCATOR, LOCATOR_FIELDS, right | (locator or {}))
    right = {"signature": 0x06054B50, "disk": 0, "directory_disk": 0, **places, "comment_length": len(comment)}
    return bytes(body + directory) + tail + pack(END, END_FIELDS, right | (end or {})) + comment


def pack(layout: struct.Struct, names: tuple[str, ...], values: dict[str, int]) -> bytes:
    """Return a header; a value that is too large for its field loses its upper bits."""
    widths = [struct.calcsize("<" + kind) for kind in layout.format[1:]]
    return layout.pack(*(values[name] & (1 << 8 * width) - 1 for name, width in zip(names, widths, strict=True)))
