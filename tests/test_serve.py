"""Serving: real servers on 127.0.0.1, called with OpenAI's client, with few tokens, and stopped at the end."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers import __main__ as cli
from helpers.checkpoints.synthetic import write_random_checkpoint
from helpers.checkpoints.versions import VERSIONS
from helpers.conversion.directory import convert
from helpers.errors import InputError
from helpers.generation.serve import register, serving, version_row

LIMIT = 120  # seconds for a server to start, and for a request
HELLO = [{"role": "user", "content": "Hello, who are you?"}]
SIZES = {"hidden_size": 32, "head_size": 16, "dtype": torch.float32}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """``{version: converted directory}``; the code in the RWKV-5 one must not run."""
    base = tmp_path_factory.mktemp("serve")
    made = {}
    for version in ("4", "5.0"):
        checkpoint = write_random_checkpoint(base / f"{version}.pth", version, **SIZES)
        made[version] = convert(checkpoint, base / f"model-{version}", progress=False)
    for file in made["5.0"].glob("*.py"):
        file.write_text("raise RuntimeError('code of the directory was executed')")
    return made


def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=address, api_key="none", timeout=LIMIT, max_retries=0)


def generated(folder: Path, prompt: str, tokens: int) -> str:
    """Return what the model of ``folder`` writes greedily, without a server."""
    register(VERSIONS["5.0"])
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
    return tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)


@pytest.fixture(scope="module", params=["4", "5.0"])
def served(request, folders):
    folder = folders[request.param]
    with serving(folder, device="cpu") as address:
        yield client(address), folder


def test_a_chat_is_answered_as_generate_answers(served):
    api, folder = served
    answer = api.chat.completions.create(model=str(folder), messages=HELLO, max_tokens=6, temperature=0)
    expected = generated(folder, "User: Hello, who are you?\n\nAssistant:", 6)
    assert answer.choices[0].message.content == expected
    assert answer.usage.completion_tokens == 6


def test_a_stream_arrives_in_pieces_and_makes_up_the_answer(served):
    api, folder = served
    request = {"model": str(folder), "messages": HELLO, "max_tokens": 6, "temperature": 0}
    whole = api.chat.completions.create(**request).choices[0].message.content
    chunks = list(api.chat.completions.create(**request, stream=True))
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content]
    assert len(pieces) > 1
    assert "".join(pieces).rstrip("\ufffd") == whole.rstrip("\ufffd")  # the stream leaves out an incomplete character
    assert chunks[-1].choices[0].finish_reason == "length"


def test_completions_sample_with_a_seed(served):
    api, folder = served
    texts = [
        api.completions.create(
            model=str(folder), prompt="Hello", max_tokens=8, temperature=1.0, top_p=0.9, seed=seed
        ).choices[0].text
        for seed in (1, 2, 1)
    ]  # fmt: skip
    assert texts[0] == texts[2] != texts[1]


def test_a_stop_string_ends_the_answer(served):
    api, folder = served
    text = generated(folder, "Hello", 8)
    stop = text[2:4]
    answer = api.completions.create(model=str(folder), prompt="Hello", max_tokens=8, temperature=0, stop=[stop])
    assert stop in answer.choices[0].text
    assert text.startswith(answer.choices[0].text)
    assert answer.usage.completion_tokens < 8
    assert answer.choices[0].finish_reason == "stop"


def test_special_tokens_in_a_message_are_text(served):
    api, folder = served
    messages = [{"role": "user", "content": "<|endoftext|>"}]
    usage = api.chat.completions.create(model=str(folder), messages=messages, max_tokens=1).usage
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    text = "User: <|endoftext|>\n\nAssistant:"
    assert usage.prompt_tokens == len(tokenizer(text, split_special_tokens=True)["input_ids"])


def test_the_model_is_listed_and_another_is_refused(served):
    api, folder = served
    assert [model.id for model in api.models.list()] == [str(folder)]
    with pytest.raises(openai.BadRequestError):
        api.chat.completions.create(model="another", messages=HELLO, max_tokens=1)


def test_nothing_listens_after_the_end(folders):
    before = [thread for thread in threading.enumerate() if thread.name == "uvicorn-thread"]
    with serving(folders["5.0"], device="cpu") as address:
        port = int(address.rsplit(":", 1)[1].removesuffix("/v1"))
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=LIMIT).status == 200
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    assert [thread for thread in threading.enumerate() if thread.name == "uvicorn-thread"] == before


def test_the_server_alone_does_not_find_a_custom_class(tiny_rwkv5, monkeypatch):
    """The reason for the helper; with newer versions of transformers it may become superfluous."""
    from transformers.cli.serving import model_manager

    model, _ = tiny_rwkv5
    monkeypatch.delattr(model_manager.transformers, "Rwkv5ForCausalLM", raising=False)
    with pytest.raises(AttributeError, match="Rwkv5ForCausalLM"):
        model_manager.ModelManager(device="cpu", force_model=model.name_or_path, trust_remote_code=True)


def heed_ctrl_c():
    """A shell has what it starts in the background ignore Ctrl+C, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def process(*command: str):
    """Run a server as a process of its own and stop it at the end."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    running = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=heed_ctrl_c,
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate(timeout=LIMIT)


def test_the_command_for_rwkv5(folders):
    """``python -m helpers serve DIR`` says where it listens, answers, and ends at Ctrl+C."""
    folder = str(folders["5.0"])
    with process(sys.executable, "-m", "helpers", "serve", folder, "--port", "0", "--device", "cpu") as running:
        line = next(line for line in running.stdout if " is served at " in line)
        address = line.split(" is served at ")[1].split(",")[0]
        answer = client(address).chat.completions.create(model=folder, messages=HELLO, max_tokens=4, temperature=0)
        expected = generated(folders["5.0"], "User: Hello, who are you?\n\nAssistant:", 4)
        assert answer.choices[0].message.content == expected
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=LIMIT) == 130


def test_transformers_serve_for_rwkv4_and_its_temperature(folders):
    """A converted RWKV-4 needs no helper. But the server alone takes no notice of temperature and top_p."""
    folder = str(folders["4"])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = str(Path(sys.executable).with_name("transformers"))
    with process(program, "serve", folder, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"):
        end = time.monotonic() + LIMIT
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                assert time.monotonic() < end, "the server did not start"
                time.sleep(0.2)
        api = client(f"http://127.0.0.1:{port}/v1")
        answer = api.chat.completions.create(model=folder, messages=HELLO, max_tokens=4, temperature=0)
        expected = generated(folders["4"], "User: Hello, who are you?\n\nAssistant:", 4)
        assert answer.choices[0].message.content == expected
        sampled = {"model": folder, "prompt": "Hello", "max_tokens": 8, "temperature": 1.5}
        texts = [api.completions.create(**sampled, seed=seed).choices[0].text for seed in (1, 2, 3)]
        assert len(set(texts)) == 1


def test_the_type_is_read_from_the_configuration(folders):
    assert [version_row(folders[version]).model_type for version in ("4", "5.0")] == ["rwkv", "rwkv5"]


@pytest.mark.parametrize("kind", ["nothing", "empty", "broken", "other", "at"])
def test_folders_that_cannot_be_served(kind, tmp_path, capsys):
    folder = tmp_path / ("a@b" if kind == "at" else "model")
    if kind != "nothing":
        folder.mkdir()
    if kind in ("broken", "other"):
        (folder / "config.json").write_text('{"model_type": "llama"}' if kind == "other" else "{")
    message = {"other": "of type llama; this command serves", "at": "has an @ in its name"}.get(
        kind, "run convert first"
    )
    assert cli.main(["serve", str(folder)]) == 2
    assert message in capsys.readouterr().err


def test_a_port_in_use(folders, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert cli.main(["serve", str(folders["5.0"]), "--port", port]) == 2
    assert f"Cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


def test_missing_packages(folders, monkeypatch):
    monkeypatch.setattr("helpers.generation.serve.is_serve_available", lambda: False)
    with pytest.raises(InputError, match=r"pip install -r requirements\.txt"), serving(folders["5.0"]):
        pass
