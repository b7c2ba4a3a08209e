"""Show how a text splits into tokens: colored boxes with ids and bytes, as HTML and as a small explorer."""

import html
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ipywidgets as widgets
from IPython.display import HTML

from ..hub_code.tokenization_rwkv_world import END_OF_TEXT
from ..tokenizer.vocab import chars_to_token

# Pale backgrounds that dark text is easy to read on; five of them, so that neighbors differ.
_BACKGROUNDS = ("#cfe8ff", "#ffe6b8", "#cdf0dc", "#ffd9cc", "#eadcf5")
_CELL = "text-align:center;padding:1px 5px;color:#1a1a1a;border:0;font-family:monospace;white-space:pre"
_HEADER = "text-align:right;padding:1px 8px 1px 0;border:0;font-weight:normal;opacity:0.6"
_ROW_WIDTH = 112  # characters in a row of the table
_VISIBLE_SPACES = {" ": "␣", "\n": "⏎", "\r": "␍", "\t": "⇥"}

_END = html.escape(END_OF_TEXT)
MAX_TOKENS = 400  # more than anybody reads; keeps a pasted book from freezing the page


def token_label(token: bytes) -> str:
    """Return ``token`` as visible text: spaces and line ends as symbols, bytes that are not UTF-8 as ``\\xe4``."""
    text = token.decode("utf-8", errors="backslashreplace")
    return "".join(_VISIBLE_SPACES.get(char, char if char.isprintable() else repr(char)[1:-1]) for char in text)


def tokens_html(ids: Iterable[int], tokens: Iterable[bytes]) -> str:
    """Return HTML tables with a colored column for each token: its text, its id, and its bytes in hexadecimal.

    Id 0, the end of text, has a name but no bytes.
    They are tables, so that they stay readable where styles are removed, as on GitHub.
    """
    pairs = list(zip(ids, tokens, strict=True))
    columns = [
        (_shortened(token_label(token), 24), str(index), _shortened(token.hex(" "), 23) if index else "none")
        for index, token in pairs[:MAX_TOKENS]
    ]
    tables, start = [], 0
    while start < len(columns):
        end, width = start + 1, max(map(len, columns[start]))
        while end < len(columns) and (width := width + max(map(len, columns[end])) + 2) <= _ROW_WIDTH:
            end += 1
        rows = zip(("token", "id", "bytes"), *columns[start:end], strict=True)
        tables.append("".join(_row_html(name, cells, start) for name, *cells in rows))
        start = end
    more = f"<p>… and {len(pairs) - MAX_TOKENS:,} more tokens</p>" if len(pairs) > MAX_TOKENS else ""
    style = "border-collapse:separate;border-spacing:2px 0;margin:0 0 6px 0"
    return "".join(f'<table style="{style}">{table}</table>' for table in tables) + more


def _row_html(name: str, cells: list[str], start: int) -> str:
    """Return one table row; ``start`` is the number of its first token, which decides the colors."""
    size = "15px" if name == "token" else "11px"
    html_cells = "".join(
        f'<td style="{_CELL};font-size:{size};background:{_BACKGROUNDS[number % len(_BACKGROUNDS)]}">'
        f"{html.escape(cell)}</td>"
        for number, cell in enumerate(cells, start)
    )
    return f'<tr style="background:none"><th style="{_HEADER};font-size:11px">{name}</th>{html_cells}</tr>'


def _shortened(text: str, length: int) -> str:
    """Return ``text`` with long runs of one character counted, ``␣ × 28``, and no longer than ``length``."""
    if len(text) > length:
        text = re.sub(r"(.)\1{7,}", lambda run: f"{run[1]} × {len(run[0])} ", text).strip()
    return text if len(text) <= length else text[: length - 2] + " …"


def bytes_of_tokens(tokenizer: Any, ids: Iterable[int]) -> list[bytes]:
    """Return the bytes of ``ids``, for the fast or the Python tokenizer; a special token is its own text."""
    special = tokenizer.added_tokens_decoder
    return [
        special[index].content.encode()
        if index in special
        else chars_to_token(tokenizer.convert_ids_to_tokens(index) or "")
        for index in ids
    ]


def show_tokens(text: str, tokenizer: Any, **kwargs: Any) -> HTML:
    """Return ``text`` as colored tokens; ``kwargs`` go to the tokenizer, for example ``split_special_tokens=True``."""
    ids = tokenizer(text, **kwargs)["input_ids"]
    return HTML(tokens_html(ids, bytes_of_tokens(tokenizer, ids)))


def agreement_html(text: str, encoders: Mapping[str, Callable[[str], list[int]]]) -> str:
    """Return one line of HTML that says whether all ``encoders`` give the same ids for ``text``."""
    results = {name: encode(text) for name, encode in encoders.items()}
    counts = f"{len(text):,} characters, {len(text.encode()):,} bytes"
    first = next(iter(results.values()))
    if all(ids == first for ids in results.values()):
        return f"<b>✓ {', '.join(results)} agree</b>: {len(first):,} tokens, {counts}"
    sizes = ", ".join(f"{name} {len(ids):,}" for name, ids in results.items())
    return f"<b>✗ the tokenizers differ</b>, in tokens: {sizes}; {counts}"


class TokenizerExplorer(widgets.VBox):
    """Type a text, see its tokens, and whether several tokenizers agree on it.

    Args:
        tokenizer: the Hugging Face tokenizer whose tokens are shown.
        encoders: ``{name: text -> ids}`` to compare, with ``<|endoftext|>`` as ordinary text.
        text: what stands in the box at first.
    """

    def __init__(
        self, tokenizer: Any, encoders: Mapping[str, Callable[[str], list[int]]], text: str = "Hello, 世界! 🚀"
    ):
        self.tokenizer, self.encoders = tokenizer, encoders
        self.text = widgets.Textarea(value=text, description="Text", rows=3, layout=widgets.Layout(width="95%"))
        self.ordinary = widgets.Checkbox(value=True, description="<|endoftext|> is ordinary text", indent=False)
        self.status, self.view = widgets.HTML(), widgets.HTML()
        super().__init__([self.text, self.ordinary, self.status, self.view])
        self.text.observe(self.update, names="value")
        self.ordinary.observe(self.update, names="value")
        self.update()

    def update(self, _change: object = None) -> None:
        ids = self.tokenizer(self.text.value, split_special_tokens=self.ordinary.value)["input_ids"]
        self.status.value = agreement_html(self.text.value, self.encoders)
        if END_OF_TEXT in self.text.value and not self.ordinary.value:
            self.status.value += f"<br>all of that with {_END} as ordinary text; below, it is id 0: {len(ids):,} tokens"
        self.view.value = tokens_html(ids, bytes_of_tokens(self.tokenizer, ids))

    def __repr__(self) -> str:
        """What a page without a running kernel shows."""
        return "[Tokenizer explorer: run this cell in JupyterLab to type a text of your own]"
