"""Serving: real servers on 127.0.0.1, called with OpenAI's client, with few tokens, and stopped at the end.

What clients may ask, and how answers are cut, is also tested on the gate alone, with a stand-in for the server.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import httpx
import openai
import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig

from helpers import __main__ as cli
from helpers.checkpoints.synthetic import write_random_checkpoint
from helpers.conversion.directory import convert
from helpers.conversion.loading import load_model
from helpers.errors import InputError
from helpers.generation import api, serve
from helpers.generation.chat import line_breaks
from helpers.generation.sampling import Sampling, StopStrings, stream
from helpers.generation.serve import serving

LIMIT = 120  # seconds for a server to start, and for a request
HELLO = [{"role": "user", "content": "Hello, who are you?"}]
SIZES = {"hidden_size": 32, "head_size": 16, "dtype": torch.float32}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """``{version: converted directory}``; the code in the RWKV-5 one must not run. An @ in a name is no revision."""
    base = tmp_path_factory.mktemp("serve")
    made = {}
    for version in ("4", "5.0"):
        checkpoint = write_random_checkpoint(base / f"{version}.pth", version, **SIZES)
        made[version] = convert(checkpoint, base / f"model@{version}", progress=False)
    for file in made["5.0"].glob("*.py"):
        file.write_text("raise RuntimeError('code of the directory was executed')")
    return made


def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=address, api_key="none", timeout=LIMIT, max_retries=0)


def generated(folder: Path, prompt: str, tokens: int, **options) -> str:
    """Return what the model of ``folder`` writes greedily, without a server."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = load_model(folder)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, **options)
    return tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)


def generated_chat(folder: Path, tokens: int) -> str:
    """Return what it answers to ``HELLO``; the first token is no line break."""
    prompt = "User: Hello, who are you?\n\nAssistant:"
    return generated(folder, prompt, tokens, begin_suppress_tokens=list(line_breaks()))


@pytest.fixture(scope="module", params=["4", "5.0"])
def served(request, folders):
    folder = folders[request.param]
    with serving(folder, device="cpu") as address:
        yield client(address), folder


def test_a_chat_is_answered_as_generate_answers(served):
    api, folder = served
    answer = api.chat.completions.create(model=str(folder), messages=HELLO, max_tokens=6, temperature=0)
    assert answer.choices[0].message.content == generated_chat(folder, 6)
    assert answer.usage.completion_tokens == 6
    assert answer.model == str(folder)


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
    assert answer.choices[0].text == text.partition(stop)[0]
    assert answer.usage.completion_tokens < 8
    assert answer.choices[0].finish_reason == "stop"
    chunks = api.completions.create(
        model=str(folder), prompt="Hello", max_tokens=8, temperature=0, stop=[stop], stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == text.partition(stop)[0]


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
        assert answer.choices[0].message.content == generated_chat(folders["5.0"], 4)
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=LIMIT) == 130


def test_transformers_serve_for_rwkv4_and_its_temperature(folders):
    """A converted RWKV-4 needs no helper. But the server alone takes no notice of temperature and top_p."""
    folder = str(folders["4"].with_name("plain"))
    folders["4"].with_name("plain").symlink_to(folders["4"].name)  # an @ would be read as a revision
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


@pytest.mark.parametrize("kind", ["nothing", "empty", "broken", "other"])
def test_folders_that_cannot_be_served(kind, tmp_path, capsys):
    folder = tmp_path / "model"
    if kind != "nothing":
        folder.mkdir()
    if kind in ("broken", "other"):
        (folder / "config.json").write_text('{"model_type": "llama"}' if kind == "other" else "{")
    message = {"other": "says model_type 'llama'"}.get(kind, "run convert first")
    assert cli.main(["serve", str(folder)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("write", ["saved", "merged"])
@pytest.mark.parametrize("version", ["4", "5.0"])
def test_what_was_saved_after_fine_tuning_is_served(version, write, folders, tmp_path):
    """With ``architectures: Rwkv4ForCausalLM``, which transformers does not know; and with the merged LoRA of peft."""
    from peft import LoraConfig, get_peft_model

    model = load_model(folders[version])
    if write == "merged":
        model = get_peft_model(model, LoraConfig(target_modules=["key"], r=2)).merge_and_unload()
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folders[version]).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [type(model).__name__]
    with serving(tmp_path, device="cpu") as address:
        answer = client(address).chat.completions.create(
            model=str(tmp_path), messages=HELLO, max_tokens=4, temperature=0
        )
    assert answer.choices[0].message.content == generated_chat(folders[version], 4)


def test_a_port_in_use(folders, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert cli.main(["serve", str(folders["5.0"]), "--port", port]) == 2
    assert f"Cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


def test_missing_packages(folders, monkeypatch):
    monkeypatch.setattr("helpers.generation.serve.is_serve_available", lambda: False)
    with pytest.raises(InputError, match=r"pip install -r requirements\.txt"), serving(folders["5.0"]):
        pass


def test_what_cannot_be_used_is_one_sentence(folders, capsys):
    folder = str(folders["5.0"])
    for arguments, message in (
        (["--port", "-1"], "There is no port -1"),
        (["--port", "65536"], "There is no port 65536"),
        (["--host", "no.such.host.invalid"], "Cannot listen on no.such.host.invalid"),
        (["--max-tokens", "0"], "max_tokens is 0"),
        (["--device", "nonsense"], "Cannot use the device nonsense"),
        (["--device", "meta"], "Cannot use the device meta"),
    ):
        assert cli.main(["serve", folder, "--port", "0", *arguments]) == 2
        assert capsys.readouterr().err.startswith(f"error: {message}")
    if not torch.cuda.is_available():
        assert cli.main(["serve", folder, "--port", "0", "--device", "cuda"]) == 2
        assert "try --device cpu" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        cli.main(["serve", folder, "--dtype", "bf16"])
    assert "invalid choice: 'bf16'" in capsys.readouterr().err
    with (
        pytest.raises(InputError, match="There is no dtype bf16; choose one of auto, float32"),
        serving(folder, dtype="bf16"),
    ):
        pass


# what clients may ask

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
GOOD = {CHAT: {"messages": HELLO}, TEXT: {"prompt": "Hello"}}


def of_user(content) -> dict:
    return {"messages": [{"role": "user", "content": content}]}


REFUSED = [  # path, what is sent beside a good request, what is said about it
    (CHAT, {"messages": []}, "messages is []: it should have at least 1 item"),
    (CHAT, {"messages": "hello"}, "messages is"),
    (CHAT, {"messages": [{}]}, "has no messages[0].role"),
    (CHAT, {"messages": [{"role": "user"}]}, "has no messages[0].content"),
    (CHAT, {"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role is"),
    (CHAT, {"messages": [{"role": "function", "content": "x"}]}, "messages[0].role is"),
    (CHAT, {"messages": [*HELLO, {"role": "assistant", "content": "x", "tool_calls": [{}]}]}, "messages[1].tool_calls"),
    (CHAT, of_user(None), "messages[0].content is null"),
    (CHAT, of_user(5), "messages[0].content is 5"),
    (CHAT, of_user([{"type": "image_url", "image_url": {"url": "x"}}]), "it should be text"),
    (CHAT, of_user([5]), "it should be text"),
    (TEXT, {"prompt": ""}, "prompt[0] is"),
    (TEXT, {"prompt": None}, "prompt is null"),
    (TEXT, {"prompt": []}, "prompt is []"),
    (TEXT, {"prompt": ["a", "b"]}, "it should have at most 1 item"),
    (TEXT, {"prompt": [33, 34]}, "prompt[0] is 33"),
    *((path, {"max_tokens": value}, "max_tokens is ") for path in GOOD for value in (0, -1, 1.5, "5", True, 101)),
    *((path, {"temperature": value}, "temperature is") for path in GOOD for value in (-1, 2.1, "1", [])),
    *((path, {"top_p": value}, "top_p is") for path in GOOD for value in (-0.1, 1.1)),
    *((path, {"seed": value}, "seed is") for path in GOOD for value in (2**63, 1.5)),
    *((path, {"stop": value}, "stop") for path in GOOD for value in ("", [""], 5, [5], "x" * 65, ["x"] * 17)),
    *((path, {"frequency_penalty": value}, "frequency_penalty is") for path in GOOD for value in (-1, 2.5)),
    *((path, {"presence_penalty": value}, "presence_penalty is") for path in GOOD for value in (-3, 2.5)),
    *((path, {"logit_bias": {key: 1}}, "logit_bias") for path in GOOD for key in ("x", "-1", "300", "1.5")),
    *((path, {"logit_bias": value}, "logit_bias") for path in GOOD for value in ([1], {"5": 101}, {"5": "1"})),
    *((path, {"stream": value}, "stream is") for path in GOOD for value in (1, "true")),
    *((path, {"model": value}, "model") for path in GOOD for value in ("another", 5)),
    *((path, {"n": 2}, "n is 2: it is not supported") for path in GOOD),
    *((path, {name: "{}"}, f"{name} is not a field") for path in GOOD for name in ("generation_config", "nonsense")),
    (CHAT, {"chat_template_kwargs": {"chat_template": "x"}}, "chat_template_kwargs is not a field"),
    (CHAT, {"max_completion_tokens": 101}, "max_tokens is 101; this server gives 100 at most"),
    (CHAT, {"logprobs": True}, "logprobs is true: it is not supported"),
    (CHAT, {"top_logprobs": 3}, "top_logprobs is 3: it is not supported"),
    (CHAT, {"tools": [{"type": "function"}]}, "it is not supported by this server; leave it out"),
    (CHAT, {"functions": [{"name": "f"}]}, "it is not supported by this server; leave it out"),
    (CHAT, {"tool_choice": "required"}, "it is not supported by this server; leave it out"),
    (CHAT, {"response_format": {"type": "json_object"}}, "it is not supported by this server; leave it out"),
    (CHAT, {"modalities": ["audio"]}, "it is not supported by this server; leave it out"),
    (TEXT, {"logprobs": 0}, "logprobs is 0: it is not supported"),
    (TEXT, {"echo": True}, "echo is true: it is not supported"),
    (TEXT, {"best_of": 2}, "best_of is 2: it is not supported"),
    (TEXT, {"suffix": "x"}, "it is not supported by this server; leave it out"),
]  # fmt: skip
NOT_JSON = [b"", b"{", b"[1]", b"5", b'{"prompt": "\xff"}', b"[" * 10**5, b'{"prompt": NULL}', b"9" * 9999,
            b'{"prompt": "\\ud83d"}', b'{"prompt": "\\udc1d\\ud83d"}']  # fmt: skip


class StandIn:
    """In the place of the server: keeps what it is sent, and answers what it is told to."""

    def __init__(self, *bodies: bytes, status: int = 200, kind: str = "application/json"):
        self.bodies, self.status, self.kind, self.received = bodies, status, kind, []

    async def __call__(self, scope, receive, send):
        self.received.append(json.loads((await receive())["body"]))
        headers = [(b"content-type", self.kind.encode()), (b"x-request-id", b"7")]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        for number, body in enumerate(self.bodies, start=1):
            await send({"type": "http.response.body", "body": body, "more_body": number < len(self.bodies)})


ANSWER = json.dumps({"choices": []}).encode()


def ask(server, path: str, body: dict | bytes, method: str = "POST", kind: str = "application/json") -> httpx.Response:
    """Send a request through the gate to ``server``."""
    gate = api.Gate(server, api.Served("mini", 300, {"eos_token_id": 0}, max_tokens=100))

    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://mini") as client:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            return await client.request(method, path, content=content, headers={"Content-Type": kind})

    return asyncio.run(send())


@pytest.mark.parametrize(("path", "changes", "message"), REFUSED)
def test_wrong_requests_are_refused_in_one_sentence(path, changes, message):
    server = StandIn(ANSWER)
    answer = ask(server, path, GOOD[path] | changes)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"
    assert error.keys() == {"message", "type", "param", "code"}
    assert re.split(r"[.\[]", error["param"])[0] in (*changes, "max_tokens")
    assert "\n" not in error["message"]
    assert server.received == []


@pytest.mark.parametrize("body", NOT_JSON, ids=range(len(NOT_JSON)))
def test_what_is_not_json_is_refused(body):
    """Half an emoji, too: a lone surrogate is no character."""
    for path in GOOD:
        answer = ask(StandIn(ANSWER), path, body)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"].startswith("The body of the request is not ")


def test_what_no_check_covers_is_closed():
    for method, path in (("POST", "/load_model"), ("POST", "/reset"), ("POST", "/v1/responses"), ("GET", CHAT)):
        answer = ask(StandIn(ANSWER), path, {}, method)
        assert answer.status_code == 404
        assert f"There is no {method} {path} here" in answer.json()["error"]["message"]
    answer = ask(StandIn(ANSWER), CHAT, GOOD[CHAT], kind="text/plain")
    assert "Content-Type: application/json" in answer.json()["error"]["message"]


NOTHING = {
    "n": 1,
    "user": "me",
    "presence_penalty": 0,
    "logit_bias": {},
    "stop": None,
    "stream_options": {"include_usage": True},
}
NOTHING_IN_CHAT = {
    "logprobs": False,
    "tools": [],
    "tool_choice": "auto",
    "response_format": {"type": "text"},
    "store": False,
}


@pytest.mark.parametrize("path", GOOD)
def test_fields_that_ask_for_nothing_pass(path):
    plain, full = StandIn(ANSWER), StandIn(ANSWER)
    ask(plain, path, GOOD[path])
    ask(full, path, GOOD[path] | NOTHING | (NOTHING_IN_CHAT if path == CHAT else {"echo": False, "best_of": 1}))
    assert full.received == plain.received


def settings_for(path: str, **fields) -> dict:
    """Return the generation configuration that the server gets."""
    server = StandIn(ANSWER)
    assert ask(server, path, GOOD[path] | fields).status_code == 200
    return json.loads(server.received[0]["generation_config"])


def test_what_the_server_gets():
    usual = settings_for(TEXT)
    assert usual["eos_token_id"] == 0
    assert (usual["do_sample"], usual["temperature"], usual["top_p"], usual["top_k"]) == (True, 1, 1, 0)
    assert usual["max_new_tokens"] == 100, "the limit, which is less than usual"
    assert not usual.keys() & {"stop_strings", "begin_suppress_tokens", "sequence_bias"}
    assert settings_for(TEXT, max_tokens=7)["max_new_tokens"] == 7
    assert settings_for(CHAT, max_tokens=7, max_completion_tokens=8)["max_new_tokens"] == 8
    assert settings_for(TEXT, temperature=1e-30)["do_sample"] is False
    assert settings_for(TEXT, logit_bias={"5": 1})["sequence_bias"] == [[[5], 1.0]]
    assert settings_for(TEXT, frequency_penalty=1)["repetition_penalty"] == 2
    assert settings_for(TEXT, stop="x")["stop_strings"] == ["x"]
    assert settings_for(CHAT)["stop_strings"] == settings_for(CHAT, stop=[])["stop_strings"] == ["\n\n"]
    assert settings_for(CHAT, stop=["x", "y"])["stop_strings"] == ["x", "y"]


def test_messages_reach_the_server_as_the_template_takes_them():
    server = StandIn(ANSWER)
    parts = [{"type": "text", "text": "Say "}, {"type": "text", "text": "hello."}]
    turns = [{"role": "developer", "content": "Be kind.", "name": "me"}, {"role": "user", "content": parts}]
    ask(server, CHAT, {"messages": turns, "seed": 4, "model": "mini"})
    (received,) = server.received
    assert received["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Say hello."},
    ]
    assert (received["seed"], received["stream"]) == (4, False)


# answers


def answer_of(text: str, path: str, reason: str | None = "length") -> dict:
    choice = {"text": text} if path == TEXT else {"message": {"role": "assistant", "content": text}}
    return {"model": "inside@main", "choices": [{"index": 0, "finish_reason": reason, **choice}]}


@pytest.mark.parametrize("path", GOOD)
@pytest.mark.parametrize(
    ("text", "stop", "expected", "reason"),
    [
        (" Hi.\n\nUser: no", "\n\n", " Hi.", "stop"),
        (" Hi.\n", "\n\n", " Hi.\n", "length"),
        (" one two three", ["three", "two"], " one ", "stop"),
        ("。好", "好", "。", "stop"),
        ("", ["x"], "", "length"),
    ],
)
def test_an_answer_is_cut_at_its_stop_string(path, text, stop, expected, reason):
    """Whole, and in a stream of any pieces."""
    answer = ask(StandIn(json.dumps(answer_of(text, path)).encode()), path, GOOD[path] | {"stop": stop}).json()
    choice = answer["choices"][0]
    assert (choice["text"] if path == TEXT else choice["message"]["content"]) == expected
    assert (choice["finish_reason"], answer["model"]) == (reason, "mini")
    for size in (1, 2, 5):
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        events = [chunk_of(piece, path) for piece in pieces] + [chunk_of("", path, "length")]
        stream = b"".join(events)
        for bodies in (events, [stream[:30], stream[30:], b""]):
            heard = ask(StandIn(*bodies, kind="text/event-stream"), path, GOOD[path] | {"stop": stop, "stream": True})
            chunks = [json.loads(line.removeprefix("data: ")) for line in heard.text.split("\n\n") if line]
            choices = [chunk["choices"][0] for chunk in chunks]
            assert "".join(c.get("text") or c.get("delta", {}).get("content") or "" for c in choices) == expected
            assert [c["finish_reason"] for c in choices if c.get("finish_reason")] == [reason]
            assert {chunk["model"] for chunk in chunks} == {"mini"}
            assert heard.headers["x-request-id"] == "7"


def chunk_of(piece: str, path: str, reason: str | None = None) -> bytes:
    """Return an event of a stream; the last one carries no text."""
    choice = {"text": piece} if path == TEXT else {"delta": {} if reason else {"content": piece}}
    chunk = {"model": "inside@main", "choices": [{"index": 0, "finish_reason": reason, **choice}]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def test_what_may_become_a_stop_string_is_held_back():
    cut = api.StopCut(["abc", "b!"])
    assert [cut.feed(piece) for piece in ("x", "a", "b", "d", "ab")] == ["x", "", "", "abd", ""]
    assert cut.rest() == "ab"
    assert not cut.found
    cut = api.StopCut(["abc", "b!"])
    assert [cut.feed(piece) for piece in ("xab", "!c", "more", "b!")] == ["x", "a", "", ""]
    assert cut.found


def test_errors_of_the_server_have_the_form_of_the_api():
    for body, status, expected, message in (
        (b'{"detail": "no"}', 400, 400, "no"),
        (b'{"detail": [{"loc": 1}]}', 422, 422, '[{"loc": 1}]'),
        (b"Internal Server Error", 500, 500, "The server failed; see its messages."),
    ):
        answer = ask(StandIn(body, status=status, kind="text/plain"), TEXT, GOOD[TEXT])
        assert answer.status_code == expected
        assert answer.json()["error"]["message"] == message
    broken = StandIn(b'data: {"error": "a "word" in quotes"}\n\n', kind="text/event-stream")
    event = json.loads(ask(broken, TEXT, GOOD[TEXT] | {"stream": True}).text.removeprefix("data: "))
    assert event["error"]["type"] == "server_error"
    assert 'a "word" in quotes' in event["error"]["message"]


def test_a_real_server_refuses_in_openais_form(served):
    client, folder = served
    with pytest.raises(openai.BadRequestError, match=r"messages\[0\].role is .tool.") as refused:
        client.chat.completions.create(model=str(folder), messages=[{"role": "tool", "content": "x"}])
    assert refused.value.param == "messages[0].role"
    half = httpx.post(
        f"{client.base_url}chat/completions",
        content=b'{"messages": [{"role": "user", "content": "\\ud83d"}]}',
        headers={"Content-Type": "application/json"},
        timeout=LIMIT,
    )
    assert half.status_code == 400
    with pytest.raises(openai.BadRequestError, match="this server gives 4096 at most"):
        client.completions.create(model=str(folder), prompt="x", max_tokens=10**9)


def test_a_real_server_heeds_every_setting(served):
    """Bias, penalties and the developer's role, which the server alone passes over or fails at."""
    client, folder = served
    request = {"model": str(folder), "prompt": "Hello", "max_tokens": 3, "temperature": 0}
    biased = client.completions.create(**request, logit_bias={"33": 100})
    assert biased.choices[0].text == "!!!".replace("!", AutoTokenizer.from_pretrained(folder).decode([33]))
    model, tokenizer = load_model(folder), AutoTokenizer.from_pretrained(folder)
    greedy = Sampling(temperature=0, presence_penalty=2.0, max_new_tokens=8)
    expected = tokenizer.decode([token for token, _ in stream(model, tokenizer("Hello")["input_ids"], greedy)])
    text = client.completions.create(**request | {"max_tokens": 8}, presence_penalty=2.0).choices[0].text
    assert text.rstrip("\ufffd") == expected.rstrip("\ufffd")
    answers = [
        client.chat.completions.create(
            model=str(folder), messages=[{"role": role, "content": "Be kind."}], max_tokens=4, temperature=0
        ).choices[0].message.content
        for role in ("developer", "system")
    ]  # fmt: skip
    assert answers[0] == answers[1]


def test_a_stop_string_is_seen_whatever_its_tokens(tiny_rwkv5):
    """Characters that two tokens share are complete with the second one; the prompt does not count."""
    _, tokenizer = tiny_rwkv5
    for text, stop in (("One\n\nTwo", "\n\n"), ("看𪚥看", "𪚥"), ("a stop.", " stop"), ("\n\n", "\n\n")):
        ids = torch.tensor([[5, 5, *tokenizer(text)["input_ids"]]])
        criterion = StopStrings([stop, "never"], tokenizer, prompt_length=2)
        ends = [bool(criterion(ids[:, :length], None)) for length in range(3, ids.shape[1] + 1)]
        decoded = [tokenizer.decode(ids[0, 2:length]) for length in range(3, ids.shape[1] + 1)]
        first = next(number for number, part in enumerate(decoded) if stop in part)
        assert ends.index(True) == first
    prompt = torch.tensor([tokenizer("x\n\ny")["input_ids"]])
    assert not StopStrings(["\n\n"], tokenizer, prompt_length=prompt.shape[1] - 1)(prompt, None)


def test_generate_takes_settings_from_the_configuration(tiny_rwkv5):
    """An answer does not begin with what is ruled out; the same one as the model alone gives."""
    model, tokenizer = tiny_rwkv5
    ids = torch.tensor([[33, 1097, 22799]])
    plain = model.generate(ids, max_new_tokens=8, do_sample=False)[0, 3:].tolist()
    config = GenerationConfig(max_new_tokens=8, do_sample=False, begin_suppress_tokens=plain[:1])
    other = serve.generate(model.generate, ids, config, tokenizer)[0, 3:].tolist()
    expected = model.generate(ids, max_new_tokens=8, do_sample=False, begin_suppress_tokens=plain[:1])[0, 3:].tolist()
    assert other == expected
    assert other[0] != plain[0]
