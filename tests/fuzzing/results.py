"""Files of LAMBADA results: ``lambada-compare`` refuses two files, or prints what a strict reader makes of them."""

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .judge import Fault, check_unchanged, listing, refused, run
from .runner import Case, Kinds, enter
from .values import json_bytes, mutate, odd_bytes, odd_value, spoil

KINDS = Kinds()
HEADER = {"model": "0" * 64, "data": "1" * 64, "documents": 20, "prefix": "none", "engine": "transformers",
          "dtype": "float32", "tf32": False, "made_with": {"model": "mini", "torch": "2.13.0"}}  # fmt: skip
TYPES = {"model": str, "data": str, "documents": int, "prefix": str, "engine": str, "dtype": str, "tf32": bool,
         "made_with": dict}  # fmt: skip


@dataclass
class Run:
    """The lines of a file: a header, and a document each."""

    header: dict[str, Any]
    documents: list[dict[str, Any]]

    @classmethod
    def made(cls, rng: random.Random) -> "Run":
        lines = [
            {"document": number, "logprob": -rng.expovariate(0.3), "correct": rng.random() < 0.4}
            for number in range(20)
        ]
        return cls(dict(HEADER), lines)

    def written(self, rng: random.Random | None = None) -> bytes:
        lines = [self.header, *self.documents]
        rng = rng or Straight()
        return b"\n".join(json_bytes(rng, line) for line in lines) + b"\n"


class Straight(random.Random):
    """Plays no tricks."""

    def randrange(self, *arguments: int) -> int:
        return arguments[0] - 1


def prepare(folder: Path) -> None:
    import numpy  # noqa: F401  # before the forks

    import helpers.lambada.comparison
    import helpers.lambada.results  # noqa: F401


def judge(base: None, case: Case, folder: Path) -> str:
    """Say whether the two files were ``refused`` or ``accepted``; see :class:`.judge.Fault` for the rest."""
    rng = case.rng()
    made = [Run.made(rng), Run.made(rng)]
    contents = [run.written() for run in made]
    which = rng.randrange(2)
    contents[which] = KINDS[case.kind](rng, made[which])
    if rng.random() < 0.1:  # the same fault on both sides
        contents[1 - which] = contents[which]
    paths = [folder / "a.jsonl", folder / "b.jsonl"]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    before = listing(folder)
    enter(folder, "lambada-compare")
    ending = run("lambada-compare", *paths, "--resamples", "50")
    is_refused = refused(ending, 1)
    check_unchanged(before, folder)
    if is_refused:
        return "refused"
    if ending.code == 1 and "FAILED" not in ending.out:
        raise Fault("message", "exit code 1 without a reason")
    if ending.code == 1 and "not finite" in ending.out:
        return "refused"
    for path in paths:
        perplexity, accuracy = strict(path)
        for number in (f"{perplexity:.4f}", f"{accuracy:.4f}"):
            if number not in ending.out:
                raise Fault("wrong success", f"{number} of {path.name} is not printed")
    headers = [json.loads(path.read_bytes().split(b"\n")[0]) for path in paths]
    if headers[0]["data"] != headers[1]["data"]:
        raise Fault("wrong success", "the files are about other passages")
    return "accepted"


def strict(path: Path) -> tuple[float, float]:
    """Return perplexity and accuracy in percent of a file of results.

    Raises:
        Fault: it is not exactly what it should be, so that it should have been refused.
    """

    def wrong(why: str) -> Fault:
        return Fault("wrong success", f"{path.name}: {why}")

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in found}) < len(found):
            raise wrong("a key is there twice")
        return dict(found)

    try:
        lines = path.read_bytes().decode().split("\n")
        header, *documents = (json.loads(line, object_pairs_hook=pairs) for line in lines[:-1])
    except (ValueError, RecursionError) as error:
        raise wrong(f"it is not JSON Lines: {error}") from None
    if not isinstance(header, dict) or header.keys() != TYPES.keys():
        raise wrong("other fields in the header")
    if bad := [name for name, kind in TYPES.items() if type(header[name]) is not kind]:
        raise wrong(f"{bad[0]} of the header is {header[bad[0]]!r}")
    seen = {}
    for line in documents:
        if not isinstance(line, dict) or line.keys() != {"document", "logprob", "correct"}:
            raise wrong("other fields in a line")
        if type(line["document"]) is not int or type(line["correct"]) is not bool:
            raise wrong(f"types of {line!r}")
        if type(line["logprob"]) not in (int, float) or not math.isfinite(line["logprob"]) or line["logprob"] > 1e-3:
            raise wrong(f"logprob {line['logprob']!r}")
        if line["document"] in seen:
            raise wrong("a document is there twice")
        seen[line["document"]] = line
    if seen.keys() != set(range(header["documents"])):
        raise wrong("documents are missing, or more")
    total = math.fsum(line["logprob"] for line in seen.values())
    correct = sum(line["correct"] for line in seen.values())
    try:
        return math.exp(-total / len(seen)), 100 * correct / len(seen)
    except OverflowError:
        raise wrong("the perplexity is infinite") from None


@KINDS()
def right(rng, run):
    """In any order, complete."""
    rng.shuffle(run.documents)
    return run.written()


@KINDS(weight=12)
def odd_header(rng, run):
    run.header = mutate(rng, run.header)
    return run.written(rng)


@KINDS(weight=12)
def odd_document(rng, run):
    index = rng.randrange(20)
    run.documents[index] = mutate(rng, run.documents[index])
    return run.written(rng)


@KINDS(weight=8)
def odd_logprob(rng, run):
    infinite = float("inf")
    value = rng.choice([float("nan"), infinite, -infinite, 0, 5.0, 1e308, -1e308, -1000.5, "-1", None, True, -0.0])
    for line in run.documents if rng.random() < 0.3 else [rng.choice(run.documents)]:
        line["logprob"] = value
    return run.written()


@KINDS()
def odd_correct(rng, run):
    value = rng.choice([0, 1, 2, "true", "", None, 0.5, [], [1], {}, -1, float("nan")])
    for line in run.documents if rng.random() < 0.3 else [rng.choice(run.documents)]:
        line["correct"] = value
    return run.written()


@KINDS()
def odd_number_of_document(rng, run):
    value = rng.choice([-1, 20, 1.0, 0.5, "1", True, None, [1], 10**30, float("nan")])
    rng.choice(run.documents)["document"] = value
    return run.written()


@KINDS()
def odd_count(rng, run):
    """The header counts other documents than there are."""
    run.header["documents"] = rng.choice([0, 1, 19, 21, -1, 20.0, "20", True, None, [20], 10**30, 10**9, float("nan")])
    return run.written()


@KINDS()
def nothing_measured(rng, run):
    """No documents at all, and the header agrees."""
    run.header["documents"], run.documents = 0, []
    return run.written()


@KINDS()
def repeated_document(rng, run):
    """The same document twice: which one counts?"""
    line = dict(rng.choice(run.documents))
    if rng.random() < 0.7:
        line |= {"logprob": -50.0, "correct": not line["correct"]}
    run.documents.insert(rng.randrange(21), line)
    return run.written()


@KINDS()
def missing_documents(rng, run):
    run.documents = rng.sample(run.documents, rng.randrange(20))
    return run.written()


@KINDS()
def other_passages(rng, run):
    run.header["data"] = rng.choice(["2" * 64, "", None, 5, odd_value(rng)])
    return run.written()


@KINDS()
def odd_line(rng, run):
    """A line that is something else."""
    lines = run.written().split(b"\n")
    odd = rng.choice([b"", b"{}", b"[]", b"5", b"null", b'"x"', odd_bytes(rng), b"[" * 10**5])
    lines[rng.randrange(len(lines))] = odd
    return b"\n".join(lines)


@KINDS()
def odd_made_with(rng, run):
    """What is printed as it stands."""
    run.header["made_with"] = {odd_text(rng): odd_text(rng) for _ in range(rng.choice([1, 3, 1000]))}
    return run.written()


@KINDS()
def odd_words(rng, run):
    run.header[rng.choice(["engine", "prefix", "dtype", "model"])] = odd_text(rng)
    return run.written()


def odd_text(rng: random.Random) -> str:
    return rng.choice(["\x1b[2J", "\n\nA: passed", "\ud800", "x" * 100_000, "\u202e", "", "\x00", "mini", "模型"])


@KINDS(weight=8)
def spoiled(rng, run):
    return spoil(rng, run.written())


@KINDS()
def other_file(rng, run):
    return rng.choice([b"", b"\n", b"{}\n", b"[]\n", odd_bytes(rng), b"\n" * 30, b"\xff\xfe", b"PK\x03\x04",
                       run.written()[:-1], b"\xef\xbb\xbf" + run.written(), run.written().replace(b"\n", b"\r\n"),
run.written() * 2])  # fmt: skip


@KINDS(weight=1)
def huge_line(rng, run):
    return run.written().replace(b"mini", b"x" * rng.choice([10**6, 3 * 10**7]))
