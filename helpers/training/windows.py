"""Cut a corpus into windows of T + 1 tokens, again and again, each time augmented anew: the epochs of a training run.

A corpus is a text file, or one packed with xz, with a line ``<|doc|>`` between documents. Its documents are dealt out
to ``SHARDS`` parts of about equal size. One epoch of one shard is one pair of files, written by one of several
processes while the training runs::

    ids-0003-17.npy    (n, T + 1) uint16   token ids of epoch 3, shard 17
    kinds-0003-17.npy  (n, T + 1) uint8    what the loss does with each token: see PADDING to Kind.REPEATED

The same seed gives the same files, whatever the number of processes.
"""

import hashlib
import json
import lzma
import multiprocessing
import os
import random
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import IntEnum
from functools import cached_property
from multiprocessing.pool import AsyncResult, Pool
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import MARK, claim, remove_empty, replaced_file, write_text
from ..errors import InputError
from ..inputs import check_regular
from ..tokenizer.fast import build_fast_tokenizer
from ..tokenizer.vocab import read_vocab
from .augment import WORD, Augmenter, Lexicon, build_lexicon
from .options import WindowOptions, difference

SHARDS = 32
OPTIONS = "options.json"  # in the folder of windows: what they were made from
FILES = re.compile(r"(?:(?:ids|kinds)-\d{4,}-\d\d\.npy|\.(?:ids|kinds|options)[-.\w]*\.\d+\.partial|options\.json)")
LOOK = 2  # seconds between two looks at whether the processes live
CHARACTERS_TOGETHER = 400_000  # of a document
SENTENCE_END = re.compile(r"[.!?][\"')]*\s+(?=[\"'(A-Z])|\n\n")
DOCUMENT_MARK = "<|doc|>"


class Kind(IntEnum):
    """What a token is to the loss."""

    PADDING = 0
    ORDINARY = 1
    INSERTED = 2  # the first time that a put-in word occurs, which nothing announces
    REPEATED = 3  # a content word that the window has had before


def read_corpus(path: str | Path) -> list[str]:
    """Return the documents of a corpus.

    Raises:
        InputError: the file cannot be read, is not UTF-8, or holds fewer than 1,000 characters.
    """
    remedy = "give a UTF-8 text file, or one in .xz"
    check_regular(path, "the corpus", remedy)
    try:
        with (lzma.open if str(path).endswith(".xz") else open)(path, "rt", encoding="utf-8") as file:
            text = file.read()
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read the corpus {path}: {error}; {remedy}.") from None
    if len(text) < 1000:
        raise InputError(f"The corpus {path} has only {len(text)} characters; give a longer text.")
    return [document for part in text.split(DOCUMENT_MARK) if (document := part.strip("\n"))]


def hash_corpus(documents: list[str]) -> str:
    """Return the SHA-256 of the documents of a corpus, packed or not, in hexadecimal."""
    return hashlib.sha256(json.dumps(documents).encode()).hexdigest()


def deal(documents: list[str]) -> list[list[str]]:
    """Deal pieces of documents out to shards of about equal size; the same documents give the same shards."""
    pieces = [
        doc[start : start + CHARACTERS_TOGETHER]
        for doc in documents
        for start in range(0, len(doc), CHARACTERS_TOGETHER)
    ]
    shards: list[list[str]] = [[] for _ in range(SHARDS)]
    sizes = [0] * SHARDS
    for piece in sorted(pieces, key=len, reverse=True):
        smallest = sizes.index(min(sizes))
        shards[smallest].append(piece)
        sizes[smallest] += len(piece)
    return shards


class WindowMaker:
    """Makes the windows of one shard after the other. Each process has one."""

    def __init__(self, lexicon: Lexicon, vocabulary: dict[int, bytes], options: WindowOptions):
        self.options = options
        self.augment = Augmenter(lexicon, options.rename, options.styles)
        self.tokenizer = build_fast_tokenizer(vocabulary)
        self.content = np.zeros(1 << 16, dtype=bool)  # word-like tokens that are not among the most frequent words
        for index, token in vocabulary.items():
            word = token.removeprefix(b" ").decode("ascii", errors="replace")
            self.content[index] = word.isascii() and word.isalpha() and word not in lexicon.common_words

    def shard(self, pieces: list[str], epoch: int, shard: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ids (n, T + 1) uint16 and kinds (n, T + 1) uint8 of one epoch of one shard."""
        rng = random.Random(f"{self.options.seed} {epoch} {shard}")
        rows = [row for piece in pieces for row in self.windows(piece, rng)]
        if not rows:
            empty = np.zeros((0, self.options.length + 1))
            return empty.astype(np.uint16), empty.astype(np.uint8)
        ids, kinds = (np.stack(column) for column in zip(*rows, strict=True))
        again = seen_before(ids) & self.content[ids] & (kinds == Kind.ORDINARY)
        return ids, np.where(again, Kind.REPEATED, kinds).astype(np.uint8)

    def windows(self, text: str, rng: random.Random) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield windows that begin at sentences, one behind the other, from a random start."""
        reach = 6 * self.options.length  # characters: more than enough for T + 1 tokens of prose
        position = rng.randrange(max(1, min(1000, len(text) // 2)))
        while position < len(text) - 200:
            sentence = SENTENCE_END.search(text, position, position + 400) if position else None
            start = sentence.end() if sentence else position
            passage, inserted = self.augment(text[start : start + reach].strip("\n"), rng)
            encoding = self.tokenizer.encode(passage)
            ids, kinds = self.window(encoding, passage, inserted, rng)
            yield ids, kinds
            used = min(1.0, (self.options.length + 1) / max(1, len(encoding.ids)))
            position = start + max(1, int(reach * used))

    def window(self, encoding, passage: str, inserted: list[str], rng: random.Random) -> tuple[np.ndarray, np.ndarray]:
        """Return the first T + 1 tokens, in 30 % of the cases with id 0, end of text, in front; and their kinds."""
        size = self.options.length + 1
        offset = 1 if rng.random() < 0.3 else 0
        tokens = encoding.ids[: size - offset]
        ids, kinds = np.zeros(size, dtype=np.uint16), np.full(size, Kind.PADDING, dtype=np.uint8)
        ids[offset : offset + len(tokens)] = tokens
        kinds[: offset + len(tokens)] = Kind.ORDINARY
        for word in inserted:
            found = re.search(rf"\b{word}\b", passage)
            if found:
                first, last = (encoding.char_to_token(i) for i in (found.start(), found.end() - 1))
                kinds[offset + first : min(offset + last + 1, offset + len(tokens))] = Kind.INSERTED
        return ids, kinds


def seen_before(ids: np.ndarray) -> np.ndarray:
    """Return where a row has a token that occurs earlier in the row, (n, T) bool."""
    order = np.argsort(ids, axis=1, kind="stable")
    ranked = np.take_along_axis(ids, order, axis=1)
    repeated = np.zeros(ids.shape, dtype=bool)
    repeated[:, 1:] = ranked[:, 1:] == ranked[:, :-1]
    result = np.empty_like(repeated)
    np.put_along_axis(result, order, repeated, axis=1)
    return result


_worker: list["ShardWriter"] = []  # the writer of this process


@dataclass(frozen=True)
class ShardWriter:
    """Writes the files of any shard of any epoch."""

    folder: Path
    shards: list[list[str]]
    lexicon: Lexicon
    options: WindowOptions

    @cached_property
    def maker(self) -> WindowMaker:
        return WindowMaker(self.lexicon, read_vocab(), self.options)

    def write(self, epoch: int, shard: int) -> None:
        paths = shard_paths(self.folder, epoch, shard)
        if paths[1].exists():  # it is written last
            return
        arrays = self.maker.shard(self.shards[shard], epoch, shard)
        for path, array in zip(paths, arrays, strict=True):
            with replaced_file(path) as partial, open(partial, "wb") as file:
                np.save(file, array)


def _leave_ctrl_c() -> None:
    """Let the main process alone answer Ctrl+C, which reaches every process: it ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _start_worker(writer: ShardWriter) -> None:
    _leave_ctrl_c()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _worker.append(writer)


def _write_shard(job: tuple[int, int]) -> None:
    _worker[-1].write(*job)


def count_words(texts: list[str]) -> Counter[str]:
    """Return how often each run of ASCII letters occurs, with its case."""
    return Counter(word for text in texts for word in WORD.findall(text))


class Windows:
    """The epochs of windows of a corpus: read one, and the next two are being made meanwhile.

    Args:
        corpus: see the module.
        folder: of the files. Two runs may share it; finished files are used again.
        processes: that make windows beside this one; 0 makes them when they are asked for.

    Raises:
        InputError: the corpus is unusable, or the folder holds windows of other options or of another corpus.
    """

    def __init__(self, corpus: str | Path, folder: str | Path, options: WindowOptions, processes: int = 0):
        self.folder = Path(folder)
        self.pool: Pool | None = None
        self.pending: dict[int, AsyncResult] = {}
        documents = read_corpus(corpus)
        self.corpus = hash_corpus(documents)
        shards = deal(documents)
        remember_options(self.folder, options, self.corpus)
        counts: Counter[str] = Counter()
        if processes:
            pool = self.start(processes, _leave_ctrl_c)
            counts = sum(self.wait_for(pool.map_async(count_words, shards, chunksize=1)), counts)
            pool.terminate()
        else:
            counts = sum(map(count_words, shards), counts)
        self.writer = ShardWriter(self.folder, shards, build_lexicon(counts, read_vocab()), options)
        if processes:
            self.start(processes, _start_worker, self.writer)

    def start(self, processes: int, initializer: Callable, *arguments: Any) -> Pool:
        """Start the pool, keep in mind which processes it has, and return it."""
        others = set(multiprocessing.active_children())
        self.pool = pool = multiprocessing.Pool(processes, initializer, arguments)
        self.workers = {child.pid for child in set(multiprocessing.active_children()) - others}
        return pool

    def request(self, epoch: int) -> None:
        """Have the files of an epoch made in the background."""
        if self.pool and epoch not in self.pending:
            jobs = [(epoch, shard) for shard in range(SHARDS)]
            random.Random(os.getpid() + epoch).shuffle(jobs)  # runs that share a folder share the work
            self.pending[epoch] = self.pool.map_async(_write_shard, jobs, chunksize=1)

    def epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ids (n, T + 1) uint16 and kinds (n, T + 1) uint8 of an epoch, waiting for them if need be.

        Raises:
            InputError: the disk is full, a file is damaged, or a process that makes windows was killed.
        """
        if self.pool is None:
            for shard in range(SHARDS):
                self.writer.write(epoch, shard)
        else:
            for number in range(epoch, epoch + 3):
                self.request(number)
            self.wait_for(self.pending.pop(epoch))
        parts = [[load_array(path) for path in shard_paths(self.folder, epoch, shard)] for shard in range(SHARDS)]
        ids, kinds = (np.concatenate(column) for column in zip(*parts, strict=True))
        return ids, kinds

    def wait_for(self, result: AsyncResult) -> Any:
        """Return what the pool makes; it puts new processes in the place of killed ones, but loses their work."""
        while not result.ready():
            result.wait(LOOK)
            if self.workers - {child.pid for child in multiprocessing.active_children()}:
                raise InputError(
                    "A process that prepares text was killed, perhaps for want of memory; give fewer --processes."
                )
        return result.get()

    def close(self) -> None:
        if self.pool:
            self.pool.terminate()

    def remove(self) -> None:
        """Remove the files, and the folder if nothing else is in it."""
        for path in self.folder.iterdir():
            if FILES.fullmatch(path.name):
                path.unlink()
        (self.folder / MARK).unlink(missing_ok=True)  # what others put there is not ours
        remove_empty([self.folder])


def shard_paths(folder: Path, epoch: int, shard: int) -> tuple[Path, Path]:
    """Return the files of token ids and of kinds."""
    ids, kinds = (folder / f"{name}-{epoch:04d}-{shard:02d}.npy" for name in ("ids", "kinds"))
    return ids, kinds


def load_array(path: Path) -> np.ndarray:
    """Return what is in one of the files.

    Raises:
        InputError: it is damaged.
    """
    try:
        return np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"Cannot read the windows {path}: {error}; remove that file, and it is made again.") from None


def remember_options(folder: Path, options: WindowOptions, corpus: str) -> None:
    """Write what the windows are made from into the folder.

    Raises:
        InputError: the folder holds windows that were made from something else, or files that are no windows.
    """
    path, ours = folder / OPTIONS, {"corpus": corpus} | asdict(options)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        claim(folder)
        theirs = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except ValueError:
        raise InputError(f"{path} is damaged; remove the folder {folder}.") from None
    except OSError as error:
        raise InputError(f"Cannot write windows into {folder}: {error.strerror}; give another folder.") from None
    if theirs is not None and (found := difference(theirs, ours)):
        raise InputError(f"{folder} holds windows of another run: {found}; give another folder, or remove that one.")
    write_text(path, json.dumps(ours) + "\n")
