"""Pictures of tokens: characters as bytes, the byte alphabet, a trie and a walk, the parts of the fast tokenizer."""

from collections.abc import Iterable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from tokenizers import Tokenizer

from .drawing import INPUT, OUTPUT, UNUSED, WORK, arrow, canvas, cells, label, paler
from .plotting import BLUE, GREY, INK, RED

MOST_WORDS = 40  # of a trie that can be drawn


def character_bytes_figure() -> Figure:
    """Draw two characters, their bytes, and their tokens: one has a token of its own, the other is cut in two."""
    figure, axes = canvas(3.5, "Characters, bytes, tokens: a token may end inside a character")
    rows = {"character": 3.05, "its bytes": 2.25, "a token of its own": 1.45, "tokens of its parts": 0.65}
    for name, y in rows.items():
        label(axes, 0.1, y, name, GREY, ha="left")
    _zhong(axes, 2.95, 3.05)
    label(axes, 3.2, 3.05, "U+4E2D", ha="left")
    label(axes, 6.25, 3.05, "☕", size=19)
    label(axes, 6.5, 3.05, "U+2615", ha="left")
    for left, texts in ((1.9, ("e4", "b8", "ad")), (5.2, ("e2", "98", "95"))):
        arrow(axes, (left + 1.05, 2.8), (left + 1.05, 2.5))
        cells(axes, left, 2.05, texts, INPUT, width=0.7)
    parts = [
        (1.9, 1.45, "e4 b8 ad", 3, OUTPUT, "id 10285: taken"),
        (1.9, 0.65, "e4 b8", 2, UNUSED, "id 3025"),
        (3.3, 0.65, "ad", 1, UNUSED, "id 174"),
        (5.2, 0.65, "e2 98", 2, OUTPUT, "id 3017"),
        (6.6, 0.65, "95", 1, OUTPUT, "id 150"),
    ]
    for left, y, text, size, color, note in parts:
        cells(axes, left + 0.04, y - 0.2, [text], color, width=0.7 * size - 0.08)
        label(axes, left + 0.35 * size, y - 0.36, note, size=8)
    label(axes, 6.25, 1.45, "none, so it is cut", GREY)
    figure.set_label(
        "The Chinese character zhong, U+4E2D, is the bytes e4 b8 ad and has a token of its own, id 10285; its"
        " parts e4 b8, id 3025, and ad, id 174, are tokens as well. The cup, U+2615, is e2 98 95, has no "
        "token of its own, and is cut into e2 98, id 3017, and 95, id 150."
    )
    return figure


def _zhong(axes: Axes, x: float, y: float) -> None:
    """Draw 中 in strokes, because matplotlib's own font has no Chinese."""
    for xs, ys in (((-0.15, 0.15, 0.15, -0.15, -0.15), (0.09, 0.09, -0.07, -0.07, 0.09)), ((0, 0), (0.18, -0.18))):
        axes.plot([x + dx for dx in xs], [y + dy for dy in ys], color=INK, linewidth=2.2, solid_capstyle="round")


def byte_alphabet_figure(alphabet: Mapping[int, str]) -> Figure:
    """Draw ``{byte: character}`` as a grid; what keeps its own character is blue, what is moved orange."""
    figure, axes = canvas(5.6, "The byte alphabet: blue keeps its character, orange is moved")
    for row in range(16):
        y = 4.75 - 0.31 * row
        label(axes, 0.5, y + 0.15, f"{row:x}_", GREY)
        bytes_ = range(16 * row, 16 * row + 16)
        colors = [WORK if alphabet[byte] == chr(byte) else INPUT for byte in bytes_]
        texts = [alphabet[byte].replace("$", r"\$") for byte in bytes_]
        cells(axes, 0.8, y, texts, colors, width=0.44, height=0.29)
    for digit in range(16):
        label(axes, 0.8 + 0.44 * (digit + 0.5), 5.25, f"_{digit:x}", GREY)
    return figure


def trie_figure(words: Iterable[str], path: str = "", kept: int | None = None) -> Figure:
    """Draw the trie of a few words, a column for each byte; circles where a word ends are filled.

    Args:
        words: each character stands for one byte.
        path: what a search has read: marked, with numbers on its steps.
        kept: how much of the path is the token that is taken; a dashed arrow leads back to it if that is less.
    """
    places = _places(sorted(words))
    depth, rows = max(x for x, _ in places.values()), max(y for _, y in places.values())
    across, down = min(7.0 / max(depth, 1), 1.15), 0.55
    back = 0 if kept is None else len(path) - kept
    bow = 0.3 + 0.175 * across * back - down * (rows - places[path][1]) if back else 0.0  # room that the arrow needs
    height = down * rows + 1.0 + max(bow, 0.0)
    figure, axes = canvas(
        height, f"Reading {path}: the path through the trie" if path else "A trie: filled where a token ends"
    )
    at = {prefix: (0.5 + across * x, height - 0.45 - down * y) for prefix, (x, y) in places.items()}
    for prefix, (x, y) in at.items():
        marked = bool(path) and path.startswith(prefix)
        if prefix:
            left, level = at[prefix[:-1]]
            color, width = (BLUE, 3.2) if marked else (GREY, 1.2)
            axes.plot([left, x], [level, y], color=color, linewidth=width, zorder=1)
            if marked:
                label(axes, (left + x) / 2, (level + y) / 2 + 0.14, str(len(prefix)), BLUE, weight="bold")
        edge = BLUE if marked else GREY
        inside = paler(BLUE, 0.45 if marked else 0.2) if prefix in words else "white"
        axes.add_patch(
            Circle((x, y), 0.19 if prefix else 0.26, facecolor=inside, edgecolor=edge, linewidth=1.6, zorder=2)
        )
        label(axes, x, y, prefix[-1:].replace(" ", "␣") or "start", size=10 if prefix else 8)
    if back:
        _fall_back(axes, at[path], at[path[:kept]], f"{len(path) + 1}: no way on, back to {path[:kept]}")
    return figure


def _fall_back(axes: Axes, start: tuple[float, float], end: tuple[float, float], text: str) -> None:
    """Draw a bow from below one circle to below another."""
    (x, y), (left, level) = start, end
    style = {
        "arrowstyle": "-|>",
        "color": RED,
        "linewidth": 1.6,
        "linestyle": "--",
        "connectionstyle": "arc3,rad=-0.35",
    }
    axes.annotate("", xy=(left, level - 0.2), xytext=(x, y - 0.2), arrowprops=style, zorder=3)
    label(axes, (x + left) / 2, min(y, level) - 0.38 - 0.175 * (x - left), text, RED, size=8.5)


def _places(words: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return column and row of each beginning of a word; a parent stands in the middle of its children."""
    prefixes = sorted({word[:length] for word in words for length in range(len(word) + 1)})
    children = {prefix: [other for other in prefixes if other and other[:-1] == prefix] for prefix in prefixes}
    rows: dict[str, float] = {}
    for prefix in (prefix for prefix in prefixes if not children[prefix]):
        rows[prefix] = float(len(rows))
    for prefix in sorted(children, key=len, reverse=True):
        if children[prefix]:
            rows[prefix] = sum(rows[child] for child in children[prefix]) / len(children[prefix])
    return {prefix: (float(len(prefix)), rows[prefix]) for prefix in prefixes}


def searches_figure(text: str, searches: Sequence[tuple[str, str]]) -> Figure:
    """Draw the searches of a walk, one a row: the token that is taken green, what was read in vain striped grey.

    Args:
        text: each character stands for one byte.
        searches: for each token in turn what was read, and the token.
    """
    height = 0.42 * (len(searches) + 1) + 0.35
    figure, axes = canvas(height, "The whole walk: each search begins where the last token ended")
    width, left, y = 0.5, 1.5, height - 0.5
    label(axes, 0.1, y + 0.17, "text", GREY, ha="left")
    cells(axes, left, y, list(text), INPUT, width, 0.34)
    start = 0
    for number, (read, token) in enumerate(searches, 1):
        y -= 0.42
        label(axes, 0.1, y + 0.17, f"search {number}", GREY, ha="left")
        colors = [OUTPUT] * len(token) + [UNUSED] * (len(read) - len(token))
        cells(axes, left + width * start, y, list(read), colors, width, 0.34)
        after = text[start + len(read) :][:1]
        stop = f"{after} leads nowhere" if after else "the text ends"
        back = f", back {len(read) - len(token)}" if len(read) > len(token) else ""
        label(axes, left + width * len(text) + 0.3, y + 0.17, f"{stop}{back}: take {token}", size=9, ha="left")
        start += len(token)
    return figure


def pipeline_figure(backend: Tokenizer, text: str) -> Figure:
    """Draw what each part of a fast tokenizer makes of ``text``: characters of bytes, pieces, tokens with their ids."""
    spelled = backend.pre_tokenizer.pre_tokenize_str(text)
    encoding = backend.encode(text, add_special_tokens=False)
    chars = "".join(piece for piece, _ in spelled)
    width = min(0.36, 6.3 / len(chars))
    figure, axes = canvas(3.75, "The fast tokenizer, part by part", width=1.65 + width * len(chars) + 0.2)
    left = 1.65
    names = [
        ("text", ""),
        ("bytes as characters", "ByteLevel"),
        ("pieces", "Split(regex)"),
        ("tokens", "WordPiece"),
        ("ids", ""),
    ]
    rows = [3.1 - 0.82 * row for row in range(4)]
    for (name, part), y in zip(names, [*rows, 0.2], strict=True):
        label(axes, 0.08, y + 0.2, name, GREY, ha="left", size=8.5)
        if part:
            label(axes, 0.08, y + 0.6, part, BLUE, ha="left", weight="bold", size=8.5)
            arrow(axes, (left + 0.2, y + 0.78), (left + 0.2, y + 0.43))
    sizes = [len(char.encode()) for char in text]
    _joined(axes, left, rows[0], list(text), sizes, width, INPUT)
    _joined(axes, left, rows[1], list(chars), [1] * len(chars), width, WORK)
    pieces = [piece for piece, _ in spelled]
    _joined(axes, left, rows[2], pieces, list(map(len, pieces)), width, WORK)
    middles = _joined(axes, left, rows[3], encoding.tokens, list(map(len, encoding.tokens)), width, OUTPUT)
    for index, x in zip(encoding.ids, middles, strict=True):
        label(axes, x, 0.4, str(index), size=8)
    return figure


def _joined(
    axes: Axes, left: float, y: float, texts: Sequence[str], sizes: Sequence[int], unit: float, color: str
) -> list[float]:
    """Draw cells of several widths side by side, and return their middles."""
    middles = []
    for text, size in zip(texts, sizes, strict=True):
        shown = text.replace(" ", "␣").replace("$", r"\$")
        cells(axes, left + 0.02, y, [shown], color, unit * size - 0.04)
        middles.append(left + unit * size / 2)
        left += unit * size
    return middles
