"""Pickles written by hand, opcode by opcode, for what Python's pickle would not write: see its Lib/pickletools.py."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

START, STOP = b"\x80\x02", b"."


@dataclass(frozen=True)
class Global:
    """The name of a function or class."""

    module: str
    name: str


@dataclass(frozen=True)
class Call:
    function: Any
    arguments: tuple
    state: Any = None  # that the object is given, by BUILD
    items: tuple = ()  # pairs, set by SETITEMS


@dataclass(frozen=True)
class Stored:
    """A persistent id; torch expects ("storage", class, key, device, numbers)."""

    identity: Any


@dataclass(frozen=True)
class Raw:
    """Opcodes as they are; they leave one object on the stack."""

    opcodes: bytes


@dataclass
class TensorSpec:
    """What a pickle says of one tensor, each part of which can be replaced."""

    kind: Any = Global("torch", "FloatStorage")
    key: Any = "0"
    device: Any = "cpu"
    numbers: Any = 0
    offset: Any = 0
    shape: Any = ()
    stride: Any = ()
    requires_grad: Any = False
    hooks: Any = field(default_factory=lambda: ORDERED)
    more: tuple = ()
    function: Any = Global("torch._utils", "_rebuild_tensor_v2")
    storage: Any = None  # in place of the usual persistent id

    def call(self) -> Call:
        storage = self.storage or Stored(("storage", self.kind, self.key, self.device, self.numbers))
        parts = (storage, self.offset, self.shape, self.stride, self.requires_grad, self.hooks, *self.more)
        return Call(self.function, parts)


ORDERED = Call(Global("collections", "OrderedDict"), ())


def opcodes(value: Any) -> bytes:
    """Return the opcodes that put a value on the stack."""
    match value:
        case None | True | False:
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        case int():
            size = value.bit_length() // 8 + 1
            return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            text = value.encode(errors="surrogatepass")
            return b"X" + struct.pack("<I", len(text)) + text
        case bytes():
            return b"B" + struct.pack("<I", len(value)) + value
        case tuple():
            return b"(" + many(value) + b"t"
        case list():
            return b"]" + b"(" + many(value) + b"e"
        case dict():
            return b"}" + b"(" + many(pair_part for pair in value.items() for pair_part in pair) + b"u"
        case Global():
            return f"c{value.module}\n{value.name}\n".encode(errors="surrogatepass")
        case Call():
            made = opcodes(value.function) + opcodes(value.arguments) + b"R"
            if value.items:
                made += b"(" + many(part for pair in value.items for part in pair) + b"u"
            return made + (opcodes(value.state) + b"b" if value.state is not None else b"")
        case Stored():
            return opcodes(value.identity) + b"Q"
        case Raw():
            return value.opcodes
        case TensorSpec():
            return opcodes(value.call())
    raise TypeError(type(value))


def many(values: Iterable[Any]) -> bytes:
    return b"".join(map(opcodes, values))


def pickled(value: Any) -> bytes:
    return START + opcodes(value) + STOP
