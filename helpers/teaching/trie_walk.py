"""Walk through a trie byte by byte: each step as data, and a widget to step through any text."""

import html
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import ipywidgets as widgets

from ..tokenizer.trie import TOKEN_ID, TrieTokenizer
from .pictures_tokenizer import MOST_WORDS, trie_figure
from .plotting import png
from .token_view import token_label

MOST_BYTES = 400  # of a text: more than anybody steps through
_CIRCLE = "display:inline-block;min-width:1.5em;padding:1px 3px;margin:1px;border-radius:1em;text-align:center"
_CELL = "display:inline-block;padding:1px 4px;margin:0 1px;border-radius:3px"
_TAKEN = ("#9fdcc4", "#cdf0dc")  # two greens, so that neighbors differ
_PATH, _AHEAD, _EMPTY = "#a9d3f5", "#e4e4e4", "#ffffff"


@dataclass(frozen=True)
class Step:
    """One step of greedy longest match.

    Attributes:
        start: where in the text the search for this token began.
        path: the bytes read in this search, from ``start`` on.
        token: the longest token that the path has passed; empty if it has passed none yet.
        taken: whether the walk ends here and the token is taken; else the last byte of ``path`` has just been read.
        ways: how many different bytes lead on from here.
    """

    start: int
    path: bytes
    token: bytes
    taken: bool
    ways: int

    @property
    def fallback(self) -> int:
        """How many bytes were read in vain, and are read again by the next search."""
        return len(self.path) - len(self.token)


def walk(trie: TrieTokenizer, source: bytes) -> list[Step]:
    """Return the steps of a walk: one for each byte that leads on, and one for each token that is taken.

    Raises:
        ValueError: no token starts with some byte of the text.
    """
    steps: list[Step] = []
    start = 0
    while start < len(source):
        node, token, position = trie.root, b"", start
        while position < len(source) and source[position] in node:
            node = node[source[position]]
            position += 1
            if TOKEN_ID in node:
                token = source[start:position]
            ways = len(node) - (TOKEN_ID in node)
            steps.append(Step(start, source[start:position], token, taken=False, ways=ways))
        if not token:
            raise ValueError(f"No token begins at byte {start} of the text, {token_label(source[start : start + 1])}.")
        steps.append(Step(start, source[start:position], token, taken=True, ways=len(node) - (TOKEN_ID in node)))
        start += len(token)
    return steps


def sentence(step: Step, source: bytes) -> str:
    """Say what happens in a step."""
    path, token = token_label(step.path), token_label(step.token)
    if not step.taken:
        read = f"Byte {token_label(step.path[-1:])} leads on to {path}. "
        if step.fallback == 0:
            return read + "A token ends here, the longest so far."
        return read + (f"No token ends here; the longest so far is {token}." if token else "No token ends here.")
    after = source[step.start + len(step.path) :][:1]
    why = f"From {path}, byte {token_label(after)} leads nowhere. " if after else "The text ends. "
    if step.fallback == 0:
        return f"{why}Take {token}."
    return f"{why}Fall back {step.fallback} to the last token passed, and take {token}."


def step_html(steps: list[Step], number: int, source: bytes) -> str:
    """Return HTML for step ``number``: the text with the tokens taken so far, the path as circles, and a sentence."""
    step = steps[number]
    taken = [other for other in steps[: number + 1] if other.taken]
    cells = []
    for count, other in enumerate(taken):
        cells += [(byte, _TAKEN[count % 2]) for byte in other.token]
    reading = b"" if step.taken else step.path
    cells += [(byte, _PATH) for byte in reading]
    cells += [(byte, _AHEAD) for byte in source[len(cells) :]]
    text = "".join(_span(bytes([byte]), color, _CELL) for byte, color in cells)

    ends = {len(other.token) for other in steps[: number + 1] if other.start == step.start}
    circles = [
        _span(
            step.path[length - 1 : length], _PATH if length in ends else _EMPTY, _CIRCLE + ";border:2px solid #0072B2"
        )
        for length in range(1, len(step.path) + 1)
    ]
    ways = f"{step.ways} byte{'' if step.ways == 1 else 's'} lead{'s' if step.ways == 1 else ''} on"
    rows = [
        ("text", text),
        ("path", " → ".join(["start", *circles]) + f" <small>({ways}; filled: a token ends there)</small>"),
        ("taken", " ".join(_span(other.token, _TAKEN[n % 2], _CELL) for n, other in enumerate(taken)) or "–"),
        ("", f"<b>{html.escape(sentence(step, source))}</b>"),
    ]
    lines = (f"<tr><td style='opacity:0.6;padding-right:8px'>{name}</td><td>{row}</td></tr>" for name, row in rows)
    return f"<table style='font-size:14px;line-height:2'>{''.join(lines)}</table>"


def _span(token: bytes, color: str, style: str) -> str:
    text = html.escape(token_label(token))
    return f"<span style='{style};background:{color};color:#1a1a1a;font-family:monospace'>{text}</span>"


def tree_png(words: Collection[bytes], step: Step) -> bytes:
    """Draw the tree of a few words of ASCII with the path of a step."""
    kept = len(step.token) if step.taken else None
    return png(trie_figure([word.decode() for word in words], step.path.decode(), kept))


class TrieWalk(widgets.VBox):
    """Type a text, and step through the search for its tokens. A small vocabulary is drawn as a tree as well.

    Args:
        vocabularies: ``{name: tokens}`` to choose from; the first is shown first.
        text: what stands in the box at first.
    """

    def __init__(self, vocabularies: Mapping[str, Collection[bytes]], text: str):
        self.words = {name: list(words) for name, words in vocabularies.items()}
        self.tries = {name: TrieTokenizer(dict(enumerate(words, 1))) for name, words in self.words.items()}
        self.steps: list[Step] = []
        self.vocabulary = widgets.Dropdown(options=list(self.words), description="Tokens")
        self.text = widgets.Text(value=text, description="Text", layout=widgets.Layout(width="60%"))
        self.step = widgets.IntSlider(description="Step", min=1, max=1, layout=widgets.Layout(width="60%"))
        self.back, self.forward = (widgets.Button(description=name) for name in ("Back", "Next"))
        self.view, self.tree = widgets.HTML(), widgets.Image(format="png", layout=widgets.Layout(max_width="800px"))
        buttons = widgets.HBox([self.step, self.back, self.forward], layout=widgets.Layout(flex_flow="row wrap"))
        super().__init__([self.vocabulary, self.text, buttons, self.view, self.tree])
        self.back.on_click(lambda _: self.move(-1))
        self.forward.on_click(lambda _: self.move(1))
        self.text.observe(self.start_again, names="value")
        self.vocabulary.observe(self.start_again, names="value")
        self.step.observe(self.update, names="value")
        self.start_again()

    @property
    def source(self) -> bytes:
        """The bytes that are walked: those of the text, at most :data:`MOST_BYTES`."""
        return self.text.value.encode("utf-8", errors="replace")[:MOST_BYTES]

    def move(self, by: int) -> None:
        self.step.value = min(max(self.step.value + by, 1), self.step.max)

    def start_again(self, _change: object = None) -> None:
        """Walk through the text as it is now, and show the first step."""
        try:
            self.steps = walk(self.tries[self.vocabulary.value], self.source)
        except ValueError as error:
            self.steps = []
            self.view.value = html.escape(f"{error} Every text can be encoded only if all 256 bytes are tokens.")
        else:
            self.view.value = "Type a text."
        self.step.max = max(len(self.steps), 1)
        self.step.value = 1
        self.update()

    def update(self, _change: object = None) -> None:
        """Show the step that the slider is at."""
        words = self.words[self.vocabulary.value]
        self.tree.layout.display = "none" if len(words) > MOST_WORDS or not self.steps else ""
        if not self.steps:
            return
        self.view.value = step_html(self.steps, self.step.value - 1, self.source)
        if len(words) <= MOST_WORDS:
            self.tree.value = tree_png(words, self.steps[self.step.value - 1])

    def __repr__(self) -> str:
        """What a page without a running kernel shows."""
        return "[Trie walk: run this cell in JupyterLab to step through a text of your own]"
