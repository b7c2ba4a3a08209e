"""Compare what is installed with the versions that the series is tested with."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from ..paths import ROOT


def read_pins(path: Path = ROOT / "requirements.txt") -> dict[str, str]:
    """Return ``{package: version}`` of the lines ``package==version`` of a requirements file."""
    pins = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if text and not text.startswith("-"):
            requirement = Requirement(text)
            for pin in requirement.specifier:
                if pin.operator == "==":
                    pins[requirement.name] = pin.version
    return pins


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
        if Version(installed).public != Version(wanted).public:
            found.append(f"{name} is {installed}, tested with {wanted}")
    return found


def check_environment(path: Path = ROOT / "requirements.txt") -> str:
    """Return one message: all is as pinned, or what differs and what to do."""
    pins = read_pins(path)
    found = differences(pins)
    if not found:
        return "All packages have the versions that the series is tested with."
    return "\n".join([*found, "To get the tested versions: pip install -r requirements.txt, then restart the kernel."])
