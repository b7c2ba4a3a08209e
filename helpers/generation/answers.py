"""Answers while they are written: tokens become text, which ends at a stop string, with log-probabilities if asked for.

:func:`write` is what the server does for one request: it hands out pieces of one answer or of several side by side.
"""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tokenizers import decoders
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ..errors import InputError
from ..tokenizer.vocab import chars_to_token
from .sampling import Decoding, Sampling, end_tokens


@dataclass(frozen=True)
class Task:
    """What a request asks the model for.

    Args:
        ids: the prompt.
        settings: how tokens are chosen.
        answers: their number.
        stops: strings before which an answer ends.
        likely: how many of the most likely tokens to tell at each place; None: no log-probabilities.
        begun: the prompt begins the answer, perhaps with a tag that lacks its last ``>``.
    """

    ids: list[int]
    settings: Sampling
    answers: int = 1
    stops: list[str] = field(default_factory=list)
    likely: int | None = None
    begun: bool = False


@dataclass(frozen=True)
class Token:
    """A token of an answer, as far as a client hears of it.

    The log-probability is the model's own: before bias, penalties, temperature and top-p.
    """

    spelling: bytes
    logprob: float
    likely: list[tuple[bytes, float]]  # the most likely tokens at this place
    offset: int  # of its first character in the answer


@dataclass(frozen=True)
class Piece:
    """A part of an answer.

    Args:
        answer: which one, from 0.
        text: what comes next.
        tokens: those that begin in it, if log-probabilities were asked for.
        length: number of tokens of the answer so far, those of a stop string included.
        reason: why it ends here, ``"stop"`` or ``"length"``; None: it goes on.
    """

    answer: int
    text: str
    tokens: list[Token]
    length: int
    reason: str | None = None


class Spelling:
    """The bytes of each token of a tokenizer; those that ``decode`` leaves out have none.

    Raises:
        InputError: it does not spell texts in bytes.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        if not isinstance(tokenizer.backend_tokenizer.decoder, decoders.ByteLevel):
            raise InputError("The tokenizer does not decode bytes, as that of World models does; run refresh.")
        self.tokenizer = tokenizer
        self.silent = set(tokenizer.all_special_ids)

    def __call__(self, token: int) -> bytes:
        """Return the bytes of a token; as the decoder does, take a name that is not in the byte alphabet as a text."""
        name = None if token in self.silent else self.tokenizer.convert_ids_to_tokens(token)
        if not isinstance(name, str):  # a row of the model that has no token
            return b""
        try:
            return chars_to_token(name)
        except KeyError:
            return name.encode()


class StopCut:
    """Cuts a text that arrives in pieces before the first stop string, and holds back what may become one.

    Where the prompt has ``begun`` the text, the rest of a tag and the line breaks behind it are none by themselves.
    """

    def __init__(self, stops: list[str], begun: bool = False):
        self.stops, self.held, self.found, self.at_begin = stops, "", False, begun

    def feed(self, piece: str) -> str:
        """Return what can be sent after one more piece."""
        if self.found:
            return ""
        text = self.held + piece
        passed = len(text) - len(text.lstrip("> \t\r\n")) if self.at_begin else 0
        if self.at_begin and passed == len(text):
            self.held = text
            return ""
        self.at_begin = False
        places = [place for stop in self.stops if (place := text.find(stop, max(0, passed - len(stop) + 1))) >= 0]
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


class Answer:
    """One answer: takes its tokens, and gives what of its text is certain.

    A character is held back until its last byte comes, and what may become a stop string until it is none. What is no
    character at the end is shown as U+FFFD, as ``decode`` of the tokenizer does.
    """

    def __init__(self, number: int, stops: list[str], begun: bool = False):
        self.number, self.length, self.ended = number, 0, False
        self.cut = StopCut(stops, begun)
        self.characters = codecs.getincrementaldecoder("utf-8")("replace")
        self.decoded = self.sent = 0  # characters
        self.waiting: list[Token] = []  # which begin in what was not sent yet

    def add(self, spelling: bytes, token: tuple[float, list[tuple[bytes, float]]] | None) -> Piece:
        """Take one more token, and if asked for its log-probability and the most likely ones; return what is certain.

        The answer may end with it.
        """
        self.length += 1
        if token is not None:
            self.waiting.append(Token(spelling, *token, offset=self.decoded))
        return self._piece(self.characters.decode(spelling), None)

    def end(self, reason: str) -> Piece:
        """Return what is left: no more tokens come."""
        return self._piece(self.characters.decode(b"", final=True), reason)

    def _piece(self, decoded: str, reason: str | None) -> Piece:
        self.decoded += len(decoded)
        text = self.cut.feed(decoded)
        if reason and not self.cut.found:
            text += self.cut.rest()
        reason = "stop" if self.cut.found else reason
        self.ended = reason is not None
        self.sent += len(text)
        whole = self.ended and not self.cut.found
        tokens = [token for token in self.waiting if whole or token.offset < self.sent]
        self.waiting = self.waiting[len(tokens) :]
        return Piece(self.number, text, tokens, self.length, reason)


def write(model: Any, spelling: Spelling, task: Task) -> Iterator[list[Piece]]:
    """Yield what each token adds to the answers, until all have ended; while the prompt is read, nothing.

    Whoever reads this can stop after any of it.
    """
    decoding = Decoding(model, task.ids, task.settings, rows=task.answers)
    while decoding.read_piece():
        yield []
    answers = [Answer(number, task.stops, task.begun) for number in range(task.answers)]
    ends = end_tokens(model)
    while answers:
        step = decoding.step()
        chosen = log_probabilities(step.logits, step.tokens, task.likely, spelling)
        pieces = []
        for answer, token, details in zip(answers, step.tokens, chosen, strict=True):
            pieces.append(answer.end("stop") if token in ends else answer.add(spelling(token), details))
            if not answer.ended and answer.length == task.settings.max_new_tokens:
                pieces.append(answer.end("length"))
        yield pieces
        going = [row for row, answer in enumerate(answers) if not answer.ended]
        if 0 < len(going) < len(answers):
            decoding.keep(going)
        answers = [answers[row] for row in going]


def log_probabilities(
    logits: Tensor, tokens: list[int], likely: int | None, spelling: Spelling
) -> list[tuple[float, list[tuple[bytes, float]]] | None]:
    """Return for each row of logits (B, V) that of its token, and those of the ``likely`` most likely tokens."""
    if likely is None:
        return [None] * len(tokens)
    logprobs = logits.log_softmax(dim=-1)
    values, indices = (part.tolist() for part in logprobs.topk(min(likely, logprobs.shape[-1]), dim=-1))
    best = [
        [(spelling(i), value) for i, value in zip(*pair, strict=True)] for pair in zip(indices, values, strict=True)
    ]
    return [(logprobs[row, token].item(), best[row]) for row, token in enumerate(tokens)]
