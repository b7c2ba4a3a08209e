"""Look at a vocabulary: which tokens are text, in which script, and which conversions would merge tokens."""

from collections.abc import Callable

import regex  # unlike the standard library, it knows the scripts of Unicode

# the scripts that the charts show; characters that several scripts share, such as a long vowel mark, count for each
_SCRIPTS = {
    name: regex.compile("|".join(rf"\p{{scx={script}}}" for script in scripts))
    for name, scripts in {
        "Latin": ("Latin",),
        "Han": ("Han",),
        "Cyrillic": ("Cyrillic",),
        "Hangul": ("Hangul",),
        "Kana": ("Hiragana", "Katakana"),
        "Greek": ("Greek",),
        "Arabic": ("Arabic",),
        "Hebrew": ("Hebrew",),
        "Thai": ("Thai",),
        "Devanagari": ("Devanagari",),
    }.items()
}


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
    ``"Mixed"``, letters of a script that is not listed above ``"Other script"``, and bytes that are not text
    ``"Not UTF-8"``.
    """
    if not is_utf8(token):
        return "Not UTF-8"
    text = token.decode("utf-8")
    found = {_letter_script(letter) for letter in regex.findall(r"\p{L}", text)}
    if len(found) > 1:
        return "Mixed"
    if found:
        return found.pop()
    if text.isspace():
        return "White space"
    return "Digits" if text.strip().isnumeric() else "Symbols"


def _letter_script(letter: str) -> str:
    return next((name for name, pattern in _SCRIPTS.items() if pattern.match(letter)), "Other script")


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
