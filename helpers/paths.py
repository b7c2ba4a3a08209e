"""Where things are, independent of the working directory."""

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from platformdirs import user_cache_path

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent  # of a checkout; where the packages are, if this one was installed without one
IS_CHECKOUT = (ROOT / "pyproject.toml").is_file()

HUB_CODE = PACKAGE / "hub_code"
NOTEBOOKS = ROOT / "notebooks"
DATA = ROOT / "data" if IS_CHECKOUT else PACKAGE / "data"  # an installed package has its small files
# everything that a run makes: in a checkout in a folder that git ignores, else in the user's cache
BUILD = ROOT / "build" if IS_CHECKOUT else user_cache_path("rwkv-world-hf")
RESULTS = (ROOT if IS_CHECKOUT else BUILD) / "benchmarks" / "results"  # recorded measurements


def own_version() -> str:
    """Return the version of this project, also where a checkout is used without being installed."""
    try:
        return version("rwkv-world-hf-notebooks")
    except PackageNotFoundError:
        return str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def shown(path: str | Path) -> str:
    """Return ``path`` relative to the project if it lies inside it, so that outputs carry no machine's paths."""
    path = Path(path).resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)
