"""Chat with a model in the format of the World models, the past carried as a state: each turn reads only itself."""

import html
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import ipywidgets as widgets

from .prompts import END_OF_TURN, chat_prompt
from .sampling import Sampling, stream
from .vocab import read_vocab
from .worker import Worker


@cache
def line_breaks() -> tuple[int, ...]:
    """Return the ids of the tokens that begin with a line break, or with blanks and one."""
    return tuple(i for i, token in read_vocab().items() if token.lstrip(b" \t\r").startswith(b"\n"))


class Chat:
    """A conversation. ``messages`` is what was said, ``state`` what the model remembers of it.

    The state covers all tokens but those in ``unread``, which the next turn reads first.
    """

    def __init__(self, model, tokenizer, settings: Sampling | None = None):
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
        return self.tokenizer(text, split_special_tokens=True)["input_ids"]

    def reply(self, text: str) -> Iterator[str]:
        """Answer ``text``: yield the answer so far, longer by a token each time, until a blank line or the last token.

        Leaving the loop early ends the turn, and the answer so far stands. After an error, nothing was said.
        """
        message = {"role": "user", "content": text}
        unread, state = self.unread + self.encode(chat_prompt([message])), self.state
        settings = replace(self.settings, seed=self.settings.seed + len(self.messages))  # another one each turn
        new_ids: list[int] = []
        written = ""
        self.messages += [message, {"role": "assistant", "content": ""}]
        try:
            for token, read_so_far in stream(self.model, unread, settings, self.state):
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


class ChatWidget(widgets.VBox):
    """The conversation, a line to type in, and the buttons Send (or Stop) and Start over. A thread writes answers."""

    def __init__(self, chat: Chat):
        self.chat = chat
        self.view, self.status = widgets.HTML(), widgets.HTML()
        self.text = widgets.Text(placeholder="Say something", layout=widgets.Layout(width="60%"))
        self.button = widgets.Button(description="Send", button_style="primary")
        self.reset_button = widgets.Button(description="Start over")
        row = widgets.HBox([self.text, self.button, self.reset_button])
        super().__init__([self.view, row, self.status])
        self.worker = Worker(self._show_error, self._show_end)
        self.button.on_click(lambda _button: self.worker.stop() if self.worker.running else self.send())
        self.reset_button.on_click(lambda _button: self.reset())
        self._show_messages()

    def send(self) -> None:
        """Send what stands in the line, unless it is empty or an answer is being written."""
        if self.worker.running or not self.text.value.strip():
            return
        text, self.text.value = self.text.value, ""
        self.button.description, self.button.button_style, self.status.value = "Stop", "warning", ""
        self.worker.start(self._answer, text)

    def reset(self) -> None:
        """End the answer that is being written, and forget the conversation."""
        self.worker.stop()
        self.worker.wait()
        self.chat.reset()
        self.status.value = ""
        self._show_messages()

    def close(self) -> None:
        """Remove the widget from the page; end the thread before."""
        self.worker.stop()
        self.worker.wait()
        super().close()

    def _answer(self, text: str) -> None:
        answer = self.chat.reply(text)
        for _ in answer:
            self._show_messages()
            if self.worker.stopping:
                answer.close()
        self._show_messages()

    def _show_messages(self) -> None:
        colors = {"user": "#0072B2", "assistant": "#D55E00"}
        style = "white-space:pre-wrap;line-height:1.5;max-width:50em;margin:4px 0"
        self.view.value = "".join(
            f'<p style="{style}"><b style="color:{colors[message["role"]]}">'
            f"{message['role'].capitalize()}</b>  {html.escape(message['content'])}</p>"
            for message in self.chat.messages
        )

    def _show_error(self, error: Exception) -> None:
        self.status.value = f"<b>{type(error).__name__}</b>: {html.escape(str(error))}"

    def _show_end(self) -> None:
        self.button.description, self.button.button_style = "Send", "primary"

    def __repr__(self) -> str:
        """What a page without a running kernel shows."""
        return "[Chat: run this cell in JupyterLab to talk to the model]"


def transcript(messages: list[dict[str, str]]) -> str:
    """Return a conversation as text."""
    return "\n\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in messages)
