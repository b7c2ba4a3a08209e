"""LAMBADA: does a model predict the last word of a passage? Original and converted model, document by document.

Protocol of BlinkDL's scripts: the context is the text up to its last space, the target is that space and the last
word; both are encoded apart. Perplexity is exp(-sum of the targets' log-probabilities / documents), and a document is
correct if every token of its target is the most probable one. LAMBADA is by Paperno et al., 2016 (arXiv 1606.06031).
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .errors import InputError

HUB_REPO, HUB_FILE = "EleutherAI/lambada_openai", "data/lambada_test_en.jsonl"
PREFIXES = ("none", "eot", "newline")  # nothing, id 0, or a line break before each passage


@dataclass(frozen=True)
class Document:
    """Token ids of one passage; the prefix, if any, is part of the context."""

    context: list[int]
    target: list[int]


@dataclass(frozen=True)
class Result:
    """Natural logarithm of the target's probability, and whether every token of it was the most probable one."""

    logprob: float
    correct: bool


def read_texts(path: str | Path, limit: int | None = None) -> list[str]:
    """Return the passages of a JSON Lines file with the field ``text``, or of ``"hub"``, LAMBADA's test set there.

    Raises:
        InputError: the file cannot be read or is empty, or a line is no such object or has fewer than two words.
    """
    if str(path) == "hub":
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            path = hf_hub_download(HUB_REPO, HUB_FILE, repo_type="dataset")
        except (HfHubHTTPError, LocalEntryNotFoundError):
            raise InputError(
                f"Cannot get {HUB_FILE} of {HUB_REPO} from the Hub; give a local file to --data."
            ) from None
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read the passages {path}: {error}; give a JSON Lines file.") from None
    texts = []
    for number, line in enumerate(lines[:limit], start=1):
        try:
            text = json.loads(line)["text"]
            context, _, word = text.rpartition(" ")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f'{path}, line {number}: expected an object such as {{"text": "A passage"}}.') from None
        if not context.strip() or not word:
            raise InputError(f"{path}, line {number}: a passage needs at least two words, the last after a space.")
        texts.append(text)
    if not texts:
        raise InputError(f"{path} has no passages; give a JSON Lines file with the field text.")
    return texts


def encode(texts: Iterable[str], encoder: Callable[[str], list[int]], prefix: str = "none") -> list[Document]:
    """Split each passage into context and target and encode both apart. ``encoder`` maps ordinary text to ids."""
    start = {"none": [], "eot": [0], "newline": encoder("\n")}[prefix]
    documents = []
    for text in texts:
        context, _, word = text.rpartition(" ")
        documents.append(Document(start + encoder(context), encoder(" " + word)))
    return documents


def score_target(logits: Tensor, target: list[int]) -> Result:
    """Score one target: ``logits`` (len(target), V) are the predictions of its tokens."""
    ids = torch.tensor(target, device=logits.device)
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    chosen = logprobs.gather(1, ids[:, None])
    return Result(chosen.sum().item(), bool((logits.argmax(-1) == ids).all()))


def score_original(oracle, documents: list[Document]) -> Iterator[Result]:
    """Score documents one at a time with the ``rwkv`` package, as the article does."""
    for document in documents:
        ids = document.context + document.target
        logits, _ = oracle.forward(ids[:-1], None, full_output=True)
        logits = logits.reshape(len(ids) - 1, -1)
        yield score_target(logits[-len(document.target) :], document.target)


def score_converted(model, documents: list[Document], tokens_per_batch: int = 2048) -> Iterator[Result]:
    """Score documents with a transformers model and yield the results in the order of the documents.

    Documents of similar length share a batch. Padding stands on the right, where a causal model cannot see it, and the
    head is computed only where a target token is predicted.
    """
    order = sorted(range(len(documents)), key=lambda i: len(documents[i].context) + len(documents[i].target))
    results: dict[int, Result] = {}
    following = 0
    for batch in batches(documents, order, tokens_per_batch):
        results |= zip(batch, score_batch(model, [documents[i] for i in batch]), strict=True)
        while following in results:
            yield results[following]
            following += 1


def batches(documents: list[Document], order: list[int], tokens: int) -> Iterator[list[int]]:
    """Group indices, sorted by length, so that a padded batch has at most ``tokens`` tokens, or a single document."""
    batch: list[int] = []
    for index in order:
        length = len(documents[index].context) + len(documents[index].target)
        if batch and length * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


@torch.inference_mode()
def score_batch(model, documents: list[Document]) -> list[Result]:
    """Score some documents in one forward."""
    rows = [document.context + document.target[:-1] for document in documents]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=model.device)
    hidden = model.base_model(ids, use_cache=False)[0]
    wanted = [
        hidden[i, len(row) - len(d.target) : len(row)] for i, (row, d) in enumerate(zip(rows, documents, strict=True))
    ]
    logits = model.get_output_embeddings()(torch.cat(wanted))
    parts = logits.split([len(document.target) for document in documents])
    return [score_target(part, document.target) for part, document in zip(parts, documents, strict=True)]


def summarize(results: list[Result]) -> tuple[float, float]:
    """Return perplexity and accuracy in percent."""
    logprob = sum(result.logprob for result in results)
    return math.exp(-logprob / len(results)), 100 * sum(result.correct for result in results) / len(results)


def running_line(results: list[Result]) -> str:
    """Return BlinkDL's line about the documents so far, ``# 100 ppl 42.41 acc 34.0``."""
    perplexity, accuracy = summarize(results)
    return f"# {len(results)} ppl {perplexity:.2f} acc {accuracy:.2f}"


def collect(scores: Iterable[Result], total: int, lines: bool = True) -> list[Result]:
    """Collect results with a progress bar, printing a running line every 100 documents and at the end."""
    results: list[Result] = []
    for result in tqdm(scores, total=total, unit="doc", file=sys.stderr, disable=not lines):
        results.append(result)
        if lines and (len(results) % 100 == 0 or len(results) == total):
            tqdm.write(running_line(results), file=sys.stdout)
    return results


def compare(ours: list[Result], theirs: list[Result]) -> tuple[float, list[int]]:
    """Return the largest difference of log-probabilities, and the documents that one side got right and one wrong."""
    pairs = list(zip(ours, theirs, strict=True))
    return max(abs(a.logprob - b.logprob) for a, b in pairs), [
        i for i, (a, b) in enumerate(pairs) if a.correct != b.correct
    ]


def save_results(results: list[Result], path: str | Path) -> None:
    """Write one JSON object a document; the file appears when it is complete."""
    partial = Path(f"{path}.partial")
    partial.write_text("".join(json.dumps(asdict(result)) + "\n" for result in results), encoding="utf-8")
    partial.replace(path)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--checkpoint", type=Path, metavar="X.pth", help="the original, run by the rwkv package in fp32"
    )
    source.add_argument("--model", type=Path, metavar="DIR", help="the converted model, run by transformers in fp32")
    parser.add_argument("--data", required=True, help="a JSON Lines file with the field text, or: hub")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N passages")
    parser.add_argument("--prefix", choices=PREFIXES, default="none", help="what stands before each passage")
    parser.add_argument("--out", type=Path, metavar="FILE.jsonl", help="write each document's log-probability here")


def main(args: argparse.Namespace) -> int:
    from .trie import TrieTokenizer
    from .vocab import read_vocab

    texts = read_texts(args.data, args.limit)
    documents = encode(texts, TrieTokenizer(read_vocab()).encode, args.prefix)
    if args.checkpoint:
        from .oracle import fp32_copy, load_oracle

        scores = score_original(load_oracle(fp32_copy(args.checkpoint)), documents)
    else:
        scores = score_converted(load_model(args.model), documents)
    results = collect(scores, len(documents))
    print(f"{len(results)} documents, prefix {args.prefix}, fp32")
    if args.out:
        save_results(results, args.out)
    return 0


def load_model(folder: Path):
    """Load a converted directory in fp32, in evaluation mode, on the GPU if there is one."""
    from transformers import AutoModelForCausalLM

    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} is not a converted model: it has no config.json; run convert first.")
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
