"""Look at a vocabulary: which tokens are text, in which script, and which conversions would merge tokens."""

import unicodedata
from collections.abc import Callable

# A word of a character's Unicode name -> the script that the charts show. The standard library has no script property.
SCRIPTS = {
    "LATIN": "Latin", "CJK": "Han", "CYRILLIC": "Cyrillic", "HANGUL": "Hangul", "HIRAGANA": "Kana", "KATAKANA": "Kana",
    "KATAKANA-HIRAGANA": "Kana", "GREEK": "Greek", "ARABIC": "Arabic", "HEBREW": "Hebrew", "THAI": "Thai",
    "DEVANAGARI": "Devanagari",
}  # fmt: skip


def is_utf8(token: bytes) -> bool:
    """Say whether the bytes are valid UTF-8, that is, whether the token is text."""
    try:
        token.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def script(token: bytes) -> str:
    """Name the script of a token's letters, for example ``"Latin"`` for ``b" the"``.

    A token without letters is ``"White space"``, ``"Digits"`` or ``"Symbols"``; letters of two scripts make it
    ``"Mixed"``, letters of a script that ``SCRIPTS`` does not list ``"Other script"``, and bytes that are not text
    ``"Not UTF-8"``.
    """
    if not is_utf8(token):
        return "Not UTF-8"
    text = token.decode("utf-8")
    found = {_letter_script(char) for char in text if unicodedata.category(char)[0] == "L"}
    if len(found) > 1:
        return "Mixed"
    if found:
        return found.pop()
    if text.isspace():
        return "White space"
    return "Digits" if text.strip().isnumeric() else "Symbols"


def _letter_script(char: str) -> str:
    words = unicodedata.name(char, "").split()
    return next((SCRIPTS[word] for word in words if word in SCRIPTS), "Other script")


def collisions(vocab: dict[int, bytes], key_of: Callable[[bytes], object]) -> dict[object, list[int]]:
    """Return the keys that ``key_of`` gives to two or more tokens, each with its ids in order.

    A dictionary keeps one id a key, so a JSON with these keys loses all but one id of every group.
    """
    groups: dict[object, list[int]] = {}
    for index, token in vocab.items():
        groups.setdefault(key_of(token), []).append(index)
    return {key: ids for key, ids in groups.items() if len(ids) > 1}


def ids_lost(vocab: dict[int, bytes], key_of: Callable[[bytes], object]) -> int:
    """Return how many ids a dictionary with the keys of ``key_of`` loses."""
    return sum(len(ids) - 1 for ids in collisions(vocab, key_of).values())
