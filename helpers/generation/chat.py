"""Chat with a model in the format of the World models, the past carried as a state: each turn reads only itself."""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

from ..tokenizer.vocab import read_vocab
from .answers import StopCut
from .prompts import END_OF_TURN, agreed, chat_prompt, end_of_answer, turn_of
from .sampling import Sampling, encode_whole, read, stream
from .thoughts import Part, Splitter, opening_of


@cache
def line_breaks() -> tuple[int, ...]:
    """Return the ids of the tokens that begin with a line break, or with blanks and one."""
    return tuple(i for i, token in read_vocab().items() if token.lstrip(b" \t\r").startswith(b"\n"))


class Chat:
    """A conversation. ``messages`` is what was said, ``state`` what the model remembers of it.

    The state covers all tokens but those in ``unread``, which the next turn reads first.

    Args:
        thinking: for RWKV-7 G1 models: True lets the model think before each answer, False shows it an empty thought.
        effort: how long to think, one of ``prompts.EFFORTS``; also says whether to.
        end: where an answer ends, one of ``prompts.ENDS``; ``auto``: with thinking, on or off, before the user's next
            turn, else at a blank line.

    Raises:
        InputError: thinking and effort contradict each other, or there is no such effort or end.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        settings: Sampling | None = None,
        thinking: bool | None = None,
        effort: str | None = None,
        end: str = "auto",
    ):
        self.model, self.tokenizer = model, tokenizer
        self.thinking, self.effort = agreed(thinking, effort=effort), effort
        self.stop = end_of_answer(end, of_g1=self.thinking is not None)
        breaks = line_breaks() if self.thinking is None else ()  # no empty answers
        self.settings = replace(settings or Sampling(), begin_suppress_tokens=breaks)
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
        """Answer ``text``: yield the answer so far, longer by a token each time, until its end or the last token.

        What the model thinks is ``reasoning_content`` of the last message, and grows before the answer does.

        Leaving the loop early ends the turn, and the answer so far stands. After an error, nothing was said.
        ``reading``: see :func:`helpers.generation.sampling.stream`.
        """
        if self.thinking is None and self.stop == END_OF_TURN:
            return self._reply(text, reading)
        return self._reply_and_read_again(text, reading)

    def _settings(self) -> Sampling:
        """Return how to choose the tokens of the next answer: with another seed each turn."""
        return replace(self.settings, seed=self.settings.seed + len(self.messages))

    @contextmanager
    def _turn(self, *said: dict[str, str]) -> Iterator[None]:
        """Add what is said in a turn. A caller may leave it early; after an error or an interrupt, nothing was said."""
        self.messages += said
        try:
            yield
        except GeneratorExit:
            pass
        except BaseException:
            del self.messages[-len(said) :]
            raise

    def _reply(self, text: str, reading: Callable[[int], None] | None) -> Generator[str, None, None]:
        """Answer, and go on from the state behind the answer."""
        message = {"role": "user", "content": text}
        unread, state = self.unread + self.encode(chat_prompt([message])), self.state
        settings, written = self._settings(), ""
        new_ids: list[int] = []
        with self._turn(message, {"role": "assistant", "content": ""}):
            for token, read_so_far in stream(self.model, unread, settings, self.state, reading):
                state = read_so_far
                new_ids.append(token)
                written = self.tokenizer.decode(new_ids)
                self.messages[-1]["content"] = written.split(END_OF_TURN)[0].rstrip("\ufffd").strip()
                yield self.messages[-1]["content"]
                if END_OF_TURN in written:
                    break
        self.state = state
        self.unread = self._end_of_turn(new_ids, written) if new_ids else unread + self.encode(END_OF_TURN)

    def _reply_and_read_again(self, text: str, reading: Callable[[int], None] | None) -> Generator[str, None, None]:
        """Answer, and go on from the state before the turn, which is then read as the chat template writes it.

        A state forgets nothing: behind the answer, it would know the thought, how long it should be, and the beginning
        of the user's next turn. A conversation has none of it; so the next turn reads user and answer once more.
        """
        state = read(self.model, self.unread, self.state, reading)
        message, answer = {"role": "user", "content": text}, {"role": "assistant", "content": ""}
        prompt = chat_prompt([message], self.thinking, self.effort)
        settings, opening = self._settings(), opening_of(prompt)
        cut, splitter, said, written = StopCut([self.stop], not opening.bare), Splitter(opening), Part(), ""
        new_ids: list[int] = []

        def add(part: Part) -> None:
            nonlocal said
            said += part
            answer["content"] = said.text.strip()
            if self.thinking:
                answer["reasoning_content"] = said.thought

        with self._turn(message, answer):
            for token, _ in stream(self.model, self.encode(prompt), settings, state, reading):
                new_ids.append(token)
                before, written = written, self.tokenizer.decode(new_ids).rstrip("\ufffd")
                add(splitter.feed(cut.feed(written[len(before) :])))
                yield answer["content"]
                if cut.found:
                    break
        add(splitter.feed(cut.rest()) + splitter.end())
        self.state = state
        self.unread = self.encode("".join(turn_of(each, self.thinking) + END_OF_TURN for each in self.messages[-2:]))

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
