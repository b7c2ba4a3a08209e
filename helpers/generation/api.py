"""What clients of OpenAI's API may ask of the server, and how they are answered: a gate before ``transformers serve``.

By itself, that server takes whatever it is sent: a wrong value ends in status 500 without a reason, and fields that it
does not know are passed over. :class:`Gate` looks at each request first. What it lets through, it hands on as the one
form that leaves nothing to be guessed, a whole ``generation_config``. What it refuses, it refuses with status 400 and a
sentence in the form of OpenAI's API. From answers it cuts the stop strings.
"""

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from .chat import line_breaks
from .prompts import END_OF_TURN
from .sampling import COLDEST

USUAL_TOKENS = 1024  # of an answer whose length the client leaves open
NAME = "model"  # of the only model, inside the server
HEALTH, MODELS = "/health", "/v1/models"

Headers = list[tuple[bytes, bytes]]
Message = MutableMapping[str, Any]  # of ASGI
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class RequestError(Exception):
    """A request that is not answered: the sentence, the field that is wrong, and a code for programs."""

    def __init__(self, message: str, field: str | None = None, code: str | None = None):
        super().__init__(message)
        self.field, self.code = field, code


# requests


def neutral(*values: Any) -> BeforeValidator:
    """Return a check for a field that this server has no use for: only values that ask for nothing pass."""

    def check(value: Any) -> Any:
        if value is not None and value not in values:
            raise ValueError("it is not supported by this server; leave it out")
        return value

    return BeforeValidator(check)


def as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def text_of(content: Any) -> Any:
    """Return the content of a message as one string, given as a string or as a list of parts."""
    if not isinstance(content, list):
        return content
    parts = [part if isinstance(part, dict) else {} for part in content]
    if not all(part.get("type") == "text" and isinstance(part.get("text"), str) for part in parts):
        raise ValueError("it should be text, or a list of parts of type text")
    return "".join(part["text"] for part in parts)


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class ChatMessage(BaseModel):
    """A message; fields beside these, such as a name, are passed over, as the format of the World models has none."""

    model_config = ConfigDict(strict=True, extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(text_of)]
    tool_calls: Annotated[Any, neutral([])] = None
    function_call: Annotated[Any, neutral()] = None


class Request(Strict):
    """What both kinds of requests have."""

    model: str | None = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=64)]], BeforeValidator(as_list), Field(max_length=16)
        ]
        | None
    ) = None
    frequency_penalty: Annotated[float, Field(gt=-1, le=2)] | None = None
    logit_bias: dict[int, Annotated[float, Field(ge=-100, le=100)]] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    n: Annotated[Any, neutral(1)] = None
    stream_options: Any = None  # the last piece of a stream tells the number of tokens in any case
    user: Any = None  # these ask for nothing that changes an answer
    metadata: Any = None
    safety_identifier: Any = None

    @property
    def tokens(self) -> int | None:
        """Return how long the answer may be, if the client says so."""
        return self.max_tokens

    @property
    def content(self) -> dict[str, Any]:
        """Return what the model reads."""
        raise NotImplementedError


class ChatRequest(Request):
    """The body of ``POST /v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: Annotated[Any, neutral(False)] = None
    top_logprobs: Annotated[Any, neutral(0)] = None
    tools: Annotated[Any, neutral([])] = None
    tool_choice: Annotated[Any, neutral("none", "auto")] = None
    functions: Annotated[Any, neutral([])] = None
    function_call: Annotated[Any, neutral("none", "auto")] = None
    response_format: Annotated[Any, neutral({"type": "text"})] = None
    modalities: Annotated[Any, neutral(["text"])] = None
    audio: Annotated[Any, neutral()] = None
    prediction: Annotated[Any, neutral()] = None
    web_search_options: Annotated[Any, neutral()] = None
    parallel_tool_calls: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    service_tier: Any = None
    store: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    moderation: Any = None

    @property
    def tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def content(self) -> dict[str, Any]:
        roles = {"developer": "system"}  # OpenAI's newer name
        turns = [{"role": roles.get(turn.role, turn.role), "content": turn.content} for turn in self.messages]
        return {"messages": turns}


class CompletionRequest(Request):
    """The body of ``POST /v1/completions``."""

    prompt: Annotated[
        list[Annotated[str, Field(min_length=1)]], BeforeValidator(as_list), Field(min_length=1, max_length=1)
    ]
    best_of: Annotated[Any, neutral(1)] = None
    echo: Annotated[Any, neutral(False)] = None
    logprobs: Annotated[Any, neutral()] = None
    suffix: Annotated[Any, neutral("")] = None

    @property
    def content(self) -> dict[str, Any]:
        return {"prompt": self.prompt[0]}


KINDS: dict[str, type[Request]] = {"/v1/chat/completions": ChatRequest, "/v1/completions": CompletionRequest}


def read_request(kind: type[Request], body: bytes) -> Request:
    """Return a request as it was sent.

    Raises:
        RequestError: it is not JSON in UTF-8, or a field has a wrong value.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
    message = re.sub("^(Input|Value|String|List|Dictionary) ", "it ", first["msg"].removeprefix("Value error, "))
    if first["type"] == "json_invalid":
        raise RequestError(f"The body of the request is not JSON in UTF-8: {message.partition(': ')[2]}.")
    path = [part for part in first["loc"] if part != "[key]"]
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    if not field:
        raise RequestError("The body of the request is not a JSON object.")
    if first["type"] == "missing":
        raise RequestError(f"The request has no {field}.", field)
    if first["type"] == "extra_forbidden":
        raise RequestError(f"{field} is not a field that this server knows; leave it out.", field)
    given = json.dumps(first["input"], ensure_ascii=False, default=str)
    raise RequestError(f"{field} is {given if len(given) < 60 else 'wrong'}: {message}.", field)


class Served:
    """What the gate has to know about the model that is served.

    Args:
        name: by which clients ask for it.
        vocab_size: number of tokens.
        defaults: its generation configuration, as JSON has it.
        max_tokens: the longest answer that a client may ask for.
    """

    def __init__(self, name: str, vocab_size: int, defaults: dict[str, Any], max_tokens: int):
        self.name, self.vocab_size, self.defaults, self.max_tokens = name, vocab_size, defaults, max_tokens

    def check(self, request: Request) -> None:
        """Raise RequestError if a request asks for what this model cannot do."""
        if request.model not in (None, self.name):
            message = f"The model {request.model!r} is not served here; this server has {self.name!r}."
            raise RequestError(message, "model", "model_not_found")
        if (request.tokens or 0) > self.max_tokens:
            message = f"max_tokens is {request.tokens}; this server gives {self.max_tokens} at most."
            raise RequestError(message, "max_tokens")
        if wrong := [index for index in request.logit_bias or () if not 0 <= index < self.vocab_size]:
            message = f"logit_bias has the token {wrong[0]}; this model has tokens from 0 to {self.vocab_size - 1}."
            raise RequestError(message, "logit_bias")

    def stops(self, request: Request) -> list[str]:
        """Return where the answer ends: in a chat at the blank line that ends a turn, if the client does not say."""
        return request.stop or ([END_OF_TURN] if isinstance(request, ChatRequest) else [])

    def generation_config(self, request: Request) -> dict[str, Any]:
        """Return all that decides how the answer is generated; requests sample unless their temperature is 0."""
        settings = self.defaults | {
            "max_new_tokens": request.tokens or min(USUAL_TOKENS, self.max_tokens),
            "repetition_penalty": 1 + (request.frequency_penalty or 0),
            "presence_penalty": request.presence_penalty or 0,
            "top_k": 0,
        }
        temperature = 1.0 if request.temperature is None else request.temperature
        if temperature < COLDEST:
            settings["do_sample"] = False
        else:
            top_p = 1.0 if request.top_p is None else request.top_p
            settings |= {"do_sample": True, "temperature": temperature, "top_p": top_p}
        if request.logit_bias:
            settings["sequence_bias"] = [[[index], bias] for index, bias in request.logit_bias.items()]
        if stops := self.stops(request):
            settings["stop_strings"] = stops
        if isinstance(request, ChatRequest):
            settings["begin_suppress_tokens"] = line_breaks()  # no empty answers, as in helpers.generation.Chat
        return settings

    def forwarded(self, request: Request) -> bytes:
        """Return the body that ``transformers serve`` gets."""
        body = {"model": NAME, "stream": bool(request.stream), **request.content}
        if request.seed is not None:
            body["seed"] = request.seed
        return json.dumps(body | {"generation_config": json.dumps(self.generation_config(request))}).encode()


# answers


class StopCut:
    """Cuts a text that arrives in pieces before the first stop string, and holds back what may become one."""

    def __init__(self, stops: list[str]):
        self.stops, self.held, self.found = stops, "", False

    def feed(self, piece: str) -> str:
        """Return what can be sent after one more piece."""
        if self.found:
            return ""
        text = self.held + piece
        places = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        if places:
            self.found, self.held = True, ""
            return text[: min(places)]
        longest = max(map(len, self.stops), default=1) - 1
        begun = (n for n in range(min(longest, len(text)), 0, -1) if any(s.startswith(text[-n:]) for s in self.stops))
        cut = len(text) - next(begun, 0)
        self.held = text[cut:]
        return text[:cut]

    def rest(self) -> str:
        """Return what was held back, once no more can come."""
        held, self.held = self.held, ""
        return held


def error_body(message: str, status: int, field: str | None = None, code: str | None = None) -> bytes:
    """Return an error in the form of OpenAI's API."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return json.dumps({"error": {"message": message, "type": kind, "param": field, "code": code}}).encode()


class Answer:
    """Sends on what the server answers, with the model's name, up to a stop string; errors in the form of OpenAI's API.

    A stream is passed on piece by piece, anything else when it is complete.
    """

    def __init__(self, send: Send, model: Served, stops: list[str]):
        self.send, self.model, self.cut = send, model, StopCut(stops)
        self.start: Message = {}
        self.buffer = b""
        self.streams = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.start = message
            kind = dict(message.get("headers", [])).get(b"content-type", b"")
            self.streams = kind.startswith(b"text/event-stream")
            if self.streams:
                await self.send(message)
            return
        self.buffer += message.get("body", b"")
        more = message.get("more_body", False)
        if self.streams:
            *events, self.buffer = self.buffer.split(b"\n\n")
            if not more and self.buffer:
                events.append(self.buffer)
            body = b"".join(map(self.event, events))
            await self.send({"type": "http.response.body", "body": body, "more_body": more})
        elif not more:
            await send_whole(self.send, self.start["status"], self.whole(), self.start.get("headers", []))

    def whole(self) -> bytes:
        """Return a complete body."""
        status = self.start["status"]
        if status >= 400:
            reason = reason_of(self.buffer) if status < 500 else "The server failed; see its messages."
            return error_body(reason, status)
        return json.dumps(self.shorten(json.loads(self.buffer))).encode()

    def event(self, event: bytes) -> bytes:
        """Return one event of a stream."""
        data = event.removeprefix(b"data: ")
        if data == b"[DONE]":
            return event + b"\n\n"
        try:
            content = json.loads(data)
        except ValueError:  # the server does not quote the text of an error
            content = {"error": data.decode(errors="replace")}
        if "error" in content:
            return b"data: " + error_body(f"The server failed: {content['error']}", 500) + b"\n\n"
        return b"data: " + json.dumps(self.shorten(content)).encode() + b"\n\n"

    def shorten(self, content: dict[str, Any]) -> dict[str, Any]:
        """Return an answer, or a piece of one, up to the stop string."""
        content["model"] = self.model.name
        for choice in content["choices"]:
            place, key = choice.get("message") or choice.get("delta"), "content"
            if place is None:
                place, key = choice, "text"
            text = self.cut.feed(place.get(key) or "")
            if choice.get("finish_reason"):
                text += self.cut.rest()
                choice["finish_reason"] = "stop" if self.cut.found else choice["finish_reason"]
            if text or key in place:
                place[key] = text
        return content


def reason_of(body: bytes) -> str:
    """Return the sentence in an error of FastAPI, or the error as it is."""
    try:
        detail = json.loads(body)["detail"]
    except (ValueError, LookupError, TypeError):
        return body.decode(errors="replace")
    return detail if isinstance(detail, str) else json.dumps(detail)


async def send_whole(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """Send a complete answer in JSON."""
    kept = [(name, value) for name, value in headers if name not in (b"content-length", b"content-type")]
    kept += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": kept})
    await send({"type": "http.response.body", "body": body})


class Gate:
    """The ASGI application of ``transformers serve`` behind the checks of this module; its other routes are closed."""

    def __init__(self, app: App, model: Served):
        self.app, self.model = app, model

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        if method == "GET" and path == HEALTH:
            await self.app(scope, receive, send)
        elif method == "GET" and path == MODELS:
            row = {"id": self.model.name, "object": "model", "created": 0, "owned_by": "local"}
            await send_whole(send, 200, json.dumps({"object": "list", "data": [row]}).encode(), [])
        elif method == "POST" and path in KINDS:
            await self.answer(KINDS[path], scope, receive, send)
        else:
            offered = f"POST {' and '.join(KINDS)}, and GET {MODELS} and {HEALTH}"
            message = f"There is no {method} {path} here; this server has {offered}."
            await send_whole(send, 404, error_body(message, 404), [])

    async def answer(self, kind: type[Request], scope: Message, receive: Receive, send: Send) -> None:
        """Check a request, let the server answer it, and pass on what it sends."""
        try:
            request = read_request(kind, await read_body(scope, receive))
            self.model.check(request)
        except RequestError as error:
            await send_whole(send, 400, error_body(str(error), 400, error.field, error.code), [])
            return
        forwarded = self.model.forwarded(request)
        headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
        headers.append((b"content-length", str(len(forwarded)).encode()))
        unread = [{"type": "http.request", "body": forwarded, "more_body": False}]

        async def receive_checked() -> Message:
            return unread.pop() if unread else await receive()  # later, that the client is gone

        answer = Answer(send, self.model, self.model.stops(request))
        await self.app({**scope, "headers": headers}, receive_checked, answer)


async def read_body(scope: Message, receive: Receive) -> bytes:
    """Return the whole body of a request, or of a client that has gone what came of it.

    Raises:
        RequestError: it does not say that it is JSON, as no form of a web page can.
    """
    if not re.match(rb"application/([\w.-]+\+)?json\b", dict(scope["headers"]).get(b"content-type", b"")):
        raise RequestError("The request does not say Content-Type: application/json; send it with that header.")
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return body
