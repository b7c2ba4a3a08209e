"""Chat with a model in the format of the World models, the past carried as a state: each turn reads only itself."""

from collections.abc import Callable, Generator
from dataclasses import replace
from functools import cache
from typing import Any

from ..tokenizer.vocab import read_vocab
from .prompts import END_OF_TURN, chat_prompt
from .sampling import Sampling, encode_whole, stream


@cache
def line_breaks() -> tuple[int, ...]:
    """Return the ids of the tokens that begin with a line break, or with blanks and one."""
    return tuple(i for i, token in read_vocab().items() if token.lstrip(b" \t\r").startswith(b"\n"))


class Chat:
    """A conversation. ``messages`` is what was said, ``state`` what the model remembers of it.

    The state covers all tokens but those in ``unread``, which the next turn reads first.
    """

    def __init__(self, model: Any, tokenizer: Any, settings: Sampling | None = None):
        self.model, self.tokenizer = model, tokenizer
        self.settings = replace(settings or Sampling(), begin_suppress_tokens=line_breaks())  # no empty answers
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.messages: list[dict[str, str]] = []
        self.state: tuple | None = None
        self.unread: list[int] = []

    def encode(self, text: str) -> list[int]:
        """Return ids; what a user types is ordinary text, with ``<|endoftext|>`` too."""
        return encode_whole(self.tokenizer, text, split_special_tokens=True)

    def reply(self, text: str, reading: Callable[[int], None] | None = None) -> Generator[str, None, None]:
        """Answer ``text``: yield the answer so far, longer by a token each time, until a blank line or the last token.

        Leaving the loop early ends the turn, and the answer so far stands. After an error, nothing was said.
        ``reading``: see :func:`helpers.generation.sampling.stream`.
        """
        message = {"role": "user", "content": text}
        unread, state = self.unread + self.encode(chat_prompt([message])), self.state
        settings = replace(self.settings, seed=self.settings.seed + len(self.messages))  # another one each turn
        new_ids: list[int] = []
        written = ""
        self.messages += [message, {"role": "assistant", "content": ""}]
        try:
            for token, read_so_far in stream(self.model, unread, settings, self.state, reading):
                state = read_so_far
                new_ids.append(token)
                written = self.tokenizer.decode(new_ids)
                self.messages[-1]["content"] = written.split(END_OF_TURN)[0].rstrip("\ufffd").strip()
                yield self.messages[-1]["content"]
                if END_OF_TURN in written:
                    break
        except GeneratorExit:
            pass  # the caller has heard enough
        except Exception:
            del self.messages[-2:]  # as if nothing had been said
            raise
        self.state = state
        self.unread = self._end_of_turn(new_ids, written) if new_ids else unread + self.encode(END_OF_TURN)

    def _end_of_turn(self, new_ids: list[int], written: str) -> list[int]:
        """Return the ids that the model has yet to read so that its turn ends in a blank line, as in training.

        It has read all of ``new_ids`` but the last one, which may hold more than the blank line, such as ``\\n\\n\\t``.
        """
        turn, read = written.split(END_OF_TURN)[0] + END_OF_TURN, self.tokenizer.decode(new_ids[:-1])
        if END_OF_TURN in written and turn.startswith(read):
            return self.encode(turn.removeprefix(read))
        return new_ids[-1:] + self.encode(END_OF_TURN)


def transcript(messages: list[dict[str, str]]) -> str:
    """Return a conversation as text."""
    return "\n\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in messages)
