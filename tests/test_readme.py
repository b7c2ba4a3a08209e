"""README: every recipe runs as it stands there, links lead somewhere, and the Chinese README has the same recipes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_stand_in import environment, local_hub
from safetensors.torch import load_file

from helpers.checkpoints.files import load_checkpoint
from helpers.checkpoints.synthetic import write_random_checkpoint
from helpers.conversion.directory import convert
from helpers.paths import ROOT
from helpers.series import run
from helpers.teaching.environment import read_pins

README, CHINESE = ROOT / "README.md", ROOT / "README_zh.md"
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")


def recipes(path: Path) -> list[tuple[str, str]]:
    """Return language and text of the recipes of a README, in order."""
    return BLOCK.findall(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A folder with ``model.pth``, and a local Hub that has the repositories that the recipes name."""
    folder = tmp_path_factory.mktemp("recipes")
    sizes = {"hidden_size": 32, "head_size": 16, "dtype": torch.bfloat16}
    write_random_checkpoint(folder / "model.pth", "5.0", **sizes)
    hub = folder / "hub"
    write_random_checkpoint(
        hub / "BlinkDL" / "rwkv-4-world" / "RWKV-4-World-0.1B-v1-20230520-ctx4096.pth", "4", **sizes
    )
    with local_hub(hub) as (address, _):
        python = str(Path(sys.executable).parent)
        variables = {**os.environ, **environment(address, folder / "cache")}
        variables |= {"PATH": python + os.pathsep + os.environ["PATH"], "PYTHONWARNINGS": "ignore"}
        (folder / "work").mkdir()
        (folder / "model.pth").rename(folder / "work" / "model.pth")
        write_older_directory(folder / "work" / "model.pth", folder / "work" / "older-directory")
        seventh = write_random_checkpoint(folder / "original7.pth", "7", **sizes)
        convert(seventh, folder / "work" / "rwkv7", progress=False)
        yield folder / "work", hub, variables


def write_older_directory(checkpoint: Path, folder: Path) -> None:
    """Write a directory as it was published for transformers 4: a .bin file, and a config without sizes of heads."""
    converted = load_file(convert(checkpoint, folder, progress=False) / "model.safetensors")
    torch.save(converted, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    config = {"model_type": "rwkv5", "architectures": ["Rwkv5ForCausalLM"], "hidden_size": 32, "num_hidden_layers": 2}
    (folder / "config.json").write_text(json.dumps(config))


def test_every_recipe_runs_as_it_stands(workshop):
    """In order, in one folder: a recipe may use what an earlier one made. CUDA recipes fall back to the CPU here."""
    folder, hub, variables = workshop
    assert len(recipes(README)) >= 6
    for language, text in recipes(README):
        command = [sys.executable, "-c", text] if language == "python" else ["bash", "-euc", text]
        done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        assert done.stdout.strip(), f"the recipe says nothing:\n{text}"
    original, back = load_checkpoint(folder / "model.pth"), load_checkpoint(folder / "back.pth")
    assert original.keys() == back.keys()
    assert all(torch.equal(original[name], back[name]) for name in original)
    assert load_checkpoint(folder / "rwkv7.pth").keys() == load_checkpoint(folder.parent / "original7.pth").keys()
    assert json.loads((folder / "converted" / "parity.json").read_text())["passed"]
    assert (folder / "older-directory" / "model.safetensors").is_file()
    uploaded = hub / "your-name" / "your-model"
    assert (uploaded / "model.safetensors").read_bytes() == (folder / "converted" / "model.safetensors").read_bytes()
    assert {path.name for path in uploaded.iterdir()} == {path.name for path in (folder / "converted").iterdir()}


@pytest.mark.parametrize("path", [README, CHINESE], ids=lambda path: path.name)
def test_links_and_placeholders(path):
    text = path.read_text(encoding="utf-8")
    missing = [target for target in LINK.findall(text) if not (ROOT / target).exists()]
    assert missing == []
    assert not re.search(r"\b(TODO|TBD|NOTEBOOK_ROWS)\b", text)
    for notebook in run.find_notebooks():
        assert f"notebooks/{notebook.name}" in text, f"{notebook.name} is not in the table of the series"


def test_the_chinese_readme_has_the_same_recipes():
    assert recipes(CHINESE) == recipes(README)


@pytest.mark.parametrize("path", [README, CHINESE], ids=lambda path: path.name)
def test_the_wheel_for_cpus_is_the_pinned_one(path):
    assert f"pip install torch=={read_pins()['torch']} " in path.read_text(encoding="utf-8")
