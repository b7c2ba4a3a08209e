"""Odd numbers, names, bytes and JSON, for every subject."""

import copy
import json
import random
from typing import Any

NAMES = [
    "", " ", ".", "..", "/", "a/b", "../../x", "emb.weight ", "\n", "a\nb", "\x1b[2J\x1b[31mred", "\x00", "a\x00b",
    "\r", "\u202e\u2066", "\ud800", "\udcff", "\ufeff", "\u2028", "é", "漢字", "blocks.0", "blocks.-1.att.key.weight",
    "blocks.00.att.key.weight", "blocks.\u0661.att.key.weight", "blocks.99999999999999999999.att.key.weight",
    "rwkv.embeddings.weight", "__metadata__", "__class__", "_strategy", "error: ", "x" * 1000, "%s%n{0}", "{__class__}",
]  # fmt: skip
NUMBERS = [0, 1, -1, 2, 7, 8, 63, 64, 65, 127, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53,
           2**63 - 1, 2**63, -(2**63), 2**64 - 1, 2**64, 10**30, -5, -64]  # fmt: skip
RAW_JSON = ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "-0", "9" * 5000, "1" + "0" * 400, "0x10", "1_000",
            "tru", "'x'", '"\\ud800"', '"\\u0000"', '"\\q"', "[" * 100_000, '{"a":' * 50_000, "[" * 500 + "]" * 500,
            "01", "+1", ".5", "/* */ 1", ""]  # fmt: skip
MARK = "\u241a raw \u241a"  # where one of them is written


def odd_number(rng: random.Random) -> int:
    return rng.choice(NUMBERS) if rng.random() < 0.8 else rng.getrandbits(rng.randrange(1, 65))


def odd_name(rng: random.Random) -> str:
    if rng.random() < 0.8:
        return rng.choice(NAMES)
    return "".join(chr(rng.choice([rng.randrange(32), rng.randrange(128), rng.randrange(0x11000)])) for _ in range(20))


def odd_bytes(rng: random.Random) -> bytes:
    size = rng.choice([1, 2, 10, 100, 4096, 70_000])
    return rng.choice([bytes(size), b"\xff" * size, rng.randbytes(size), b"PK\x03\x04" * (size // 4 + 1), b"\n" * size])


def odd_value(rng: random.Random) -> Any:
    """Return a value that JSON has, of any type."""
    return rng.choice([
        None, True, False, odd_number(rng), rng.uniform(-2, 2), 1e300, -0.0, 1e-320, odd_name(rng), [], {}, [None],
        [[]], {"": None}, [odd_number(rng)], {"a": odd_name(rng)}, "x" * rng.choice([100, 100_000]), "true", "1",
        "nan", MARK, MARK,
    ])  # fmt: skip


def spoil(rng: random.Random, data: bytes) -> bytes:
    """Return ``data`` with a fault as disks and networks make them."""
    if not data:
        return rng.randbytes(rng.randrange(10))
    changed = bytearray(data)
    start = rng.randrange(len(data))
    length = rng.choice([1, 2, 16, 64, 512, 4096])
    fault = rng.randrange(9)
    if fault == 0:
        changed[start] ^= 1 << rng.randrange(8)
    elif fault == 1:
        for _ in range(rng.randrange(2, 30)):
            changed[rng.randrange(len(data))] = rng.randrange(256)
    elif fault == 2:
        start -= start % length
        changed[start : start + length] = bytes(len(changed[start : start + length]))
    elif fault == 3:
        del changed[start : start + length]
    elif fault == 4:
        changed[start:start] = changed[start : start + length]
    elif fault == 5:
        changed[start:start] = rng.randbytes(length)
    elif fault == 6:
        other = rng.randrange(len(data))
        moved = data[other : other + length]
        changed[start : start + len(moved)] = moved
    elif fault == 7:
        del changed[start:]
    else:
        changed[start] = rng.choice([0, 0x7F, 0x80, 0xFF])
    return bytes(changed)


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Return the way to everything inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in inner for found in [(*path, key), *places(item, (*path, key))]]


def at(value: Any, path: tuple) -> Any:
    for key in path:
        value = value[key]
    return value


def mutate(rng: random.Random, value: Any) -> Any:
    """Return a copy of a JSON value with one to three things in it other, missing, or more."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        found = places(value)
        if not found:
            return odd_value(rng)
        *way, key = rng.choice(found)
        parent = at(value, tuple(way))
        action = rng.randrange(6)
        if action == 0:
            del parent[key]
        elif action == 1 and isinstance(parent, dict):
            parent[odd_name(rng)] = parent.pop(key)
        elif action == 2 and isinstance(parent, dict):
            parent[odd_name(rng)] = odd_value(rng)
        elif action == 3 and isinstance(parent[key], int | float):
            parent[key] = rng.choice([parent[key] + 1, -parent[key], parent[key] * 2, str(parent[key]), [parent[key]],
                                      bool(parent[key]), parent[key] + 0.5, float(parent[key])])  # fmt: skip
        else:
            parent[key] = odd_value(rng)
    return value


def json_bytes(rng: random.Random, value: Any, **layout: Any) -> bytes:
    """Return JSON of a value; now and then spoiled as a text, or in another encoding."""
    text = json.dumps(value, **layout)
    while json.dumps(MARK) in text:
        text = text.replace(json.dumps(MARK), rng.choice(RAW_JSON), 1)
    trick = rng.randrange(40)
    if trick == 0 and text.startswith("{") and len(text) > 2:  # a key that is there twice
        text = "{" + text[1:].split(",")[0].rstrip("}]") + "," + text[1:]
    if trick == 1:
        return b"\xef\xbb\xbf" + text.encode()
    if trick == 2:
        return text.encode("utf-16")
    if trick == 3:
        return spoil(rng, text.encode())
    if trick == 4:
        return text.replace('"', '"\xe9', 1).encode("latin-1", errors="replace")
    if trick == 5:
        return odd_bytes(rng)
    return text.encode()
