"""What clients may ask of the server, who is let in, and the form of answers: the application without a model."""

import asyncio
import contextlib
import json
import math
import re
import threading
import time
from dataclasses import replace

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from helpers.errors import InputError
from helpers.generation import api, web
from helpers.generation.answers import Answer, Piece, Spelling, StopCut, Task, Token
from helpers.generation.chat import line_breaks
from helpers.generation.jobs import Line
from helpers.generation.prompts import NEXT_USER
from helpers.generation.serve import doors
from helpers.generation.web import CHAT, MODELS, TEXT, Doors, application

LIMIT = 60  # seconds after which something counts as stuck
HELLO = [{"role": "user", "content": "Hello, who are you?"}]
GOOD = {CHAT: {"messages": HELLO}, TEXT: {"prompt": "Hello"}}
SERVED = api.Served("mini", 300, max_tokens=100, max_prompt=50)


@pytest.fixture(scope="module")
def tokenizer(tiny_rwkv5) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(tiny_rwkv5[0].name_or_path)


class Writer:
    """In the place of the model: keeps what it is asked for, and answers one word."""

    def __init__(self, error: Exception | None = None):
        self.tasks, self.error = [], error

    def __call__(self, task: Task):
        self.tasks.append(task)
        if self.error:
            raise self.error
        yield [Piece(number, "Hi", [], 1) for number in range(task.answers)]
        yield [Piece(number, "", [], 1, "length") for number in range(task.answers)]


@contextlib.contextmanager
def line_of(write, limit: int = 64):
    line = Line(write, limit)
    yield line
    line.stop()
    assert line.join(LIMIT)


@pytest.fixture
def ask(tokenizer):
    """Return a function that sends one request to an application of its own."""

    def send(path, body=b"", method="POST", headers=(), let_in=None, write=None):
        async def go(app):
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                kind = {"Content-Type": "application/json"}
                return await client.request(method, path, content=content, headers=kind | dict(headers))

        with line_of(write or Writer()) as line:
            return asyncio.run(go(application(SERVED, tokenizer, line, let_in or Doors())))

    return send


def error_of(answer: httpx.Response) -> dict:
    """Return the error in an answer, which has the form of OpenAI's API."""
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == ("server_error" if answer.status_code >= 500 else "invalid_request_error")
    assert len(error["message"]) < 400
    assert error["message"].isprintable()
    return error


# what clients may ask


def of_user(content) -> dict:
    return {"messages": [{"role": "user", "content": content}]}


CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"x": "你"}'}}


def called(name: str, *arguments) -> dict:
    """Return a message of an assistant who calls a function, once with each of the arguments."""
    calls = [CALL | {"function": {"name": name, "arguments": each}} for each in arguments]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def tool(**changes) -> dict:
    schema = {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}
    return {"type": "function", "function": {"name": "f", "parameters": schema} | changes}


TOOL = tool()
REFUSED = [  # path, what is sent beside a good request, what is said about it
    (CHAT, {"messages": []}, "messages is []: it should have at least 1 item"),
    (CHAT, {"messages": "hello"}, "messages is"),
    (CHAT, {"messages": [{}]}, "has no messages[0].role"),
    (CHAT, {"messages": [{"role": "user"}]}, "has no messages[0].content"),
    (CHAT, {"messages": [{"role": "function", "content": "x"}]}, "messages[0].role is"),
    (CHAT, {"messages": [*HELLO, {"role": "assistant", "content": "x", "tool_calls": [{}]}]}, "messages[1].tool_calls"),
    (CHAT, {"messages": [*HELLO, called("f", "{}", "{}")]}, "it should have at most 1 item"),
    *((CHAT, {"messages": [*HELLO, called("f", wrong)]}, "messages[1].tool_calls[0].function.arguments")
      for wrong in ("", "[]", "5", '{"a": NaN}', '{"a": 1e999}', '{"a": 1, "a": 2}', r'{"a": "\ud83d"}', "{" * 999, 5)),
    (CHAT, {"messages": [*HELLO, {"role": "assistant", "content": None}]}, "messages[1].content is null"),
    (CHAT, {"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]}, "only an assistant has tool_calls"),
    (CHAT, {"messages": [{"role": "user", "content": "x", "reasoning_content": "y"}]}, "only an assistant has"),
    (CHAT, of_user(None), "messages[0].content is null"),
    (CHAT, of_user(5), "messages[0].content is 5"),
    (CHAT, of_user([{"type": "image_url", "image_url": {"url": "x"}}]), "it should be text"),
    (CHAT, of_user([5]), "it should be text"),
    (CHAT, of_user("word " * 60), "tokens; this server reads 50 at most"),
    (TEXT, {"prompt": "word " * 60}, "tokens; this server reads 50 at most"),
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
    *((path, {"frequency_penalty": value}, "frequency_penalty is") for path in GOOD for value in (-2.5, 2.5)),
    *((path, {"presence_penalty": value}, "presence_penalty is") for path in GOOD for value in (-3, 2.5)),
    *((path, {"logit_bias": {key: 1}}, "logit_bias") for path in GOOD for key in ("x", "-1", "300", "1.5")),
    *((path, {"logit_bias": value}, "logit_bias") for path in GOOD for value in ([1], {"5": 101}, {"5": "1"})),
    *((path, {"logit_bias": dict.fromkeys(range(2000), 1)}, "logit_bias has 2000 tokens") for path in GOOD),
    *((path, {"stream": value}, "stream is") for path in GOOD for value in (1, "true")),
    *((path, {"stream_options": value}, "stream_options") for path in GOOD for value in (1, {"include_usage": 1})),
    *((path, {"model": value}, "model") for path in GOOD for value in ("another", 5)),
    *((path, {"n": value}, "n is") for path in GOOD for value in (0, 17, True, 1.0)),
    *((path, {name: "{}"}, f"{name} is not a field") for path in GOOD for name in ("generation_config", "nonsense")),
    (CHAT, {"chat_template_kwargs": {"chat_template": "x"}}, "chat_template_kwargs.chat_template is not a field"),
    *((CHAT, {name: value}, f"{name} is") for name in ("enable_thinking", "thinking") for value in (1, "true", {})),
    (CHAT, {"chat_template_kwargs": {"thinking": 1}}, "chat_template_kwargs.thinking is 1"),
    (CHAT, {"reasoning_effort": "xhigh"}, "it should be 'none', 'minimal', 'low', 'medium' or 'high'"),
    (CHAT, {"reasoning_effort": 3}, "reasoning_effort is 3"),
    (CHAT, {"reasoning_effort": "high", "thinking": False}, "say it once"),
    (CHAT, {"enable_thinking": True, "chat_template_kwargs": {"thinking": False}}, "say it once"),
    (CHAT, {"reasoning_effort": "low", "messages": [{"role": "system", "content": "x"}]}, "and there is none"),
    (CHAT, {"chat_template": "x"}, "chat_template is not a field"),
    (CHAT, {"max_completion_tokens": 101}, "max_tokens is 101; this server gives 100 at most"),
    (CHAT, {"logprobs": 1}, "logprobs is 1"),
    (CHAT, {"top_logprobs": 3}, "top_logprobs is given without logprobs"),
    (CHAT, {"logprobs": True, "top_logprobs": 21}, "top_logprobs is 21"),
    (CHAT, {"tools": [{"type": "function"}]}, "has no tools[0].function"),
    (CHAT, {"tools": {"type": "function"}}, "tools is"),
    (CHAT, {"tools": [TOOL, TOOL]}, "Two of the tools have the same name"),
    (CHAT, {"tools": [TOOL] * 129}, "it should have at most 128 items"),
    (CHAT, {"tools": [{"type": "retrieval", "function": {"name": "f"}}]}, "tools[0].type is"),
    *((CHAT, {"tools": [tool(name=name)]}, "tools[0].function.name is") for name in ("", "a b", "f\n", "\n\nUser:", 5)),
    (CHAT, {"tools": [tool(parameters=[])]}, "tools[0].function.parameters is []"),
    *((CHAT, {"tools": [tool(parameters=wrong)]}, "it should be a JSON schema of an object")
      for wrong in ({"properties": 5}, {"properties": [], "required": []}, {"required": "x"}, {"required": {"x": 1}})),
    *((CHAT, {"tools": [tool(parameters={"properties": {"x": {}, "y": {}}, "required": wrong})]}, "each once")
      for wrong in (["x", "x"], ["z"], [5], [{}])),
    *((CHAT, {"tools": [tool(parameters={"properties": {"x": {"default": wrong}}})]}, "numbers that JSON has not")
      for wrong in (math.nan, math.inf, -math.inf)),
    *((CHAT, {"messages": [*HELLO, called("f", {"x": wrong})]}, "messages[1].tool_calls[0].function.arguments")
      for wrong in (math.nan, math.inf, -math.inf)),
    (CHAT, {"tools": [tool(parameters={"properties": {"x" * 999: {}}})]}, "tokens; this server reads 50 at most"),
    (CHAT, {"tools": [tool(strict=True)]}, "it is not supported by this server; leave it out"),
    (CHAT, {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice is"),
    (CHAT, {"tools": [TOOL], "tool_choice": "required", "thinking": True}, "leave out thinking"),
    (CHAT, {"functions": [{"name": "f"}]}, "it is not supported by this server; leave it out"),
    (CHAT, {"tool_choice": "required"}, "tool_choice is required: give tools"),
    (CHAT, {"response_format": {"type": "json_object"}}, "it is not supported by this server; leave it out"),
    (CHAT, {"modalities": ["audio"]}, "it is not supported by this server; leave it out"),
    (TEXT, {"logprobs": True}, "logprobs is true"),
    (TEXT, {"logprobs": 21}, "logprobs is 21"),
    (TEXT, {"echo": True}, "echo is true: it is not supported"),
    (TEXT, {"best_of": 2}, "best_of is 2: it is not supported"),
    (TEXT, {"best_of": True}, "best_of is true: it is not supported"),
    (TEXT, {"suffix": "x"}, "it is not supported by this server; leave it out"),
]  # fmt: skip
NOT_JSON = [b"", b"{", b"[1]", b"5", b'{"prompt": "\xff"}', b"[" * 10**4, b'{"a": ' * 10**4, b'{"prompt": NULL}',
            b"9" * 9999, b'{"prompt": "\\ud83d"}', b'{"prompt": "\\udc1d\\ud83d"}', b"\xef\xbb\xbf{}"]  # fmt: skip


@pytest.mark.parametrize(("path", "changes", "message"), REFUSED)
def test_wrong_requests_are_refused_in_one_sentence(path, changes, message, ask):
    write = Writer()
    answer = ask(path, GOOD[path] | changes, write=write)
    assert answer.status_code == 400
    error = error_of(answer)
    assert message in error["message"]
    if "tokens; this" not in message:
        assert re.split(r"[.\[]", error["param"])[0] in (*changes, "max_tokens")
    assert write.tasks == []


@pytest.mark.parametrize("body", NOT_JSON, ids=range(len(NOT_JSON)))
def test_what_is_not_json_is_refused(body, ask):
    """Half an emoji, too: a lone surrogate is no character."""
    for path in GOOD:
        answer = ask(path, body)
        assert answer.status_code == 400
        assert error_of(answer)["message"].startswith("The body of the request is not ")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([10**400, "\x9b[2J", 1e999]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("path", GOOD)
def test_whatever_a_field_has_is_answered_or_refused(path, ask):
    """Every field of the schema and some others, with every type of JSON, and NaN and Infinity, which Python writes."""
    kind = api.ChatRequest if path == CHAT else api.CompletionRequest
    fields = st.sampled_from([*kind.model_fields, "nonsense", "", "\n", "x" * 999, "\u2028"])

    @settings(max_examples=300, deadline=None)
    @given(st.dictionaries(fields, VALUES, min_size=1, max_size=2))
    def check(changes):
        answers.append(ask(path, json.dumps(GOOD[path] | changes).encode()))
        if answers[-1].status_code != 200:
            error_of(answers[-1])

    answers = []
    check()
    statuses = {answer.status_code for answer in answers}
    assert statuses == {200, 400}


@pytest.mark.parametrize("number", ["9" * 4000, "-" + "9" * 5000, "1e999", "NaN", "-Infinity"])
@pytest.mark.parametrize("field", ["seed", "max_tokens", "temperature", "n", "top_p", "logit_bias"])
def test_numbers_beyond_all_measure(field, number, ask):
    value = f'{{"{number}": {number}}}' if field == "logit_bias" else number
    answer = ask(TEXT, f'{{"prompt": "Hi", "{field}": {value}}}'.encode())
    assert answer.status_code == 400
    error_of(answer)


def test_what_is_not_offered(ask):
    for method, path in (("POST", "/load_model"), ("POST", "/reset"), ("POST", "/v1/responses"), ("GET", "/"),
                         ("GET", "/docs"), ("GET", "/openapi.json"), ("POST", CHAT + "/"),
                         ("GET", "/" + "x" * 999)):  # fmt: skip
        answer = ask(path, {}, method)
        assert answer.status_code == 404
        assert f"There is no {method} {path[:60]}" in error_of(answer)["message"]
    for method, path in (("GET", CHAT), ("DELETE", MODELS), ("POST", "/health"), ("OPTIONS", TEXT)):
        answer = ask(path, {}, method)
        assert answer.status_code == 405
        assert answer.headers["allow"]
        error_of(answer)
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
                 "text/plain; application/json", "application/jsonx", ""):  # fmt: skip
        answer = ask(CHAT, GOOD[CHAT], headers={"Content-Type": kind})
        assert answer.status_code == 415
        assert "Content-Type: application/json" in error_of(answer)["message"]
    for kind in ("application/json; charset=utf-8", "Application/JSON"):
        assert ask(CHAT, GOOD[CHAT], headers={"Content-Type": kind}).status_code == 200


def test_a_body_has_a_limit(ask):
    answer = ask(TEXT, b'{"prompt": "' + b"x" * 10**6)
    assert answer.status_code == 413
    assert error_of(answer)["message"] == "The request has more than 71,936 bytes; send a shorter one."
    assert ask(TEXT, json.dumps(GOOD[TEXT]).encode() + b" " * 70_000).status_code == 200


NOTHING = {
    "n": 1,
    "user": "me",
    "presence_penalty": 0,
    "frequency_penalty": 0.0,
    "logit_bias": {},
    "stop": None,
    "top_p": 1,
    "temperature": 1,
    "stream_options": {"include_usage": True},
}
NOTHING_IN_CHAT = {
    "logprobs": False,
    "top_logprobs": 0,
    "tools": [],
    "tool_choice": "auto",
    "response_format": {"type": "text"},
    "store": False,
}


def task_for(ask, path: str, **fields) -> Task:
    """Return what a request asks of the model."""
    write = Writer()
    answer = ask(path, GOOD[path] | fields, write=write)
    assert answer.status_code == 200, answer.text
    return write.tasks[0]


@pytest.mark.parametrize("path", GOOD)
def test_fields_that_ask_for_nothing_pass(path, ask):
    nothing = NOTHING | (NOTHING_IN_CHAT if path == CHAT else {"echo": False, "best_of": 1, "suffix": ""})
    assert task_for(ask, path, seed=1, **nothing) == task_for(ask, path, seed=1)


def test_what_the_model_is_asked_for(ask):
    usual = task_for(ask, TEXT)
    assert (usual.answers, usual.stops, usual.likely) == (1, [], None)
    chosen = usual.settings
    assert (chosen.temperature, chosen.top_p, chosen.repetition_penalty) == (1, 1, 1)
    assert (chosen.presence_penalty, chosen.frequency_penalty, chosen.logit_bias) == (0, 0, ())
    assert chosen.max_new_tokens == 100, "the limit, which is less than usual"
    assert chosen.begin_suppress_tokens == ()
    assert chosen.seed != task_for(ask, TEXT).settings.seed, "another one each time"
    assert task_for(ask, TEXT, max_tokens=7).settings.max_new_tokens == 7
    assert task_for(ask, CHAT, max_tokens=7, max_completion_tokens=8).settings.max_new_tokens == 8
    assert task_for(ask, TEXT, temperature=1e-30).settings.greedy
    assert task_for(ask, TEXT, top_p=0).settings.greedy
    assert task_for(ask, TEXT, logit_bias={"5": 1, "7": -2.5}).settings.logit_bias == ((5, 1), (7, -2.5))
    assert task_for(ask, TEXT, frequency_penalty=1).settings.frequency_penalty == 1
    assert task_for(ask, TEXT, seed=-1).settings.seed == 2**63 - 1
    assert task_for(ask, TEXT, stop="x").stops == ["x"]
    assert task_for(ask, CHAT).stops == task_for(ask, CHAT, stop=[]).stops == ["\n\n"]
    assert task_for(ask, CHAT, stop=["x", "y"]).stops == ["x", "y"]
    assert task_for(ask, CHAT).settings.begin_suppress_tokens == tuple(i for i in line_breaks() if i < 300)
    assert task_for(ask, CHAT, logprobs=True).likely == 0
    assert task_for(ask, CHAT, logprobs=True, top_logprobs=4).likely == 4
    assert task_for(ask, TEXT, logprobs=3, n=4).likely == 3
    assert task_for(ask, TEXT, n=4).answers == 4


def test_messages_become_the_prompt(ask, tokenizer):
    parts = [{"type": "text", "text": "Say "}, {"type": "text", "text": "hello."}]
    turns = [{"role": "developer", "content": "Be kind.", "name": "me"}, {"role": "user", "content": parts}]
    ids = task_for(ask, CHAT, messages=turns, model="mini").ids
    assert tokenizer.decode(ids) == "System: Be kind.\n\nUser: Say hello.\n\nAssistant:"
    spoken = task_for(ask, CHAT, messages=[{"role": "user", "content": "<|endoftext|>"}]).ids
    assert 0 not in spoken
    assert tokenizer.decode(spoken) == "User: <|endoftext|>\n\nAssistant:"
    assert 0 in task_for(ask, TEXT, prompt="<|endoftext|>Hi").ids


def test_a_template_that_refuses_is_quoted(ask, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", "{{ raise_exception('Begin with\\na system message') }}")
    answer = ask(CHAT, GOOD[CHAT])
    assert answer.status_code == 400
    assert "Begin with?a system message" in error_of(answer)["message"]


# thinking and tools of RWKV-7 G1


@pytest.mark.parametrize(
    ("fields", "end"),
    [
        ({}, "Hello, who are you?\n\nAssistant:"),
        ({"enable_thinking": True}, "?\n\nAssistant: <think"),
        ({"thinking": False}, "?\n\nAssistant: <think>\n</think"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "?\n\nAssistant: <think>\n</think"),
        ({"chat_template_kwargs": {"thinking": True}, "thinking": True}, "?\n\nAssistant: <think"),
        ({"reasoning_effort": "high"}, "? (think a lot)\n\nAssistant: <think"),
        ({"reasoning_effort": "none"}, "?\n\nAssistant: <think>\n</think"),
        ({"tools": [TOOL]}, "?\n\nAssistant:"),
        ({"tools": [TOOL], "tool_choice": "required"}, "?\n\nAssistant: ```json"),
        ({"tools": [TOOL], "tool_choice": "none"}, "Hello, who are you?\n\nAssistant:"),
        ({"tools": [TOOL], "enable_thinking": True}, "?\n\nAssistant: <think"),
    ],
)
def test_what_a_client_asks_for_is_in_the_prompt(fields, end, ask, tokenizer):
    task = task_for(ask, CHAT, **fields)
    prompt = tokenizer.decode(task.ids)
    assert prompt.endswith(end)
    offered = bool(fields.get("tools")) and fields.get("tool_choice") != "none"
    assert prompt.startswith("System: Tools:\n- f(x: string)\nReturn only a JSON" if offered else "User: Hello")
    of_g1 = offered or "think" in end
    assert task.stops == (["\n\nUser:"] if of_g1 else ["\n\n"])
    assert bool(task.settings.begin_suppress_tokens) == end.endswith("Assistant:"), "nothing was begun"
    assert task_for(ask, CHAT, stop="x", **fields).stops == ["x"]


def test_where_answers_end_can_be_said(ask, monkeypatch):
    for end, stop in (("blank-line", "\n\n"), ("user", "\n\nUser:")):
        monkeypatch.setitem(globals(), "SERVED", replace(SERVED, end=end))
        for fields in ({}, {"thinking": True}, {"tools": [TOOL]}):
            assert task_for(ask, CHAT, **fields).stops == [stop]
        assert task_for(ask, TEXT).stops == []


def test_a_conversation_with_calls_and_thoughts_becomes_the_prompt(ask, tokenizer, monkeypatch):
    monkeypatch.setitem(globals(), "SERVED", replace(SERVED, max_prompt=500))
    messages = [
        *HELLO,
        {"role": "assistant", "content": "Hi\n\nthere.", "reasoning_content": "Kind?"},
        {"role": "user", "content": "Look.\n\nNow."},
        called("f", '{"x": "你"}') | {"reasoning_content": "Hm."},
        {"role": "tool", "tool_call_id": "call_1", "content": "a\r\n\r\nb"},
    ]
    ids = task_for(ask, CHAT, messages=messages, tools=[TOOL], thinking=True).ids
    assert tokenizer.decode(ids) == (
        "System: Tools:\n- f(x: string)\nReturn only a JSON function call.\n\n"
        "User: Hello, who are you?\n\nAssistant: Hi\n\nthere.\n\nUser: Look.\nNow.\n\n"
        'Assistant: <think>\nHm.\n</think>\n```json\n{"name":"f","arguments":{"x":"你"}}\n```\n\n'
        "User: Function output:\na\nb\n\nAssistant: <think"
    )


def test_a_template_that_knows_less_is_not_asked_for_more(ask, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}Assistant:")
    assert ask(CHAT, GOOD[CHAT]).status_code == 200
    for fields, what in (({"thinking": True}, "thinking"), ({"reasoning_effort": "none"}, "thinking"),
                         ({"tools": [TOOL]}, "tools"), ({"messages": [called("f", "{}")]}, "tools")):  # fmt: skip
        answer = ask(CHAT, GOOD[CHAT] | fields)
        assert answer.status_code == 400
        assert f"The chat template of the model knows no {what}; refresh" in error_of(answer)["message"]


@pytest.mark.parametrize("content", ["What does f do?", "f"])
def test_nor_if_the_name_of_a_function_is_in_the_prompt_anyway(content, ask, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}Assistant:")
    spoken = [{"role": "user", "content": content}]
    for fields in ({"messages": spoken, "tools": [TOOL]}, {"messages": [*spoken, called("f", "{}")]}):
        answer = ask(CHAT, fields)
        assert answer.status_code == 400
        assert "The chat template of the model knows no tools; refresh" in error_of(answer)["message"]


def told(ask, text: str, reason: str = "stop", size: int = 3, **fields) -> tuple[dict, list[dict]]:
    """Return a whole answer, and the events of a stream, of a model that writes ``text`` in tokens of ``size``."""

    def write(task):
        for number, start in enumerate(range(0, len(text), size)):
            yield [Piece(0, text[start : start + size], [], number + 1)]
        yield [Piece(0, "", [], -(-len(text) // size), reason)]

    whole = ask(CHAT, GOOD[CHAT] | fields, write=write).json()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *events, done, _ = ask(CHAT, GOOD[CHAT] | fields | options, write=write).text.split("\n\n")
    assert done == "data: [DONE]"
    return whole, [json.loads(text.removeprefix("data: ")) for text in events]


CALLING = '{"name": "f", "arguments": {"x": "你"}}'


@pytest.mark.parametrize(
    ("fields", "text", "reason", "thought", "content", "called"),
    [
        ({"thinking": True}, ">\nHm.\n\nSo.\n</think>\n\nYes.\n\nNo.", "stop", "Hm.\n\nSo.", "Yes.\n\nNo.", None),
        ({"thinking": True}, ">\nHm, what if", "length", "Hm, what if", "", None),
        ({"thinking": False}, ">\nYes.", "stop", None, "Yes.", None),
        ({}, " Yes </think> ", "stop", None, " Yes </think> ", None),
        ({"tools": [TOOL]}, f" ```json\n{CALLING}\n```", "stop", None, None, '{"x": "你"}'),
        ({"tools": [TOOL]}, " No.", "stop", None, " No.", None),
        ({"tools": [TOOL]}, CALLING.replace("f", "g"), "stop", None, CALLING.replace("f", "g"), None),
        ({"tools": [TOOL]}, CALLING[:-1], "length", None, CALLING[:-1], None),
        ({"tools": [TOOL], "tool_choice": "none"}, CALLING, "stop", None, CALLING, None),
        ({"tools": [TOOL], "tool_choice": "required"}, f"\n{CALLING}\n```", "stop", None, None, '{"x": "你"}'),
        ({"tools": [TOOL], "tool_choice": "required"}, "\n{}\n```", "stop", None, "```json\n{}\n```", None),
        ({"tools": [TOOL], "thinking": True}, f">Hm</think>\n{CALLING}", "stop", "Hm", None, '{"x": "你"}'),
    ],
)
def test_thought_answer_and_call_are_given_back_apart(fields, text, reason, thought, content, called, ask, monkeypatch):
    monkeypatch.setitem(globals(), "SERVED", replace(SERVED, max_prompt=500))
    whole, events = told(ask, text, reason, **fields)
    choice = whole["choices"][0]
    message = choice["message"]
    assert choice["finish_reason"] == ("tool_calls" if called else reason)
    assert (message.get("reasoning_content"), message["content"]) == (thought, content)
    calls = message.get("tool_calls", [])
    assert [call["function"] for call in calls] == ([{"name": "f", "arguments": called}] if called else [])
    assert all(call["type"] == "function" and call["id"].startswith("call_") for call in calls)

    deltas = [event["choices"][0]["delta"] for event in events if event["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == (content or "")
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == (thought or "")
    streamed = [call for delta in deltas for call in delta.get("tool_calls", [])]
    assert [(call["index"], call["function"]) for call in streamed] == [(0, call["function"]) for call in calls]
    ends = [event["choices"][0]["finish_reason"] for event in events if event["choices"]]
    assert [end for end in ends if end] == [choice["finish_reason"]]
    assert events[-1]["usage"] == whole["usage"]
    details = whole["usage"].get("completion_tokens_details")
    if thought is None:
        assert details is None
    else:
        ended = (text.index("</think>") + len("</think>") + 2) // 3 if "</think>" in text else -(-len(text) // 3)
        assert details == {"reasoning_tokens": ended}


def test_a_text_beside_tools_is_streamed_while_it_is_written(ask):
    _, events = told(ask, " Well, I would say {no}.", tools=[TOOL])
    assert len([event for event in events if event["choices"] and event["choices"][0]["delta"].get("content")]) > 5


# who is let in


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]:80", "LOCALHOST:1", "here", "models.example"])
def test_names_of_the_server(host, ask):
    let_in = doors("here", ["models.example"], [], None, no_auth=True)
    assert ask("/health", method="GET", headers={"Host": host}, let_in=let_in).json() == {"status": "ok"}


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8000", "evil.example:127.0.0.1", "", ":80",
     "[::1", "localhost:80:80", "user@localhost", "localhost/", "0.0.0.0", "127.0.0.2", "localhost:8x", "localhost, x"],
)  # fmt: skip
def test_other_names_are_turned_away(host, ask):
    """A page whose name leads to this computer, too (DNS rebinding)."""
    for method, path in (("GET", "/health"), ("GET", MODELS), ("POST", TEXT), ("GET", "/nothing")):
        write = Writer()
        answer = ask(path, GOOD[TEXT], method, headers={"Host": host}, write=write)
        assert answer.status_code == 403
        assert "--allow-host" in error_of(answer)["message"]
        assert write.tasks == []


def test_web_pages_elsewhere_are_turned_away(ask):
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://good.example.evil.example"},
        {"Origin": "https://good.example", "Host": "evil.example"},
    ):
        for let_in in (Doors(), Doors(origins=("https://good.example",))):
            if headers.get("Host") and not let_in.origins:
                continue
            answer = ask(TEXT, GOOD[TEXT], headers=headers, let_in=let_in)
            assert answer.status_code == 403, headers
            assert "access-control-allow-origin" not in answer.headers
            error_of(answer)
    assert ask(TEXT, GOOD[TEXT], headers={"Sec-Fetch-Site": "none"}).status_code == 200


def test_a_web_page_that_is_let_in(ask):
    good = {"Origin": "https://good.example"}
    let_in = Doors(origins=("https://good.example",), key="secret")
    first = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    answer = ask(TEXT, method="OPTIONS", headers=good | first, let_in=let_in)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://good.example"
    assert "authorization" in answer.headers["access-control-allow-headers"]
    answer = ask(TEXT, GOOD[TEXT], headers=good | {"Authorization": "Bearer secret"}, let_in=let_in)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://good.example")
    assert ask(TEXT, GOOD[TEXT], headers=good, let_in=let_in).status_code == 401


def test_the_key(ask):
    let_in = Doors(key="s3cret")
    for shown in ("", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3cret2", "Basic s3cret", "s3cret", "Bearer S3CRET",
                  b"Bearer s3cret\xc3\xa9"):  # fmt: skip
        for method, path in (("POST", TEXT), ("GET", MODELS), ("GET", "/nothing")):
            write = Writer()
            answer = ask(path, GOOD[TEXT], method, headers={"Authorization": shown}, let_in=let_in, write=write)
            assert answer.status_code == 401
            assert "Authorization: Bearer" in error_of(answer)["message"]
            assert "s3cret" not in answer.text
            assert write.tasks == []
    for shown in ("Bearer s3cret", "bearer s3cret"):
        assert ask(TEXT, GOOD[TEXT], headers={"Authorization": shown}, let_in=let_in).status_code == 200
    assert ask("/health", method="GET", let_in=let_in).status_code == 200


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"host": "0.0.0.0"}, "give --api-key"),
        ({"host": ""}, "On every address"),
        ({"host": "::"}, "give --api-key"),
        ({"host": "192.168.0.7"}, "give --api-key"),
        ({"host": "localhost.example"}, "give --api-key"),
        ({"key": ""}, "The API key is empty"),
        ({"key": "a b"}, "The API key is empty, or has blanks"),
        ({"key": "é"}, "characters beyond ASCII"),
        ({"hosts": ["a:80"]}, "--allow-host 'a:80' is not a name"),
        ({"hosts": ["*"]}, "is not a name"),
        ({"origins": ["*"]}, "--allow-origin '*' is not an origin"),
        ({"origins": ["https://a/"]}, "is not an origin"),
        ({"origins": ["null"]}, "is not an origin"),
    ],
)
def test_doors_that_are_refused(changes, message):
    with pytest.raises(InputError, match=re.escape(message)):
        doors(**{"host": "127.0.0.1", "hosts": [], "origins": [], "key": None, "no_auth": False} | changes)


def test_addresses_that_need_no_key():
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        assert doors(host, [], [], None, no_auth=False).key is None
    assert doors("0.0.0.0", [], [], "key", no_auth=False).key == "key"
    assert doors("0.0.0.0", [], [], None, no_auth=True).key is None
    assert "[::1]" in doors("::1", [], [], None, no_auth=False).hosts


# the line


def test_one_after_the_other_in_order_and_not_too_many(tokenizer):
    """While one is answered, as many as the limit says wait; the next one is told to come again."""
    go, order = threading.Event(), []

    def write(task):
        assert go.wait(LIMIT)
        order.append(task.settings.seed)
        yield [Piece(0, "x", [], 1, "length")]

    async def run(app, line):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            asked = []
            for seed in range(4):
                asked.append(asyncio.create_task(client.post(TEXT, json=GOOD[TEXT] | {"seed": seed})))
                while len(line.places) <= seed or any(job.task is None for job in line.places):
                    await asyncio.sleep(0.001)
            refused = await client.post(TEXT, json=GOOD[TEXT])
            alive = await client.get("/health")
            go.set()
            answers = await asyncio.gather(*asked)
            again = await client.post(TEXT, json=GOOD[TEXT])
            return refused, alive, answers, again

    with line_of(write, limit=3) as line:
        refused, alive, answers, again = asyncio.run(run(application(SERVED, tokenizer, line, Doors()), line))
        assert not line.places
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert "3 requests wait already" in error_of(refused)["message"]
    assert [answer.status_code for answer in (*answers, alive, again)] == [200] * 6
    assert order[:4] == [0, 1, 2, 3]


def test_a_client_that_goes_gives_up_its_place(tokenizer):
    """One that waits, and one that is being answered: its answer ends at the next token."""
    begun, ended, steps = threading.Event(), threading.Event(), []

    def write(task):
        begun.set()
        try:
            while True:
                steps.append(1)
                yield [Piece(0, "x", [], 1)]
                time.sleep(0.001)
        finally:
            ended.set()

    async def run(app, line):
        gone = asyncio.Event()
        body = json.dumps(GOOD[TEXT]).encode()
        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {
            "type": "http",
            "method": "POST",
            "path": TEXT,
            "headers": headers,
            "query_string": b"",
            "root_path": "",
        }

        def client():
            messages = [{"type": "http.request", "body": body, "more_body": False}]

            async def receive():
                if messages:
                    return messages.pop()
                await gone.wait()
                return {"type": "http.disconnect"}

            async def send(message):
                raise AssertionError("nobody is there")

            return asyncio.create_task(app(dict(scope), receive, send))

        clients = [client(), client()]
        while not (begun.is_set() and len(line._waiting) == 1):
            await asyncio.sleep(0.001)
        gone.set()
        await asyncio.wait_for(asyncio.gather(*clients), LIMIT)
        assert not line.places
        assert not line._waiting

    with line_of(write) as line:
        asyncio.run(run(application(SERVED, tokenizer, line, Doors()), line))
        assert ended.wait(LIMIT)


def test_at_the_end_those_who_wait_are_told(tokenizer):
    begun = threading.Event()

    def write(task):
        while True:
            begun.set()
            yield []
            time.sleep(0.001)

    async def run(app, line):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            asked = [asyncio.create_task(client.post(path, json=GOOD[path])) for path in GOOD]
            while not begun.is_set() or any(job.task is None for job in line.places):
                await asyncio.sleep(0.001)
            line.stop()
            return [*await asyncio.gather(*asked), await client.post(TEXT, json=GOOD[TEXT])]

    with line_of(write) as line:
        for answer in asyncio.run(run(application(SERVED, tokenizer, line, Doors()), line)):
            assert answer.status_code == 503
            assert error_of(answer)["message"] == "The server is being stopped."


def test_an_error_of_the_program_is_a_sentence_without_its_inside(ask, monkeypatch):
    logged = []
    monkeypatch.setattr(web.log, "error", lambda text, exc_info: logged.append(str(exc_info)))
    for stream in (False, True):
        answer = ask(TEXT, GOOD[TEXT] | {"stream": stream}, write=Writer(ZeroDivisionError("secret of /home/me")))
        assert answer.status_code == 500
        assert error_of(answer)["message"] == "The server failed; see its messages."
        assert "secret" not in answer.text

    def late(task):
        yield [Piece(0, "Hi", [], 1)]
        raise ZeroDivisionError("secret")

    answer = ask(TEXT, GOOD[TEXT] | {"stream": True}, write=late)
    assert answer.status_code == 200
    *_, last, end = answer.text.split("\n\n")
    assert json.loads(last.removeprefix("data: "))["error"]["type"] == "server_error"
    assert end == ""
    assert logged == ["secret"], "the log has it"


# answers


def test_the_form_of_answers(ask):
    pieces = [
        [Piece(0, "He", [Token(b"He", -1.0, [(b"He", -1.0), (b"\xff", -2.0)], 0)], 1), Piece(1, "", [], 1)],
        [Piece(0, "y", [Token(b"y", -0.5, [(b"x", -0.25)], 2)], 2, "stop"), Piece(1, "Yo", [], 2, "length")],
    ]

    def write(task):
        yield from pieces if task.likely is not None else ([replace(p, tokens=[]) for p in some] for some in pieces)

    usage = {"prompt_tokens": 1, "completion_tokens": 4, "total_tokens": 5}
    answer = ask(TEXT, GOOD[TEXT] | {"n": 2, "logprobs": 1}, write=write).json()
    assert [(c["index"], c["text"], c["finish_reason"]) for c in answer["choices"]] == [
        (0, "Hey", "stop"),
        (1, "Yo", "length"),
    ]
    assert answer["usage"] == usage
    assert (answer["object"], answer["model"]) == ("text_completion", "mini")
    told = answer["choices"][0]["logprobs"]
    assert told["tokens"] == ["He", "y"]
    assert told["token_logprobs"] == [-1.0, -0.5]
    assert told["text_offset"] == [0, 2]
    assert told["top_logprobs"] == [{"He": -1.0, "bytes:\\xff": -2.0}, {"x": -0.25, "y": -0.5}]
    answer = ask(CHAT, GOOD[CHAT] | {"n": 2, "logprobs": True}, write=write).json()
    assert answer["choices"][0]["message"]["content"] == "Hey"
    row = answer["choices"][0]["logprobs"]["content"][1]
    assert row == {
        "token": "y",
        "logprob": -0.5,
        "bytes": [121],
        "top_logprobs": [{"token": "x", "logprob": -0.25, "bytes": [120]}],
    }
    plain = ask(CHAT, GOOD[CHAT] | {"n": 2}, write=write).json()
    assert [choice["logprobs"] for choice in plain["choices"]] == [None, None]
    for with_usage in (False, True):
        options = {"stream": True, "stream_options": {"include_usage": with_usage}, "n": 2}
        answer = ask(CHAT, GOOD[CHAT] | options, write=write)
        assert answer.headers["content-type"].startswith("text/event-stream")
        *events, done, end = answer.text.split("\n\n")
        assert (done, end) == ("data: [DONE]", "")
        chunks = [json.loads(text.removeprefix("data: ")) for text in events]
        if with_usage:
            assert (chunks[-1]["choices"], chunks.pop()["usage"]["completion_tokens"]) == ([], 4)
        assert all(("usage" in chunk) == with_usage for chunk in chunks)
        assert len({chunk["id"] for chunk in chunks}) == 1
        choices = [chunk["choices"][0] for chunk in chunks]
        assert [c["delta"].get("role") for c in choices] == ["assistant", "assistant", None, None, None]
        assert "".join(c["delta"].get("content", "") for c in choices if c["index"] == 0) == "Hey"
        assert [(c["index"], c["finish_reason"]) for c in choices if c["finish_reason"]] == [(0, "stop"), (1, "length")]


def test_what_may_become_a_stop_string_is_held_back():
    cut = StopCut(["abc", "b!"])
    assert [cut.feed(piece) for piece in ("x", "a", "b", "d", "ab")] == ["x", "", "", "abd", ""]
    assert cut.rest() == "ab"
    assert not cut.found
    cut = StopCut(["abc", "b!"])
    assert [cut.feed(piece) for piece in ("xab", "!c", "more", "b!")] == ["x", "a", "", ""]
    assert cut.found


@pytest.mark.parametrize("stop", ["\n", "\n\n", ">", NEXT_USER])
@pytest.mark.parametrize("size", [1, 2, 9])
def test_the_rest_of_a_tag_is_no_stop_string(stop, size):
    """Behind ``</think``, a model writes ``>`` and a line break first; the answer does not end there."""
    for text, expected in ((">\n\nYes.", ">\n\nYes."), (f">\n\nYes.{stop}No", ">\n\nYes."), (">\n\n", ">\n\n"),
                           (f">{NEXT_USER} no", f">{NEXT_USER} no" if stop != NEXT_USER else ">")):  # fmt: skip
        cut = StopCut([stop], begun=True)
        assert "".join([*(cut.feed(text[i : i + size]) for i in range(0, len(text), size)), cut.rest()]) == expected
        assert cut.found == (text != expected)


def test_what_the_prompt_begins_is_told_to_the_model(ask):
    assert [task_for(ask, CHAT, **fields).begun for fields in ({}, {"thinking": False}, {"thinking": True})] == [
        False,
        True,
        True,
    ]
    assert not task_for(ask, TEXT).begun


def pieces_of(text: bytes, stops: list[str], size: int, limit: int = 10**6) -> list[Piece]:
    """Return what an answer hands out of a text that comes in tokens of ``size`` bytes."""
    answer, pieces = Answer(0, stops), []
    for start in range(0, len(text), size):
        token = text[start : start + size]
        pieces.append(answer.add(token, (-1.0, [(token, -1.0)])))
        if answer.ended:
            return pieces
        if answer.length == limit:
            break
    return [*pieces, answer.end("length")]


@pytest.mark.parametrize(
    ("text", "stops", "expected", "reason"),
    [
        (" Hi.\n\nUser: no", ["\n\n"], " Hi.", "stop"),
        (" Hi.\n", ["\n\n"], " Hi.\n", "length"),
        (" one two three", ["three", "two"], " one ", "stop"),
        ("。好", ["好"], "。", "stop"),
        ("看𪚥看", ["𪚥"], "看", "stop"),
        ("看𪚥看", [], "看𪚥看", "length"),
        ("\n\n", ["\n\n"], "", "stop"),
        ("", ["x"], "", "length"),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_an_answer_ends_at_its_stop_string(text, stops, expected, reason, size):
    """Whatever its tokens: characters that several share are complete with the last one."""
    data = text.encode()
    pieces = pieces_of(data, stops, size)
    assert "".join(piece.text for piece in pieces) == expected
    assert [piece.reason for piece in pieces if piece.reason] == [reason]
    assert pieces[-1].reason == reason
    tokens = [token for piece in pieces for token in piece.tokens]
    told = b"".join(token.spelling for token in tokens)
    assert data.startswith(told)
    assert told.startswith(expected.encode()), "all tokens that begin in the text"
    assert len(told) - len(expected.encode()) < size or not told
    assert [token.offset for token in tokens] == [
        len(data[: number * size].decode(errors="ignore")) for number in range(len(tokens))
    ]


def test_an_answer_may_end_within_a_character(tiny_rwkv5):
    pieces = pieces_of("a好".encode(), ["b"], 1, limit=3)
    assert [piece.text for piece in pieces] == ["a", "", "", "\ufffd"]
    assert len([token for piece in pieces for token in piece.tokens]) == 3


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_tokens_become_text_as_the_tokenizer_decodes_them(data, tokenizer):
    """Tokens that are half a character, and ids without a token, too."""
    rough = st.sampled_from([*range(1, 257), 65529, 65530, 65535, 0])
    ids = data.draw(st.lists(rough | st.integers(0, 65535), max_size=30))
    spelling, answer = Spelling(tokenizer), Answer(0, [])
    text = "".join(answer.add(spelling(i), None).text for i in ids) + answer.end("length").text
    assert text == tokenizer.decode(ids, skip_special_tokens=True)


def test_added_tokens_are_spelled_as_they_are_decoded(tokenizer):
    added = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    added.add_tokens(["<tool>", "空 间", "é"])
    ids = [33, *added.convert_tokens_to_ids(["<tool>", "空 间", "é"]), 34]
    assert b"".join(map(Spelling(added), ids)).decode(errors="replace") == added.decode(ids)
