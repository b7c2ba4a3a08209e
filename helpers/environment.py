"""Compare what is installed with the versions that the series is tested with."""

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .paths import ROOT

PIN = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?==([^\s;#]+)")


def read_pins(path: Path = ROOT / "requirements.txt") -> dict[str, str]:
    """Return ``{package: version}`` of the lines ``package==version`` of a requirements file."""
    matches = map(PIN.match, path.read_text(encoding="utf-8").splitlines())
    return {match[1]: match[2] for match in matches if match}


def differences(pins: dict[str, str]) -> list[str]:
    """Return a sentence for each package that is missing or has another version; an empty list is good.

    A local label, such as ``+cpu`` in torch's ``2.13.0+cpu``, makes no difference.
    """
    found = []
    for name, wanted in pins.items():
        try:
            installed = version(name)
        except PackageNotFoundError:
            found.append(f"{name} is not installed, tested with {wanted}")
            continue
        if installed.split("+")[0] != wanted.split("+")[0]:
            found.append(f"{name} is {installed}, tested with {wanted}")
    return found


def check_environment(path: Path = ROOT / "requirements.txt") -> str:
    """Return one message: all is as pinned, or what differs and what to do."""
    pins = read_pins(path)
    found = differences(pins)
    if not found:
        return "All packages have the versions that the series is tested with."
    return "\n".join([*found, "To get the tested versions: pip install -r requirements.txt, then restart the kernel."])
