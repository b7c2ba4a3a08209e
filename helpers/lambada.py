"""LAMBADA: does a model predict the last word of a passage? The protocol, and two ways to run it.

Protocol of BlinkDL's scripts: the context is the text up to its last space, the target is that space and the last
word; both are encoded apart. Perplexity is exp(-sum of the targets' log-probabilities / documents), and a document is
correct if every token of its target is the most probable one. LAMBADA is by Paperno et al., 2016 (arXiv 1606.06031).

:func:`score_original` is the loop of those scripts over the ``rwkv`` package, one document at a time.
:func:`score_converted` gives the same numbers from a transformers model, many documents at a time. The command, which
adds files of results and several processes, is in ``lambada_run.py``.
"""

import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from .errors import InputError
from .paths import DATA

SAMPLE = DATA / "lambada_style_sample.jsonl"  # passages of ours, for a check without a network
HUB_REPO, HUB_FILE = "EleutherAI/lambada_openai", "data/lambada_test_en.jsonl"
PREFIXES = ("none", "eot", "newline")  # nothing, id 0, or a line break before each passage
PIECE = 4096  # tokens that the rwkv package reads at once: its memory grows with the square of them


@dataclass(frozen=True)
class Document:
    """Token ids of one passage; the prefix, if any, is part of the context."""

    context: list[int]
    target: list[int]

    @property
    def ids(self) -> list[int]:
        """What a model reads: all but the last token, which it only has to predict."""
        return self.context + self.target[:-1]


@dataclass(frozen=True)
class Result:
    """Natural logarithm of the target's probability, and whether every token of it was the most probable one."""

    logprob: float
    correct: bool


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


def score_targets(logits: Tensor, targets: list[list[int]]) -> list[Result]:
    """Score targets: ``logits`` (M, V) are the predictions of all their tokens, one target after the other."""
    ids = torch.tensor([index for target in targets for index in target], device=logits.device)
    logits = logits.float()
    logprobs = logits.gather(1, ids[:, None])[:, 0] - torch.logsumexp(logits, dim=-1)
    hits = logits.argmax(-1) == ids
    logprobs, hits, start, results = logprobs.tolist(), hits.tolist(), 0, []  # one transfer from a GPU for all targets
    for target in targets:
        part = slice(start, start + len(target))
        results.append(Result(math.fsum(logprobs[part]), all(hits[part])))
        start += len(target)
    return results


def score_batches(
    score: Callable[[list[Document]], list[Result]], documents: list[Document], batches: list[list[int]]
) -> Iterator[dict[int, Result]]:
    """Score batch after batch; yield the results of each, by the index of the document."""
    for batch in batches:
        yield dict(zip(batch, score([documents[i] for i in batch]), strict=True))


def score_original(oracle, documents: list[Document]) -> Iterator[dict[int, Result]]:
    """Score documents with the ``rwkv`` package, one at a time."""
    return score_batches(partial(score_with_oracle, oracle), documents, [[i] for i in range(len(documents))])


def score_with_oracle(oracle, documents: list[Document]) -> list[Result]:
    """Score documents one after the other, as BlinkDL's script and the article do: all logits at once.

    A text of more than ``PIECE`` tokens is read in pieces; a recurrent model can do that without any difference.
    """
    results = []
    for document in documents:
        ids, state = document.ids, None
        while len(ids) - PIECE >= len(document.target):
            _, state = oracle.forward(ids[:PIECE], state)
            ids = ids[PIECE:]
        logits, _ = oracle.forward(ids, state, full_output=True)
        logits = logits.reshape(len(ids), -1)[-len(document.target) :]
        results += score_targets(logits, [document.target])
    return results


def score_converted(model, documents: list[Document], batch_tokens: int | None = None) -> Iterator[dict[int, Result]]:
    """Score documents with a transformers model, batch by batch, the longest first."""
    batch_tokens = batch_tokens or default_batch_tokens(model.device)
    score = partial(score_batch, model, piece=batch_tokens)
    return score_batches(score, documents, plan_batches(documents, batch_tokens))


def plan_batches(documents: list[Document], batch_tokens: int) -> list[list[int]]:
    """Group documents of similar length, longest first, and return their indices.

    A batch, padded to its longest row, has at most ``batch_tokens`` tokens, or it is a single document. Longest first:
    if memory does not suffice, that shows at once.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(documents)), key=lambda i: -len(documents[i].ids)):
        longest = len(documents[batches[-1][0]].ids) if batches else 0
        if batches and longest * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


@torch.inference_mode()
def score_batch(model, documents: list[Document], piece: int) -> list[Result]:
    """Score some documents with a transformers model.

    Padding stands on the right, where a causal model cannot see it. The head is computed only where a target token is
    predicted: with 65,536 rows it would otherwise cost as much as several blocks.

    Args:
        piece: a single document of more tokens is read in pieces of so many, with the state carried on.
    """
    rows = [document.ids for document in documents]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=model.device)
    in_pieces = len(rows) == 1 and longest > piece
    hidden, state = [], None
    for part in ids.split(piece if in_pieces else longest, dim=1):
        output = model.base_model(part, use_cache=in_pieces, **({"state": state} if in_pieces else {}))
        hidden.append(output[0])
        state = output.state if in_pieces else None
    h = torch.cat(hidden, dim=1)  # (B, T, D)
    targets = [document.target for document in documents]
    ends = [x[len(row) - len(target) : len(row)] for x, row, target in zip(h, rows, targets, strict=True)]
    return score_targets(model.get_output_embeddings()(torch.cat(ends)), targets)


def default_batch_tokens(device: torch.device | str) -> int:
    """Return how many tokens a batch should have: what stays in a CPU's caches, or what keeps a GPU busy."""
    return 1024 if torch.device(device).type == "cpu" else 32768


def summarize(results: list[Result]) -> tuple[float, float]:
    """Return perplexity and accuracy in percent."""
    logprob = math.fsum(result.logprob for result in results)
    return math.exp(-logprob / len(results)), 100 * sum(result.correct for result in results) / len(results)


def running_line(results: list[Result]) -> str:
    """Return BlinkDL's line about the documents so far, rounded as he does: ``# 100 ppl 42.41 acc 34.0``."""
    perplexity, accuracy = summarize(results)
    return f"# {len(results)} ppl {round(perplexity, 2)} acc {round(accuracy, 2)}"


class Progress:
    """A bar that counts documents as they are made, and BlinkDL's lines in the order of the documents."""

    def __init__(self, total: int, show: bool):
        # disable=None: no bar where standard error is not a terminal, as in a notebook or a log file
        self.bar = tqdm(total=total, unit="doc", file=sys.stderr, disable=None if show else True)
        self.results: dict[int, Result] = {}
        self.in_order: list[Result] = []
        self.total, self.show = total, show

    def add(self, results: dict[int, Result], lines: bool = True) -> None:
        """Count ``results``; with ``lines``, print those that are due, for documents of which all before are there."""
        self.bar.update(len(results.keys() - self.results.keys()))
        self.results |= results
        while lines and len(self.in_order) in self.results:
            self.in_order.append(self.results[len(self.in_order)])
            if self.show and (len(self.in_order) % 100 == 0 or len(self.in_order) == self.total):
                self.bar.write(running_line(self.in_order), file=sys.stdout)


def collect(scores: Iterable[dict[int, Result]], total: int, show: bool = True) -> list[Result]:
    """Return all results in the order of the documents; ``show`` a progress bar and BlinkDL's lines meanwhile."""
    progress = Progress(total, show)
    for results in scores:
        progress.add(results)
    progress.bar.close()
    return progress.in_order


def compare(ours: list[Result], theirs: list[Result]) -> tuple[float, list[int]]:
    """Return the largest difference of log-probabilities, and the documents that one side got right and one wrong."""
    pairs = list(zip(ours, theirs, strict=True))
    return max(abs(a.logprob - b.logprob) for a, b in pairs), [
        i for i, (a, b) in enumerate(pairs) if a.correct != b.correct
    ]


def load_model(
    folder: str | Path,
    trust: bool = True,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    device_map: str | dict | None = None,
    **options,
):
    """Load a converted directory in evaluation mode.

    Args:
        trust: run the code that it carries; without it, only classes of transformers itself.
        device_map: as in transformers, for example ``"auto"``, which spreads a model over several GPUs; without it the
            whole model goes to ``device``.
        options: other arguments of ``from_pretrained``.

    Raises:
        InputError: it is not a directory with a complete model.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    folder = Path(folder)
    check_directory(folder)
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, trust_remote_code=trust, dtype=dtype, device_map=device_map, output_loading_info=True, **options
        )
    except (OSError, ValueError, RuntimeError, KeyError, SyntaxError, ImportError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(f"Cannot load the model {folder}: {reason}; convert it again.") from None
    if info["missing_keys"]:
        raise InputError(f"{folder} has no tensor {min(info['missing_keys'])}; convert it again.")
    return (model if device_map else model.to(device)).eval()


def check_directory(folder: Path) -> None:
    """Raise InputError if ``folder`` is no model directory."""
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} is not a converted model: it has no config.json; run convert first.")


def check_vocabulary(rows: int, documents: list[Document], source: str | Path) -> None:
    """Raise InputError if an id of the documents has no row in a model's embedding: it is not a World model."""
    largest = max(max(document.context + document.target) for document in documents)
    if largest >= rows:
        raise InputError(
            f"{source} knows {rows:,} tokens, but the passages use World id {largest}; take a World model."
        )
