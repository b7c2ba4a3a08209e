"""Where things are, independent of the working directory."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
NOTEBOOKS = ROOT / "notebooks"
HUB_CODE = ROOT / "helpers" / "hub_code"
BUILD = ROOT / "build"  # git-ignored: everything that a run makes


def shown(path: str | Path) -> str:
    """Return ``path`` relative to the project if it lies inside it, so that outputs carry no machine's paths."""
    path = Path(path).resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)
