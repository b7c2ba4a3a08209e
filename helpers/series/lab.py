"""Open the series in JupyterLab: the project is its root, so that links lead everywhere; notebook 00 is opened.

python -m helpers.series.lab      # what `make lab` does; further arguments go to JupyterLab, such as --no-browser
"""

import os
import subprocess
import sys

from ..paths import NOTEBOOKS, ROOT


def command(arguments: list[str]) -> list[str]:
    """Return the command line that starts JupyterLab."""
    first = NOTEBOOKS.relative_to(ROOT) / "00_start_here.ipynb"
    line = [sys.executable, "-m", "jupyter", "lab", f"--ServerApp.root_dir={ROOT}"]
    line.append(f"--LabApp.default_url=/lab/tree/{first.as_posix()}")
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # as in most containers, where JupyterLab would refuse
        line.append("--allow-root")
    return line + arguments


if __name__ == "__main__":
    try:
        sys.exit(subprocess.run(command(sys.argv[1:]), cwd=ROOT, check=False).returncode)
    except KeyboardInterrupt:  # how one ends JupyterLab
        sys.exit(0)
