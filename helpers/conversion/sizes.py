"""Sizes of weights files, as people write them. Commands use this too, so it needs no torch."""

import re
from decimal import Decimal

from ..errors import InputError

SHARD_LIMIT = "5GB"  # of a weights file, by default
SIZE = re.compile(r"(\d*\.?\d+)\s*(?:([KMGT])(I?))?B?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Return the number of bytes of a size such as ``5GB``, ``1.5 GB``, ``200MiB`` or ``1000``.

    Raises:
        InputError: it is no size, or less than a byte.
    """
    match = SIZE.fullmatch(text.strip())
    power = "KMGT".index(match[2].upper()) + 1 if match and match[2] else 0
    size = int(Decimal(match[1]) * (1024 if match[3] else 1000) ** power) if match else 0
    if size < 1:
        raise InputError(f"The shard size {text!r} is not a size; write for example 5GB or 200MB.")
    return size
