"""Compare tokenizers: hard cases, random texts of many kinds, and the list of texts where two of them differ."""

import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from pathlib import Path

from rwkv.rwkv_tokenizer import TRIE_TOKENIZER

from ..errors import InputError
from ..hub_code.tokenization_rwkv_world import END_OF_TEXT
from ..paths import DATA, shown
from .vocab import read_vocab, world_vocab_path

Encode = Callable[[str], list[int]]


@cache
def reference_tokenizer() -> TRIE_TOKENIZER:
    """Return BlinkDL's tokenizer on the World vocabulary of the ``rwkv`` package; what it gives is right."""
    return TRIE_TOKENIZER(str(world_vocab_path()))


@dataclass(frozen=True)
class Case:
    """A hard text, and the ids that the reference gives it where the file records them."""

    name: str
    text: str
    ids: list[int] | None = None


@dataclass(frozen=True)
class Mismatch:
    """A text that two tokenizers encode differently."""

    text: str
    expected: list[int]
    actual: list[int]

    def __str__(self) -> str:
        at = next((n for n, (a, b) in enumerate(zip(self.expected, self.actual, strict=False)) if a != b), "the end")
        return f"{self.text!r}: ids differ at {at}: expected {self.expected}, got {self.actual}"


def load_cases(path: str | Path | None = None) -> list[Case]:
    """Read hard cases from JSON Lines: ``{"name": str, "text": str}`` with optional ``ids`` and ``repeat``.

    ``repeat`` is how often the text stands behind itself, so that a case of 100 KB takes one short line.

    Raises:
        InputError: the file is missing or a line has another form; the message has the line number.
    """
    path = DATA / "tokenizer_cases.jsonl" if path is None else Path(path)
    try:
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")  # not splitlines: U+2028 may stand in a text
    except OSError as error:
        raise InputError(
            f"Cannot read the tokenizer cases {shown(path)}: {error.strerror}; give a JSON Lines file."
        ) from None
    cases = []
    for number, line in enumerate(lines, start=1):
        try:
            fields = json.loads(line)
            if not isinstance(fields["text"], str):
                raise TypeError
            cases.append(Case(fields["name"], fields["text"] * fields.get("repeat", 1), fields.get("ids")))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(
                f'{shown(path)}, line {number}: not a case; write a JSON object with "name" and "text" on each line.'
            ) from None
    return cases


def find_mismatches(reference: Encode, candidate: Encode, texts: Iterable[str]) -> list[Mismatch]:
    """Return the texts for which ``candidate`` gives other ids than ``reference``, both functions text -> ids."""
    pairs = ((text, reference(text), candidate(text)) for text in texts)
    return [Mismatch(text, expected, actual) for text, expected, actual in pairs if expected != actual]


# Random texts. Each kind is a function of a random generator; together they reach what a single kind does not.

# fmt: off
_RANGES = [
    (0x20, 0x7E), (0x00, 0x1F), (0x7F, 0x24F), (0x300, 0x52F), (0x590, 0x6FF), (0x900, 0xEFF), (0x1100, 0x11FF),
    (0x2000, 0x2BFF), (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xE000, 0xFFFF), (0x10000, 0x10FFFF),
]
_SPACES = [" ", " ", " ", "\n", "\n", "\t", "\r\n", "\r", "\u00a0", "\u3000", "\u2028", "\x0b", "\u200b"]
_WORDS = [
    "the", "token", "模型", "语言", "今天", "ありがとう", "カタカナ", "안녕하세요", "привет", "мир", "γειά", "Pré",
    "naïve", "مرحبا", "שלום", "สวัสดี", "नमस्ते",
]
_CODE = [
    "def ", "return ", "    ", "\n    ", "self.", "()", "[0]", " = ", "==", "{", "}", ";\n", "//", "\t", "0x1F",
    "__init__", "#include <", "</div>", "->", "\\n", "'''", '"', "import ", "&&", "100", "3.14", "_a", "B", "\r\n", ":",
]
_EMOJI = [
    "😀", "👍", "🏽", "👩", "🧑", "\u2764\ufe0f", "🚀", "🇨🇳", "🇩🇪", "1\ufe0f\u20e3", "\u200d", "\u200d", "\ufe0f",
    "🏴\U000e0067\U000e0062\U000e007f",
]
_MARKS = [
    "e\u0301", "a\u0308", "\u0301", "\u20dd", "\u0e33", "\u093f", "\u200c", "\u202e", "\ufeff", "\x00", "\x1b[0m", "Z",
]
# fmt: on


def _text_of(pieces: list[str], rng: random.Random, most: int) -> str:
    return "".join(rng.choices(pieces, k=rng.randint(1, most)))


def _unicode(rng: random.Random) -> str:
    chars = (chr(rng.randint(*rng.choice(_RANGES))) for _ in range(rng.randint(1, 24)))
    return "".join(char for char in chars if not "\ud800" <= char <= "\udfff")


def _random_bytes(rng: random.Random) -> str:
    return rng.randbytes(rng.randint(1, 40)).decode("utf-8", rng.choice(["ignore", "replace"]))


def _runs(rng: random.Random) -> str:
    chars = rng.choices(["a", "=", "-", "0", "。", "ー", "!", *_SPACES], k=rng.randint(1, 5))
    return "".join(char * min(int(rng.expovariate(0.1)) + 1, 300) for char in chars)


def _mixed(rng: random.Random) -> str:
    return "".join(rng.choice(_WORDS) + rng.choice(["", *_SPACES, ", ", "。"]) for _ in range(rng.randint(1, 12)))


def _end_of_text(rng: random.Random) -> str:
    cut = rng.randint(1, len(END_OF_TEXT))
    return _text_of([END_OF_TEXT, END_OF_TEXT[:cut], END_OF_TEXT[cut:], " ", "<", "|", "a", "\n"], rng, 6)


def fuzz_texts(count: int, seed: int = 0) -> Iterator[str]:
    """Yield ``count`` different random texts, the same ones for the same seed, of ten kinds in turn.

    Random code points, random bytes, runs of one character, mixed scripts, code, emoji sequences, combining marks and
    controls, vocabulary tokens glued together, tokens cut short (a near miss for longest match), and the literal
    ``<|endoftext|>`` in pieces. No text has a lone surrogate, which UTF-8 cannot express.
    """
    rng = random.Random(seed)
    tokens = list(read_vocab().values())

    def glued(rng: random.Random) -> str:
        return b"".join(rng.choices(tokens, k=rng.randint(1, 8))).decode("utf-8", "ignore")

    def near_miss(rng: random.Random) -> str:
        parts = (token[: rng.randint(1, len(token))] for token in rng.choices(tokens, k=rng.randint(1, 8)))
        return b"".join(parts).decode("utf-8", "ignore")

    kinds: list[Callable[[random.Random], str]] = [
        _unicode,
        _random_bytes,
        _runs,
        _mixed,
        lambda rng: _text_of(_CODE, rng, 16),
        lambda rng: _text_of(_EMOJI, rng, 10),
        lambda rng: _text_of(_MARKS + _WORDS, rng, 12),
        glued,
        near_miss,
        _end_of_text,
    ]
    seen: set[str] = set()
    for kind in cycle(kinds):
        if len(seen) >= count:
            return
        text = kind(rng)
        if text not in seen:
            seen.add(text)
            yield text
