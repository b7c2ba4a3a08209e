"""The LAMBADA browser: one passage at a time, its target, and what each of two models holds most probable."""

import html
from collections.abc import Callable, Mapping, Sequence

import ipywidgets as widgets
import torch
from torch import Tensor

from ..lambada.passages import Document
from ..lambada.protocol import Result

Predict = Callable[[list[int]], Tensor]  # from the ids of a context to the logits (V,) of the next token
TOP = 8
FILTERS = ("all", "right", "wrong", "said before", "new", "the sides differ", "hardest first")


def top_tokens(logits: Tensor, vocab: Mapping[int, bytes], count: int = TOP) -> list[tuple[str, float]]:
    """Return the most probable next tokens as text, each with its probability."""
    values, ids = torch.softmax(logits.float(), dim=-1).topk(count)
    texts = [vocab.get(index, b"<|endoftext|>").decode(errors="replace") for index in ids.tolist()]
    return list(zip(texts, values.tolist(), strict=True))


def select(texts: Sequence[str], ours: Sequence[Result], theirs: Sequence[Result], kind: str) -> list[int]:
    """Return the numbers of the passages that one of :data:`FILTERS` lets through.

    "Right" and "wrong" are judged by ``ours``; "said before" is a last word that stands in its context.
    """
    every = list(range(len(texts)))
    if kind == "hardest first":
        return sorted(every, key=lambda i: ours[i].logprob)
    said = [text.rpartition(" ")[2].lower() in text.rpartition(" ")[0].lower().split() for text in texts]
    keep = {
        "all": lambda i: True,
        "right": lambda i: ours[i].correct,
        "wrong": lambda i: not ours[i].correct,
        "said before": lambda i: said[i],
        "new": lambda i: not said[i],
        "the sides differ": lambda i: ours[i].correct != theirs[i].correct,
    }[kind]
    return [i for i in every if keep(i)]


def passage_html(text: str) -> str:
    """Return a passage with its target, the last word with its space, marked."""
    context, _, word = text.rpartition(" ")
    mark = '<mark style="background:#ffe6b8;color:#1a1a1a">'
    body = f"{html.escape(context)}{mark}␣{html.escape(word)}</mark>"
    return f'<div style="max-width:52em;line-height:1.5;white-space:pre-wrap">{body}</div>'


def side_html(name: str, top: Sequence[tuple[str, float]], target: str, result: Result) -> str:
    """Return one model's table: the most probable tokens, the target's first one in bold, and its result.

    Args:
        top: of :func:`top_tokens`.
        target: text of the target's first token.
    """
    rows = []
    for token, probability in top:
        shown = html.escape(repr(token))
        bar = f'<div style="background:#0072B2;height:10px;width:{180 * probability:.0f}px"></div>'
        text = f"<b>{shown}</b>" if token == target else shown
        cells = (text, f"{probability:.3f}", bar)
        rows.append("<tr>" + "".join(f'<td style="text-align:left">{cell}</td>' for cell in cells) + "</tr>")
    verdict = "right" if result.correct else "wrong"
    head = f"<b>{html.escape(name)}</b>: {verdict}, log-probability of the word {result.logprob:.4f}"
    return f"<div>{head}<table style='line-height:1.4'>{''.join(rows)}</table></div>"


class LambadaBrowser(widgets.VBox):
    """Turn over passages, all or those of one kind, and see what both sides expect.

    Args:
        texts: passages.
        documents: their ids.
        sides: a name and how to predict, for two models; what is right is judged by the first.
        results: of both, in the same order.
        vocab: bytes of each id.
    """

    def __init__(
        self,
        texts: Sequence[str],
        documents: Sequence[Document],
        sides: Mapping[str, Predict],
        results: Mapping[str, Sequence[Result]],
        vocab: Mapping[int, bytes],
    ):
        self.texts, self.documents, self.sides, self.results, self.vocab = texts, documents, sides, results, vocab
        self.kind = widgets.Dropdown(options=FILTERS, description="Show")
        self.position = widgets.IntSlider(description="Passage", max=0, continuous_update=False, readout=False)
        self.status, self.passage, self.view = widgets.HTML(), widgets.HTML(), widgets.HTML()
        super().__init__([widgets.HBox([self.kind, self.position]), self.status, self.passage, self.view])
        self.kind.observe(self.filter, names="value")
        self.position.observe(self.update, names="value")
        self.filter()

    def filter(self, _change: object = None) -> None:
        ours, theirs = self.results.values()
        self.found = select(self.texts, ours, theirs, self.kind.value)
        self.position.max = max(0, len(self.found) - 1)
        self.position.value = 0
        self.update()

    def update(self, _change: object = None) -> None:
        if not self.found:
            self.status.value, self.passage.value, self.view.value = "No passage is of this kind.", "", ""
            return
        index = self.found[self.position.value]
        document = self.documents[index]
        self.status.value = f"{self.position.value + 1} of {len(self.found)}: passage {index}"
        self.passage.value = passage_html(self.texts[index])
        target = self.vocab[document.target[0]].decode(errors="replace")
        with torch.inference_mode():
            tables = [
                side_html(name, top_tokens(predict(document.context), self.vocab), target, self.results[name][index])
                for name, predict in self.sides.items()
            ]
        self.view.value = f'<div style="display:flex;gap:40px;flex-wrap:wrap">{"".join(tables)}</div>'

    def __repr__(self) -> str:
        """What a page without a running kernel shows."""
        return "[LAMBADA browser: run this cell in JupyterLab to look at single passages]"
