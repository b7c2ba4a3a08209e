"""The RWKV World vocabulary: read BlinkDL's text file, convert it to JSON and back without losing a byte.

A token is a byte string, not text: 486 of the 65,529 are not valid UTF-8. JSON has no bytes, so a token is written in
GPT-2's byte alphabet, where every byte is one visible character (``bytes_to_unicode`` in OpenAI's GPT-2 encoder).
"""

import ast
import importlib.util
import json
import re
from pathlib import Path

from ..errors import InputError
from ..hub_code.tokenization_rwkv_world import BYTE_TO_CHAR, CHAR_TO_BYTE, END_OF_TEXT

VOCAB_FILE_NAME = "rwkv_vocab_v20230424.txt"
VOCAB_SIZE = 65536  # rows of the models' embedding and head; ids 65530..65535 are unused


def world_vocab_path() -> Path:
    """Return the vocabulary file inside the installed ``rwkv`` package, without importing the package."""
    spec = importlib.util.find_spec("rwkv")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("The rwkv package, which carries the vocabulary, is not installed: run pip install rwkv.")
    return Path(next(iter(spec.submodule_search_locations))) / VOCAB_FILE_NAME


def parse_line(line: str) -> tuple[int, bytes]:
    """Parse one vocabulary line, ``ID LITERAL LENGTH``, for example ``33 ' ' 1``.

    The literal is a Python ``str`` or ``bytes`` literal and LENGTH its number of bytes. ``ast.literal_eval`` reads
    literals and nothing else, so that a hostile file cannot run code, as it could through ``eval``.

    Raises:
        ValueError: the line does not have that form.
    """
    fields = line.split(" ", 1)
    if len(fields) != 2 or " " not in fields[1]:
        raise ValueError("expected three fields, ID LITERAL LENGTH")
    literal, length = fields[1].rsplit(" ", 1)
    if not re.fullmatch(r"[0-9]{1,9}", fields[0]):
        raise ValueError(f"the id {fields[0][:40]!r} is not a number of at most 9 digits")
    try:
        token = literal[1:-1] if is_plain(literal) else ast.literal_eval(literal)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise ValueError(f"{literal[:40]!r} is not a str or bytes literal") from None
    if isinstance(token, str):
        try:
            token = token.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError(f"{literal[:40]!r} has no UTF-8 form") from None
    if not isinstance(token, bytes):
        raise ValueError(f"{literal[:40]!r} is not a str or bytes literal")
    if length != str(len(token)):
        raise ValueError(f"the length is {length[:40]!r}, but should be {len(token)}")
    return int(fields[0]), token


def is_plain(literal: str) -> bool:
    """Say whether a ``str`` literal means just what is between its quotes; most do, and need no parser."""
    quote, text = literal[:1], literal[1:-1]
    if quote not in ("'", '"') or not literal.endswith(quote, 1):
        return False
    return text.isprintable() and quote not in text and "\\" not in text


def read_vocab(path: str | Path | None = None) -> dict[int, bytes]:
    """Read a vocabulary file and return ``{id: token}`` in the file's order.

    Args:
        path: BlinkDL's text file; by default the one inside the installed ``rwkv`` package.

    Raises:
        InputError: the file is missing, or a line is malformed, repeats an id or a token, or uses the reserved id 0;
            the message has the line number.
    """
    path = world_vocab_path() if path is None else Path(path)
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except OSError as error:
        raise InputError(
            f"Cannot read the vocabulary {path}: {error.strerror}; give BlinkDL's {VOCAB_FILE_NAME}."
        ) from None
    except UnicodeDecodeError as error:
        bad_line = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"{path}, line {bad_line}: not UTF-8 text; give BlinkDL's {VOCAB_FILE_NAME}.") from None
    if lines[-1] == "":
        lines.pop()

    vocab: dict[int, bytes] = {}
    seen: dict[bytes, int] = {}
    for number, line in enumerate(lines, start=1):
        try:
            index, token = parse_line(line.removesuffix("\r"))
            if index == 0:
                raise ValueError(f"id 0 is reserved for {END_OF_TEXT}")
            if index in vocab:
                raise ValueError(f"id {index} occurs twice")
            if token in seen:
                raise ValueError(f"the token {token[:40]!r} already has id {seen[token]}")
            if not token:
                raise ValueError("the token is empty")
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {error}; compare it with BlinkDL's {VOCAB_FILE_NAME}.") from None
        vocab[index] = token
        seen[token] = index
    if not vocab:
        raise InputError(f"{path} holds no tokens; give BlinkDL's {VOCAB_FILE_NAME}.")
    return vocab


def vocab_to_txt(vocab: dict[int, bytes], newline: str = "\n") -> bytes:
    """Return the bytes of BlinkDL's text file for ``vocab``: the inverse of :func:`read_vocab`.

    Valid UTF-8 is written as a ``str`` literal and everything else as ``bytes``, which is the file's own convention.
    ``newline`` is ``"\\n"`` as upstream or ``"\\r\\n"`` as in the ``rwkv`` package.
    """
    lines = []
    for index, token in vocab.items():
        try:
            literal = repr(token.decode("utf-8"))
        except UnicodeDecodeError:
            literal = repr(token)
        lines.append(f"{index} {literal} {len(token)}{newline}")
    return "".join(lines).encode("utf-8")


def token_to_chars(token: bytes) -> str:
    """Write a byte string in GPT-2's byte alphabet: one visible character a byte, for example ``b" a"`` -> ``"Ġa"``."""
    return "".join(BYTE_TO_CHAR[byte] for byte in token)


def chars_to_token(text: str) -> bytes:
    """Read a byte string back from GPT-2's byte alphabet; the inverse of :func:`token_to_chars`."""
    return bytes(CHAR_TO_BYTE[char] for char in text)


def vocab_to_json(vocab: dict[int, bytes]) -> str:
    """Return ``{token: id}`` as JSON, one token a line, in the byte alphabet: nothing is lost and all keys differ."""
    return (
        json.dumps({token_to_chars(token): index for index, token in vocab.items()}, ensure_ascii=False, indent=0)
        + "\n"
    )


def vocab_from_json(text: str) -> dict[int, bytes]:
    """Return ``{id: token}`` from the JSON that :func:`vocab_to_json` wrote.

    Raises:
        InputError: the text is not such JSON: a token outside the byte alphabet, an id that is no positive integer, or
            two tokens with one id or two ids for one token, which a plain ``json.loads`` would drop without a word.
    """
    remedy = "write it again with helpers.tokenizer.vocab.vocab_to_json"
    try:
        pairs = json.loads(text, object_pairs_hook=tuple)  # an object becomes a tuple of pairs, repeated keys included
    except (ValueError, RecursionError) as error:
        raise InputError(f"The vocabulary is not JSON ({error}); {remedy}.") from None
    if not pairs or not isinstance(pairs, tuple):
        raise InputError(f"The vocabulary JSON is no object of tokens and ids, or an empty one; {remedy}.")

    vocab: dict[int, bytes] = {}
    seen: set[str] = set()
    for key, index in pairs:
        if not key or not CHAR_TO_BYTE.keys() >= set(key):
            raise InputError(f"The vocabulary JSON has a token outside the byte alphabet, {key[:40]!r}; {remedy}.")
        if type(index) is not int or index < 1:
            raise InputError(f"The vocabulary JSON gives {key[:40]!r} an id that is no positive integer; {remedy}.")
        if key in seen or index in vocab:
            raise InputError(f"The vocabulary JSON repeats the token {key[:40]!r} or its id {index}; {remedy}.")
        vocab[index] = chars_to_token(key)
        seen.add(key)
    return vocab
