"""Answers as OpenAI's API has them in JSON: whole, or in the events of a stream; of a chat, or of a completion."""

import json
import secrets
import time
from collections.abc import Iterable
from typing import Any

from .answers import Piece, Token

DONE = b"data: [DONE]\n\n"


def spelled(token: bytes) -> str:
    """Return a token as text; one that is no text in a way that tells each from all others."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def event(content: dict[str, Any]) -> bytes:
    """Return one event of a stream."""
    return b"data: " + json.dumps(content).encode() + b"\n\n"


class Form:
    """What the answers to one request have in common.

    Args:
        model: its name.
        prompt_tokens: length of the prompt.
        answers: their number.
        logprobs: whether log-probabilities were asked for.
    """

    prefix: str  # of the id of the answer
    whole_name: str  # what the API calls a whole answer
    part_name: str  # and an event of a stream

    def __init__(self, model: str, prompt_tokens: int, answers: int, logprobs: bool):
        self.prompt_tokens, self.logprobs = prompt_tokens, logprobs
        self.head = {"id": f"{self.prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self.lengths = [0] * answers

    def usage(self) -> dict[str, int]:
        """Return the numbers of tokens so far."""
        new = sum(self.lengths)
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": new, "total_tokens": self.prompt_tokens + new}

    def whole(self, pieces: Iterable[Piece]) -> dict[str, Any]:
        """Return the body of a response, given all pieces."""
        parts: list[list[Piece]] = [[] for _ in self.lengths]
        for piece in pieces:
            self.lengths[piece.answer] = piece.length
            parts[piece.answer].append(piece)
        choices = []
        for number, own in enumerate(parts):
            text = "".join(piece.text for piece in own)
            tokens = [token for piece in own for token in piece.tokens]
            logprobs = self.told(tokens) if self.logprobs else None
            choices.append({"index": number, **self.said(text), "logprobs": logprobs, "finish_reason": own[-1].reason})
        return {**self.head, "object": self.whole_name, "choices": choices, "usage": self.usage()}

    def part(self, piece: Piece, with_usage: bool) -> dict[str, Any] | None:
        """Return the event that tells a piece, or None for one that tells nothing."""
        self.lengths[piece.answer] = piece.length
        if not (piece.text or piece.tokens or piece.reason):
            return None
        logprobs = self.told(piece.tokens) if self.logprobs and piece.tokens else None
        return self._event(piece.answer, self.added(piece.text), logprobs, piece.reason, with_usage)

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

    def said(self, text: str) -> dict[str, Any]:
        """Return how a whole answer holds its text."""
        raise NotImplementedError

    def added(self, text: str) -> dict[str, Any]:
        """Return how an event holds a piece of text."""
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

    def said(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def added(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text} if text else {}}

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

    def said(self, text: str) -> dict[str, Any]:
        return {"text": text}

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
