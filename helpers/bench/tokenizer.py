"""Measure the fast tokenizer beside others: a batch of documents of 2,000 characters, in four kinds of text.

    python -m helpers bench tokenizer                          # texts of this project: 1,000 documents of each kind
    python -m helpers bench tokenizer --data book.txt          # and a text of yours

The others are BlinkDL's ``TRIE_TOKENIZER`` (Python), a BPE of GPT-2's kind in the same ``tokenizers`` library, trained
here on the texts that are measured, WordPiece over whole documents (slow, so on few of them), and ``pyrwkv-tokenizer``
(Rust) if it is installed. All run on one thread, in turn, from texts to lists of ids; those with the World vocabulary
must give the same ids. Ours runs on all cores, too, and without offsets (``encode_batch_fast``). A second table says
what a byte of other kinds of text costs, down to those that nobody writes: the dearest must not be far from the rest.
"""

import importlib.util
import json
import os
import platform
import random
import re
import statistics
import time
from base64 import b64encode
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from ..atomic import write_text
from ..errors import InputError
from ..lambada.passages import SAMPLE, read_texts
from ..paths import PACKAGE, RESULTS, ROOT
from ..tokenizer.check import reference_tokenizer
from ..tokenizer.fast import build_fast_tokenizer
from ..tokenizer.vocab import read_vocab, token_to_chars
from .checks import check_counts, check_output, processor

DOCUMENT = 2000  # characters
OUT = RESULTS / "tokenizer.json"
THREADS = "TOKENIZERS_PARALLELISM"  # the library reads it at every call
Encode = Callable[[list[str]], list[list[int]]]


@dataclass
class Side:
    """A tokenizer: how it encodes documents, on all cores or one, and the seconds of its runs."""

    name: str
    encode: Encode
    all_cores: bool = False
    world: bool = True  # it has the World vocabulary, so that its ids must be right
    share: float = 1.0  # of the documents, less for a slow one
    seconds: list[float] = field(default_factory=list)


def source_texts(rng: random.Random) -> dict[str, list[str]]:
    """Return English, Chinese and code in lines: this project's own, and for Chinese a chain of its characters."""
    if not (ROOT / "README_zh.md").is_file():
        raise InputError("The texts to measure are in a checkout of this project, not in an installed package.")
    chinese = "".join(re.findall("[\u4e00-\u9fff，。、：；]+", (ROOT / "README_zh.md").read_text(encoding="utf-8")))
    code = [path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))]
    return {
        "English": re.findall(r"[^.]+\. ?", " ".join(read_texts(SAMPLE, None))),
        "Chinese": re.findall("[^。]+。", chained(chinese, 400_000, rng)),
        "code": [line + "\n" for text in code for line in text.split("\n")],
    }


def chained(text: str, length: int, rng: random.Random) -> str:
    """Return a random text in which every pair of neighbors occurs in ``text``.

    A short text, repeated, would not do: a BPE trained on it knows its clauses by heart.
    """
    behind: dict[str, list[str]] = defaultdict(list)
    for char, other in pairwise(text + text[0]):
        behind[char].append(other)
    chain = [text[0]]
    while len(chain) < length:
        chain.append(rng.choice(behind[chain[-1]]))
    return "".join(chain)


def sampled_documents(lines: list[str], count: int, rng: random.Random) -> list[str]:
    """Return documents of some lines, each a few neighbors that begin anywhere, so that no two are alike."""
    documents = []
    for _ in range(count):
        text = ""
        while len(text) < DOCUMENT:
            start = rng.randrange(len(lines))
            text += "".join(lines[start : start + 4])
        documents.append(text[:DOCUMENT])
    return documents


def documents_by_kind(count: int, data: Path | None = None, seed: int = 0) -> dict[str, list[str]]:
    """Return ``count`` documents of each kind, the same ones each time; ``data`` is a text file of one more kind.

    Raises:
        InputError: ``data`` cannot be read as UTF-8, or is shorter than one document.
    """
    rng = random.Random(seed)
    documents = {kind: sampled_documents(lines, count, rng) for kind, lines in source_texts(rng).items()}
    documents["mixed"] = [rng.choice(documents[kind]) for kind in rng.choices(list(documents), k=count)]
    if data is not None:
        try:
            text = data.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise InputError(f"Cannot read --data {data} as UTF-8 text: {error}; give another file.") from None
        if len(text) < DOCUMENT:
            raise InputError(
                f"--data {data} is shorter than one document of {DOCUMENT:,} characters; give a longer one."
            )
        starts = range(0, len(text) - DOCUMENT + 1, DOCUMENT)
        documents[data.name] = [text[start : start + DOCUMENT] for start in starts][:count]
    return documents


def unusual_texts(size: int, seed: int = 0) -> dict[str, str]:
    """Return texts of about ``size`` bytes that a tokenizer may be slow on."""
    rng = random.Random(seed)
    tokens = [token.decode("utf-8", "ignore") for token in read_vocab().values()]

    def among(first: int, last: int) -> str:
        width = len(chr(last).encode())
        return "".join(chr(rng.randint(first, last)) for _ in range(size // width))

    def of(pieces: list[str] | str) -> str:
        text = "".join(rng.choices(pieces, k=size))
        return text.encode()[:size].decode("utf-8", "ignore")

    repeated = [
        "a",
        "qx",
        "aBc",
        " ",
        "\n",
        "\t",
        "\r\n",
        "=-",
        ".",
        "0",
        "é",
        "哈",
        "。",
        "a, ",
        "don't ",
        "\n        x",
    ]
    return {
        **{f"{unit!r} repeated": unit * (size // len(unit.encode())) for unit in repeated},
        "random digits": among(0x30, 0x39),
        "random ASCII": among(0x20, 0x7E),
        "random lower case": among(0x61, 0x7A),
        "random upper case": among(0x41, 0x5A),
        "random controls": among(0x00, 0x1F),
        "DNA": of("ACGT"),
        "base64": b64encode(rng.randbytes(size * 3 // 4)).decode(),
        "hexadecimal": rng.randbytes(size // 2).hex(),
        "random bytes": rng.randbytes(size).decode("utf-8", "replace"),
        "random Latin": among(0xC0, 0x24F),
        "random Cyrillic": among(0x410, 0x44F),
        "random Arabic": among(0x621, 0x64A),
        "random Hindi": among(0x905, 0x94D),
        "random Thai": among(0xE01, 0xE3A),
        "random Ethiopic": among(0x1200, 0x135A),
        "random kana": among(0x3041, 0x30FA),
        "random Chinese": among(0x4E00, 0x9FA5),
        "rare Chinese": among(0x20000, 0x2A6D6),
        "random Hangul": among(0xAC00, 0xD7A3),
        "emoji": of("😀👍🏽👩🧑🚀🇨🇳\u200d\ufe0f"),
        "marks": of([chr(mark) for mark in range(0x300, 0x36F)] + ["e"] * 50),
        "random tokens": of(tokens),
        "tokens cut short": of([token[: rng.randint(1, len(token))] for token in tokens if token]),
    }


def gpt2_like(documents: list[str]) -> Tokenizer:
    """Return a BPE of GPT-2's kind, of at most its size, trained on some documents."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        documents, trainers.BpeTrainer(vocab_size=50257, initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


def whole_text_wordpiece() -> Tokenizer:
    """Return WordPiece on World tokens without a split before it, as repositories of RWKV-7 have it."""
    unknown = "no token"  # a space, so no text spells it: in the byte alphabet a space is another character
    words = {unknown: 0} | {token_to_chars(token): index for index, token in read_vocab().items()}
    options = {"unk_token": unknown, "continuing_subword_prefix": "", "max_input_chars_per_word": 4 * DOCUMENT}
    tokenizer = Tokenizer(models.WordPiece(words, **options))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return tokenizer


def in_batch(tokenizer: Tokenizer, offsets: bool = True) -> Encode:
    """Return the function that a batch goes through; transformers calls the one with offsets."""
    encode = tokenizer.encode_batch if offsets else tokenizer.encode_batch_fast
    return lambda documents: [encoding.ids for encoding in encode(documents)]


def one_by_one(encode: Callable[[str], list[int]]) -> Encode:
    return lambda documents: [encode(document) for document in documents]


def sides(training: list[str]) -> list[Side]:
    """Return ours and the others; the first is the reference. ``training`` is for BPE."""
    fast = build_fast_tokenizer()
    fast.encode_special_tokens = True  # the reference knows no special tokens
    found = [
        Side("TRIE_TOKENIZER", one_by_one(reference_tokenizer().encode)),
        Side("ours", in_batch(fast)),
        Side("ours, no offsets", in_batch(fast, offsets=False)),
        Side("ours, all cores", in_batch(fast), all_cores=True),
        Side("GPT-2's BPE", in_batch(gpt2_like(training)), world=False),
        Side("WordPiece, whole text", in_batch(whole_text_wordpiece()), share=0.002),
    ]
    if importlib.util.find_spec("pyrwkv_tokenizer"):
        rust = importlib.import_module("pyrwkv_tokenizer").RWKVTokenizer()
        found.append(Side("pyrwkv-tokenizer (Rust)", one_by_one(rust.encode)))
    return found


@contextmanager
def on_cores(every: bool) -> Iterator[None]:
    """Let the library use all cores, or one."""
    before = os.environ.get(THREADS)
    os.environ[THREADS] = "true" if every else "false"
    try:
        yield
    finally:
        os.environ.pop(THREADS) if before is None else os.environ.update({THREADS: before})


def timed(side: Side, documents: list[str]) -> tuple[float, list[list[int]]]:
    """Return seconds and ids."""
    with on_cores(side.all_cores):
        start = time.perf_counter()
        ids = side.encode(documents)
        return time.perf_counter() - start, ids


def size_of(documents: list[str]) -> int:
    return sum(len(document.encode()) for document in documents)


def measure(found: list[Side], documents: list[str], repeat: int) -> dict:
    """Return megabytes a second of all sides, which run in turn; the first run of each warms up and is checked.

    Raises:
        RuntimeError: a tokenizer with the World vocabulary gives other ids than the first.
    """
    expected = found[0].encode(documents)
    shares = {side.name: documents[: max(1, round(side.share * len(documents)))] for side in found}
    for side in found:
        side.seconds.clear()
        _, ids = timed(side, shares[side.name])
        if side.world and ids != expected[: len(ids)]:
            raise RuntimeError(f"{side.name} gives other ids than {found[0].name}, so its speed means nothing")
    for _ in range(repeat):
        for side in found:
            side.seconds.append(timed(side, shares[side.name])[0])
    speeds = {}
    for side in found:
        runs = sorted(size_of(shares[side.name]) / 1e6 / seconds for seconds in side.seconds)
        numbers = {"median": statistics.median(runs), "slowest": runs[0], "fastest": runs[-1]}
        speeds[side.name] = {name: round(value, 3) for name, value in numbers.items()}
    return {"bytes": size_of(documents), "tokens": sum(map(len, expected)), "megabytes_per_second": speeds}


def measure_unusual(side: Side, repeat: int, size: int = 20_000) -> dict[str, float]:
    """Return nanoseconds a byte of each unusual text, in documents of 2,000 characters."""
    costs: dict[str, list[float]] = {}
    for _ in range(repeat):
        for kind, text in unusual_texts(size).items():
            documents = [text[start : start + DOCUMENT] for start in range(0, len(text), DOCUMENT)]
            costs.setdefault(kind, []).append(1e9 * timed(side, documents)[0] / size_of(documents))
    return {kind: round(statistics.median(values), 1) for kind, values in costs.items()}


def machine() -> dict:
    """Return what the numbers depend on."""
    info = {
        "system": platform.system(),
        "cpu": processor(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
    }
    peers = ["pyrwkv_tokenizer"] if importlib.util.find_spec("pyrwkv_tokenizer") else []
    return info | {package: version(package) for package in ("tokenizers", "rwkv", *peers)}


def show(rows: list[dict], unusual: dict[str, float]) -> None:
    """Print the two tables."""
    kinds = [row["text"] for row in rows]
    print(f"{'MB/s, median':26}" + "".join(f"{kind:>12}" for kind in kinds))
    for name in rows[0]["megabytes_per_second"]:
        medians = [row["megabytes_per_second"][name]["median"] for row in rows]
        print(f"{name:26}" + "".join(f"{value:>12.2f}" for value in medians))
    middle = statistics.median(unusual.values())
    print(f"\nnanoseconds a byte of {len(unusual)} unusual kinds of text: {middle:.0f} in the middle; the dearest:")
    for kind in sorted(unusual, key=lambda kind: -unusual[kind])[:5]:
        print(f"{kind:26}{unusual[kind]:>12.0f}{unusual[kind] / middle:>8.1f} times that")


def run(count: int = 1000, repeat: int = 5, data: Path | None = None, out: Path = OUT) -> dict:
    """Measure all kinds of text; write, print and return the results.

    Args:
        count: documents of each kind.
        repeat: runs of each side, of which the median counts.
        data: a text file to measure, too.

    Raises:
        InputError: a number is below 1, ``data`` is no long enough text, or ``out`` cannot be written.
    """
    check_counts(documents=count, repeat=repeat)
    check_output(out)
    documents = documents_by_kind(count, data)
    found = sides([document for kind in documents.values() for document in kind])
    rows = [{"text": kind, **measure(found, texts, repeat)} for kind, texts in documents.items()]
    unusual = measure_unusual(found[1], repeat)
    results = {
        "machine": machine(),
        "documents": count,
        "repeat": repeat,
        "rows": rows,
        "nanoseconds_per_byte": unusual,
    }
    write_text(out, json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    show(rows, unusual)
    return results
