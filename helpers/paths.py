"""Where things are, independent of the working directory."""

from pathlib import Path

from platformdirs import user_cache_path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
NOTEBOOKS = ROOT / "notebooks"
RESULTS = ROOT / "benchmarks" / "results"  # recorded measurements
HUB_CODE = ROOT / "helpers" / "hub_code"
# everything that a run makes: in a checkout in a folder that git ignores, for an installed package in the user's cache
BUILD = ROOT / "build" if (ROOT / "pyproject.toml").exists() else user_cache_path("rwkv-world-hf")


def shown(path: str | Path) -> str:
    """Return ``path`` relative to the project if it lies inside it, so that outputs carry no machine's paths."""
    path = Path(path).resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)
