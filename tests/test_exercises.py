"""The exercises: each stub is open, each typical mistake is recognized, each solution passes and is what is shown."""

import ast
import functools
import importlib
import itertools
import re
from pathlib import Path

import nbformat
import pytest
import torch

from helpers.exercises import checking, nb13
from helpers.paths import ROOT
from helpers.series.run import find_notebooks


def exercises_of(number: str) -> tuple[checking.Exercise, ...]:
    return importlib.import_module(f".nb{number}", checking.__package__).EXERCISES


NUMBERS = sorted(path.stem[2:] for path in (ROOT / "helpers" / "exercises").glob("nb[0-9][0-9].py"))
NAMES = [f"{number}.{position}" for number in NUMBERS for position in range(1, len(exercises_of(number)) + 1)]
MISTAKES = [(name, sentence) for name in NAMES for sentence in checking.find_exercise(name).mistakes]


@functools.cache
def notebook_of(number: str) -> nbformat.NotebookNode:
    (path,) = find_notebooks([number])
    return nbformat.read(path, as_version=4)


def cell_of(name: str, kind: str) -> nbformat.NotebookNode:
    number, position = name.split(".")
    (cell,) = (cell for cell in notebook_of(number).cells if cell.id == f"{kind}-{number}-{position}")
    return cell


def imports_of(notebook: nbformat.NotebookNode) -> str:
    """Return all that a notebook imports at the top level of its cells."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    cleaned = (re.sub(r"^( *)[%!].*$", r"\1pass", source, flags=re.M) for source in code)
    nodes = [node for source in cleaned for node in ast.parse(source).body]
    return "\n".join(ast.unparse(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom))


def defined(source: str, name: str, before: str = ""):
    """Run the source of a cell, and return the function of this name that it defines."""
    namespace: dict = {}
    exec(compile(before, "imports", "exec"), namespace)  # the project's own notebook
    exec(compile(source, "cell", "exec"), namespace)
    return namespace[name]


@pytest.mark.parametrize("number", NUMBERS)
def test_cells_and_exercises_belong_together(number):
    """Each exercise has its three cells, in this order, and no cell is without an exercise."""
    ids = [cell.id for cell in notebook_of(number).cells]
    found = [index for index in ids if re.fullmatch(r"(exercise|check|solution)-\d\d-\d+", index)]
    names = [name.replace(".", "-") for name in NAMES if name.startswith(number)]
    assert found == [f"{kind}-{name}" for name in names for kind in ("exercise", "check", "solution")]


@pytest.mark.parametrize("name", NAMES)
def test_the_stub_is_open(name):
    exercise = checking.find_exercise(name)
    cell = cell_of(name, "exercise")
    stub = defined(cell.source, exercise.solution.__name__, imports_of(notebook_of(name[:2])))
    assert "exercise" in cell.metadata.get("tags", [])
    verdict = checking.judge(name, stub)
    assert not verdict.right
    assert verdict.text.startswith(f"Exercise {name} is still open. ")
    assert len(verdict.text) > 50, "the stub says what to do"
    code, written = stub.__code__, exercise.solution.__code__
    assert code.co_varnames[: code.co_argcount] == written.co_varnames[: written.co_argcount]


@pytest.mark.parametrize("name", NAMES)
def test_the_check_cell_checks_it(name):
    source = cell_of(name, "check").source
    assert f'check("{name}", {checking.find_exercise(name).solution.__name__})' in source


@pytest.mark.parametrize("name", NAMES)
def test_the_solution_passes_where_it_is_pasted(name):
    """The folded cell holds the solution, and it works with the notebook's imports alone."""
    cell = cell_of(name, "solution")
    assert cell.source == checking.solution_text(name)
    code = re.search(r"```python\n(.*?)\n```", cell.source, re.DOTALL).group(1)
    written = defined(code, checking.find_exercise(name).solution.__name__, imports_of(notebook_of(name[:2])))
    verdict = checking.judge(name, written)
    assert verdict.right, verdict.text


@pytest.mark.parametrize(("name", "sentence"), MISTAKES)
def test_a_mistake_is_recognized(name, sentence):
    exercise = checking.find_exercise(name)
    verdict = checking.judge(name, exercise.mistakes[sentence])
    assert not verdict.right
    assert sentence in verdict.text


@pytest.mark.parametrize("name", NAMES)
def test_a_check_leaves_the_reader_s_random_numbers(name):
    before = torch.random.get_rng_state()
    checking.judge(name, checking.find_exercise(name).solution)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_does_not_pass(name):
    """No exercise is solved by an answer that does not look at its input."""
    exercise = checking.find_exercise(name)
    first = checking.outcome(exercise.solution, next(iter(exercise.cases())))
    for constant in (None, 0, "", first if len(list(exercise.cases())) > 1 else None):
        assert not checking.judge(name, lambda *_, value=constant: value).right


class DyingDisk(nb13.Disk):
    """A disk whose process is killed after so many moments."""

    moments = 0

    def look(self, step):
        super().look(step)
        self.moments -= 1
        if self.moments == 0:
            raise InterruptedError(step)


@pytest.mark.parametrize("start", [dict(disk) for (disk,) in nb13.disks()], ids=" ".join)
def test_a_killed_replacement_is_put_right_by_the_next(start):
    """The eight disks of exercise 13.4 are all that a killed run can leave, and the old model is never lost."""
    for moments in itertools.count(1):
        disk = DyingDisk(start)
        disk.moments = moments
        try:
            nb13.replace_model(disk)
            break
        except InterruptedError:
            assert set(disk) in [set(found) for (found,) in nb13.disks()]
            again = nb13.replace_model(nb13.Disk(disk))
            assert again.problem == "", (moments, disk)
            assert again == {"model": "new"}
    assert moments > 3


# the mechanism


def longest(words: list[str]) -> str:
    return max(words, key=len)


EXAMPLE = checking.Exercise(
    solution=longest,
    cases=lambda: [(["a", "bb"],), (["ccc", "dd"],)],
    mistakes={"You take the last word.": lambda words: words[-1], "You sort.": lambda words: max(words)},
    why="Length decides.",
)


@pytest.fixture
def example(monkeypatch):
    monkeypatch.setattr(checking, "find_exercise", lambda name: EXAMPLE)


def raises(words):
    raise KeyError("x")


def changes(words):
    words.sort(key=len)
    return words.pop()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (longest, "Exercise 99.1: right, 2 of 2 checks."),
        (changes, "right, 2 of 2"),  # each call gets a fresh copy
        (
            lambda words: words[-1],
            "1 of 2 checks are right.\nlongest(['ccc', 'dd']) returns 'dd'; it should be 'ccc'.",
        ),
        (lambda words: words[-1], "\nYou take the last word."),
        (raises, "longest(['a', 'bb']) raises KeyError: 'x'; it should be 'bb'."),
        (lambda words: None, "returns None"),
    ],
)
def test_verdicts(answer, text, example):
    assert text in checking.judge("99.1", answer).text


def test_a_stub_is_open(example, capsys):
    def stub(words):
        raise NotImplementedError("Compare the lengths.")

    checking.check("99.1", stub)
    assert capsys.readouterr().out == "Exercise 99.1 is still open. Compare the lengths.\n"


@pytest.mark.parametrize(
    ("given", "expected", "same"),
    [
        (1.00001, 1.0, True),
        (1.1, 1.0, False),
        (torch.ones(3), torch.ones(3), True),
        (torch.ones(1), torch.ones(3), False),
        (torch.ones(3), torch.full((3,), 1.01), False),
        ([1, 2], torch.tensor([1, 2]), True),
        ((1.0, [2.0]), (1.0, [2.000001]), True),
        ({"a": 1.0}, {"a": 1.0, "b": 2.0}, False),
        ("a", "a", True),
        (None, torch.ones(3), False),
        (KeyError("a"), KeyError("b"), True),
        (KeyError("a"), ValueError("b"), False),
    ],
)
def test_answers_are_compared(given, expected, same):
    assert checking.agree(given, expected, checking.equal) == same


TENSOR = torch.arange(12.0).view(3, 4)


@pytest.mark.parametrize(
    ("given", "expected", "place"),
    [
        (TENSOR + (TENSOR == 5), TENSOR, "It first differs at [1, 1]: 6, and should be 5."),
        (TENSOR.T, TENSOR, "The shape is (4, 3) and should be (3, 4)."),
        (TENSOR, TENSOR, ""),
        (None, TENSOR, "It returns None, not a tensor."),
        (
            (TENSOR, TENSOR + 1),
            (TENSOR, TENSOR),
            "Value 1: right. Value 2: It first differs at [0, 0]: 1, and should be 0.",
        ),
        (TENSOR, (TENSOR, TENSOR), "It should return 2 values, in a tuple."),
        ((TENSOR, 7), (TENSOR, 3), "Value 1: right. Value 2: 7; should be 3."),
        ((torch.zeros(1), TENSOR), (torch.ones(1), TENSOR), "Value 1: [0.0]; should be [1.0]. Value 2: right."),
        (3, 4, ""),
        (torch.tensor([1.0]), torch.tensor([2.0]), ""),
    ],
)
def test_where_tensors_differ(given, expected, place):
    assert checking.first_difference(given, expected) == place


def test_a_function_is_shown_by_its_name():
    assert checking.short(longest) == "longest"


@pytest.mark.parametrize("name", ["99.1", "02.99", "2", "", "../nb02.1"])
def test_unknown_exercise(name):
    with pytest.raises(ValueError, match="There is no exercise"):
        checking.find_exercise(name)


def test_what_is_folded(example):
    text = checking.solution_text("99.1")
    assert text.startswith("<details><summary>Solution</summary>\n\n```python\ndef longest(")
    assert text.endswith("\n```\n\nLength decides.\n\n</details>")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("old", id="solution-99-1")])
    checking.fill_solutions(notebook)
    assert notebook.cells[0].source == text


def test_the_modules_have_notebooks():
    assert {path.name[:2] for path in find_notebooks()} >= set(NUMBERS), Path("helpers/exercises")
