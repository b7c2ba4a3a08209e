"""Serving: real servers on 127.0.0.1, called with OpenAI's client, with few tokens, and stopped at the end.

What clients may ask, and who is let in, is in test_api.py.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
import torch
from transformers import AutoTokenizer

from helpers import __main__ as cli
from helpers.bench import serving as serving_bench
from helpers.checkpoints.synthetic import write_random_checkpoint
from helpers.conversion.directory import convert
from helpers.conversion.loading import load_model
from helpers.errors import InputError
from helpers.generation import answers
from helpers.generation.chat import line_breaks
from helpers.generation.sampling import Sampling, Step, stream
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


@pytest.fixture(scope="module")
def tokenizer(folders):
    return AutoTokenizer.from_pretrained(folders["5.0"], trust_remote_code=False)


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
    assert "".join(pieces) == whole
    assert chunks[-1].choices[0].finish_reason == "length"


class Dictated:
    """In the place of what lets the model write: writes given tokens."""

    def __init__(self, script: list[int]):
        self.script = list(script)

    def read_piece(self) -> bool:
        return False

    def step(self) -> Step:
        return Step([self.script.pop(0)], torch.zeros(1, 65536), ())


TOOL = {"type": "function", "function": {"name": "look", "parameters": {"properties": {"at": {"type": "string"}}}}}
THINKING = {"extra_body": {"enable_thinking": True}}


ENDS = ("<0>", "\n\nUser: no", "\n|\n|User|: no", "\n\nUse|r:")  # cut into tokens at |


@pytest.mark.parametrize(
    ("options", "text", "thought", "content"),
    [
        (THINKING, ">\nHm.\n\nSo.\n</think>\nYes.\n\nNo.", "Hm.\n\nSo.", "Yes.\n\nNo."),
        ({"reasoning_effort": "low"}, ">Hm|</|think>|Yes.\n", "Hm", "Yes.\n"),
        ({"reasoning_effort": "none"}, ">\nYes.", None, "Yes."),
        ({"tools": [TOOL]}, ' ```json\n{"name":"look","arguments":{"at":"好"}}\n```', None, None),
        ({"tools": [TOOL], **THINKING}, '>\nHm</think>\n```json\n{"name":"look","arguments":{"at":"好"}}', "Hm", None),
    ],
)
def test_openais_client_gets_thought_answer_and_call_apart(
    served, tokenizer, options, text, thought, content, monkeypatch
):
    """The model's tokens are given: however they cut the end of the turn, nothing of it is in the answer."""
    api, folder = served
    request = {"model": str(folder), "messages": HELLO, **options}
    for end in ENDS:
        pieces = f"{text}|{end}|more".split("|")
        script = [i for piece in pieces for i in ([0] if piece == "<0>" else tokenizer(piece)["input_ids"])]
        monkeypatch.setattr(answers, "Decoding", lambda *_, script=script, **__: Dictated(script))
        choice = api.chat.completions.create(**request).choices[0]
        assert getattr(choice.message, "reasoning_content", None) == thought
        assert choice.message.content == content
        assert choice.finish_reason == ("stop" if content else "tool_calls")
        deltas = [chunk.choices[0].delta for chunk in api.chat.completions.create(**request, stream=True)]
        assert "".join(delta.content or "" for delta in deltas) == (content or "")
        assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == (thought or "")
        calls = [call for delta in deltas for call in delta.tool_calls or ()]
        for call in [*calls, *(choice.message.tool_calls or ())]:
            assert (call.function.name, json.loads(call.function.arguments)) == ("look", {"at": "好"})
        assert len(calls) == (content is None)


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
    assert api.models.retrieve(str(folder)).id == str(folder)
    with pytest.raises(openai.NotFoundError, match="The model 'another' is not served here"):
        api.models.retrieve("another")
    with pytest.raises(openai.BadRequestError):
        api.chat.completions.create(model="another", messages=HELLO, max_tokens=1)


def test_nothing_listens_after_the_end(folders):
    before = set(threading.enumerate())
    with serving(folders["5.0"], device="cpu") as address:
        port = int(address.rsplit(":", 1)[1].removesuffix("/v1"))
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=LIMIT).status == 200
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    assert set(threading.enumerate()) <= before


def heed_ctrl_c():
    """A shell has what it starts in the background ignore Ctrl+C, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def process(*command: str, **variables: str):
    """Run a server as a process of its own and stop it at the end."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | variables
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


def address_of(running: subprocess.Popen) -> str:
    """Return where a server listens that was started as a process."""
    line = next(line for line in running.stdout if " is served at " in line)
    return line.split(" is served at ")[1].split(",")[0]


def test_the_command_for_rwkv5(folders):
    """``python -m helpers serve DIR`` says where it listens, answers, and ends at Ctrl+C."""
    folder = str(folders["5.0"])
    with process(sys.executable, "-m", "helpers", "serve", folder, "--port", "0", "--device", "cpu") as running:
        api = client(address_of(running))
        answer = api.chat.completions.create(model=folder, messages=HELLO, max_tokens=4, temperature=0)
        assert answer.choices[0].message.content == generated_chat(folders["5.0"], 4)
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=LIMIT) == 130


def test_ctrl_c_ends_answers_that_would_take_for_ever(folders):
    """One that is being written, and one that waits; the key of the environment is needed, and in no message."""
    folder, never = str(folders["5.0"]), 10**9
    environment = {"RWKV_API_KEY": "s3cret"}
    limits = ("--max-tokens", str(never), "--device", "cpu", "--port", "0")
    with process(sys.executable, "-m", "helpers", "serve", folder, *limits, **environment) as running:
        address = address_of(running)
        with pytest.raises(openai.AuthenticationError, match="The API key is missing or wrong"):
            client(address).models.list()
        api = openai.OpenAI(base_url=address, api_key="s3cret", timeout=LIMIT, max_retries=0)
        request = {"model": folder, "prompt": "Hi", "max_tokens": never, "logit_bias": {"0": -100}}
        chunks = api.completions.create(**request, stream=True)
        next(chunks)
        failed = []

        def wait_for_ever():
            try:
                api.completions.create(**request)
            except openai.APIError as error:
                failed.append(error)

        waiting = threading.Thread(target=wait_for_ever, daemon=True)
        waiting.start()
        for _ in range(20):
            next(chunks)
        running.send_signal(signal.SIGINT)
        with pytest.raises(openai.APIError, match="The server is being stopped"):
            for _ in chunks:
                pass
        assert running.wait(timeout=LIMIT) == 130
        waiting.join(LIMIT)
        assert len(failed) == 1
        assert "s3cret" not in running.stdout.read()


def until(condition) -> None:
    """Wait for ``condition()``, but not for ever."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


def test_who_has_gone_holds_up_nobody(folders):
    """Answers of a thousand million tokens, streamed or not, whose clients leave; then somebody else is answered."""
    folder = folders["5.0"]
    with serving(folder, device="cpu", max_tokens=10**9, queue=3) as address:
        host = address.removeprefix("http://").removesuffix("/v1")
        for stream in (True, False, True, False, True, False):  # more than have a place
            body = {"prompt": "Hi", "max_tokens": 10**9, "stream": stream, "logit_bias": {"0": -100}}
            with socket.create_connection((host.split(":")[0], int(host.split(":")[1]))) as connection:
                text = json.dumps(body)
                head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
                connection.sendall(f"{head}Content-Length: {len(text)}\r\n\r\n{text}".encode())
                if stream:
                    assert b"data: " in connection.recv(10**6) + connection.recv(10**6)
        answer = client(address).completions.create(model=str(folder), prompt="Hello", max_tokens=6, temperature=0)
        assert answer.choices[0].text == generated(folder, "Hello", 6)


def test_several_answers_are_those_of_their_seeds(served):
    """In one batch as each alone; of different lengths, since one ends before the others."""
    api, folder = served
    request = {"model": str(folder), "prompt": "Hello", "max_tokens": 12, "temperature": 1.0}
    alone = [api.completions.create(**request, seed=5 + i).choices[0].text for i in range(4)]
    together = api.completions.create(**request, seed=5, n=4)
    assert [choice.text for choice in together.choices] == alone
    assert len(set(alone)) == 4
    assert together.usage.completion_tokens == 48
    stop = alone[1][3:5]
    request["stop"] = [stop]
    alone = [api.completions.create(**request, seed=5 + i).choices[0] for i in range(4)]
    together = api.completions.create(**request, seed=5, n=4).choices
    assert [(choice.text, choice.finish_reason) for choice in together] == [(c.text, c.finish_reason) for c in alone]
    streamed = [""] * 4
    for chunk in api.completions.create(**request, seed=5, n=4, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == [choice.text for choice in together]


def test_log_probabilities_are_those_of_the_model(served):
    """1e-4: fp32 rounding, of logits that were computed token by token and at once."""
    api, folder = served
    model, tokenizer = load_model(folder), AutoTokenizer.from_pretrained(folder)
    prompt = "User: Hello, who are you?\n\nAssistant:"
    request = {"model": str(folder), "max_tokens": 5, "seed": 3, "temperature": 1.5, "presence_penalty": 1.0}
    chat = api.chat.completions.create(**request, messages=HELLO, logprobs=True, top_logprobs=3).choices[0]
    rows = chat.logprobs.content
    assert len(rows) == 5
    assert b"".join(bytes(row.bytes) for row in rows).decode(errors="replace") == chat.message.content
    text = api.completions.create(**request, prompt=prompt, logprobs=2).choices[0].logprobs
    settings = Sampling(temperature=1.5, top_p=1.0, presence_penalty=1.0, seed=3, max_new_tokens=5)
    first = Sampling(**{**settings.__dict__, "begin_suppress_tokens": line_breaks()})
    ids = tokenizer(prompt)["input_ids"]
    for how, told in ((first, [row.logprob for row in rows]), (settings, text.token_logprobs)):
        chosen = [token for token, _ in stream(model, ids, how)]
        with torch.no_grad():
            logprobs = model(torch.tensor([[*ids, *chosen]])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
        assert told == pytest.approx([logprobs[i, token].item() for i, token in enumerate(chosen)], abs=1e-4)
        best = logprobs.topk(3).values
        likely = (
            [[other.logprob for other in row.top_logprobs] for row in rows]
            if how is first
            else [sorted(others.values(), reverse=True)[:2] for others in text.top_logprobs]
        )
        for place, values in enumerate(likely):
            assert values == pytest.approx(best[place, : len(values)].tolist(), abs=1e-4)


def test_a_stream_tells_log_probabilities_and_usage(served):
    api, folder = served
    request = {"model": str(folder), "messages": HELLO, "max_tokens": 6, "temperature": 0, "logprobs": True}
    whole = api.chat.completions.create(**request)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = api.chat.completions.create(**request, **options)
    assert (last.choices, last.usage) == ([], whole.usage)
    rows = [row for chunk in chunks for row in (chunk.choices[0].logprobs.content if chunk.choices[0].logprobs else [])]
    assert [row.token for row in rows] == [row.token for row in whole.choices[0].logprobs.content]


def test_a_long_prompt_is_read_in_pieces_and_gives_the_same(served):
    api, folder = served
    prompt = "The sea was calm, and then it was not. " * 70
    answer = api.completions.create(model=str(folder), prompt=prompt, max_tokens=5, temperature=0)
    assert answer.usage.prompt_tokens > 600
    assert answer.choices[0].text == generated(folder, prompt, 5)
    with pytest.raises(openai.BadRequestError, match="tokens; this server reads 8,192 at most") as refused:
        api.completions.create(model=str(folder), prompt="a b " * 5000)
    assert refused.value.code == "context_length_exceeded"


def test_many_clients_at_once_get_each_their_own_answer(served):
    api, folder = served
    request = {"model": str(folder), "max_tokens": 6, "temperature": 0}
    prompts = [f"Number {number} is" for number in range(12)]
    expected = [api.completions.create(**request, prompt=prompt).choices[0].text for prompt in prompts]
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda p: api.completions.create(**request, prompt=p).choices[0].text, prompts * 3))
    assert answers == expected * 3


def test_a_real_server_refuses_in_openais_form(served):
    client, folder = served
    with pytest.raises(openai.BadRequestError, match=r"messages\[0\].role is .function.") as refused:
        client.chat.completions.create(model=str(folder), messages=[{"role": "function", "content": "x"}])
    assert refused.value.param == "messages[0].role"
    with pytest.raises(openai.BadRequestError, match="this server gives 4096 at most"):
        client.completions.create(model=str(folder), prompt="x", max_tokens=10**9)
    evil = {"Host": "evil.example"}
    with pytest.raises(openai.PermissionDeniedError, match="This server has not the name"):
        client.completions.create(model=str(folder), prompt="x", extra_headers=evil)


def test_a_real_server_heeds_every_setting(served):
    """Bias, penalties and the developer's role."""
    client, folder = served
    request = {"model": str(folder), "prompt": "Hello", "max_tokens": 3, "temperature": 0}
    biased = client.completions.create(**request, logit_bias={"33": 100})
    assert biased.choices[0].text == "!!!".replace("!", AutoTokenizer.from_pretrained(folder).decode([33]))
    model, tokenizer = load_model(folder), AutoTokenizer.from_pretrained(folder)
    for penalty in ("presence_penalty", "frequency_penalty"):
        greedy = Sampling(**{"temperature": 0, "presence_penalty": 0.0, "max_new_tokens": 8, penalty: 2.0})
        ids = [token for token, _ in stream(model, tokenizer("Hello")["input_ids"], greedy)]
        answer = client.completions.create(**request | {"max_tokens": 8, penalty: 2.0})
        assert answer.choices[0].text == tokenizer.decode(ids)
    answers = [
        client.chat.completions.create(
            model=str(folder), messages=[{"role": role, "content": "Be kind."}], max_tokens=4, temperature=0
        ).choices[0].message.content
        for role in ("developer", "system")
    ]  # fmt: skip
    assert answers[0] == answers[1]


def test_weights_that_give_no_numbers_are_an_error_not_an_answer(folders, tmp_path):
    model = load_model(folders["5.0"])
    with torch.no_grad():
        model.rwkv.ln_out.weight[3] = float("nan")
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folders["5.0"]).save_pretrained(tmp_path)
    with (
        serving(tmp_path, device="cpu") as address,
        pytest.raises(openai.InternalServerError, match="The server failed"),
    ):
        client(address).completions.create(model=str(tmp_path), prompt="x", max_tokens=3)


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


def test_missing_packages(folders, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.split(".")[0] == "uvicorn" or name == "helpers.generation.serve"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)  # as if it were not there
    assert cli.main(["serve", str(folders["5.0"])]) == 2
    assert "serve needs the package uvicorn, which is not installed" in capsys.readouterr().err


def test_what_cannot_be_used_is_one_sentence(folders, capsys):
    folder = str(folders["5.0"])
    for arguments, message in (
        (["--port", "-1"], "There is no port -1"),
        (["--port", "65536"], "There is no port 65536"),
        (["--host", "no.such.host.invalid", "--no-auth"], "Cannot listen on no.such.host.invalid"),
        (["--host", "0.0.0.0"], "On 0.0.0.0, other computers reach the server; give --api-key"),
        (["--host", "0.0.0.0", "--api-key", ""], "The argument '' is empty"),
        (["--allow-host", "a:1"], "--allow-host 'a:1' is not a name"),
        (["--allow-origin", "*"], "--allow-origin '*' is not an origin"),
        (["--max-tokens", "0"], "max_tokens is 0"),
        (["--max-prompt", "0"], "max_prompt is 0"),
        (["--queue", "-1"], "queue is -1"),
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


def test_the_load_test(folders, tmp_path, capsys):
    """A short one: nothing is lost or mixed up, and every kind of request was made."""
    out = tmp_path / "serving.json"
    options = ["--clients", "8", "--minutes", "0.05", "--threads", "1", "--queue", "3", "--out", str(out)]
    assert cli.main(["bench", "serving", "--folder", str(folders["5.0"]), *options]) == 0, capsys.readouterr().out
    found = json.loads(out.read_text())
    assert found["faults"] == 0
    assert found["told_to_come_again"] > 0
    assert sum(found["right"].values()) == found["requests"] > 0
    assert cli.main(["bench", "serving", "--minutes", "0"]) == 2
    assert "--minutes is 0.0" in capsys.readouterr().err


def test_the_load_test_sees_what_is_lost_or_mixed_up():
    record = serving_bench.Record()
    record.tell("chat", ["one"], ["one"], 0.1)
    record.tell("chat", ["one"], ["two"], 0.1)
    record.tell_fault("chat", OSError("gone"))
    assert (record.requests, record.right["chat"]) == (3, 1)
    assert record.faults == ["chat: ['one'] instead of ['two']", "chat: OSError: gone"]
