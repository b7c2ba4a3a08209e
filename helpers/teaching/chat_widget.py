"""A chat in the notebook: type, send, and watch the model answer."""

import html

import ipywidgets as widgets

from ..generation.chat import Chat
from .plotting import BLUE, RED
from .worker import Worker


class ChatWidget(widgets.VBox):
    """The conversation, a line to type in, and the buttons Send (or Stop) and Start over. A thread writes answers."""

    def __init__(self, chat: Chat):
        self.chat = chat
        self.view, self.status = widgets.HTML(), widgets.HTML()
        self.text = widgets.Text(description="Message", placeholder="Say something", layout=widgets.Layout(width="60%"))
        self.button = widgets.Button(description="Send", button_style="primary")
        self.reset_button = widgets.Button(description="Start over")
        row = widgets.HBox([self.text, self.button, self.reset_button])
        super().__init__([self.view, row, self.status])
        self.worker = Worker(self, self.status, self._show_end)
        self.button.on_click(lambda _button: self.worker.click(self.send))
        self.text.on_msg(lambda _text, content, _buffers: self.send() if content.get("event") == "submit" else None)
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
        answer = self.chat.reply(text, self.worker.reading)
        try:
            for _ in answer:
                self.status.value = ""
                self._show_messages()
                if self.worker.stopping:
                    answer.close()
        except Exception:
            self.text.value = text  # nothing was said, so it can be sent again
            raise
        finally:
            self._show_messages()

    def _show_messages(self) -> None:
        colors = {"user": BLUE, "assistant": RED}
        style = "white-space:pre-wrap;line-height:1.5;max-width:50em;margin:4px 0"
        self.view.value = "".join(
            f'<p style="{style}"><b style="color:{colors[message["role"]]}">'
            f"{message['role'].capitalize()}</b>  {self._thought(message)}{html.escape(message['content'])}</p>"
            for message in self.chat.messages
        )

    def _thought(self, message: dict[str, str]) -> str:
        """Return what the assistant thought as HTML, if it was let."""
        thought = message.get("reasoning_content")
        return f'<i style="opacity:.7">{html.escape(thought)}</i>\n' if thought else ""

    def _show_end(self) -> None:
        self.button.description, self.button.button_style = "Send", "primary"

    def __repr__(self) -> str:
        """What a page without a running kernel shows."""
        return "[Chat: run this cell in JupyterLab to talk to the model]"
