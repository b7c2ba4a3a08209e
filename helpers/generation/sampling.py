"""Choose the next token, and the next, and the next: what ``generate`` does, as a loop that hands out each token.

``generate`` is the right tool for most work. This loop is for programs that show text while it is written: it can be
left after any token, has random numbers of its own, and hands out the state, so that a later call goes on from there.
:class:`Decoding` is the loop's one step, for one text or several side by side; :func:`stream` is the loop for one.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from ..errors import InputError

COLDEST = 1e-3  # a lower temperature counts as 0: logits divided by it would no longer be numbers
PIECE = 512  # tokens of a prompt that are read at once: after each piece a caller can stop


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens. The defaults are those of ``rwkv.utils.PIPELINE_ARGS``, as far as they exist there.

    The order is that of ``generate``: penalties, temperature, top-p. BlinkDL's sampler cuts by top-p before the
    temperature, so the same numbers mean a little more there.

    Raises:
        InputError: a value is out of its range.
    """

    temperature: float = 1.0  # above 1: more surprising, below 1: more predictable; 0: always the most probable token
    top_p: float = 0.85  # only the most probable tokens that have this share together; 1: all
    repetition_penalty: float = 1.0  # weakens tokens that occur in prompt or text, by a factor; 1: off
    presence_penalty: float = 0.2  # weakens tokens that occur in the new text, by a difference of logits; 0: off
    begin_suppress_tokens: tuple[int, ...] = ()  # ids that the new text may not begin with
    max_new_tokens: int = 100
    seed: int = 0  # the same seed gives the same text
    frequency_penalty: float = 0.0  # the same for each time that a token occurs in the new text; 0: off
    logit_bias: tuple[tuple[int, float], ...] = ()  # ids, and what is added to their logits before all else

    def __post_init__(self) -> None:
        ranges = {
            "temperature": (0 <= self.temperature < float("inf"), "0 or more"),
            "top_p": (0 < self.top_p <= 1, "more than 0 and at most 1"),
            "repetition_penalty": (0 < self.repetition_penalty < float("inf"), "more than 0"),
            "presence_penalty": (math.isfinite(self.presence_penalty), "a finite number"),
            "frequency_penalty": (math.isfinite(self.frequency_penalty), "a finite number"),
            "logit_bias": (all(math.isfinite(bias) for _, bias in self.logit_bias), "finite numbers"),
            "max_new_tokens": (self.max_new_tokens >= 1, "1 or more"),
            "seed": (0 <= self.seed < 2**63, "0 or more"),
        }
        for name, (good, allowed) in ranges.items():
            if not good:
                raise InputError(f"{name} is {getattr(self, name)}; give {allowed}.")

    @property
    def greedy(self) -> bool:
        """Say whether always the most probable token is taken."""
        return self.temperature < COLDEST


class PresencePenalty(LogitsProcessor):
    """Subtract ``penalty`` from the logit of each token that was generated before; the prompt does not count.

    Source: ``alpha_presence`` in BlinkDL's ``rwkv.utils.PIPELINE``; also called so in OpenAI's API.
    """

    def __init__(self, penalty: float, prompt_length: int):
        self.penalty, self.prompt_length = penalty, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return new scores (B, V), given the ids (B, T) of prompt and text so far."""
        present = torch.zeros_like(scores, dtype=torch.bool)
        present.scatter_(1, input_ids[:, self.prompt_length :], True)
        return torch.where(present, scores - self.penalty, scores)


class FrequencyPenalty(LogitsProcessor):
    """Subtract ``penalty`` from the logit of a token once for each time that it was generated before.

    Source: ``alpha_frequency`` in BlinkDL's ``rwkv.utils.PIPELINE``; also called so in OpenAI's API.
    """

    def __init__(self, penalty: float, prompt_length: int):
        self.penalty, self.prompt_length = penalty, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return new scores (B, V), given the ids (B, T) of prompt and text so far."""
        new = input_ids[:, self.prompt_length :]
        return scores.scatter_add(1, new, torch.full_like(new, -self.penalty, dtype=scores.dtype))


class LogitBias(LogitsProcessor):
    """Add a number each to the logits of some tokens."""

    def __init__(self, biases: Sequence[tuple[int, float]]):
        self.biases = list(biases)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return new scores (B, V)."""
        tokens, biases = zip(*self.biases, strict=True)
        bias = torch.tensor(biases, device=scores.device, dtype=scores.dtype)
        return scores.index_add(1, torch.tensor(tokens, device=scores.device), bias.expand(len(scores), -1))


class SuppressAtBegin(LogitsProcessor):
    """Rule out some tokens as the first new one.

    ``SuppressTokensAtBeginLogitsProcessor`` does the same, but goes through the whole vocabulary for each token.
    """

    def __init__(self, tokens: Sequence[int], prompt_length: int):
        self.tokens, self.prompt_length = list(tokens), prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return new scores (B, V), given the ids (B, T) of prompt and text so far."""
        if input_ids.shape[1] > self.prompt_length:
            return scores
        ruled_out = torch.tensor(self.tokens, device=scores.device)
        return scores.index_fill(1, ruled_out, -torch.inf)


def logits_processors(settings: Sampling, prompt_length: int = 0) -> LogitsProcessorList:
    """Return what changes the logits before the choice, in the order that ``generate`` has."""
    processors = LogitsProcessorList()
    if settings.logit_bias:
        processors.append(LogitBias(settings.logit_bias))
    if settings.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(float(settings.repetition_penalty)))
    if settings.presence_penalty != 0:
        processors.append(PresencePenalty(settings.presence_penalty, prompt_length))
    if settings.frequency_penalty != 0:
        processors.append(FrequencyPenalty(settings.frequency_penalty, prompt_length))
    if settings.begin_suppress_tokens:
        processors.append(SuppressAtBegin(settings.begin_suppress_tokens, prompt_length))
    if settings.temperature != 1 and not settings.greedy:
        processors.append(TemperatureLogitsWarper(float(settings.temperature)))
    if settings.top_p < 1 and not settings.greedy:
        processors.append(TopPLogitsWarper(settings.top_p))
    return processors


@dataclass(frozen=True)
class Step:
    """One more token of each text."""

    tokens: list[int]  # (B)
    logits: Tensor  # (B, V) fp32: what the model says, before bias, penalties and temperature
    state: tuple  # after everything before these tokens


class Decoding:
    """Texts that go on from one prompt, side by side: each step gives one more token of each.

    Text number i has the random numbers of ``seed + i``, so it is the one that this seed gives alone.

    Args:
        model: an RWKV model with its head; it reads ``ids`` once, then token by token.
        ids: the prompt, or with ``state`` what comes next.
        state: what an earlier step handed out, of one text; left unchanged.
        rows: the number of texts, B.

    Raises:
        InputError: ``ids`` is empty.
    """

    def __init__(self, model: Any, ids: list[int], settings: Sampling, state: tuple | None = None, rows: int = 1):
        if not ids:
            raise InputError("There are no tokens to continue; give a prompt.")
        self.model, self.settings, self.state, self.rows = model, settings, state, rows
        self.context = torch.tensor([ids], device=model.device)
        self.unread = self.context  # of the texts so far, what the model has yet to read
        self.processors = logits_processors(settings, prompt_length=len(ids))
        seeds = ((settings.seed + row) % 2**63 for row in range(rows))
        self.generators = [torch.Generator(model.device).manual_seed(seed) for seed in seeds]

    def read_piece(self) -> bool:
        """Read the next piece of a long prompt; return whether there was one; :meth:`step` reads its end."""
        if self.unread.shape[1] <= PIECE:
            return False
        self._read(self.unread[:, :PIECE])
        self.unread = self.unread[:, PIECE:]
        return True

    @torch.no_grad()
    def step(self) -> Step:
        """Choose the next token of each text.

        Raises:
            InputError: the model's logits are not numbers.
        """
        while self.read_piece():
            pass
        logits = self._read(self.unread)
        if len(logits) < self.rows:  # the prompt, which was read once for all
            logits, self.context = logits.expand(self.rows, -1), self.context.expand(self.rows, -1)
            self.state = tuple(part.repeat_interleave(self.rows, dim=0) for part in self.state or ())
        if not logits.isfinite().all():
            raise InputError("The model's logits are not finite numbers; try another dtype, or verify the model.")
        scores = self.processors(cast(torch.LongTensor, self.context), logits)
        if self.settings.greedy:
            self.unread = scores.argmax(dim=-1, keepdim=True)
        else:
            rows = scores.softmax(dim=-1).split(1)
            drawn = [torch.multinomial(p, 1, generator=g) for p, g in zip(rows, self.generators, strict=True)]
            self.unread = torch.cat(drawn)
        self.context = torch.cat([self.context, self.unread], dim=1)
        return Step(self.unread[:, 0].tolist(), logits, self.state or ())

    def keep(self, rows: list[int]) -> None:
        """Go on with some of the texts only, given by their numbers among those that are left."""
        index = torch.tensor(rows, device=self.context.device)
        self.state = tuple(part.index_select(0, index.to(part.device)) for part in self.state or ())
        self.context, self.unread = self.context[index], self.unread[index]
        self.generators = [self.generators[row] for row in rows]
        self.rows = len(rows)

    @torch.no_grad()
    def _read(self, tokens: Tensor) -> Tensor:
        """Let the model read more tokens (B, T) of each text, and return the logits (B, V) after them, in fp32."""
        output = self.model(tokens, state=self.state, use_cache=True, logits_to_keep=1)
        self.state = output.state
        return output.logits[:, -1].float()


def stream(
    model: Any,
    ids: list[int],
    settings: Sampling,
    state: tuple | None = None,
    reading: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, tuple]]:
    """Yield one new token after the other, each with the state after everything before it.

    Stops after ``max_new_tokens`` or before the end of text (id 0). Arguments and errors: see :class:`Decoding`.
    ``reading`` is called before each piece of the prompt with the number of tokens that are left to read.
    """
    decoding = Decoding(model, ids, settings, state)
    if reading is not None:
        reading(len(ids))
        while decoding.read_piece():
            reading(decoding.unread.shape[1])
    for _ in range(settings.max_new_tokens):
        step = decoding.step()
        token = step.tokens[0]
        if token in end_tokens(model):
            return
        yield token, step.state


@torch.no_grad()
def read(
    model: Any, ids: list[int], state: tuple | None = None, reading: Callable[[int], None] | None = None
) -> tuple | None:
    """Return the state after more tokens, which :func:`stream` goes on from. ``reading``: as there."""
    for start in range(0, len(ids), PIECE):
        if reading is not None:
            reading(len(ids) - start)
        piece = torch.tensor([ids[start : start + PIECE]], device=model.device)
        state = model(piece, state=state, use_cache=True, logits_to_keep=1).state
    return state


def end_tokens(model: Any) -> list[int]:
    """Return the ids at which the model's text ends."""
    end = model.generation_config.eos_token_id
    if end is None:
        return []
    return end if isinstance(end, list) else [end]


def encode_whole(tokenizer: Any, text: str, **options: Any) -> list[int]:
    """Return the ids of a text.

    Raises:
        InputError: it has half a character, a lone surrogate, which no tokenizer can encode.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"The text has a lone surrogate, such as half an emoji, at position {error.start}; write it again."
        ) from None
    return tokenizer(text, **options)["input_ids"]


def stream_text(
    model: Any, tokenizer: Any, prompt: str, settings: Sampling, reading: Callable[[int], None] | None = None
) -> Iterator[str]:
    """Yield the continuation of ``prompt``, longer by one token each time; the last one is the whole.

    A character that is not complete yet is held back until its last token comes. ``reading``: see :func:`stream`.
    """
    new_ids: list[int] = []
    for token, _ in stream(model, encode_whole(tokenizer, prompt), settings, reading=reading):
        new_ids.append(token)
        yield tokenizer.decode(new_ids).rstrip("\ufffd")
