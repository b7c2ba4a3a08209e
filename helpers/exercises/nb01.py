"""The exercises of notebook 01: tokens with and without a space, the byte alphabet, lost ids, a strict reader."""

import json
from collections import Counter

from ..hub_code.tokenization_rwkv_world import BYTE_TO_CHAR, CHAR_TO_BYTE
from ..tokenizer.vocab import read_vocab
from .checking import Exercise

# 01.1


def count_twins(tokens):
    """Return how many tokens start with a space and are, without it, a token as well."""
    known = set(tokens)
    return sum(token[:1] == b" " and token[1:] in known for token in tokens)


def twin_cases():
    return [
        ([b" the", b"the", b" a", b"b"],),
        ([b"  x", b"x", b" y", b"y", b" "],),
        ([b"\nz", b"z", b"  w", b" w"],),
        (list(read_vocab().values()),),
    ]


def all_with_a_space(tokens):
    return sum(token.startswith(b" ") for token in tokens)


def all_spaces_cut(tokens):
    known = set(tokens)
    return sum(token[:1] == b" " and token.lstrip(b" ") in known for token in tokens)


def any_blank(tokens):
    known = set(tokens)
    return sum(token[:1].isspace() and token[1:] in known for token in tokens)


# 01.2


def read_key(key, alphabet):
    """Return the text that a key of vocab.json stands for; broken characters as U+FFFD.

    key: for example "Ġthe"; alphabet: {byte: character}.
    """
    byte_of = {char: byte for byte, char in alphabet.items()}
    return bytes(byte_of[char] for char in key).decode("utf-8", errors="replace")


def key_cases():
    texts = [" the", "\n\n", "中", "naïve ☕", "\x80"]
    keys = ["".join(BYTE_TO_CHAR[byte] for byte in text.encode()) for text in texts]
    return [(key, BYTE_TO_CHAR) for key in [*keys, "ä¸"]]


def encoded_as_utf8(key, alphabet):
    return key.encode("utf-8").decode("utf-8")


def only_the_space(key, alphabet):
    return key.replace("Ġ", " ").encode("latin-1", "ignore").decode("utf-8", errors="replace")


def byte_by_byte(key, alphabet):
    byte_of = {char: byte for byte, char in alphabet.items()}
    return "".join(bytes([byte_of[char]]).decode("utf-8", errors="replace") for char in key)


# 01.3


def valid_victims(vocab, errors):
    """Return the ids, in order, of tokens that are valid UTF-8 and still share their key with another token.

    vocab: {id: token}; the key of a token is token.decode("utf-8", errors).
    """
    keys = {index: token.decode("utf-8", errors) for index, token in vocab.items()}
    count = Counter(keys.values())
    return [index for index, key in keys.items() if count[key] > 1 and key.encode() == vocab[index]]


def victim_cases():
    tiny = {1: b"a", 2: b"\xff", 3: "\ufffd".encode(), 4: b"\xe4\xb8", 5: b"\xff\xff", 6: "\ufffd\ufffd".encode()}
    return [(tiny, "replace"), (tiny, "ignore"), (read_vocab(), "replace"), (read_vocab(), "ignore")]


def all_that_share(vocab, errors):
    count = Counter(token.decode("utf-8", errors) for token in vocab.values())
    return [index for index, token in vocab.items() if count[token.decode("utf-8", errors)] > 1]


def overwritten(vocab, errors):
    last = {token.decode("utf-8", errors): index for index, token in vocab.items()}
    return [index for index, token in vocab.items() if last[token.decode("utf-8", errors)] != index]


def shared_and_broken(vocab, errors):
    good = valid_victims(vocab, errors)
    return [index for index in all_that_share(vocab, errors) if index not in good]


# 01.4


def read_json(text, alphabet):
    """Return {id: token} from JSON {key: id}, and raise ValueError where a plain json.loads would lose or break one.

    That is: a key that occurs twice, an id that occurs twice, a character outside the alphabet {byte: character}.
    """
    byte_of = {char: byte for byte, char in alphabet.items()}
    vocab, seen = {}, set()
    for key, index in json.loads(text, object_pairs_hook=list):
        if not set(key) <= byte_of.keys():
            raise ValueError(f"the key {key!r} has a character outside the byte alphabet")
        if key in seen or index in vocab:
            raise ValueError(f"the key {key!r} or its id {index} occurs twice")
        vocab[index] = bytes(byte_of[char] for char in key)
        seen.add(key)
    return vocab


def json_cases():
    texts = ['{"a": 1, "Ġa": 2}', '{"ä¸": 3025, "Ā": 1}', '{"a": 1, "a": 2}', '{"a": 1, "b": 1}', '{"a": 1, "中": 2}']
    return [(text, BYTE_TO_CHAR) for text in texts]


def trusting(text, alphabet):
    return {index: bytes(CHAR_TO_BYTE[char] for char in key) for key, index in json.loads(text).items()}


def twice_in_a_dict(text, alphabet):
    pairs = json.loads(text)
    if len(set(pairs.values())) < len(pairs):
        raise ValueError("an id occurs twice")
    if any(char not in CHAR_TO_BYTE for key in pairs for char in key):
        raise ValueError("a foreign character")
    return trusting(text, alphabet)


def key_error(text, alphabet):
    pairs = json.loads(text, object_pairs_hook=list)
    if len({key for key, _ in pairs}) < len(pairs) or len({index for _, index in pairs}) < len(pairs):
        raise ValueError("occurs twice")
    return trusting(text, alphabet)


EXERCISES = (
    Exercise(
        solution=count_twins,
        cases=twin_cases,
        mistakes={
            "You count every token with a leading space; also ask whether the rest is a token.": all_with_a_space,
            "You cut off all spaces; only one may go.": all_spaces_cut,
            "You count other blanks as well; a line end is no space.": any_blank,
        },
        why="The World vocabulary has 11,940: almost one token in five is another with a space in front.",
    ),
    Exercise(
        solution=read_key,
        cases=key_cases,
        mistakes={
            "You encode the key as UTF-8; look its characters up in the alphabet instead.": encoded_as_utf8,
            "You move only the space back; 67 other bytes are moved as well.": only_the_space,
            "You decode byte by byte; join all bytes first, because a character may have several.": byte_by_byte,
        },
        why="Now you can read any `vocab.json` of GPT-2's kind: `Ċ` is a line end, and `ä¸Ń` is `中`.",
    ),
    Exercise(
        solution=valid_victims,
        cases=victim_cases,
        mistakes={
            "You return all that share a key; keep those whose own bytes are valid UTF-8.": all_that_share,
            "You return those that a later token overwrites; asked are the valid ones that share a key.": overwritten,
            "You return the broken ones, so you have it the wrong way around.": shared_and_broken,
        },
        why="The replacement character is itself one that people use, so the vocabulary has it: as one (id 19232) and"
        " as two in a row (id 43902). The 486 broken tokens fall onto these two: 488 tokens, 2 keys, 486 ids lost.",
    ),
    Exercise(
        solution=read_json,
        cases=json_cases,
        mistakes={
            "`json.loads` keeps the last of two equal keys without a word; ask it for pairs.": twice_in_a_dict,
            "A character outside the alphabet should be a ValueError that says so, not a KeyError.": key_error,
            "You refuse nothing: look for keys and ids that occur twice, and for foreign characters.": trusting,
        },
        why="`vocab_from_json` in `helpers/tokenizer/vocab.py` is this function with a few more questions.",
    ),
)
