"""Choose the next token, and the next, and the next: what ``generate`` does, as a loop that hands out each token.

``generate`` is the right tool for most work. This loop is for programs that show text while it is written: it can be
left after any token, has random numbers of its own, and hands out the state, so that a later call goes on from there.
"""

from collections.abc import Iterator
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
            "temperature": (self.temperature >= 0, "0 or more"),
            "top_p": (0 < self.top_p <= 1, "more than 0 and at most 1"),
            "repetition_penalty": (self.repetition_penalty > 0, "more than 0"),
            "presence_penalty": (abs(self.presence_penalty) < float("inf"), "a finite number"),
            "max_new_tokens": (self.max_new_tokens >= 1, "1 or more"),
            "seed": (0 <= self.seed < 2**63, "0 or more"),
        }
        for name, (good, allowed) in ranges.items():
            if not good:
                raise InputError(f"{name} is {getattr(self, name)}; give {allowed}.")


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

    def __init__(self, tokens: tuple[int, ...], prompt_length: int):
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
    if settings.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    if settings.presence_penalty != 0:
        processors.append(PresencePenalty(settings.presence_penalty, prompt_length))
    if settings.begin_suppress_tokens:
        processors.append(SuppressAtBegin(settings.begin_suppress_tokens, prompt_length))
    if settings.temperature not in (0, 1):
        processors.append(TemperatureLogitsWarper(float(settings.temperature)))
    if settings.temperature != 0 and settings.top_p < 1:
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
        if settings.temperature == 0:
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


def stream_text(model: Any, tokenizer: Any, prompt: str, settings: Sampling) -> Iterator[str]:
    """Yield the continuation of ``prompt``, longer by one token each time; the last one is the whole.

    A character that is not complete yet is held back until its last token comes.
    """
    new_ids: list[int] = []
    for token, _ in stream(model, tokenizer(prompt)["input_ids"], settings):
        new_ids.append(token)
        yield tokenizer.decode(new_ids).rstrip("\ufffd")
