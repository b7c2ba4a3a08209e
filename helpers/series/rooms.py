"""The map of the rooms: which there are, on which floor, and what imports what, read from the code.

python -m helpers.series.rooms      # write the picture into CONTRIBUTING.md
"""

import ast
from pathlib import Path

from ..atomic import write_text
from ..paths import ROOT

HELPERS = ROOT / "helpers"
BEGIN, END = "<!-- rooms: begin -->\n", "<!-- rooms: end -->"

FLOORS = (  # from the top; a room imports from lower floors only
    ("__main__",),
    ("commands",),
    ("series",),
    ("exercises",),
    ("teaching", "bench"),
    ("training", "proof"),
    ("generation", "lambada"),
    ("conversion",),
    ("tokenizer", "checkpoints"),
    ("atomic", "inputs"),
    ("hub_code", "errors", "paths"),
)


def python_files(folder: Path) -> list[Path]:
    """Return the modules and stubs below a folder, in order."""
    return sorted(path for pattern in ("*.py", "*.pyi") for path in folder.rglob(pattern))


def imported_rooms(path: Path) -> set[str]:
    """Return the rooms that a file of the package imports from, anywhere in it, its own included."""
    found = set()
    package = path.relative_to(HELPERS).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            above = package[: len(package) - node.level + 1]
            targets = [*above, *(node.module or "").split(".")] if node.module else above
            found |= {targets[0]} if targets else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "helpers":
            parts = str(node.module).split(".")[1:]
            found |= {parts[0]} if parts else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            found |= {parts[1] for parts in names if parts[0] == "helpers" and len(parts) > 1}
    return found


def rooms_picture() -> str:
    """Return the rooms and the arrows between them as a Mermaid diagram, which GitHub draws.

    Left out are ``errors``, ``paths``, ``atomic`` and ``inputs``, which everything uses, and arrows that others imply:
    where A imports B and B imports C, there is no arrow from A to C.
    """
    everywhere = {"__main__", "errors", "paths", "atomic", "inputs"}
    rooms = [room for floor in FLOORS for room in floor if room not in everywhere]
    below: dict[str, set[str]] = {}  # all that a room can reach
    arrows: dict[str, set[str]] = {}
    for room in reversed(rooms):
        used = set().union(*map(imported_rooms, python_files(HELPERS / room))) & set(rooms) - {room}
        below[room] = used.union(*(below[other] for other in used))
        arrows[room] = used.difference(*(below[other] for other in used))
    lines = ["```mermaid", "flowchart TD"]
    lines += [f"  {room} --> {other}" for room in rooms for other in rooms if other in arrows[room]]
    return "\n".join([*lines, "```"]) + "\n"


def main() -> None:
    path = ROOT / "CONTRIBUTING.md"
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    write_text(path, before + BEGIN + rooms_picture() + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
