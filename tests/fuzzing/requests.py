"""What clients send to ``serve``: each request is answered rightly, or refused in the form of OpenAI's API.

The server is a process of its own, started by the command as users start it, and asked through sockets, so that what is
sent need not be HTTP at all. Every few cases it is asked the same as at the start, and must give the same answer.
"""

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

from .judge import MEMORY, Fault, check_sentence, status_of_memory
from .runner import Case, Kinds
from .values import RAW_JSON, json_bytes, mutate, odd_bytes, odd_name, odd_value, spoil

KINDS = Kinds()
IN_A_PROCESS_OF_ITS_OWN = True
MOST_TOKENS = 8  # of an answer
SECONDS = 60  # for an answer, and for the server to start or to end
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
CHECKED = 10  # after so many cases, the server is asked the same again


@dataclass
class Sent:
    """A request, and how it must end if that is certain."""

    path: str = CHAT
    body: Any = None  # bytes as they are, anything else as JSON
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)  # beside the usual ones; None leaves one of them out
    expected: str | None = None  # accepted or refused
    raw: bytes | None = None  # everything, in place of a request
    leave: bool = False  # without waiting for the answer

    def as_bytes(self, host: str) -> bytes:
        if self.raw is not None:
            return self.raw
        body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        usual = {
            "Host": host,
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
        headers = "".join(f"{name}: {value}\r\n" for name, value in (usual | self.headers).items() if value is not None)
        return f"{self.method} {self.path} HTTP/1.1\r\n{headers}\r\n".encode(errors="surrogateescape") + body


@dataclass
class Server:
    """A running server, and what it answered and how large it was at the start."""

    folder: Path
    process: subprocess.Popen[bytes]
    host: str
    port: int
    first: str = ""
    size: int = 0


def prepare(folder: Path) -> Server:
    import torch

    from helpers.checkpoints.synthetic import write_random_checkpoint
    from helpers.conversion.directory import convert

    sizes: dict[str, Any] = {"hidden_size": 32, "head_size": 16, "dtype": torch.float32}
    model = convert(write_random_checkpoint(folder / "x.pth", "5.0", **sizes), folder / "model", progress=False)
    return start(model)


def start(model: Path) -> Server:
    """Start the server as a user would; where it listens, it prints."""
    command = [sys.executable, "-m", "helpers", "serve", str(model), "--port", "0", "--device", "cpu"]
    log = open(model.parent / "server.log", "wb")  # noqa: SIM115  # it stays open as long as the server runs
    process = subprocess.Popen(
        [*command, "--max-tokens", str(MOST_TOKENS)],
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    end = time.monotonic() + SECONDS
    while not (found := re.search(r"http://([\w.]+):(\d+)/v1", Path(log.name).read_text())):
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"the server did not start: {Path(log.name).read_text()}")
        time.sleep(0.1)
    server = Server(model, process, found[1], int(found[2]))
    server.first = usual_answer(server)
    server.size = status_of_memory("VmRSS", str(process.pid))
    return server


def finish(server: Server) -> None:
    """End the server by Ctrl+C.

    Raises:
        Fault: it takes long, or does not end as the other commands do.
    """
    server.process.send_signal(signal.SIGINT)
    try:
        code = server.process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        server.process.kill()
        raise Fault("hang", "Ctrl+C does not end it") from None
    log = (server.folder.parent / "server.log").read_text(errors="replace")
    if code != 130 or "Traceback" in log:
        raise Fault("traceback", f"at the end, or in its log; exit code {code}: {log[-1500:]!r}")


def usual_answer(server: Server) -> str:
    """Return what the server answers to the same as always."""
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "temperature": 0}
    status, _, content = exchange(server, Sent(CHAT, body))
    if status != 200:
        raise Fault("server error", f"a right request gets {status}: {content[:300]!r}")
    return json.loads(content)["choices"][0]["message"]["content"]


def exchange(server: Server, sent: Sent) -> tuple[int, str, bytes]:
    """Send a request and return status, kind and content of the answer; status 0 if there was none."""
    with socket.create_connection((server.host, server.port), timeout=SECONDS) as connection:
        with contextlib.suppress(ConnectionError):  # the answer may come before all is sent
            connection.sendall(sent.as_bytes(f"{server.host}:{server.port}"))
        if sent.leave:
            return 0, "", b""
        if sent.raw is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
        answer = HTTPResponse(connection, method=sent.method if sent.method == "HEAD" else None)
        try:
            answer.begin()
            return answer.status, answer.headers.get("content-type", ""), answer.read()
        except TimeoutError:
            raise Fault("hang", f"no answer after {SECONDS} s") from None
        except (HTTPException, ConnectionError) as error:
            if sent.raw is None and "Host" not in sent.headers:
                raise Fault("crash", f"no answer: {error!r}") from None
            return 0, "", b""


def judge(server: Server, case: Case, folder: Path) -> str:
    """Say whether a request was ``refused`` or ``accepted``; see :class:`.judge.Fault` for the rest."""
    if server.process.poll() is not None:
        vars(server).update(vars(start(server.folder)))
    sent = KINDS[case.kind](case.rng())
    status, kind, content = exchange(server, sent)
    if server.process.poll() is not None:
        raise Fault("crash", f"the server ended with {server.process.poll()}")
    if case.seed % CHECKED == 0 or sent.leave:
        if usual_answer(server) != server.first:
            raise Fault("wrong success", "after this, the usual request has another answer")
        if (grown := status_of_memory("VmRSS", str(server.process.pid)) - server.size) > MEMORY:
            server.size += grown
            raise Fault("memory", f"{grown >> 20} MB more than before")
    if status >= 500:
        raise Fault("server error", f"{status}: {content[:300]!r}")
    if 200 <= status < 300:
        if sent.expected == "refused":
            raise Fault("wrong success", f"{sent.method} {sent.path} {sent.body!r:.200} {sent.headers}")
        if sent.path.partition("?")[0] in (CHAT, TEXT) and sent.raw is None:
            check_answer(sent, kind, content)
        return "accepted"
    if sent.expected == "accepted":
        raise Fault("wrong refusal", f"{sent.path} {sent.body!r:.300}: {status} {content[:300]!r}")
    if status and sent.method != "HEAD" and not (sent.raw is not None and content.startswith(b"Invalid HTTP request")):
        check_error(status, content)
    return "refused"


def check_answer(sent: Sent, kind: str, content: bytes) -> None:
    """Raise Fault unless an answer has the form of OpenAI's API, and no more tokens than were asked for."""
    try:
        asked = json.loads(sent.body) if isinstance(sent.body, bytes) else sent.body
        if kind.startswith("text/event-stream"):
            *chunks, last, _ = [line.removeprefix("data: ") for line in content.decode().split("\n") if line] + [""]
            assert last == "[DONE]", f"a stream ends with {last!r}"
            chunks = [json.loads(chunk) for chunk in chunks]
            assert all("choices" in chunk for chunk in chunks), "a piece without choices"
            return
        answer = json.loads(content)
        choice = answer["choices"][0]
        text = choice["message"]["content"] if sent.path.startswith(CHAT) else choice["text"]
        assert isinstance(text, str), "no text"
        assert choice["finish_reason"] in ("stop", "length"), "no reason to end"
        limit = asked.get("max_completion_tokens") or asked.get("max_tokens") or MOST_TOKENS
        assert answer["usage"]["completion_tokens"] <= min(limit, MOST_TOKENS), "more tokens than asked for"
    except (ValueError, LookupError, TypeError, AssertionError) as error:
        raise Fault("wrong success", f"{error!r} in {content[:300]!r}") from None


def check_error(status: int, content: bytes) -> None:
    """Raise Fault unless a refusal has the form of OpenAI's API and one sentence."""
    try:
        error = json.loads(content)["error"]
        message = error["message"]
        assert error.keys() == {"message", "type", "param", "code"}
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError):
        raise Fault("message", f"{status} in another form: {content[:300]!r}") from None
    check_sentence(message)


# right requests

RIGHT = {
    "max_tokens": [1, 2, 8, None], "temperature": [0, 0.7, 1, 2, None], "top_p": [0.1, 0.5, 1.0, None],
    "seed": [0, 1, 2**62, -5], "stop": ["\n", ["a", "b"], "。", None], "presence_penalty": [0, 0.5, -2, 2],
    "frequency_penalty": [0, 0.5, 2], "logit_bias": [{}, {"5": 1}, {"100": -100.0}], "stream": [False, True, None],
    "n": [1, None], "user": ["me"],
}  # fmt: skip
OF_G1 = [{"enable_thinking": True}, {"thinking": False}, {"reasoning_effort": "low"}, {"reasoning_effort": "none"},
         {"chat_template_kwargs": {"enable_thinking": True}}, {"tools": [], "tool_choice": "none"}, {}, {}, {},
         {"tools": [{"type": "function", "function": {"name": "f"}}]}]  # fmt: skip
WRONG = {
    "max_tokens": [0, -1, 1.5, "5", True, [], 10**9, MOST_TOKENS + 1], "temperature": [-1, 2.1, "1", [], True, 1e300],
    "top_p": [-0.1, 1.1, "1", {}], "seed": [2**64, 1.5, "1", []],
    "stop": ["", [""], 5, [5], "x" * 10**5, ["x"] * 1000, {}], "presence_penalty": [-2.1, 2.1, "0"],
    "frequency_penalty": [2.1, "0", []], "n": [0, -1, "1", 10**6],
    "logit_bias": [[1], 5, {"x": 1}, {"-1": 1}, {"5": 101}, {"5": "1"}, {"99999999": 1}, {"5": None}],
    "stream": [1, "true", []], "model": ["another", 5, "../x", "/etc", ""],
    "messages": [[], "hello", [{}], [5], None, {}], "tools": [[{"type": "function", "function": {"name": ""}}], {}],
    "response_format": [{"type": "json_object"}], "chat_template": ["{{ 'x' * 300000000 }}"],
    "chat_template_kwargs": [{"chat_template": "{{ 'x' * 300000000 }}"}], "generation_config": ["{}", {}],
    "enable_thinking": [1, "true", []], "thinking": [{"type": "enabled"}, 0], "reasoning_effort": ["xhigh", 3, True],
    "nonsense": [1], "logprobs": ["x", 10**9, -1], "tokenizer": ["x"], "trust_remote_code": [True],
}  # fmt: skip


def good(rng: random.Random, path: str | None = None) -> Sent:
    """Return a right request, with some of the fields that there are."""
    words = ["Hello", "你好", "", "<|endoftext|>", "a\nb", "User: x\n\nAssistant:", "😀", "\u202e", "x " * 500, "\x00"]
    path = path or rng.choice([CHAT, TEXT])
    body: dict[str, Any] = {"max_tokens": rng.choice([1, 2, 4])}
    if path == CHAT:
        roles = ["system", "user", "assistant", "user"]
        turns = [{"role": role, "content": rng.choice(words)} for role in roles[rng.randrange(4) :]]
        body |= {"messages": turns} | rng.choice(OF_G1)
    else:
        body["prompt"] = rng.choice([word for word in words if word])
    for name in rng.sample(list(RIGHT), rng.randrange(4)):
        body[name] = rng.choice(RIGHT[name])
    return Sent(path, body, expected="accepted")


@KINDS(weight=8)
def right(rng):
    return good(rng)


@KINDS()
def other_right_requests(rng):
    return rng.choice([
        Sent("/v1/models", b"", "GET", expected="accepted"), Sent("/health", b"", "GET", expected="accepted"),
        Sent(CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}], "max_tokens": 2},
             expected="accepted"),
    ])  # fmt: skip


@KINDS()
def streamed(rng):
    sent = good(rng)
    sent.body["stream"] = True
    return sent


# wrong bodies


@KINDS(weight=16)
def wrong_field(rng):
    """One field has a value that it must not have."""
    sent = good(rng)
    name = rng.choice(list(WRONG))
    sent.body[name] = rng.choice(WRONG[name])
    sent.expected = "refused"
    return sent


@KINDS(weight=16)
def mutated_body(rng):
    """Anything in the body is anything else."""
    sent = good(rng)
    return Sent(sent.path, json_bytes(rng, mutate(rng, sent.body)))


@KINDS(weight=8)
def mutated_field(rng):
    sent = good(rng)
    sent.body[rng.choice([*RIGHT, *WRONG, "prompt", "suffix", "echo", "best_of"])] = odd_value(rng)
    return Sent(sent.path, json_bytes(rng, sent.body))


@KINDS(weight=8)
def odd_messages(rng):
    """Turns with odd roles, contents, orders."""
    image = [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]
    contents = [None, 5, [], {}, [5], image, [{"type": "text"}], [{"type": "text", "text": 5}], "x", odd_name(rng),
                odd_value(rng), [{"type": "text", "text": "x"}] * 100]  # fmt: skip
    roles = ["user", "assistant", "system", "tool", "function", "developer", "", None, 5, "User", odd_name(rng)]
    turns = [{"role": rng.choice(roles), "content": rng.choice(contents)} for _ in range(rng.choice([1, 2, 5, 200]))]
    return Sent(CHAT, json_bytes(rng, {"messages": turns, "max_tokens": 1}))


@KINDS()
def odd_prompt(rng):
    prompts = [
        None,
        5,
        [],
        [[]],
        [1, 2],
        [[1, 2]],
        ["a", "b"],
        {},
        True,
        "",
        [""],
        ["a"],
        odd_name(rng),
        odd_value(rng),
    ]
    return Sent(TEXT, json_bytes(rng, {"prompt": rng.choice(prompts), "max_tokens": 1}))


@KINDS(weight=8)
def not_json(rng):
    raw = [text.encode() for text in RAW_JSON if text not in ("-0",)]
    text = json.dumps(good(rng).body)
    body = rng.choice([b"", b"{", b"[1]", b"5", b"null", b'"x"', b'{"prompt": "\xff"}', b'{"prompt": "\\ud83d"}',
                       odd_bytes(rng), *raw, text.encode("utf-16"), text.encode()[:-3]])  # fmt: skip
    return Sent(rng.choice([CHAT, TEXT]), body, expected="refused")


@KINDS()
def spoiled(rng):
    sent = good(rng)
    return Sent(sent.path, spoil(rng, json.dumps(sent.body).encode()))


@KINDS(weight=1)
def long_prompt(rng):
    """A long text, which is read or refused, and does not stop the others for long."""
    return Sent(TEXT, {"prompt": "word " * rng.choice([10_000, 40_000]), "max_tokens": 1})


@KINDS(weight=1)
def huge_body(rng):
    return Sent(TEXT, b" " * rng.choice([10**6, 5 * 10**7]) + b"{", expected="refused")


# wrong around the body


@KINDS()
def other_method(rng):
    methods = ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "post", "X" * 30]
    return Sent(rng.choice([CHAT, TEXT]), good(rng).body, rng.choice(methods), expected="refused")


@KINDS()
def other_path(rng):
    paths = ["/", "/load_model", "/reset", "/v1/responses", "/v1/audio/transcriptions", "/v1/embeddings", "/docs",
             "/openapi.json", "/redoc", "/metrics", "/v1/models/../x", "/v1//chat/completions", "/v1/chat/completions/",
             "/V1/chat/completions", "/v1/chat/completions%00", "/%2e%2e/%2e%2e/etc/passwd", "/" + "x" * 5000,
             "/v1/models/another"]  # fmt: skip
    method = rng.choice(["POST", "GET"])
    return Sent(rng.choice(paths), good(rng, CHAT).body if method == "POST" else b"", method, expected="refused")


@KINDS()
def other_origin(rng):
    """A web page that the user looks at sends the request, under its own name or under a name for this computer."""
    sent = good(rng)
    sent.headers = rng.choice([
        {"Host": "evil.example"}, {"Host": "evil.example:8000"}, {"Origin": "http://evil.example"}, {"Origin": "null"},
        {"Host": "127.0.0.1.evil.example"}, {"Host": "localhost.evil.example"},
        {"Origin": "http://127.0.0.1.evil.example"},
    ])  # fmt: skip
    sent.expected = "refused"
    return sent


@KINDS()
def other_kind_of_content(rng):
    """What a form of a web page can send without being asked."""
    sent = good(rng)
    kinds = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", None, "json"]
    sent.headers, sent.expected = {"Content-Type": rng.choice(kinds)}, "refused"
    return sent


@KINDS()
def odd_header(rng):
    sent = good(rng)
    names = ["Accept", "Accept-Encoding", "Authorization", "Cookie", "User-Agent", "X-Request-Id", "Expect",
             "X-Forwarded-For", "X-HTTP-Method-Override", "Content-Encoding", "Upgrade", "Range"]  # fmt: skip
    values = ["", "*/*", "gzip", "x" * 5000, "Bearer x", "100-continue", "é", "PUT", "websocket", "bytes=0-1", "a\tb"]
    name, value = rng.choice(names), rng.choice(values)
    sent.headers, sent.expected = {name: value}, None
    return sent


@KINDS()
def not_http(rng):
    """No request at all, or one whose parts contradict each other."""
    whole = good(rng).as_bytes("127.0.0.1")
    return Sent(raw=rng.choice([
        odd_bytes(rng), b"\r\n\r\n", spoil(rng, whole), whole[: rng.randrange(len(whole))],
        b"\x16\x03\x01" + odd_bytes(rng), whole.replace(b"Content-Length: ", b"Content-Length: -"),
        whole.replace(b"Content-Length: ", b"Content-Length: 9"),
        whole.replace(b"Content-Length", b"Transfer-Encoding: chunked\r\nContent-Length"), b"GET / HTTP/9.9\r\n\r\n",
        whole + whole, whole.replace(b"Host", b"X: " + b"y" * 100_000 + b"\r\nHost"),
        b"GET " + b"/" * 10**6 + b" HTTP/1.1\r\n\r\n",
    ]))  # fmt: skip


@KINDS()
def client_gone(rng):
    """The client leaves at once, and nobody waits for the answer."""
    sent = good(rng)
    sent.body |= {"max_tokens": MOST_TOKENS, "stream": rng.random() < 0.5}
    sent.leave, sent.expected = True, None
    return sent
