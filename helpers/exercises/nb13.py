"""The exercises of notebook 13, the appendix to 08."""

from functools import partial
from itertools import product

import torch

from .checking import Exercise

# 1. to each text its own state


def mix(x, state, ratio):
    return x * ratio + state[:, None] * (1 - ratio)


def batches() -> list[tuple]:
    draw = torch.Generator().manual_seed(13)
    return [tuple(torch.rand(shape, generator=draw) for shape in ((B, 1, 16), (B, 16), (16,))) for B in (1, 2, 3)]


SHIFT = Exercise(
    solution=mix,
    cases=batches,
    mistakes={
        "That is what transformers does: (B, D) is taken for (1, B, D), and every text meets every state. Give the "
        "state the axis that it lacks, in its place.": lambda x, state, ratio: x * ratio + state * (1 - ratio),
        "The shape is right, but all texts get the state of the first one.": (
            lambda x, state, ratio: x * ratio + state[:1] * (1 - ratio)
        ),
        "The shape is right, but all texts get the state of the last one.": (
            lambda x, state, ratio: x * ratio + state[-1:] * (1 - ratio)
        ),
        "The ratio is the share of x; the state gets the rest, 1 - ratio.": lambda x, state, ratio: mix(
            x, state, 1 - ratio
        ),
        "The axis of tokens is lost: the answer has shape (B, 1, D), like x.": lambda *given: mix(*given)[:, 0],
    },
    why="Of the B rows that come out for a text, `generate` takes the last: there the first layer has mixed each text "
    "with the state of the last one. transformers has this line for time-mix and for channel-mix. With this axis in "
    "both places, the native class writes the two texts of section 2 as it writes each alone, token for token.",
)

# 2. several files


def plan_files(sizes, limit):
    files = [[]]
    used = 0
    for name, size in sizes.items():
        if files[-1] and used + size > limit:
            files.append([])
            used = 0
        files[-1].append(name)
        used += size
    return files


def tensors() -> list[tuple[dict[str, int], int]]:
    small = {"emb": 16, "a": 3, "b": 4, "c": 3, "d": 5, "head": 16}
    return [(small, 20), (small, 10), (small, 100), (small, 7), ({"z": 2, "y": 2, "x": 2}, 4), ({"only": 9}, 5)]


def plan_otherwise(sizes, limit, exact=True, keep_large=True, by_name=False):
    files, used = [[]], 0
    for name in sorted(sizes) if by_name else sizes:
        size = sizes[name]
        if not keep_large and size > limit:
            continue
        full = used + size > limit if exact else used + size >= limit
        if files[-1] and full:
            files.append([])
            used = 0
        files[-1].append(name)
        used += size
    return files


def with_empty_file(sizes, limit):
    files, used = [[]], 0
    for name, size in sizes.items():
        if used + size > limit:
            files.append([])
            used = 0
        files[-1].append(name)
        used += size
    return files


FILES = Exercise(
    solution=plan_files,
    cases=tensors,
    mistakes={
        "A file that is full to the last byte is allowed: begin a new one only when the limit would be passed.": (
            lambda sizes, limit: plan_otherwise(sizes, limit, exact=False)
        ),
        "A tensor larger than the limit is left out; it gets a file of its own, since tensors are never split.": (
            lambda sizes, limit: plan_otherwise(sizes, limit, keep_large=False)
        ),
        "There is an empty file: begin a new one only if the last one has something in it.": with_empty_file,
        "The order of the checkpoint is lost; go through the names as they come.": (
            lambda sizes, limit: plan_otherwise(sizes, limit, by_name=True)
        ),
    },
    why="`convert(..., max_shard_size='20MB')` plans that way, and writes `model.safetensors.index.json`, which says "
    "in which file each tensor is. The bundled model becomes two files, of 160 and 126 tensors.",
)

# 3. an index that lies


def check_index(weight_map, files):
    said = {(name, file) for name, file in weight_map.items()}
    found = {(name, file) for file, names in files.items() for name in names}
    return sorted(said - found), sorted(found - said)


def indices() -> list[tuple[dict[str, str], dict[str, list[str]]]]:
    good = {"emb": "1.safetensors", "att": "1.safetensors", "head": "2.safetensors"}
    return [
        (good, {"1.safetensors": ["emb", "att"], "2.safetensors": ["head"]}),
        (good, {"1.safetensors": ["emb"], "2.safetensors": ["head"]}),
        (good, {"1.safetensors": ["emb", "att"], "2.safetensors": ["head", "old"]}),
        (good, {"1.safetensors": ["emb"], "2.safetensors": ["att", "head"]}),
        (good, {"1.safetensors": ["emb", "att"]}),
    ]


def by_names_alone(weight_map, files):
    found = {name: file for file, names in files.items() for name in names}
    missing = sorted((name, file) for name, file in weight_map.items() if name not in found)
    return missing, sorted((name, file) for name, file in found.items() if name not in weight_map)


INDEX = Exercise(
    solution=check_index,
    cases=indices,
    mistakes={
        "A tensor in another file than the index says is both missing there and surplus here.": by_names_alone,
        "You look only for what is missing; a tensor that the index does not name is surplus.": lambda index, files: (
            check_index(index, files)[0],
            [],
        ),
        "The two lists are the other way round: first what the index promises and no file has.": lambda index, files: (
            check_index(index, files)[::-1]
        ),
    },
    why="An interrupted download or two runs into one folder leave such a directory. If a tensor is missing or one too "
    "many, `refresh` and `verify` refuse it. If all are there and only the index is wrong, `verify` says FAILED, and "
    "`refresh` writes a right one.",
)

# 4. killed anywhere

NAME, PARTIAL, OLD = "model", ".model.partial", ".model.old"


class Disk(dict[str, str]):
    """Directories by name, each "old", "new" or "half". It notes the first step in which a killed process does harm.

    Attributes:
        start: what was there before the first step.
        harm: that step, and what a killed process would leave; empty if there is none.
    """

    def __init__(self, directories: dict[str, str]) -> None:
        super().__init__(directories)
        self.start = dict(directories)
        self.harm = ""

    def write(self, name: str) -> None:
        """Make a new directory. Raises: FileExistsError: the name is taken."""
        if name in self:
            raise FileExistsError(f"{name} is there already")
        self[name] = "half"
        if NAME not in self and self.had_model():
            self.note(f"write({name!r})", "readers find no model as long as you write")
        self.look(f"write({name!r})")
        self[name] = "new"
        self.look(f"write({name!r})")

    def remove(self, name: str) -> None:
        """Remove a directory. Raises: FileNotFoundError: there is none of that name."""
        self.take(name)
        self[name] = "half"
        self.look(f"remove({name!r})")
        del self[name]
        self.look(f"remove({name!r})")

    def rename(self, name: str, new: str) -> None:
        """Rename a directory. Raises: FileNotFoundError: there is no ``name``; OSError: ``new`` is taken."""
        if new in self:
            raise OSError(f"{new} is there, and is not empty")
        self[new] = self.take(name)
        self.look(f"rename({name!r}, {new!r})")

    def take(self, name: str) -> str:
        if name not in self:
            raise FileNotFoundError(f"there is no {name}")
        return self.pop(name)

    def had_model(self) -> bool:
        return NAME in self.start or OLD in self.start

    def look(self, step: str) -> None:
        """Note what is wrong, if the process is killed now. What is left unsaid here, the next run can put right."""
        if self.get(NAME) == "half":
            self.note(step, "half a model bears the name")
        elif NAME not in self and (self.get(OLD) == "half" or (OLD not in self and self.had_model())):
            self.note(step, "no whole model is left")
        elif others := self.keys() - {NAME, PARTIAL, OLD}:
            self.note(step, f"no later run knows {min(others)!r}")

    def note(self, step: str, harm: str) -> None:
        self.harm = self.harm or f"killed in {step}: {harm}"

    @property
    def problem(self) -> str:
        """What is wrong with the steps that were taken; empty if nothing is."""
        done = dict(self) == {NAME: "new"}
        return self.harm or ("" if done else f"at the end there is {', '.join(map(repr, sorted(self))) or 'nothing'}")

    def __repr__(self) -> str:
        untouched = dict(self) == self.start and not self.harm
        return f"Disk({', '.join(map(repr, sorted(self)))})" if untouched else f"<{self.problem or 'all is well'}>"


def replace_model(disk):
    if ".model.partial" in disk:
        disk.remove(".model.partial")  # half-made
    if ".model.old" in disk and "model" not in disk:
        disk.rename(".model.old", "model")  # a run was killed between its two renames
    if ".model.old" in disk:
        disk.remove(".model.old")  # a run was killed when it removed it
    disk.write(".model.partial")
    if "model" in disk:
        disk.rename("model", ".model.old")
    disk.rename(".model.partial", "model")
    if ".model.old" in disk:
        disk.remove(".model.old")
    return disk


def disks() -> list[tuple[Disk]]:
    """Return all that a run can find: beside a whole model, the one set aside may be half removed."""
    cases = []
    for partial_left, old_left, model_there in product((False, True), repeat=3):
        left = {PARTIAL: "half"} if partial_left else {}
        left |= {OLD: "half" if model_there else "old"} if old_left else {}
        left |= {NAME: "old"} if model_there else {}
        cases.append((Disk(left),))
    return cases


def replace_otherwise(disk, found="remove", restore=True, set_aside="rename", early=False, tidy=True):
    """As the solution, but without one of its steps, or with another in its place."""
    if found == "remove" and PARTIAL in disk:
        disk.remove(PARTIAL)
    if restore and OLD in disk and NAME not in disk:
        disk.rename(OLD, NAME)
    if tidy and OLD in disk:
        disk.remove(OLD)
    if early and NAME in disk:
        disk.rename(NAME, OLD)
    if not (found == "trust" and PARTIAL in disk):
        disk.write(PARTIAL)
    if NAME in disk and set_aside == "rename":
        disk.rename(NAME, OLD)
    if NAME in disk and set_aside == "remove":
        disk.remove(NAME)
    disk.rename(PARTIAL, NAME)
    if OLD in disk:
        disk.remove(OLD)
    return disk


def in_place(disk):
    if NAME in disk:
        disk.remove(NAME)
    disk.write(NAME)
    return disk


def leave_old(disk):
    replace_model(disk)
    if disk.had_model():
        disk[OLD] = "old"
    return disk


def same_outcome(given, expected) -> bool:
    return (given.start, given.problem) == (expected.start, expected.problem)


KILLED = Exercise(
    solution=replace_model,
    cases=disks,
    same=same_outcome,
    reveal=False,
    mistakes={
        "`.model.partial` may be there, from a run that was killed; remove it, then write.": (
            partial(replace_otherwise, found="keep")
        ),
        "A `.model.partial` that you find is half-made, or nobody knows; remove it, and write it anew.": (
            partial(replace_otherwise, found="trust")
        ),
        "`.model.old` without `model` is all that is left: a run was killed between its two renames. Bring it back.": (
            partial(replace_otherwise, restore=False)
        ),
        "Removing takes time, too. Rename the old model to `.model.old`; remove it when the new one has the name.": (
            partial(replace_otherwise, set_aside="remove")
        ),
        "You write under the final name; write `.model.partial`, and rename it when it is whole.": in_place,
        "Readers should find the old model as long as you write: bring it back if it was set aside, write, and only "
        "then rename twice.": partial(replace_otherwise, early=True),
        "`.model.old` may be there beside a whole model: a run was killed while it removed it. Remove it before you "
        "need the name.": partial(replace_otherwise, tidy=False),
        "A rename refuses a name that is taken: set the old model aside first, as `.model.old`.": (
            partial(replace_otherwise, set_aside="")
        ),
        "All is well but for the end: remove `.model.old`, if it is there.": leave_old,
    },
    why="Whatever is left where this is killed looks like one of the eight disks of the check, so the next run puts "
    "it right. `refresh` works like this. Linux and macOS can let two directories change names in a single step; there "
    "it does that (`exchange` in `helpers/atomic.py`), and elsewhere it renames twice.",
)

EXERCISES = (SHIFT, FILES, INDEX, KILLED)
