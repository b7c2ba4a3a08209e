"""Keep the two large files of the World tokenizers, ``tokenizer.json`` and ``vocab.json``, from one run to the next.

To make them takes most of a second, longer than to convert a small model. They depend on the vocabulary, on the code
that makes them and on the ``tokenizers`` library alone. The file begins with the SHA-256 of all that and of the rest of
the file, so that one that is damaged, or was made from anything else, is never used: they are made again.
"""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import tokenizers

from ..atomic import replaced_file
from ..errors import InputError
from ..paths import BUILD, HUB_CODE
from .vocab import world_vocab_path

KEPT = BUILD / "tokenizer" / "world-files"
SIGN = 65  # bytes of the first line
CODE = (*(Path(__file__).with_name(name) for name in ("fast.py", "chat_template.py", "vocab.py", "kept.py")),
        HUB_CODE / "tokenization_rwkv_world.py")  # fmt: skip


def kept_or(make: Callable[[], tuple[str, str]]) -> tuple[str, str]:
    """Return the two texts that are kept; if they are not, make them, and keep them where that is possible."""
    try:
        origin = made_from()
    except OSError:
        return make()
    with suppress(OSError):
        data = KEPT.read_bytes()
        if data[:SIGN] == sign(origin, data[SIGN:]):
            tokenizer_json, vocab_json = data[SIGN:].decode("utf-8").split("\0")
            return tokenizer_json, vocab_json
    texts = make()
    content = "\0".join(texts).encode("utf-8")  # in JSON a NUL is written as an escape
    with suppress(OSError, InputError):
        KEPT.parent.mkdir(parents=True, exist_ok=True)
        with replaced_file(KEPT) as path:
            path.write_bytes(sign(origin, content) + content)
    return texts


def made_from() -> bytes:
    """Return a hash of the vocabulary, of the code, and of the version of the library.

    Raises:
        OSError: a file cannot be read.
    """
    parts = [path.read_bytes() for path in (world_vocab_path(), *CODE)]
    parts.append(tokenizers.__version__.encode())
    return b"".join(hashlib.sha256(part).digest() for part in parts)


def sign(origin: bytes, content: bytes) -> bytes:
    """Return the first line of a file with this content."""
    return hashlib.sha256(origin + content).hexdigest().encode() + b"\n"
