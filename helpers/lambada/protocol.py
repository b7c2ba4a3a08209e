"""LAMBADA: does a model predict the last word of a passage? Two ways to score, and the numbers of a whole run.

Perplexity is exp(-sum of the targets' log-probabilities / documents), and a document is correct if every token of its
target is the most probable one.

:func:`score_original` is the loop of BlinkDL's scripts over the ``rwkv`` package, one document at a time.
:func:`score_converted` gives the same numbers from a transformers model, many documents at a time. The command, which
adds files of results and several processes, is in ``run.py``.
"""

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..tokenizer.trie import TrieTokenizer
from ..tokenizer.vocab import read_vocab
from .passages import Document, encode

LARGEST_EXPONENT = math.log(sys.float_info.max)
READ_AT_ONCE = 4096  # tokens, by the rwkv package: its memory grows with the square of them


@dataclass(frozen=True)
class Result:
    """Natural logarithm of the target's probability, and whether every token of it was the most probable one."""

    logprob: float
    correct: bool


def encode_world(texts: list[str], prefix: str = "none") -> list[Document]:
    """Encode passages with the World vocabulary."""
    return encode(texts, TrieTokenizer(read_vocab()).encode, prefix)


def score_targets(logits: Tensor, targets: list[list[int]]) -> list[Result]:
    """Score targets: ``logits`` (M, V) are the predictions of all their tokens, one target after the other."""
    ids = torch.tensor([index for target in targets for index in target], device=logits.device)
    logits = logits.float()
    logprobs = logits.gather(1, ids[:, None])[:, 0] - torch.logsumexp(logits, dim=-1)
    hits = logits.argmax(-1) == ids
    all_logprobs, all_hits = logprobs.tolist(), hits.tolist()  # one transfer from a GPU for all targets
    start, results = 0, []
    for target in targets:
        part = slice(start, start + len(target))
        results.append(Result(sum_of(all_logprobs[part]), all(all_hits[part])))
        start += len(target)
    return results


def score_batches(
    score: Callable[[list[Document]], list[Result]], documents: list[Document], batches: list[list[int]]
) -> Iterator[dict[int, Result]]:
    """Score batch after batch; yield the results of each, by the index of the document."""
    for batch in batches:
        yield dict(zip(batch, score([documents[i] for i in batch]), strict=True))


def score_original(oracle: Any, documents: list[Document]) -> Iterator[dict[int, Result]]:
    """Score documents with the ``rwkv`` package, one at a time."""
    return score_batches(partial(score_with_oracle, oracle), documents, [[i] for i in range(len(documents))])


def score_with_oracle(oracle: Any, documents: list[Document]) -> list[Result]:
    """Score documents one after the other, as BlinkDL's script and the article do: all logits at once.

    A text of more than ``READ_AT_ONCE`` tokens is read in pieces; a recurrent model can do that without any difference.
    """
    results = []
    for document in documents:
        ids, state = document.inputs, None
        while len(ids) - READ_AT_ONCE >= len(document.target):
            _, state = oracle.forward(ids[:READ_AT_ONCE], state)
            ids = ids[READ_AT_ONCE:]
        logits, _ = oracle.forward(ids, state, full_output=True)
        logits = logits.reshape(len(ids), -1)[-len(document.target) :]
        results += score_targets(logits, [document.target])
    return results


def score_converted(
    model: Any, documents: list[Document], batch_tokens: int | None = None
) -> Iterator[dict[int, Result]]:
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
    for index in sorted(range(len(documents)), key=lambda i: -len(documents[i].inputs)):
        longest = len(documents[batches[-1][0]].inputs) if batches else 0
        if batches and longest * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def score_batch(model: Any, documents: list[Document], piece: int) -> list[Result]:
    """Score some documents with a transformers model; ``piece`` as of :func:`target_logits`."""
    targets = [document.target for document in documents]
    rows, counts = [document.inputs for document in documents], [len(target) for target in targets]
    return score_targets(target_logits(model, rows, counts, piece)["logits"], targets)


@torch.inference_mode()
def target_logits(model: Any, rows: list[list[int]], counts: list[int], piece: int) -> dict[str, Tensor]:
    """Return the predictions (M, V) at the last ``counts`` positions of each row of ids, one row after the other.

    Padding stands on the right, where a causal model cannot see it. The head is computed only where a target token is
    predicted: with 65,536 rows it would otherwise cost as much as several blocks.

    Args:
        piece: a single row of more tokens is read in pieces of so many, with the state carried on.
    """
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=model.device)
    in_pieces = len(rows) == 1 and longest > piece
    hidden, state = [], None
    for part in ids.split(piece if in_pieces else longest, dim=1):
        output = model.base_model(part, use_cache=in_pieces, **({"state": state} if in_pieces else {}))
        hidden.append(output[0])
        state = output.state if in_pieces else None
    last_hidden = torch.cat(hidden, dim=1)  # (B, T, D)
    ends = [x[len(row) - count : len(row)] for x, row, count in zip(last_hidden, rows, counts, strict=True)]
    return {"logits": model.get_output_embeddings()(torch.cat(ends))}


def default_batch_tokens(device: torch.device | str) -> int:
    """Return how many tokens a batch should have: what stays in a CPU's caches, or what keeps a GPU busy."""
    return 1024 if torch.device(device).type == "cpu" else 32768


def summarize(results: list[Result]) -> tuple[float, float]:
    """Return perplexity, infinite if it is larger than a number can be, and accuracy in percent."""
    mean = sum_of(result.logprob for result in results) / len(results)
    return exponential(-mean), 100 * sum(result.correct for result in results) / len(results)


def sum_of(numbers: Iterable[float]) -> float:
    """Return an exact sum; NaN or infinity, where ``math.fsum`` raises an error: of infinities and huge numbers."""
    numbers = list(numbers)
    try:
        return math.fsum(numbers)
    except (OverflowError, ValueError):
        return sum(numbers)


def exponential(x: float) -> float:
    """Return e^x, infinite where Python raises an error instead."""
    return math.inf if x > LARGEST_EXPONENT else math.exp(x)


def running_line(results: list[Result]) -> str:
    """Return BlinkDL's line about the documents so far, rounded as he does: ``# 100 ppl 42.41 acc 34.0``."""
    perplexity, accuracy = summarize(results)
    return f"# {len(results)} ppl {round(perplexity, 2)} acc {round(accuracy, 2)}"


class ScoreLog:
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
    log = ScoreLog(total, show)
    for results in scores:
        log.add(results)
    log.bar.close()
    return log.in_order


def compare_results(ours: list[Result], theirs: list[Result]) -> tuple[float, list[int]]:
    """Return the largest difference of log-probabilities, and the documents that one side got right and one wrong.

    The difference is NaN if a log-probability is not finite: then nothing has been shown, whatever the others are.
    """
    pairs = list(zip(ours, theirs, strict=True))
    largest = max(abs(a.logprob - b.logprob) for a, b in pairs)
    changed = [i for i, (a, b) in enumerate(pairs) if a.correct != b.correct]
    return math.nan if not_finite(ours) or not_finite(theirs) else largest, changed


def not_finite(results: list[Result]) -> list[int]:
    """Return the documents whose log-probability is infinite or NaN: a model that computes such numbers is broken."""
    return [index for index, result in enumerate(results) if not math.isfinite(result.logprob)]
