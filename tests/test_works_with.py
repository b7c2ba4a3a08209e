"""WORKS_WITH.md: every recipe runs as it stands there, those that need other packages where these are installed."""

import importlib.metadata
import os
import re
import subprocess
import sys

import pytest
import torch

from helpers.checkpoints.synthetic import write_random_checkpoint
from helpers.conversion.directory import convert
from helpers.paths import ROOT

PAGE = ROOT / "WORKS_WITH.md"
RECIPES = re.findall(r"^## (.+?)$|^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}


def named_recipes() -> list:
    """Return the recipes, each named by its section and what it needs."""
    found, section = [], ""
    for title, text in RECIPES:
        section = title or section
        if text:
            needs = re.match(r"# needs: (.+)\n", text)
            found.append(pytest.param(text, id=f"{section}, {needs[1]}" if needs else section))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a converted model in ``converted``."""
    folder = tmp_path_factory.mktemp("works_with")
    sizes = {"hidden_size": 64, "head_size": 32, "dtype": torch.float32}
    convert(write_random_checkpoint(folder / "model.pth", "5.2", **sizes), folder / "converted", progress=False)
    return folder


@pytest.mark.parametrize("text", named_recipes())
def test_a_recipe_runs_as_it_stands(text, folder):
    if needs := re.match(r"# needs: (.+)\n", text):
        for requirement in needs[1].split():
            name = requirement.partition("==")[0]
            try:
                importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                pytest.skip(f"needs {name}")
    command = [sys.executable, "-c", text]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip(), "the recipe says nothing"
    assert "tensor(False)" not in done.stdout


def test_every_link_leads_somewhere():
    paths = re.findall(r"`(helpers/[\w/]+|tests/[\w.]+)`", PAGE.read_text(encoding="utf-8"))
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
