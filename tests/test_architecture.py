"""The house: rooms import downwards only, versions differ in one table, and a command starts without torch."""

import ast
import functools
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from helpers.__main__ import COMMANDS, main
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
    ours |= {"IPython", "PIL"}  # with ipykernel and matplotlib
    imported = set().union(*map(imported_packages, MODULES)) - set(sys.stdlib_module_names) - ours
    declared = {requirement.name.replace("-", "_") for requirement in declared_requirements()}
    assert imported <= declared


def declared_requirements() -> list[Requirement]:
    """Return what pyproject.toml asks for, with all extras but lm-eval, which has pins of its own."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [texts for name, texts in project["optional-dependencies"].items() if name != "lm-eval"]
    return [Requirement(text) for texts in [project["dependencies"], *extras] for text in texts]


def test_pins_and_dependencies_belong_together():
    """The files of requirements pin just what pyproject.toml names, each within its range."""
    pins = read_pins() | read_pins(ROOT / "requirements-site.txt")
    declared = {requirement.name: requirement for requirement in declared_requirements()}
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


CLASS_OF_VERSION = re.compile(r"Rwkv(\d\w*|ForCausalLM|Config|Model)")
NAME_OF_VERSION = re.compile(
    rf"[4-7](\.\d?)?|rwkv\d?|{CLASS_OF_VERSION.pattern}|(modeling|configuration)_rwkv\w*(\.\w+)?"
)
ASKING = ("isinstance", "issubclass", "startswith", "endswith", "get", "index", "count", "removeprefix")


def branches_on_versions(source: str) -> list[int]:
    """Return the lines that branch on the name of a version, of its model type, classes or files, or look one up.

    Names of versions are constants such as ``"5.2"``, or words such as ``rwkv5`` and ``Rwkv5Model``. Sentences may have
    them, and so may calls that say which version to make.
    """
    return sorted({
        node.lineno
        for part in parts_that_decide(ast.parse(source))
        for node in ast.walk(part)
        if (isinstance(node, ast.Constant) and isinstance(node.value, str) and NAME_OF_VERSION.fullmatch(node.value))
        or (isinstance(node, ast.Name) and CLASS_OF_VERSION.fullmatch(node.id))
        or (isinstance(node, ast.Attribute) and CLASS_OF_VERSION.fullmatch(node.attr))
    })  # fmt: skip


def parts_that_decide(tree: ast.AST) -> list[ast.AST]:
    """Return what a file compares with, looks up by, matches, or asks for: what a branch could hang on."""
    parts: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            parts += [node.left, *node.comparators]
        elif isinstance(node, ast.Dict):
            parts += [key for key in node.keys if key]
        elif isinstance(node, ast.Subscript) and not isinstance(node.value, ast.Name | ast.Attribute):
            parts.append(node.slice)
        elif isinstance(node, ast.MatchValue):
            parts.append(node.value)
        elif isinstance(node, ast.Call) and name_called(node) in ASKING:
            parts += node.args
    return parts


def name_called(call: ast.Call) -> str:
    """Return the name of the function or method that is called, without what stands before its last dot."""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


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
        "if type(m).__name__ == 'Rwkv5ForCausalLM': pass",
        "ok = isinstance(m, modeling_rwkv5.Rwkv5Model)",
        "if version.startswith('5'): pass",
        "if version[0] == '5': pass",
        "if 'modeling_rwkv5.py' in names: pass",
    ],
)
def test_a_branch_on_a_version_is_recognized(source):
    assert branches_on_versions(source) == [2 if "case" in source else 1]


# what a learner writes may go by versions: that is what the exercise is about
KNOW_VERSIONS = {"hub_code", "exercises"}


@pytest.mark.parametrize(
    "path", [p for p in MODULES if not KNOW_VERSIONS & set(p.parts) and p.name != "versions.py"], ids=name_of
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


def test_a_conversion_brings_no_model_into_memory():
    """What a conversion imports beside torch is most of the memory that it takes."""
    code = "import sys\nfrom helpers.conversion import convert\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "helpers.conversion.directory" in done.stdout.split(), done.stderr
    assert not set(done.stdout.split()) & {"transformers.modeling_utils", "transformers.generation.utils"}


# faces


@pytest.mark.parametrize("face", sorted(HELPERS.glob("*/__init__.pyi")), ids=lambda path: path.parent.name)
def test_a_face_offers_what_it_lists(face):
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


REFERENCE = re.compile(r"\b(helpers(?:[./]\w+)+)")


def documents() -> list[Path]:
    """Return the texts that speak of modules: code, notebooks, and what people read."""
    texts = [*HELPERS.rglob("*.py"), *HELPERS.rglob("*.yaml"), *(ROOT / "tests").glob("*.py")]
    texts.remove(Path(__file__))  # it speaks of such names in general
    return sorted([*texts, *(ROOT / "notebooks").glob("*.ipynb"), *ROOT.glob("*.md"), *(ROOT / "data").glob("*.md")])


@pytest.mark.parametrize("path", [p for p in documents() if p.name != "CHANGELOG.md"], ids=lambda p: p.name)
def test_what_is_referred_to_exists(path):
    """``helpers.room.module.name`` and ``helpers/room/module.py`` in prose, docstrings and comments lead somewhere."""
    missing = [name for name in set(REFERENCE.findall(path.read_text(encoding="utf-8"))) if not resolves(name)]
    assert missing == []


def resolves(name: str) -> bool:
    if "/" in name:
        return any((ROOT / f"{name}{suffix}").exists() for suffix in ("", ".py", ".yaml"))
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        folder, rest = ROOT.joinpath(*parts[:end]), parts[end:]
        if folder.is_dir() or folder.with_suffix(".py").is_file():
            found = importlib.import_module(".".join(parts[:end])) if rest else folder
            return functools.reduce(lambda inner, part: getattr(inner, part, None), rest, found) is not None
    return False
