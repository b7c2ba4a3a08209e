"""What clients of OpenAI's API may ask of the server: every field with its type and range, and what it means here.

A request that is not understood is refused in one sentence, never answered as if it had asked for something else.
"""

import json
import re
import secrets
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from ..errors import InputError
from .chat import line_breaks
from .messages import MOST_TOOLS, ChatMessage, Strict, TemplateOptions, Tool, neutral
from .prompts import agreed, end_of_answer
from .refusals import Refusal, shorten
from .sampling import Sampling
from .thoughts import Opening

USUAL_TOKENS = 1024  # of an answer whose length the client leaves open
MOST_ANSWERS = 16  # to one request
MOST_BIASES = 1000  # tokens in a logit_bias
MOST_LIKELY = 20  # tokens beside the one that was chosen whose log-probabilities a client may ask for


def as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


ANYTHING: TypeAdapter[Any] = TypeAdapter(Any)
Effort = Literal["none", "minimal", "low", "medium", "high"]
Stop = Annotated[str, Field(min_length=1, max_length=64)]


class StreamOptions(Strict):
    """What a stream tells beside the text."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # of the lengths of pieces; there is none here


class Request(Strict):
    """What both kinds of requests have."""

    model: str | None = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Annotated[list[Stop], BeforeValidator(as_list), Field(max_length=16)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[int, Annotated[float, Field(ge=-100, le=100)]] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] | None = None
    stream_options: StreamOptions | None = None
    user: Any = None  # these ask for nothing that changes an answer
    metadata: Any = None
    safety_identifier: Any = None

    @property
    def tokens(self) -> int | None:
        """Return how long the answer may be, if the client says so."""
        return self.max_tokens

    @property
    def likely(self) -> int | None:
        """Return how many of the most likely tokens are asked for at each place; None: no log-probabilities at all."""
        raise NotImplementedError

    @property
    def include_usage(self) -> bool:
        """Say whether the end of a stream tells the number of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(Request):
    """The body of ``POST /v1/chat/completions``."""

    messages: list[ChatMessage] = Field(min_length=1, fail_fast=True)
    enable_thinking: bool | None = None
    thinking: bool | None = None
    reasoning_effort: Effort | None = None
    chat_template_kwargs: TemplateOptions | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LIKELY)] | None = None
    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS, fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | None = None
    functions: Annotated[Any, neutral([])] = None
    function_call: Annotated[Any, neutral("none", "auto")] = None
    response_format: Annotated[Any, neutral({"type": "text"})] = None
    modalities: Annotated[Any, neutral(["text"])] = None
    audio: Annotated[Any, neutral()] = None
    prediction: Annotated[Any, neutral()] = None
    web_search_options: Annotated[Any, neutral()] = None
    parallel_tool_calls: Any = None
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
    def likely(self) -> int | None:
        return self.top_logprobs or 0 if self.logprobs else None

    @property
    def turns(self) -> list[dict[str, Any]]:
        """Return the messages as a chat template takes them."""
        return [message.turn for message in self.messages]

    @property
    def names(self) -> list[str]:
        """Return the names of the functions that the model may call."""
        return [] if self.tool_choice == "none" else [tool.function.name for tool in self.tools or ()]

    @property
    def options(self) -> dict[str, Any]:
        """Return what else a chat template is told: only what the client asks for.

        Raises:
            Refusal: it contradicts itself.
        """
        inner = self.chat_template_kwargs or TemplateOptions()
        flags = (self.enable_thinking, self.thinking, inner.enable_thinking, inner.thinking)
        try:
            thinking = agreed(*flags, effort=self.reasoning_effort)
        except InputError as error:
            raise Refusal(str(error), "reasoning_effort" if self.reasoning_effort else "enable_thinking") from None
        if len(set(self.names)) < len(self.names):
            raise Refusal("Two of the tools have the same name; give each its own.", "tools")
        if self.tool_choice == "required" and (not self.names or thinking is not None):
            message = "tool_choice is required: give tools, and leave out thinking, since the call begins at once."
            raise Refusal(message, "tool_choice")
        options: dict[str, Any] = {"enable_thinking": thinking, "reasoning_effort": self.reasoning_effort}
        if self.names:
            options |= {"tools": [tool.offered for tool in self.tools or ()], "tool_choice": self.tool_choice or "auto"}
        return {name: value for name, value in options.items() if value is not None}


Prompt = Annotated[str, Field(min_length=1)]


class CompletionRequest(Request):
    """The body of ``POST /v1/completions``."""

    prompt: Annotated[list[Prompt], BeforeValidator(as_list)] = Field(min_length=1, max_length=1, fail_fast=True)
    best_of: Annotated[Any, neutral(1)] = None
    echo: Annotated[Any, neutral(False)] = None
    logprobs: Annotated[int, Field(ge=0, le=MOST_LIKELY)] | None = None
    suffix: Annotated[Any, neutral("")] = None

    @property
    def likely(self) -> int | None:
        return self.logprobs


def read_request(kind: type[Request], body: bytes) -> Request:
    """Return a request as it was sent.

    Raises:
        Refusal: it is not JSON in UTF-8, or a field has a wrong value.
    """
    refuse_the_rough(kind, body)
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    message = re.sub("^(Input|Value|String|List|Dictionary) ", "it ", first["msg"].removeprefix("Value error, "))
    path = [part for part in first["loc"] if part != "[key]"]
    field = shorten("".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip("."))
    if first["type"] == "missing":
        raise Refusal(f"The request has no {field}.", field)
    if first["type"] == "extra_forbidden":
        raise unknown(field)
    raise Refusal(f"{field} is {as_json(first['input'])}: {message}.", field)


def refuse_the_rough(kind: type[Request], body: bytes) -> None:
    """Raise Refusal for what is no request at all, or has so many fields that a list of its errors would take long."""
    try:
        content = ANYTHING.validate_json(body)
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"].removeprefix("Invalid JSON: ")
        raise Refusal(f"The body of the request is not JSON in UTF-8: {reason}.") from None
    if not isinstance(content, dict):
        raise Refusal("The body of the request is not a JSON object.")
    for field in content:
        if field not in kind.model_fields:
            raise unknown(shorten(field))
    biases = content.get("logit_bias")
    if isinstance(biases, dict) and len(biases) > MOST_BIASES:
        raise Refusal(f"logit_bias has {len(biases)} tokens; give {MOST_BIASES} at most.", "logit_bias")


def unknown(field: str) -> Refusal:
    return Refusal(f"{field} is not a field that this server knows; leave it out.", field)


def as_json(value: Any) -> str:
    """Return a short value as it was sent, and of a long one only that it is wrong."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):  # a number of thousands of digits
        return "wrong"
    return shorten(text) if len(text) < 60 else "wrong"


@dataclass(frozen=True)
class Served:
    """The model that is served, as far as requests are concerned.

    Args:
        name: by which clients ask for it.
        vocab_size: number of tokens.
        max_tokens: the longest answer that a client may ask for.
        max_prompt: the longest prompt, in tokens.
        end: where answers in a chat end, one of ``ENDS``; ``auto``: before the user's next turn if the request has what
            only G1 models know, thinking or tools, else at a blank line.
    """

    name: str
    vocab_size: int
    max_tokens: int
    max_prompt: int
    end: str = "auto"

    def check(self, request: Request) -> None:
        """Raise Refusal if a request asks for what this model cannot do."""
        if request.model not in (None, self.name):
            message = f"The model {shorten(request.model)!r} is not served here; this server has {self.name!r}."
            raise Refusal(message, "model", "model_not_found")
        if (request.tokens or 0) > self.max_tokens:
            message = f"max_tokens is {as_json(request.tokens)}; this server gives {self.max_tokens} at most."
            raise Refusal(message, "max_tokens")
        if wrong := [index for index in request.logit_bias or () if not 0 <= index < self.vocab_size]:
            tokens = f"this model has tokens from 0 to {self.vocab_size - 1}"
            raise Refusal(f"logit_bias has the token {as_json(wrong[0])}; {tokens}.", "logit_bias")
        if isinstance(request, ChatRequest) and request.top_logprobs and not request.logprobs:
            raise Refusal("top_logprobs is given without logprobs: true; say that, too.", "top_logprobs")

    def check_prompt(self, ids: list[int]) -> None:
        """Raise Refusal if a prompt has no tokens, or too many."""
        if not ids:
            raise Refusal("The prompt has no tokens; write something.")
        if len(ids) > self.max_prompt:
            message = f"The prompt has {len(ids):,} tokens; this server reads {self.max_prompt:,} at most."
            raise Refusal(message, code="context_length_exceeded")

    def settings(self, request: Request, opening: Opening) -> Sampling:
        """Return how the tokens of the answer are chosen; requests sample unless their temperature is 0."""
        seed = secrets.randbits(63) if request.seed is None else request.seed % 2**63
        return Sampling(
            temperature=0.0 if request.top_p == 0 else given(request.temperature, 1.0),  # the most probable token alone
            top_p=request.top_p or 1.0,
            presence_penalty=request.presence_penalty or 0.0,
            frequency_penalty=request.frequency_penalty or 0.0,
            logit_bias=tuple((request.logit_bias or {}).items()),
            begin_suppress_tokens=self.not_first(request, opening),
            max_new_tokens=request.tokens or min(USUAL_TOKENS, self.max_tokens),
            seed=seed,
        )

    def not_first(self, request: Request, opening: Opening) -> tuple[int, ...]:
        """Return the tokens that the answer may not begin with: none is empty, as in :class:`.chat.Chat`."""
        breaks = line_breaks() if isinstance(request, ChatRequest) and opening.bare else ()
        return tuple(token for token in breaks if token < self.vocab_size)

    def stops(self, request: Request, opening: Opening) -> list[str]:
        """Return before which strings the answer ends: in a chat where the turn ends, if the client does not say."""
        usual = [end_of_answer(self.end, opening.of_g1)] if isinstance(request, ChatRequest) else []
        return request.stop or usual


def given(value: float | None, default: float) -> float:
    return default if value is None else value
