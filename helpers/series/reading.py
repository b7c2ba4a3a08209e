"""How long a notebook takes: what it says at its top, against a rule that counts its words, lines and figures.

The rule, in minutes, rounded to five: words of prose / 200 + lines of code / 12 + figures + formulas that stand alone.
Exercises are counted apart, by their own minutes, and what belongs to them is not counted here.
"""

import re
from collections import Counter

from nbformat import NotebookNode

WORDS, LINES = 200, 12  # read in a minute
ROUNDED = 5  # minutes
STATED = re.compile(r"(\d+)\s+minutes\s+to\s+read,\s+(\d+)\s+(?:more\s+)?for\s+the\s+exercises")
EXERCISE = re.compile(r"\((★{1,3}), (\d+) minutes\)")
FOLDED = re.compile(r"<details>.*?</details>", re.DOTALL)
ADDRESS = re.compile(r"\]\([^)]*\)")
FORMULA = re.compile(r"\$\$.*?\$\$", re.DOTALL)
OF_EXERCISES = re.compile(r"(exercise|check|solution)-\d\d-\d+|colab")  # ids of cells that are not read


def reading_minutes(notebook: NotebookNode) -> int:
    """Return how many minutes the rule gives for a notebook without its exercises."""
    words = lines = looked_at = 0
    for cell in notebook.cells:
        if OF_EXERCISES.fullmatch(cell.id):
            continue
        if cell.cell_type == "code":
            lines += sum(bool(line.strip()) for line in cell.source.splitlines())
            looked_at += sum("image/png" in output.get("data", {}) for output in cell.outputs)
        elif not EXERCISE.search(cell.source):
            looked_at += len(FORMULA.findall(cell.source))
            words += len(FORMULA.sub("", ADDRESS.sub("]", FOLDED.sub("", cell.source))).split())
    return ROUNDED * round((words / WORDS + lines / LINES + looked_at) / ROUNDED)


def exercises_by_stars(notebook: NotebookNode) -> dict[str, list[int]]:
    """Return the minutes of a notebook's exercises by their stars."""
    found: dict[str, list[int]] = {"★": [], "★★": [], "★★★": []}
    for cell in notebook.cells:
        for stars, minutes in EXERCISE.findall(cell.source if cell.cell_type == "markdown" else ""):
            found[stars].append(int(minutes))
    return found


def check_times(notebook: NotebookNode) -> list[str]:
    """Return what is wrong with a notebook's set of exercises and with the times that it states."""
    by_stars = exercises_by_stars(notebook)
    counts = Counter({stars: len(minutes) for stars, minutes in by_stars.items()})
    least = Counter({"★": 2, "★★": 1, "★★★": 1})
    problems = [f"there are {counts[stars]} exercises ({stars})" for stars in least if counts[stars] < least[stars]]
    stated = STATED.search(notebook.cells[0].source)
    if stated is None:
        return [*problems, "it does not say 'N minutes to read, M more for the exercises'"]
    to_read, for_exercises = map(int, stated.groups())
    if to_read < reading_minutes(notebook):
        problems.append(f"it says {to_read} minutes to read, and the rule gives {reading_minutes(notebook)}")
    total = sum(map(sum, by_stars.values()))
    if for_exercises != total:
        problems.append(f"it says {for_exercises} minutes for the exercises, whose minutes add up to {total}")
    return problems
