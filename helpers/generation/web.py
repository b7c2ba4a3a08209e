"""The web server's side of ``serve``: who is let in, where requests go, and how answers and refusals are sent.

Four routes, all in JSON: ``POST /v1/chat/completions``, ``POST /v1/completions``, ``GET /v1/models``, ``GET /health``.
Before them stand :class:`Door` and :class:`Lock`. A web page that a browser shows can send requests to a server on the
same computer, across sites or by a name that leads there (DNS rebinding); so names and origins are looked at.
"""

import asyncio
import contextlib
import hmac
import logging
import re
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from transformers import PreTrainedTokenizerFast

from . import api
from .answers import Piece, Task
from .forms import DONE, ChatForm, CompletionForm, Form, event
from .jobs import Job, Line
from .refusals import Refusal, failure, shorten
from .sampling import encode_whole
from .thoughts import Opening, opening_of

CHAT, TEXT, MODELS, HEALTH = "/v1/chat/completions", "/v1/completions", "/v1/models", "/health"
KINDS: dict[str, tuple[type[api.Request], type[Form]]] = {
    CHAT: (api.ChatRequest, ChatForm),
    TEXT: (api.CompletionRequest, CompletionForm),
}
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
BYTES_OF_A_TOKEN = 128  # at most, in the World vocabulary
REST_OF_A_BODY = 2**16  # bytes for all but the prompt
SECONDS_OF_A_BODY = 30  # until a request has to be there

log = logging.getLogger("uvicorn.error")


@dataclass(frozen=True)
class Doors:
    """Who is let in.

    Args:
        hosts: names under which the server may be asked for, beside those of this computer.
        origins: of web pages that may use the server from a browser, such as ``https://example.org``.
        key: that clients have to show; None: none.
    """

    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    key: str | None = None


class Door:
    """Turns away requests by other names, and from web pages elsewhere."""

    def __init__(self, app: ASGIApp, doors: Doors):
        self.app, self.origins = app, doors.origins
        self.hosts = {name.lower() for name in (*LOCAL_HOSTS, *doors.hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self.reason(Headers(scope=scope)) if scope["type"] == "http" else None
        await (response_of(refusal) if refusal else self.app)(scope, receive, send)

    def reason(self, headers: Headers) -> Refusal | None:
        """Return why a request is not let in."""
        host = headers.get("host", "")
        found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(:[0-9]+)?", host)
        if found is None or found[1].lower() not in self.hosts:
            message = f"This server has not the name {shorten(host)!r}; start it with --allow-host to give it that one."
            return Refusal(message, code="host_not_allowed", status=403)
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        if origin in self.origins or (origin is None and site in ("none", "same-origin")):
            return None
        whence = f"from {shorten(origin)!r}" if origin else "of other sites"
        message = (
            f"Requests of web pages {whence} are not answered; start the server with --allow-origin to change that."
        )
        return Refusal(message, code="origin_not_allowed", status=403)


class Lock:
    """Turns away requests without the key; whether the server is alive, everybody may ask."""

    def __init__(self, app: ASGIApp, key: str):
        self.app, self.key = app, key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        opens = scope["type"] != "http" or scope["path"] == HEALTH or self.fits(Headers(scope=scope))
        await (self.app if opens else response_of(self.refusal()))(scope, receive, send)

    def fits(self, headers: Headers) -> bool:
        """Say whether the key is shown, in a time that does not depend on how much of it is right."""
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        return hmac.compare_digest(shown.strip().encode(), self.key) and scheme.lower() == "bearer"

    def refusal(self) -> Refusal:
        message = "The API key is missing or wrong; send it as Authorization: Bearer KEY."
        headers = {"WWW-Authenticate": "Bearer"}
        return Refusal(message, code="invalid_api_key", status=401, headers=headers)


def response_of(refusal: Refusal) -> JSONResponse:
    return JSONResponse(refusal.content, refusal.status, refusal.headers)


class Answering:
    """The two routes that answer."""

    def __init__(self, served: api.Served, tokenizer: PreTrainedTokenizerFast, line: Line):
        self.served, self.tokenizer, self.line = served, tokenizer, line
        self.one_at_a_time = threading.Lock()  # how special tokens are read is a setting of the tokenizer
        self.most_bytes = BYTES_OF_A_TOKEN * served.max_prompt + REST_OF_A_BODY

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        kind, form_class = KINDS[scope["path"]]
        refuse_other_types(request)
        job = self.line.enter()
        try:
            body = await read_body(request, self.most_bytes)
            asked, task, opening = await asyncio.to_thread(self.understand, kind, body)
            form = form_class(self.served.name, len(task.ids), task.answers, task.likely is not None, opening)
            async with watched(job, receive):
                self.line.submit(job, task)
                response = await (stream if asked.stream else whole)(job, form, asked.include_usage)
                await response(scope, receive, send)
        except ClientDisconnect:
            pass  # nobody hears an answer
        finally:
            self.line.leave(job)

    def understand(self, kind: type[api.Request], body: bytes) -> tuple[api.Request, Task, Opening]:
        """Return a request as it was sent, what it asks of the model, and how its prompt begins the answer.

        Raises:
            Refusal: something is wrong with it.
        """
        asked = api.read_request(kind, body)
        self.served.check(asked)
        with self.one_at_a_time:
            ids, opening = self.prompt(asked)
        self.served.check_prompt(ids)
        settings, stops = self.served.settings(asked, opening), self.served.stops(asked, opening)
        return asked, Task(ids, settings, asked.n or 1, stops, asked.likely, begun=not opening.bare), opening

    def prompt(self, asked: api.Request) -> tuple[list[int], Opening]:
        """Return what the model reads; the names of special tokens in messages are ordinary text."""
        if isinstance(asked, api.CompletionRequest):
            return self.tokenizer(asked.prompt[0])["input_ids"], Opening()
        assert isinstance(asked, api.ChatRequest)
        turns, options = asked.turns, asked.options
        try:
            text = self.render(turns, options)
        except Exception as error:  # a template can refuse, for example two turns of the same side
            raise Refusal(f"The chat template of the model refuses this: {shorten(error, 200)}.", "messages") from None
        opening = opening_of(text, asked.names)
        if options.get("enable_thinking", opening.thinking) != opening.thinking:
            raise unheeded("thinking", "enable_thinking")
        if self.passes_over_tools(text, turns, options):
            raise unheeded("tools", "tools")
        ids = encode_whole(self.tokenizer, text, split_special_tokens=True, add_special_tokens=False)
        return ids, opening

    def render(self, turns: list[dict[str, Any]], options: dict[str, Any]) -> str:
        """Return what the chat template writes."""
        return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **options))

    def passes_over_tools(self, text: str, turns: list[dict[str, Any]], options: dict[str, Any]) -> bool:
        """Say whether the template writes the same without the tools, or without the calls of earlier turns."""
        no_tools = {name: value for name, value in options.items() if name not in ("tools", "tool_choice")}
        no_calls = [{name: value for name, value in turn.items() if name != "tool_calls"} for turn in turns]
        for fewer in [(turns, no_tools)] * (no_tools != options) + [(no_calls, options)] * (no_calls != turns):
            with contextlib.suppress(Exception):  # a template may miss them
                if self.render(*fewer) == text:
                    return True
        return False


def unheeded(what: str, field: str) -> Refusal:
    message = f"The chat template of the model knows no {what}; refresh the directory, or leave {field} out."
    return Refusal(message, field)


def refuse_other_types(request: Request) -> None:
    """Raise Refusal for a body that does not say that it is JSON, as no form of a web page can."""
    if not re.match(r"application/([\w.-]+\+)?json\s*(;|$)", request.headers.get("content-type", "").lower()):
        raise Refusal("The request does not say Content-Type: application/json; send it with that header.", status=415)


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body of a request.

    Raises:
        Refusal: it is too long, or comes too slowly.
        ClientDisconnect: the client has gone.
    """
    too_long = Refusal(f"The request has more than {limit:,} bytes; send a shorter one.", status=413)
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced[:20]) > limit:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(SECONDS_OF_A_BODY):
            async for part in request.stream():
                body += part
                if len(body) > limit:
                    raise too_long
    except TimeoutError:
        message = f"The request was not complete after {SECONDS_OF_A_BODY} seconds; send it faster."
        raise Refusal(message, status=408, headers={"Connection": "close"}) from None
    return bytes(body)


@contextlib.asynccontextmanager
async def watched(job: Job, receive: Receive) -> AsyncIterator[None]:
    """Stop a job when its client goes."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        job.stop(ClientDisconnect())

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()


async def whole(job: Job, form: Form, include_usage: bool) -> Response:
    """Return the response when the answers are complete."""
    pieces = [piece async for some in job.pieces() for piece in some]
    return JSONResponse(form.whole(pieces))


async def stream(job: Job, form: Form, include_usage: bool) -> Response:
    """Return the response when there is a first piece: until then, it can still be a refusal."""
    pieces = job.pieces()
    first: list[Piece] = await anext(pieces, [])

    async def events() -> AsyncIterator[bytes]:
        try:
            for opening in form.openings(include_usage):
                yield event(opening)
            some = first
            while some:
                for piece in some:
                    if (part := form.part(piece, include_usage)) is not None:
                        yield event(part)
                some = await anext(pieces, [])
        except ClientDisconnect:
            raise
        except Exception as error:
            if not isinstance(error, Refusal):
                log.error("A request failed", exc_info=error)
            yield event(failure(error).content)
            return
        if include_usage:
            yield event(form.closing())
        yield DONE

    return EventStream(events())


class EventStream(Response):
    """Sends events as they come."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes]):
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for body in self.events:
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def refused(request: Request, error: Exception) -> Response:
    """Return the response to a request that is not answered."""
    if isinstance(error, HTTPException):
        offered = f"POST {CHAT} and {TEXT}, and GET {MODELS} and {HEALTH}"
        place = f"{shorten(request.method)} {shorten(request.url.path)}"
        message = f"There is no {place} here; this server has {offered}."
        error = Refusal(message, status=error.status_code, headers=dict(error.headers or {}))
    return response_of(failure(error))  # uvicorn tells the log what is no refusal


def application(served: api.Served, tokenizer: PreTrainedTokenizerFast, line: Line, doors: Doors) -> Starlette:
    """Return the web server's application."""

    def row() -> dict[str, Any]:
        return {"id": served.name, "object": "model", "created": 0, "owned_by": "local"}

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [row()]})

    async def model(request: Request) -> Response:
        if request.path_params["name"] != served.name:
            name = shorten(request.path_params["name"])
            message = f"The model {name!r} is not served here; this server has {served.name!r}."
            raise Refusal(message, "model", "model_not_found", status=404)
        return JSONResponse(row())

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    answering = Answering(served, tokenizer, line)
    handlers: dict[Any, Callable] = {Refusal: refused, HTTPException: refused, Exception: refused}
    middleware = [Middleware(Door, doors)]
    if doors.origins:
        methods = ["GET", "POST"]
        middleware.append(
            Middleware(CORSMiddleware, allow_origins=doors.origins, allow_methods=methods, allow_headers=["*"])
        )
    if doors.key is not None:
        middleware.append(Middleware(Lock, doors.key))
    app = Starlette(
        routes=[
            Route(CHAT, answering, methods=["POST"]),
            Route(TEXT, answering, methods=["POST"]),
            Route(MODELS, models),
            Route(f"{MODELS}/{{name:path}}", model),
            Route(HEALTH, health),
        ],
        middleware=middleware,
        exception_handlers=handlers,
    )
    app.router.redirect_slashes = False
    return app
