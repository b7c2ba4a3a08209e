"""Let both sides answer the questions of a proof, one side after the other, and judge how far they are apart."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..checkpoints.oracle import load_oracle, process_of
from ..checkpoints.versions import CheckpointInfo
from ..conversion.isolated import IsolatedModel
from ..conversion.loading import Code, load_model
from .parity import Parity, compare_traces
from .precision import LOWER, TOKENS, Reading, precision_result, read_by_package, read_twice
from .questions import PADDED, WRITTEN_BY_BEAMS, Answer, Question, answer, as_traces, expected
from .results import CheckResult, Mode, PrecisionResult, RunResult

Ask = Callable[[Question], Answer]  # a model that answers questions
Load = Callable[[torch.dtype], tuple[str, Ask]]

# In a long text the rwkv package adds up one token after the other in fp32, and each sum is rounded. With the included
# RWKV-4, its state after 2,108 tokens is off by 1.3e-4 from fp64, and that of our model by 3e-6.
ROUNDING = 2**-24


def compare_answers(
    reference: Path,
    folder: Path,
    info: CheckpointInfo,
    questions: list[Question],
    tolerance: float,
    progress: bool,
    strange: bool,
) -> tuple[list[RunResult], list[CheckResult], list[PrecisionResult]]:
    """Let both sides answer all questions, and return what was read, what else was checked, and what is left in bf16
    and fp16.

    Args:
        strange: the directory's code is not this project's, and runs in another process.
    """
    # some directories have two classes: ours, and transformers' own
    codes: list[Code] = ["directory" if strange else "ours"]
    codes += ["transformers"] if info.row.runs_natively(info.layers) else []
    long = next(q for q in questions if q.kind == "long")
    sample = replace(long, kind="prefill", rows=[long.rows[0][:TOKENS]])  # which is read in bf16 and fp16, too
    with tqdm(total=len(questions) * (1 + len(codes)) + 2 * len(LOWER), unit="run", disable=not progress) as bar:
        answers, exact, packages = ask_package(reference, questions, sample, bar)
        runs: list[RunResult] = []
        checks: list[CheckResult] = []
        lower: list[PrecisionResult] = []
        for code in codes:
            with opened(folder, code) as load:
                name, ask = load(torch.float32)
                for question, theirs in zip(questions, answers, strict=True):
                    bar.update()
                    if question.needs_batches and code == "transformers":
                        continue  # it is known to fail there: see helpers.proof.behaviour
                    if question.kind in ("generate", "beams", "loss"):
                        checks.append(check_result(name, question, ask(question), theirs, tolerance))
                    else:
                        runs += run_results(name, question, ask(question), theirs, tolerance)
                for dtype in LOWER if code == codes[0] else ():
                    del ask  # and with it the model
                    name, ask = load(LOWER[dtype])
                    ours = read_twice(ask, sample)
                    lower.append(precision_result(name, dtype, sample, ours, packages, exact, tolerance))
                    bar.update()
                del ask
    return runs, checks, lower


def ask_package(
    reference: Path, questions: list[Question], sample: Question, bar: tqdm
) -> tuple[list[Answer], Tensor, dict[str, Reading | None]]:
    """Return the answers of the ``rwkv`` package in fp32, its logits (T, V) of the sample, and how it reads that below.

    Memory holds only one model at a time.
    """
    oracle = load_oracle(reference)
    answers = []
    for question in questions:
        answers.append(expected(oracle, question))
        bar.update()
    exact = (answers[questions.index(sample)] if sample in questions else expected(oracle, sample))["0.logits"]
    process = process_of(oracle)
    del oracle
    packages = {}
    for dtype in LOWER:
        packages[dtype] = read_by_package(reference, dtype, sample, process)
        bar.update()
    return answers, exact, packages


@contextmanager
def opened(folder: Path, code: Code) -> Iterator[Load]:
    """Yield a function that loads a model in a dtype, and returns the name of its class, and how to ask it."""
    if code != "directory":

        def load(dtype: torch.dtype) -> tuple[str, Ask]:
            model = load_model(folder, code, dtype)
            return type(model).__name__, lambda q: answer(model, q.kind, q.rows)

        yield load
        return
    with IsolatedModel(folder, torch.float32) as stranger:

        def load_there(dtype: torch.dtype) -> tuple[str, Ask]:
            if dtype != torch.float32:
                stranger.load(dtype)
            return "the directory's class", lambda q: stranger.ask(answer, kind=q.kind, rows=q.rows)

        yield load_there


def run_results(name: str, question: Question, ours: Answer, theirs: Answer, tolerance: float) -> list[RunResult]:
    """Return a row of the certificate for each row that was read."""
    count = len(question.rows)
    most = f"{tolerance:g}"
    if question.kind == "long":
        tolerance += len(question.rows[0]) * ROUNDING
        most = f"{tolerance:.2g}, which is {most} and {len(question.rows[0]):,} roundings of fp32,"
    texts = [question.text] if count == 1 else [f"{question.text}, padded {PADDED[n]}" for n in range(count)]
    pairs = zip(question.rows, texts, as_traces(ours, count), as_traces(theirs, count), strict=True)
    return [
        replace(
            run_result(name, cast(Mode, question.kind), text, compare_traces(a, b), tolerance, most), tokens=len(row)
        )
        for row, text, a, b in pairs
    ]


def check_result(name: str, question: Question, ours: Answer, theirs: Answer, tolerance: float) -> CheckResult:
    """Return how far a text that the model wrote, or a loss, is off."""
    if question.kind == "generate":
        number = len(question.rows)
        lost = [shortfall(ours.get(f"{n}.ids"), theirs[f"{n}.ids"], theirs[f"{n}.logits"]) for n in range(number)]
        size = max(theirs[f"{n}.logits"].abs().max().item() for n in range(number))
        what = f"the most probable tokens after {question.text}"
        limit, rule = limit_of_terms(2, tolerance, size)
        return CheckResult(name, what, max(lost), limit, f"{rule}: two logits may be off")
    key, what, terms = {
        "loss": ("loss", "the loss of", 1),
        "beams": ("score", "the most probable text after", WRITTEN_BY_BEAMS),
    }[question.kind]
    value = ours.get(key, torch.tensor(math.nan))
    off = abs(value.double().item() - theirs[key].item()) if value.numel() == 1 else math.nan
    limit, rule = limit_of_terms(2 * terms, tolerance, theirs["largest"].item())
    return CheckResult(name, f"{what} {question.text}", off, limit, f"{rule}: two logits a term may be off")


def limit_of_terms(terms: int, tolerance: float, size: float) -> tuple[float, str]:
    """Return how far a sum of ``terms`` logits may be off, and how that comes about."""
    return terms * tolerance * max(1.0, size), f"{terms} times {tolerance:g} of {largest_logit(size)}"


def largest_logit(size: float) -> str:
    """Say what a tolerance is relative to."""
    return f"the largest logit, {size:.3g}" if size > 1 else f"1, since the largest logit is {size:.3g}"


def shortfall(ours: Tensor | None, theirs: Tensor, logits: Tensor) -> float:
    """Return by how much the logit of the first other token is below that of the most probable one; 0 if none is.

    Two tokens may be as good as equally probable; which of them is taken, and all that follows, is chance then.

    Args:
        ours: ids; behind the end of a text, id 0, whatever follows is padding.
        theirs: ids (T,).
        logits: (T, V) that the original chose by.
    """
    if ours is None or ours.dim() != 1 or len(ours) < len(theirs):
        return math.inf
    for index, best, row in zip(ours.tolist(), theirs.tolist(), logits, strict=False):
        if index != best:
            return (row[best] - row[index]).item() if index in range(len(row)) else math.inf
    return 0.0


def run_result(class_name: str, mode: Mode, text: str, parity: Parity, tolerance: float, most: str) -> RunResult:
    """Return a comparison as it stands in the certificate; ``most`` is the tolerance in words."""
    return RunResult(
        class_name=class_name,
        mode=mode,
        input=text,
        tokens=parity.tokens,
        max_abs_logit_diff=parity.max_abs_logit_diff,
        logit_limit=tolerance * max(1.0, parity.max_abs_logit),
        mean_abs_logit_diff=parity.mean_abs_logit_diff,
        max_abs_logit=parity.max_abs_logit,
        argmax_agreement=parity.argmax_agreement,
        max_state_diff=parity.max_state_diff,
        state_limit=tolerance,
        limit_is=f"{most} of {largest_logit(parity.max_abs_logit)}, and of the largest number in each part of a state",
        first_difference=parity.where(tolerance),
    )
