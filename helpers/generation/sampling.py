"""Choose the next token, and the next, and the next: what ``generate`` does, as a loop that hands out each token.

``generate`` is the right tool for most work. This loop is for programs that show text while it is written: it can be
left after any token, has random numbers of its own, and hands out the state, so that a later call goes on from there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from ..errors import InputError

COLDEST = 1e-3  # a lower temperature counts as 0: logits divided by it would no longer be numbers


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

    def __post_init__(self) -> None:
        ranges = {
            "temperature": (0 <= self.temperature < float("inf"), "0 or more"),
            "top_p": (0 < self.top_p <= 1, "more than 0 and at most 1"),
            "repetition_penalty": (0 < self.repetition_penalty < float("inf"), "more than 0"),
            "presence_penalty": (abs(self.presence_penalty) < float("inf"), "a finite number"),
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


class StopStrings(StoppingCriteria):
    """End a text where a stop string is complete; the prompt does not count.

    ``StopStringCriteria`` first goes through the whole vocabulary, and does not see a character that two tokens share.
    """

    def __init__(self, stops: list[str], tokenizer: Any, prompt_length: int):
        self.stops, self.tokenizer, self.prompt_length = stops, tokenizer, prompt_length
        self.longest = max(len(stop.encode()) for stop in stops)  # a token has at least one byte

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """Return for each row whether it ends, (B,), given the ids (B, T) of prompt and text so far."""
        ends = self.tokenizer.batch_decode(input_ids[:, self.prompt_length :][:, -self.longest :])
        found = [any(stop in end for stop in self.stops) for end in ends]
        return torch.tensor(found, device=input_ids.device)


def logits_processors(settings: Sampling, prompt_length: int = 0) -> LogitsProcessorList:
    """Return what changes the logits before the choice, in the order that ``generate`` has."""
    processors = LogitsProcessorList()
    if settings.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(float(settings.repetition_penalty)))
    if settings.presence_penalty != 0:
        processors.append(PresencePenalty(settings.presence_penalty, prompt_length))
    if settings.begin_suppress_tokens:
        processors.append(SuppressAtBegin(settings.begin_suppress_tokens, prompt_length))
    if settings.temperature != 1 and not settings.greedy:
        processors.append(TemperatureLogitsWarper(float(settings.temperature)))
    if settings.top_p < 1 and not settings.greedy:
        processors.append(TopPLogitsWarper(settings.top_p))
    return processors


@torch.no_grad()
def stream(model: Any, ids: list[int], settings: Sampling, state: tuple | None = None) -> Iterator[tuple[int, tuple]]:
    """Yield one new token after the other, each with the state after everything before it.

    Args:
        model: an RWKV model with its head; it reads ``ids`` at once, then token by token.
        ids: the prompt, or with ``state`` what comes next.
        state: what an earlier call handed out; left unchanged.

    Stops after ``max_new_tokens`` or before the end of text (id 0).

    Raises:
        InputError: ``ids`` is empty.
    """
    if not ids:
        raise InputError("There are no tokens to continue; give a prompt.")
    context = torch.tensor([ids], device=model.device)
    processors = logits_processors(settings, prompt_length=len(ids))
    generator = torch.Generator(model.device).manual_seed(settings.seed)
    unread = context
    for _ in range(settings.max_new_tokens):
        output = model(unread, state=state, use_cache=True, logits_to_keep=1)
        state = output.state
        scores = processors(cast(torch.LongTensor, context), output.logits[:, -1].float())
        if settings.greedy:
            unread = scores.argmax(dim=-1, keepdim=True)
        else:
            unread = torch.multinomial(scores.softmax(dim=-1), num_samples=1, generator=generator)
        token = int(unread.item())
        if token in end_tokens(model):
            return
        yield token, state
        context = torch.cat([context, unread], dim=1)


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


def stream_text(model: Any, tokenizer: Any, prompt: str, settings: Sampling) -> Iterator[str]:
    """Yield the continuation of ``prompt``, longer by one token each time; the last one is the whole.

    A character that is not complete yet is held back until its last token comes.
    """
    new_ids: list[int] = []
    for token, _ in stream(model, encode_whole(tokenizer, prompt), settings):
        new_ids.append(token)
        yield tokenizer.decode(new_ids).rstrip("\ufffd")
