"""The sampling playground: write a prompt, move the sliders, watch the model write."""

import html
import time
from typing import Any

import ipywidgets as widgets

from ..generation.sampling import Sampling, stream_text
from .worker import Worker

MAX_NEW_TOKENS = 500


class Playground(widgets.VBox):
    """A prompt, the settings of ``Sampling``, and text that appears while it is generated.

    A thread generates. It ends with the text, at Stop, or at ``close()``. Errors are shown beside the button.

    Args:
        model, tokenizer: of one converted directory.
        prompt: what stands in the box at first.
        settings: where the sliders stand at first.
    """

    def __init__(self, model: Any, tokenizer: Any, prompt: str = "Once upon a time", settings: Sampling | None = None):
        settings = settings or Sampling()
        self.model, self.tokenizer = model, tokenizer
        self.prompt = widgets.Textarea(
            value=prompt, description="prompt", rows=3, style=_WIDE, layout=widgets.Layout(width="95%")
        )
        self.temperature = _slider("temperature", settings.temperature, 0, 2, "0 is greedy")
        self.top_p = _slider("top-p", settings.top_p, 0.05, 1, "1 allows every token")
        self.repetition_penalty = _slider("repetition penalty", settings.repetition_penalty, 1, 2, "1 is off")
        self.presence_penalty = _slider("presence penalty", settings.presence_penalty, 0, 2, "0 is off")
        self.length = _slider("tokens", settings.max_new_tokens, 1, MAX_NEW_TOKENS, "how many to write", integer=True)
        self.seed = widgets.BoundedIntText(value=settings.seed, min=0, max=2**31 - 1, description="seed", style=_WIDE)
        self.button = widgets.Button(description="Run", button_style="primary")
        self.status, self.view = widgets.HTML(), widgets.HTML()
        left = widgets.VBox([self.temperature, self.top_p, self.length])
        right = widgets.VBox([self.repetition_penalty, self.presence_penalty, self.seed])
        controls = widgets.HBox([left, right], layout=widgets.Layout(flex_flow="row wrap"))
        super().__init__([self.prompt, controls, widgets.HBox([self.button, self.status]), self.view])
        self.worker = Worker(self, self.status, self._show_end)
        self.button.on_click(lambda _button: self.worker.click(self.run))

    def run(self) -> None:
        """Start to write, unless that is going on already."""
        if self.worker.running:
            return
        self.button.description, self.button.button_style = "Stop", "warning"
        self.worker.start(self._write, self.prompt.value, self.settings())

    def close(self) -> None:
        """Remove the widget from the page; end the thread before."""
        self.worker.stop()
        self.worker.wait()
        super().close()

    def settings(self) -> Sampling:
        """Return what the sliders say."""
        return Sampling(
            temperature=self.temperature.value,
            top_p=self.top_p.value,
            repetition_penalty=self.repetition_penalty.value,
            presence_penalty=self.presence_penalty.value,
            max_new_tokens=self.length.value,
            seed=self.seed.value,
        )

    def _write(self, prompt: str, settings: Sampling) -> None:
        count, start, end = 0, time.perf_counter(), "done"
        self.view.value = _text_html(prompt, "")
        for text in stream_text(self.model, self.tokenizer, prompt, settings, self.worker.reading):
            count += 1
            self.view.value = _text_html(prompt, text)
            self.status.value = f"{count} tokens …"
            if self.worker.stopping:
                end = "stopped"
                break
        speed = count / (time.perf_counter() - start)
        self.status.value = f"{end}: {count} tokens, {speed:.0f} tokens/s"

    def _show_end(self) -> None:
        self.button.description, self.button.button_style = "Run", "primary"

    def __repr__(self) -> str:
        """What a page without a running kernel shows."""
        return "[Sampling playground: run this cell in JupyterLab to let the model write]"


_WIDE = {"description_width": "130px"}


def _slider(name: str, value: float, low: float, high: float, tooltip: str, integer: bool = False):
    slider = widgets.IntSlider if integer else widgets.FloatSlider
    step = 1 if integer else 0.05
    return slider(
        value=value, min=low, max=high, step=step, description=name, tooltip=tooltip, style=_WIDE,
        continuous_update=False, layout=widgets.Layout(width="360px"),
    )  # fmt: skip


def _text_html(prompt: str, text: str) -> str:
    """Return prompt and new text as HTML, the prompt in grey."""
    style = "white-space:pre-wrap;line-height:1.5;max-width:50em"
    return f'<div style="{style}"><span style="opacity:0.6">{html.escape(prompt)}</span>{html.escape(text)}</div>'
