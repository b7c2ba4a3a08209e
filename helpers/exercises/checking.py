"""Exercises: check what a learner wrote, name the typical mistake, and show the solution when it is asked for.

An exercise is three cells of a notebook, here of notebook 02, exercise 3: the stub ``exercise-02-3``, which the learner
fills; ``check-02-3``, which calls ``check("02.3", fewest_tokens)``; and ``solution-02-3``, folded text that
:func:`fill_solutions` writes. What belongs to it stands in ``nb02.py``.
"""

import copy
import importlib
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from nbformat import NotebookNode

Function = Callable[..., Any]
TENSORS = (torch.Tensor, np.ndarray)
CHANGEABLE = (list, dict, set, bytearray, *TENSORS)
SMALL = 8  # numbers that are shown in full
TOLERANCE = 1e-4  # numbers in fp32 that were added up in another order


@dataclass(frozen=True)
class Exercise:
    """What is needed to judge one exercise.

    Attributes:
        solution: the function as it should be; its source is what the notebook shows. It has the name and the
            parameters of the stub, and runs when it is pasted into the notebook: it uses nothing but its arguments,
            what the notebook imports, and what it imports itself.
        cases: makes the inputs: a list of tuples of positional arguments.
        mistakes: from a sentence for the learner to a function that makes this mistake. A wrong answer that equals such
            a function's answer on all inputs that went wrong is recognized.
        why: what the solution shows, in one or two sentences of Markdown; printed below the code.
        reveal: whether a wrong answer is shown the right one; ``False`` where that would be the whole solution.
        same: compares an answer with the solution's.
    """

    solution: Function
    cases: Callable[[], Sequence[tuple]]
    mistakes: Mapping[str, Function] = field(default_factory=dict)
    why: str = ""
    reveal: bool = True
    same: Callable[[Any, Any], bool] | None = None


@dataclass(frozen=True)
class Verdict:
    """What a check says: ``right`` only if every input gave what it should."""

    right: bool
    text: str


def check(name: str, answer: Function) -> None:
    """Check a learner's function and print the verdict; never raise, so that a notebook runs through.

    Args:
        name: notebook and exercise, for example ``"02.3"``.
        answer: the learner's function.
    """
    print(judge(name, answer).text)


def judge(name: str, answer: Function) -> Verdict:
    """Return the verdict on a learner's function; see :func:`check`. The reader's random numbers stay as they were."""
    with torch.random.fork_rng(devices=[]):
        return compare(name, find_exercise(name), answer)


def compare(name: str, exercise: Exercise, answer: Function) -> Verdict:
    """Return the verdict on a function that should do what the exercise's solution does."""
    same = exercise.same or equal
    cases = list(exercise.cases())
    wrong: list[tuple[tuple, Any, Any]] = []
    for case in cases:
        given = outcome(answer, case)
        if isinstance(given, NotImplementedError):
            return Verdict(False, f"Exercise {name} is still open. {given}".strip())
        expected = outcome(exercise.solution, case)
        if not agree(given, expected, same):
            wrong.append((case, given, expected))
    if not wrong:
        return Verdict(True, f"Exercise {name}: right, {len(cases)} of {len(cases)} checks.")
    lines = [f"Exercise {name}: {len(cases) - len(wrong)} of {len(cases)} checks are right."]
    lines.append(describe(exercise.solution.__name__, *wrong[0], exercise.reveal))
    for sentence, mistake in exercise.mistakes.items():
        if all(agree(given, outcome(mistake, case), same) for case, given, _ in wrong):
            lines.append(sentence)
            break
    return Verdict(False, "\n".join(lines))


def find_exercise(name: str) -> Exercise:
    """Return an exercise by its name, for example ``"02.3"``.

    Raises:
        ValueError: there is no such exercise.
    """
    notebook, _, number = name.partition(".")
    try:
        exercises = importlib.import_module(f"{__package__}.nb{notebook}").EXERCISES
        return exercises[int(number) - 1]
    except (ImportError, ValueError, IndexError):
        raise ValueError(f"There is no exercise {name!r}; write for example '02.3'.") from None


def outcome(function: Function, case: tuple) -> Any:
    """Return what ``function`` returns for one input, or the exception that it raises. It may change its input."""
    try:
        return function(*(copy.deepcopy(value) if isinstance(value, CHANGEABLE) else value for value in case))
    except Exception as error:
        return error


def agree(given: Any, expected: Any, same: Callable[[Any, Any], bool]) -> bool:
    """Whether two outcomes are the same: equal values, or exceptions of one class."""
    if isinstance(given, Exception) or isinstance(expected, Exception):
        return type(given) is type(expected)
    try:
        return bool(same(given, expected))
    except Exception:  # an answer of another kind, which cannot even be compared
        return False


def equal(given: Any, expected: Any) -> bool:
    """Compare values, numbers within :data:`TOLERANCE`, also in tensors, arrays, and containers of them."""
    if isinstance(expected, TENSORS):
        given, expected = (torch.as_tensor(value).double() for value in (given, expected))
        return given.shape == expected.shape and torch.allclose(given, expected, TOLERANCE, TOLERANCE, equal_nan=True)
    if isinstance(expected, float):
        return math.isclose(float(given), expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    if isinstance(expected, list | tuple):
        return len(given) == len(expected) and all(map(equal, given, expected))
    if isinstance(expected, dict):
        return given.keys() == expected.keys() and all(equal(given[key], expected[key]) for key in expected)
    return given == expected


def describe(name: str, case: tuple, given: Any, expected: Any, reveal: bool) -> str:
    """Return the sentences about the first input that went wrong."""
    call = f"{name}({', '.join(map(short, case))})"
    if isinstance(given, Exception):
        got = f"{call} raises {type(given).__name__}: {given}"
    else:
        got = f"{call} returns {short(given)}"
    if not reveal:
        return f"{got}, which is not right."
    if isinstance(expected, Exception):
        return f"{got}; it should raise {type(expected).__name__}."
    if place := first_difference(given, expected):
        return f"{call} is not right yet. {place}"
    return f"{got}; it should be {short(expected)}."


def first_difference(given: Any, expected: Any) -> str:
    """Say where an answer of tensors first differs from the solution's; nothing if there are no tensors to compare."""
    if isinstance(expected, tuple | list) and any(isinstance(part, TENSORS) for part in expected):
        if not isinstance(given, tuple | list) or len(given) != len(expected):
            return f"It should return {len(expected)} values, in a {type(expected).__name__}."
        pairs = list(zip(given, expected, strict=True))
        places = [
            "right."
            if agree(*pair, equal)
            else first_difference(*pair) or f"{short(pair[0])}; should be {short(pair[1])}."
            for pair in pairs
        ]
        return " ".join(f"Value {number}: {place}" for number, place in enumerate(places, start=1))
    if not isinstance(expected, TENSORS) or math.prod(expected.shape) <= SMALL:
        return ""
    if not isinstance(given, TENSORS):
        return f"It returns {short(given)}, not a tensor."
    ours, theirs = (torch.as_tensor(value).double() for value in (given, expected))
    if ours.shape != theirs.shape:
        return f"The shape is {tuple(ours.shape)} and should be {tuple(theirs.shape)}."
    wrong = ~torch.isclose(ours, theirs, TOLERANCE, TOLERANCE, equal_nan=True)
    if not wrong.any():
        return ""
    index = tuple(wrong.nonzero()[0].tolist())
    at = ", ".join(map(str, index))
    return f"It first differs at [{at}]: {ours[index].item():.4g}, and should be {theirs[index].item():.4g}."


def short(value: Any, limit: int = 90) -> str:
    """Return a value in a line: a large tensor by its shape alone, a function by its name."""
    if isinstance(value, TENSORS):
        if math.prod(value.shape) > SMALL:
            return f"<tensor {tuple(value.shape)}>"
        value = [float(f"{number:.4g}") for number in torch.as_tensor(value).double().flatten().tolist()]
    text = value.__name__ if inspect.isfunction(value) else " ".join(repr(value).split())
    return text if len(text) <= limit else text[: limit - 4] + " ..."


def solution_text(name: str) -> str:
    """Return the folded cell with the solution, in Markdown."""
    exercise = find_exercise(name)
    code = inspect.getsource(exercise.solution).rstrip()
    after = f"\n{exercise.why}\n" if exercise.why else ""
    return f"<details><summary>Solution</summary>\n\n```python\n{code}\n```\n{after}\n</details>"


def fill_solutions(notebook: NotebookNode) -> None:
    """Write the solutions into a notebook's cells ``solution-NN-K``."""
    for cell in notebook.cells:
        if match := re.fullmatch(r"solution-(\d\d)-(\d+)", cell.get("id", "")):
            cell.source = solution_text(".".join(match.groups()))
