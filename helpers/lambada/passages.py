"""LAMBADA's passages: read them, and cut each into a context and the target that a model has to predict.

Protocol of BlinkDL's scripts: the context is the text up to its last space, the target is that space and the last
word; both are encoded apart. LAMBADA is by Paperno et al., 2016 (arXiv 1606.06031).
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..checkpoints.versions import WORLD_IDS
from ..errors import InputError
from ..inputs import check_regular
from ..paths import DATA

SAMPLE = DATA / "lambada_style_sample.jsonl"  # passages of ours, for a check without a network
HUB_REPO, HUB_FILE = "EleutherAI/lambada_openai", "data/lambada_test_en.jsonl"
PREFIXES = ("none", "eot", "newline")  # nothing, id 0, or a line break before each passage


@dataclass(frozen=True)
class Document:
    """Token ids of one passage; the prefix, if any, is part of the context."""

    context: list[int]
    target: list[int]

    @property
    def inputs(self) -> list[int]:
        """What a model reads: all but the last token, which it only has to predict."""
        return self.context + self.target[:-1]


def read_texts(path: str | Path = SAMPLE, limit: int | None = None) -> list[str]:
    """Return the passages of a JSON Lines file with the field ``text``, or of ``"hub"``, LAMBADA's test set there.

    Empty lines are skipped. A passage that occurs twice counts twice.

    Raises:
        InputError: the file cannot be read or is empty, the limit is below 1, or a line holds something else, fewer
            than two words, or white space at the end.
    """
    if limit is not None and limit < 1:
        raise InputError(f"The limit is {limit}; give a number of passages from 1 on, or none for all of them.")
    path = download_test_set() if str(path) == "hub" else Path(path)
    check_regular(path, "the passages", "give a JSON Lines file")
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read the passages {path}: {error}; give a JSON Lines file.") from None
    texts: list[str] = []
    for number, line in enumerate(content.split("\n"), start=1):  # splitlines() would also split at U+2028
        if line.strip() and len(texts) != limit:
            texts.append(parse_passage(line, f"{path}, line {number}"))
    if not texts:
        raise InputError(f"{path} has no passages; give a JSON Lines file with the field text.")
    return texts


def parse_passage(line: str, where: str) -> str:
    """Return the field ``text`` of one line; ``where`` begins the error message.

    Raises:
        InputError: see :func:`read_texts`.
    """
    try:
        text = json.loads(line)["text"]
        text.encode("utf-8")  # JSON can hold half of a surrogate pair, which is no text
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f'{where}: expected an object such as {{"text": "A passage"}}.') from None
    context, _, word = text.rpartition(" ")
    if not context.strip() or not word:
        raise InputError(f"{where}: a passage needs at least two words, the last after a space.")
    if text != text.rstrip():
        raise InputError(f"{where}: the passage ends in white space, so its last word is not at its end; remove it.")
    return text


def download_test_set() -> Path:
    """Return LAMBADA's English test set (5,153 passages, 1.8 MB), downloaded from the Hub or from its cache.

    Raises:
        InputError: there is no network, and the file is not in the cache.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(HUB_REPO, HUB_FILE, repo_type="dataset"))
    except (HfHubHTTPError, LocalEntryNotFoundError):
        raise InputError(f"Cannot get {HUB_FILE} of {HUB_REPO} from the Hub; give a local file to --data.") from None
    except OSError as error:
        raise InputError(
            f"Cannot keep {HUB_FILE} in the cache: {error.strerror or error}; set HF_HOME to another folder."
        ) from None


def hash_texts(texts: list[str]) -> str:
    """Return the SHA-256 of the passages, in hexadecimal."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def encode(texts: Iterable[str], encoder: Callable[[str], list[int]], prefix: str = "none") -> list[Document]:
    """Split each passage into context and target and encode both apart. ``encoder`` maps ordinary text to ids."""
    start = {"none": [], "eot": [0], "newline": encoder("\n")}[prefix]
    documents = []
    for text in texts:
        context, _, word = text.rpartition(" ")
        documents.append(Document(start + encoder(context), encoder(" " + word)))
    return documents


def check_vocabulary(rows: int, documents: list[Document], source: str | Path) -> None:
    """Raise InputError if a model does not know all World tokens, whether the documents use the others or not."""
    largest = max(max(document.context + document.target) for document in documents)
    if largest >= rows:
        raise InputError(
            f"{source} knows {rows:,} tokens, but the passages use World id {largest}; take a World model."
        )
    if rows < WORLD_IDS:  # the ids would be other words to it, and the numbers mean nothing
        raise InputError(f"{source} knows {rows:,} tokens, not the {WORLD_IDS:,} of World; take a World model.")
