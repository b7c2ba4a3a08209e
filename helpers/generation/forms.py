"""Answers as OpenAI's API has them in JSON: whole, or in the events of a stream; of a chat, or of a completion."""

import json
import secrets
import time
from collections.abc import Iterable
from typing import Any

from .answers import Piece, Token
from .thoughts import Call, Opening, Part, Splitter

DONE = b"data: [DONE]\n\n"
BARE = Opening()


def spelled(token: bytes) -> str:
    """Return a token as text; one that is no text in a way that tells each from all others."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def event(content: dict[str, Any]) -> bytes:
    """Return one event of a stream."""
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def reason_of(piece: Piece, part: Part) -> str | None:
    """Return why an answer ends with a piece."""
    return "tool_calls" if piece.reason and part.call else piece.reason


class Form:
    """What the answers to one request have in common.

    Args:
        model: its name.
        prompt_tokens: length of the prompt.
        answers: their number.
        logprobs: whether log-probabilities were asked for.
        opening: how the prompt begins the answers.
    """

    prefix: str  # of the id of the answer
    whole_name: str  # what the API calls a whole answer
    part_name: str  # and an event of a stream

    def __init__(self, model: str, prompt_tokens: int, answers: int, logprobs: bool, opening: Opening = BARE):
        self.prompt_tokens, self.logprobs, self.opening = prompt_tokens, logprobs, opening
        self.head = {"id": f"{self.prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self.lengths, self.thoughts = [0] * answers, [0] * answers  # tokens, those of the thought among them
        self.splitters = [Splitter(opening) for _ in range(answers)]

    def usage(self) -> dict[str, Any]:
        """Return the numbers of tokens so far."""
        new = sum(self.lengths)
        usage = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": new,
            "total_tokens": self.prompt_tokens + new,
        }
        details = {"completion_tokens_details": {"reasoning_tokens": sum(self.thoughts)}}
        return usage | (details if self.opening.thinking else {})

    def whole(self, pieces: Iterable[Piece]) -> dict[str, Any]:
        """Return the body of a response, given all pieces."""
        own: list[list[Piece]] = [[] for _ in self.lengths]
        parts = [Part() for _ in self.lengths]
        for piece in pieces:
            own[piece.answer].append(piece)
            parts[piece.answer] += self._part(piece)
        choices = []
        for number, part in enumerate(parts):
            tokens = [token for piece in own[number] for token in piece.tokens]
            logprobs = self.told(tokens) if self.logprobs else None
            reason = reason_of(own[number][-1], part)
            choices.append({"index": number, **self.said(part), "logprobs": logprobs, "finish_reason": reason})
        return {**self.head, "object": self.whole_name, "choices": choices, "usage": self.usage()}

    def part(self, piece: Piece, with_usage: bool) -> dict[str, Any] | None:
        """Return the event that tells a piece, or None for one that tells nothing."""
        part = self._part(piece)
        if not (part or piece.tokens or piece.reason):
            return None
        logprobs = self.told(piece.tokens) if self.logprobs and piece.tokens else None
        return self._event(piece.answer, self.added(part), logprobs, reason_of(piece, part), with_usage)

    def _part(self, piece: Piece) -> Part:
        """Take one more piece, and return what it adds to thought, text and call."""
        splitter = self.splitters[piece.answer]
        if splitter.thinking:
            self.thoughts[piece.answer] = piece.length
        self.lengths[piece.answer] = piece.length
        part = splitter.feed(piece.text)
        return part + splitter.end() if piece.reason else part

    def openings(self, with_usage: bool) -> list[dict[str, Any]]:
        """Return the events before the first piece."""
        return []

    def closing(self) -> dict[str, Any]:
        """Return the event that tells the numbers of tokens."""
        return {**self.head, "object": self.part_name, "choices": [], "usage": self.usage()}

    def _event(
        self, number: int, said: dict[str, Any], logprobs: dict[str, Any] | None, reason: str | None, with_usage: bool
    ) -> dict[str, Any]:
        choice = {"index": number, **said, "logprobs": logprobs, "finish_reason": reason}
        usage = {"usage": None} if with_usage else {}
        return {**self.head, "object": self.part_name, "choices": [choice], **usage}

    def said(self, part: Part) -> dict[str, Any]:
        """Return how a whole answer holds what was said."""
        raise NotImplementedError

    def added(self, part: Part) -> dict[str, Any]:
        """Return how an event holds what is new."""
        raise NotImplementedError

    def told(self, tokens: list[Token]) -> dict[str, Any]:
        """Return the log-probabilities of tokens."""
        raise NotImplementedError


class ChatForm(Form):
    """The form of ``/v1/chat/completions``."""

    prefix, whole_name, part_name = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def openings(self, with_usage: bool) -> list[dict[str, Any]]:
        delta = {"delta": {"role": "assistant", "content": ""}}
        return [self._event(number, delta, None, None, with_usage) for number in range(len(self.lengths))]

    def said(self, part: Part) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": part.text, "refusal": None}
        if self.opening.thinking:
            message["reasoning_content"] = part.thought  # its name at DeepSeek and vLLM; OpenAI has none
        if part.call:
            message |= {"content": None, "tool_calls": [self._call(part.call)]}
        return {"message": message}

    def added(self, part: Part) -> dict[str, Any]:
        new = {
            "reasoning_content": part.thought,
            "content": part.text,
            "tool_calls": [{"index": 0, **self._call(part.call)}] if part.call else None,
        }
        return {"delta": {name: value for name, value in new.items() if value}}

    def _call(self, call: Call) -> dict[str, Any]:
        return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": call._asdict()}

    def told(self, tokens: list[Token]) -> dict[str, Any]:
        rows = [
            {
                **self._row(token.spelling, token.logprob),
                "top_logprobs": [self._row(*other) for other in token.likely],
            }
            for token in tokens
        ]
        return {"content": rows, "refusal": None}

    def _row(self, spelling: bytes, logprob: float) -> dict[str, Any]:
        return {"token": spelled(spelling), "logprob": logprob, "bytes": list(spelling)}


class CompletionForm(Form):
    """The form of ``/v1/completions``."""

    prefix, whole_name, part_name = "cmpl", "text_completion", "text_completion"

    def said(self, part: Part) -> dict[str, Any]:
        return {"text": part.text}

    added = said

    def told(self, tokens: list[Token]) -> dict[str, Any]:
        return {
            "tokens": [spelled(token.spelling) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [self._likely(token) for token in tokens],
            "text_offset": [token.offset for token in tokens],
        }

    def _likely(self, token: Token) -> dict[str, float]:
        """Return the most likely tokens, the chosen one always among them."""
        return {spelled(spelling): logprob for spelling, logprob in [*token.likely, (token.spelling, token.logprob)]}
