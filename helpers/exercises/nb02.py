"""The exercises of notebook 02: spaces and Chinese, streaming, padding, the fewest tokens."""

from collections.abc import Iterator
from typing import Any

from ..tokenizer.vocab import read_vocab
from .checking import Exercise, equal

# 02.1


def spaced_chinese(tokens):
    """Return how many tokens are a space and then a Chinese character (U+4E00 to U+9FFF), whatever follows."""
    texts = [token.decode("utf-8", errors="ignore") for token in tokens]
    return sum(text[:1] == " " and "\u4e00" <= text[1:2] <= "\u9fff" for text in texts)


def chinese_cases():
    some = [" 你", "你", " a", "a 你", " 你好", " é", "  你", " "]
    broken = [b"\xe4\xb8", b" \xe4", *(text.encode() for text in some[:3])]
    return [([text.encode() for text in some],), (broken,), (list(read_vocab().values()),)]


def strict_decoding(tokens):
    return spaced_chinese([token.decode("utf-8").encode() for token in tokens])


def chinese_anywhere(tokens):
    texts = [token.decode("utf-8", errors="ignore") for token in tokens]
    return sum(" " in text and any("\u4e00" <= char <= "\u9fff" for char in text) for text in texts)


def beyond_ascii(tokens):
    texts = [token.decode("utf-8", errors="ignore") for token in tokens]
    return sum(text[:1] == " " and text[1:2] > "\x7f" for text in texts)


# 02.2


def stream(tokens):
    """Return the list of the texts to show while the byte strings ``tokens`` arrive: no half characters, no empty text.

    Each token gives what it completes, and nothing if it completes nothing. If the last character is never complete,
    the end gives one U+FFFD for it.
    """
    import codecs

    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    texts = [decoder.decode(token) for token in tokens] + [decoder.decode(b"", final=True)]
    return [text for text in texts if text]


def stream_cases():
    llama, astronaut = [b"\xf0\x9f", b"\xa6", b"\x99"], [b"\xf0\x9f", b"\xa7", b"\x91", b"\xe2\x80\x8d"]
    texts = [[b"Hi", b" ", *llama, b"!"], [*astronaut, b"\xf0\x9f", b"\x9a", b"\x80"], [b"plain"], [b"Hello", b" "]]
    return [(tokens,) for tokens in [*texts, [b"oh ", *llama[:2]]]]


def same_texts(given: Any, expected: Any) -> bool:
    """Compare two answers; two generators are the same mistake, whatever they would yield."""
    if isinstance(expected, Iterator):
        return isinstance(given, Iterator)
    return equal(given, expected)


def as_generator(tokens):
    yield from stream(tokens)


def one_each_and_the_end(tokens):
    import codecs

    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return [decoder.decode(token) for token in tokens] + [decoder.decode(b"", final=True)]


def one_each(tokens):
    *texts, end = one_each_and_the_end(tokens)
    return [*texts, end] if end else texts


def each_alone(tokens):
    return [token.decode("utf-8", errors="replace") for token in tokens]


def each_alone_ignoring(tokens):
    return [text for token in tokens if (text := token.decode("utf-8", errors="ignore"))]


def all_at_the_end(tokens):
    return [b"".join(tokens).decode("utf-8", errors="replace")]


def without_the_tail(tokens):
    texts = stream(tokens)
    return texts[:-1] if texts[-1:] == ["\ufffd"] else texts


# 02.3


def pad_left(rows, pad):
    """Return (ids, mask): rows made equally long with ``pad`` on the left, and 1 for each real token, 0 for padding."""
    longest = max(map(len, rows))
    ids = [[pad] * (longest - len(row)) + row for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return ids, mask


def padding_cases():
    return [([[1], [2, 3, 4]], 0), ([[5, 6], [7, 8]], 0), ([[9, 0, 9], [7], [0]], 0), ([[1, 2], [3]], 65535)]


def on_the_right(rows, pad):
    longest = max(map(len, rows))
    more = [longest - len(row) for row in rows]
    ids = [row + [pad] * count for row, count in zip(rows, more, strict=True)]
    return ids, [[1] * len(row) + [0] * count for row, count in zip(rows, more, strict=True)]


def mask_turned_around(rows, pad):
    ids, mask = pad_left(rows, pad)
    return ids, [[1 - value for value in row] for row in mask]


def mask_from_ids(rows, pad):
    ids, _ = pad_left(rows, pad)
    return ids, [[int(index != pad) for index in row] for row in ids]


# 02.4


def fewest_tokens(text, tokens):
    """Return how many tokens the UTF-8 bytes of ``text`` need at least; ``tokens`` is a set of byte strings."""
    source, longest = text.encode(), max(map(len, tokens))
    best = [0] + [len(source) + 1] * len(source)  # best[end]: of the first `end` bytes
    for end in range(1, len(source) + 1):
        for start in range(max(0, end - longest), end):
            if source[start:end] in tokens:
                best[end] = min(best[end], best[start] + 1)
    return best[-1]


def fewest_cases():
    letters = {bytes([byte]) for byte in b"abcdeno t"} | {bytes([byte]) for byte in "ä".encode()}
    world = set(read_vocab().values())
    return [
        ("abcde", letters | {b"ab", b"abc", b"cde"}),
        ("abcd", letters | {b"abc", b"cd"}),
        ("aä", letters | {b"a\xc3"}),
        ("", letters),
        (" Metecannot", world),
        ("The weather is nice today.", world),
    ]


def greedy(text, tokens):
    source, start, count = text.encode(), 0, 0
    while start < len(source):
        ends = range(start + 1, min(len(source), start + 128) + 1)
        start = max(end for end in ends if source[start:end] in tokens)
        count += 1
    return count


def greedy_from_behind(text, tokens):
    return greedy(text.encode()[::-1].decode("latin-1"), {token[::-1] for token in tokens}) if text.isascii() else 0


def characters_for_bytes(text, tokens):
    best = [0] + [len(text) + 1] * len(text)
    for end in range(1, len(text) + 1):
        for start in range(max(0, end - 128), end):
            if text[start:end].encode() in tokens:
                best[end] = min(best[end], best[start] + 1)
    return best[-1]


EXERCISES = (
    Exercise(
        solution=spaced_chinese,
        cases=chinese_cases,
        mistakes={
            "Some tokens are not UTF-8: decode them with errors='ignore'.": strict_decoding,
            "The space must be the first character, and the Chinese one the second.": chinese_anywhere,
            "Not everything beyond ASCII is Chinese; ask for U+4E00 to U+9FFF.": beyond_ascii,
        },
        why="The World vocabulary has none: Chinese is written without spaces, so such a token would hardly be used.",
    ),
    Exercise(
        solution=stream,
        cases=stream_cases,
        same=same_texts,
        mistakes={
            "Return a list, not a generator: collect the texts, and leave `yield` out.": as_generator,
            "Leave out the empty texts: a token that completes nothing gives nothing.": one_each,
            "Leave out the empty texts: a token that completes nothing gives nothing, nor does an empty end.": (
                one_each_and_the_end
            ),
            "You decode each token by itself; keep bytes back until their character is complete.": each_alone,
            "You swallow an incomplete last character; at the end, show one U+FFFD for it.": without_the_tail,
            "You throw bytes of a character away; keep them back until it is complete.": each_alone_ignoring,
            "You wait for the end; a stream shows each character as soon as it is complete.": all_at_the_end,
        },
        why="Python's incremental decoder keeps the incomplete bytes. `TextStreamer` of transformers decodes all"
        " ids so far instead, again and again, and holds back what ends in `�`.",
    ),
    Exercise(
        solution=pad_left,
        cases=padding_cases,
        mistakes={
            "You pad on the right; then a row ends with padding, and the model predicts from there.": on_the_right,
            "Your mask is the wrong way around: 1 marks a real token.": mask_turned_around,
            "You make the mask from the ids; but id 0 inside a row is a real end of text.": mask_from_ids,
        },
        why="The mask has to know the lengths: padding and a real end of text have the same id.",
    ),
    Exercise(
        solution=fewest_tokens,
        cases=fewest_cases,
        mistakes={
            "You count the greedy tokens; a shorter token now may save two later.": greedy,
            "You walk greedily from the end; that is not the best split either.": greedy_from_behind,
            "You cut between characters; a token may end inside a character, so work on bytes.": characters_for_bytes,
        },
        why="Dynamic programming. It happens, but rarely: in nine of those 1,000 texts, each time by one token."
        " For example, greedy cuts ` beheaded` into ` beh`, `ead` and `ed`, where ` be` and `headed` would do.",
    ),
)
