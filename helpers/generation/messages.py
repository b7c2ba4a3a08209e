"""The messages and functions of a request to the server, as clients of OpenAI's API write them."""

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ..inputs import each_once

MOST_TOOLS = 128
Name = Annotated[str, Field(pattern=r"\A[A-Za-z0-9_.-]{1,64}\z")]  # of a function


def neutral(*values: Any) -> BeforeValidator:
    """Return a check for a field that this server has no use for: only values that ask for nothing pass."""

    def check(value: Any) -> Any:
        if value is not None and not any(type(value) is type(nothing) and value == nothing for nothing in values):
            raise ValueError("it is not supported by this server; leave it out")
        return value

    return BeforeValidator(check)


def text_of(content: Any) -> Any:
    """Return the content of a message as one string, given as a string or as a list of parts."""
    if not isinstance(content, list):
        return content
    parts = [part if isinstance(part, dict) else {} for part in content]
    if not all(part.get("type") == "text" and isinstance(part.get("text"), str) for part in parts):
        raise ValueError("it should be text, or a list of parts of type text")
    return "".join(part["text"] for part in parts)


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def object_of(given: Any) -> Any:
    """Return the object of JSON that a string is; of something else, itself."""
    try:
        if isinstance(given, str):
            given = json.loads(given, object_pairs_hook=each_once, parse_constant=int)
        json.dumps(given, ensure_ascii=False, allow_nan=False).encode()  # fails if half a character is an escape
    except (ValueError, RecursionError):
        raise ValueError("it should be an object of JSON") from None
    return given


class FunctionCall(Strict):
    """What an assistant called."""

    name: Name
    arguments: Annotated[dict[str, Any], BeforeValidator(object_of)]


class ToolCall(BaseModel):
    """A call in a message; its id and its place in a stream are passed over."""

    model_config = ConfigDict(strict=True, extra="ignore")

    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(BaseModel):
    """A message; fields beside these, such as a name, are passed over, as the format of the World models has none."""

    model_config = ConfigDict(strict=True, extra="ignore")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str, BeforeValidator(text_of)]
    reasoning_content: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=1)] | None = None
    function_call: Annotated[Any, neutral()] = None

    @model_validator(mode="before")
    @classmethod
    def a_call_needs_no_content(cls, message: Any) -> Any:
        """Let an assistant call a function and say nothing."""
        if isinstance(message, dict) and message.get("tool_calls") and message.get("content") is None:
            return message | {"content": ""}
        return message

    @model_validator(mode="after")
    def only_an_assistant_calls(self) -> "ChatMessage":
        if self.role != "assistant" and (self.tool_calls or self.reasoning_content):
            raise ValueError("only an assistant has tool_calls and reasoning_content")
        return self

    @property
    def turn(self) -> dict[str, Any]:
        """Return the message as a chat template takes it."""
        turn: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": self.content}
        if self.reasoning_content:
            turn["reasoning_content"] = self.reasoning_content
        if self.tool_calls:
            turn["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        return turn


def schema_of(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON schema whose parts are what they should be, as far as a prompt tells them."""
    properties, required = parameters.get("properties", {}), parameters.get("required", [])
    if not (isinstance(properties, dict) and isinstance(required, list)):
        raise ValueError("it should be a JSON schema of an object")
    if not all(isinstance(name, str) and name in properties for name in required) or len(set(required)) < len(required):
        raise ValueError("what is required should be among its properties, each once")
    try:
        json.dumps(parameters, allow_nan=False)
    except ValueError:
        raise ValueError("it has numbers that JSON has not") from None
    return parameters


class Function(Strict):
    """A function that the model may call."""

    name: Name
    description: str | None = None
    parameters: Annotated[dict[str, Any], AfterValidator(schema_of)] | None = None
    strict: Annotated[Any, neutral(False)] = None  # no answer is forced into a schema


class Tool(Strict):
    """A function, as it stands among the tools of a request."""

    type: Literal["function"]
    function: Function

    @property
    def offered(self) -> dict[str, Any]:
        """Return the function as a chat template takes it."""
        return {"type": "function", "function": self.function.model_dump(exclude_none=True)}


class TemplateOptions(Strict):
    """What clients of vLLM may tell a chat template."""

    enable_thinking: bool | None = None
    thinking: bool | None = None
