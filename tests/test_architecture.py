"""The house: rooms import downwards only, versions differ in one table, and a command starts without torch."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from helpers.__main__ import COMMANDS, main
from helpers.checkpoints.versions import VERSIONS
from helpers.paths import ROOT
from helpers.series.rooms import FLOORS, imported_rooms, python_files, rooms_picture
from helpers.teaching.environment import read_pins

HELPERS = ROOT / "helpers"
MODULES = python_files(HELPERS)
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}  # 0 is the top


def name_of(path: Path) -> str:
    return path.relative_to(HELPERS).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path):
    """A room imports rooms on lower floors only, so that there is no circle, at the top of a file or inside it."""
    room = path.relative_to(HELPERS).parts[0].removesuffix(".py")
    for other in imported_rooms(path):
        assert other == room or FLOOR_OF[other] > FLOOR_OF[room], f"{room} imports {other}"


def test_every_room_has_a_floor():
    assert {path.relative_to(HELPERS).parts[0].removesuffix(".py") for path in MODULES} - {"__init__"} == set(FLOOR_OF)


@pytest.mark.parametrize("path", sorted((HELPERS / "hub_code").glob("*.py")), ids=name_of)
def test_what_travels_stands_alone(path):
    """The files that are published with a model import each other and installed packages, nothing of this project."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level <= 1, f"line {node.lineno} imports from above"
            assert (node.module or "").split(".")[0] != "helpers"
        if isinstance(node, ast.Import):
            assert all(alias.name.split(".")[0] != "helpers" for alias in node.names)


@pytest.mark.parametrize("package", ["ipywidgets", "matplotlib"])
def test_widgets_and_figures_are_in_teaching_alone(package):
    users = {path.relative_to(HELPERS).parts[0] for path in MODULES if package in imported_packages(path)}
    assert users == {"teaching"}


def imported_packages(path: Path) -> set[str]:
    """Return the names of the packages that a file imports, ours left out."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").split(".")[0])
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
    return found


def test_what_is_imported_is_declared():
    """Every package that ``helpers`` imports is a dependency, or belongs to an extra, of the project."""
    ours = {"helpers", "triton", "datasets"}  # triton comes with torch on a GPU, datasets with lm-eval
    ours |= {"IPython"}  # with ipykernel
    imported = set().union(*map(imported_packages, MODULES)) - set(sys.stdlib_module_names) - ours
    declared = {requirement.name.replace("-", "_") for requirement in declared_requirements()}
    assert imported <= declared


def declared_requirements() -> list[Requirement]:
    """Return what pyproject.toml asks for, with all extras but lm-eval, which has pins of its own."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [texts for name, texts in project["optional-dependencies"].items() if name != "lm-eval"]
    return [Requirement(text) for texts in [project["dependencies"], *extras] for text in texts]


def test_pins_and_dependencies_belong_together():
    """requirements.txt pins just what pyproject.toml names, each within its range."""
    pins, declared = read_pins(), {requirement.name: requirement for requirement in declared_requirements()}
    assert pins.keys() == declared.keys()
    outside = [f"{name} {pin}" for name, pin in pins.items() if not declared[name].specifier.contains(pin)]
    assert outside == []


def test_every_room_is_in_the_package():
    """What pip installs: each folder of ``helpers``, and the small files of ``data``."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    rooms = {f"helpers.{path.parent.name}" for path in HELPERS.glob("*/__init__.py")}
    assert set(settings["packages"]) == {"helpers", "helpers.data", *rooms}


def test_a_package_that_is_not_installed_is_named(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith(("nbformat", "helpers.series"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nbformat", None)  # as if it were not there
    assert main(["tutorial"]) == 2
    assert "tutorial needs the package nbformat, which is not installed" in capsys.readouterr().err


# versions


def constants_that_decide(tree: ast.AST) -> list[ast.Constant]:
    """Return the constants that a file compares with, looks up by, or matches: what a branch could hang on."""
    parts: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            parts += [node.left, *node.comparators]
        elif isinstance(node, ast.Dict):
            parts += [key for key in node.keys if key]
        elif isinstance(node, ast.Subscript):
            parts.append(node.slice)
        elif isinstance(node, ast.MatchValue):
            parts.append(node.value)
        elif isinstance(node, ast.Call) and name_called(node) in ("startswith", "endswith", "get", "index", "count"):
            parts += node.args
    return [inner for part in parts for inner in ast.walk(part) if isinstance(inner, ast.Constant)]


def name_called(call: ast.Call) -> str:
    """Return the name of the function or method that is called, without what stands before its last dot."""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def branches_on_versions(source: str) -> list[int]:
    """Return the lines that branch on the name of a version, of its model type, or of one of its classes."""
    tree = ast.parse(source)
    rows = VERSIONS.values()
    names = {text for row in rows for text in (row.name, row.model_type, row.native_class, row.class_prefix) if text}
    lines = [node.lineno for node in constants_that_decide(tree) if node.value in names]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and name_called(node) in ("isinstance", "issubclass"):
            classes = [inner.id for inner in ast.walk(node.args[1]) if isinstance(inner, ast.Name)]
            lines += [node.lineno for name in classes if name.startswith("Rwkv") and name[4:5].isdigit()]
            lines += [node.lineno for name in classes if name in ("RwkvConfig", "RwkvForCausalLM")]
    return sorted(set(lines))


@pytest.mark.parametrize(
    "source",
    [
        "if version == '4': pass",
        "if info.version in ('5.0', '5.1'): pass",
        "rows = {'4': 1, '5.2': 2}[version]",
        "match version:\n    case '5.2': pass",
        "if kind == 'rwkv5': pass",
        "ok = isinstance(config, RwkvConfig)",
        "ok = isinstance(model, (Rwkv5Model, int))",
        "f = {1: 2}.get('5.0')",
        "if not '4' != v: pass",
    ],
)
def test_a_branch_on_a_version_is_recognized(source):
    assert branches_on_versions(source) == [2 if "case" in source else 1]


@pytest.mark.parametrize(
    "path", [p for p in MODULES if "hub_code" not in p.parts and p.name != "versions.py"], ids=name_of
)
def test_no_branch_on_a_version_outside_the_table(path):
    assert branches_on_versions(path.read_text(encoding="utf-8")) == []


# commands


def modules_after(arguments: list[str]) -> set[str]:
    """Return what a command has imported when it ends; a fresh process, since this one has everything."""
    code = (
        "import sys\nfrom helpers.__main__ import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "print('MODULES', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.partition("MODULES")[2].split())


@pytest.mark.parametrize("arguments", [["--help"], ["convert", "only-one"], *([name, "--help"] for name in COMMANDS)],
                         ids=" ".join)  # fmt: skip
def test_help_and_wrong_arguments_need_no_torch(arguments):
    """Torch alone takes seconds to import; without it and its like a command starts in a twentieth of a second."""
    slow = {"torch", "transformers", "numpy", "tokenizers", "huggingface_hub", "matplotlib", "ipywidgets", "papermill"}
    assert not modules_after(arguments) & slow


# faces


@pytest.mark.parametrize("face", sorted(HELPERS.glob("*/__init__.pyi")), ids=lambda path: path.parent.name)
def test_a_face_offers_what_it_lists(face):
    import importlib

    room = importlib.import_module(f"helpers.{face.parent.name}")
    submodules = {path.stem for path in face.parent.glob("*.py")}
    assert list(room.__all__) == sorted(room.__all__)
    assert not set(room.__all__) & submodules, "a name that is also a submodule would hide one of the two"
    for name in room.__all__:
        assert getattr(room, name) is not None
    imports = [node for node in ast.parse(face.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
    assert {alias.name for node in imports for alias in node.names} == set(room.__all__)
    assert not {node.module for node in imports} & {"oracle", "synthetic"}, "these are imported by their full names"


def test_the_map_of_rooms_in_contributing_is_up_to_date():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    inside = text.partition("<!-- rooms: begin -->\n")[2].partition("<!-- rooms: end -->")[0]
    assert inside == rooms_picture(), "write it again: python -m helpers.series.rooms"
