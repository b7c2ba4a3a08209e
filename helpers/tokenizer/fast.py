"""The World tokenizer as a plain ``tokenizer.json``: exact, fast, and without custom code.

The ``tokenizers`` library has a model that takes the longest match again and again: WordPiece. But it has no trie. It
looks up every beginning of what is left, the longest first, so that its time grows with the cube of a text's length. A
regular expression therefore cuts the text into short pieces before. Four standard parts, all in ``tokenizer.json``::

    text -> ByteLevel pre-tokenizer (bytes as visible characters) -> Split(regex) -> WordPiece on each piece -> ids
    ids  -> tokens -> ByteLevel decoder -> text

A cut is right where a longest match ends. There are two kinds of pieces (:func:`piece_regex`). What a regex made from
the vocabulary's trie matches is one token, the longest. And a short word ends where no token crosses the cut. Words are
there for speed alone: each piece costs the library many small allocations, more than the search for the tokens in it.

ByteLevel is a pre-tokenizer here, not a normalizer, because transformers.js has no such normalizer. The price: the name
of a token that a user adds is decoded as bytes, too, if it is written in the byte alphabet alone, like ``é``. Fast
tokenizers of GPT-2's kind all have this limit; our Python tokenizer refuses such names.
"""

import json
import string
from collections import defaultdict
from collections.abc import Collection, Iterable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from ..errors import InputError
from ..hub_code.tokenization_rwkv_world import (
    BYTE_TO_CHAR,
    CHAR_TO_BYTE,
    END_OF_TEXT,
    RwkvWorldTokenizer,
    build_trie,
)
from ..paths import HUB_CODE, shown
from .chat_template import CHAT_TEMPLATE
from .kept import kept_or
from .vocab import read_vocab, token_to_chars, vocab_to_json

TOKENIZER_CODE = "tokenization_rwkv_world.py"
MAX_LETTERS = 12  # of a piece; more would help few words, and let a row of letters cost more

# Bytes of UTF-8 in the byte alphabet: those that continue a character, and those that start one of 1, 2, 3 or 4 bytes.
CONTINUATION = {char for char, byte in CHAR_TO_BYTE.items() if 0x80 <= byte < 0xC0}
FIRST_BYTES = [
    [BYTE_TO_CHAR[byte] for byte in range(*limits)]
    for limits in ((0x00, 0x80), (0xC2, 0xE0), (0xE0, 0xF0), (0xF0, 0xF5))
]
MULTIBYTE = [char for chars in FIRST_BYTES[1:] for char in chars]

# Files of transformers that would override what save_tokenizers writes, left by save_pretrained or an older converter.
OVERRIDING = ("chat_template.jinja", "added_tokens.json", "special_tokens_map.json")


def trie_regex(words: Iterable[str], max_alternatives: int = 8) -> str:
    """Return a regex that matches, at any position, the longest of ``words`` found there.

    A node of the trie becomes ``(?:b...|c...)``, with ``?`` behind it if a word also ends before it. A regex engine
    tries to go on before it stops (greedy ``?``), and steps back if no word ends further on: exactly longest match.

    An engine tries alternatives one by one, so a node with more than ``max_alternatives`` is halved, again and again,
    behind look-aheads on the first character: ``(?=[a-m])(?:...)|...``. That pays off on code and rare characters.
    """
    return _node_regex(build_trie(words), max_alternatives)


def _node_regex(node: dict[str | None, Any], max_alternatives: int) -> str:
    """Return the regex of all continuations of a node of :func:`build_trie`."""
    branches: dict[str, list[str]] = {}  # continuation: the characters that lead to it
    for char, child in node.items():
        if char is not None:
            branches.setdefault(_node_regex(child, max_alternatives), []).append(char)
    if not branches:
        return ""
    regex = _alternatives(sorted((sorted(chars), rest) for rest, chars in branches.items()), max_alternatives)
    ends_here = None in node
    if len(branches) > 1 or ends_here:
        regex = f"(?:{regex})"
    return regex + "?" if ends_here else regex


def _alternatives(branches: list[tuple[list[str], str]], max_alternatives: int) -> str:
    """Join (first characters, rest) with ``|``, in halves behind look-aheads where there are many."""
    if len(branches) <= max_alternatives:
        return "|".join(_char_class(chars) + rest for chars, rest in branches)
    middle = len(branches) // 2
    left, right = branches[:middle], branches[middle:]
    first_chars = _char_class([char for chars, _ in left for char in chars])
    left_regex, right_regex = _alternatives(left, max_alternatives), _alternatives(right, max_alternatives)
    return f"(?={first_chars})(?:{left_regex})|{right_regex}"


def _char_class(chars: Collection[str]) -> str:
    """Return a regex for one of ``chars``. What needs no backslash has none: JavaScript's engine would refuse it."""
    if len(chars) == 1:
        (char,) = chars
        return "\\" + char if char in r"\^$.*+?()[]{}|" else char
    return "[" + "".join("\\" + char if char in r"\[]^-" else char for char in sorted(chars)) + "]"


def what_follows(words: Iterable[str]) -> dict[str, set[str]]:
    """Return, for the first byte of a UTF-8 character, the bytes that some word has right behind such a character.

    All bytes are written in the byte alphabet. No word crosses a cut between two characters if the byte behind the cut
    is not in the set of the character before it. A word that starts inside of a character counts for all characters.
    """
    follows: dict[str, set[str]] = defaultdict(set)
    for word in words:
        first = None  # byte of the character that the walk is in; None if the word starts inside of it
        for char, behind in pairwise(word):
            if char not in CONTINUATION:
                first = char
            if behind not in CONTINUATION:
                for start in MULTIBYTE if first is None else (first,):
                    follows[start].add(behind)
    return follows


def piece_regex(words: Collection[str]) -> str:
    """Return a regex that cuts a text, match behind match, where longest matches of ``words`` end.

    It tries three things: a word of up to 12 letters, with a space before it and a sign behind it, as in ``" cat,"``;
    up to two characters that stand alone, as Chinese ones do; and else one token, by :func:`trie_regex`. The first two
    end with look-aheads, ``(?!...)``, on everything that a token could go on with. So they are right for any ``words``,
    though what is a letter, a sign or a character that stands alone was chosen for the World vocabulary.
    """
    follows = what_follows(words)

    def end_after(chars: Iterable[str]) -> str:
        refused = set().union(*(follows[char] for char in chars))
        return f"(?!{_char_class(refused)})" if refused else ""

    signs = [char for char in string.punctuation if not follows[char] & set(string.ascii_letters)]
    sign = f"(?:{_char_class(signs)}{end_after(signs)})?" if signs else ""
    word = f"Ġ?[A-Za-z]{{1,{MAX_LETTERS}}}{end_after(string.ascii_letters)}{sign}"

    closed = [[char for char in chars if not follows[char]] for chars in FIRST_BYTES]
    alone = [_char_class(chars) + "." * others for others, chars in enumerate(closed) if chars]
    alone = [*reversed(alone), f"[ãï]..{end_after('ãï')}"]  # bytes E3 and EF start Chinese punctuation
    return f"{word}|(?:{'|'.join(alone)}){{1,2}}|{trie_regex(words)}"


def build_fast_tokenizer(vocab: dict[int, bytes] | None = None) -> Tokenizer:
    """Return the fast tokenizer for ``{id: token}``, by default the World vocabulary.

    Raises:
        InputError: the vocabulary lacks a single byte, so that some texts could not be encoded.
    """
    words = {token_to_chars(token): index for index, token in (read_vocab() if vocab is None else vocab).items()}
    if missing := BYTE_TO_CHAR.values() - words.keys():
        raise InputError(f"The vocabulary lacks {len(missing)} of the 256 single bytes; add them as tokens.")
    # WordPiece demands an unknown token. It is never used, because every single byte is in the vocabulary and no piece
    # is too long; nor is its name found in a text, because only a token of the vocabulary is a piece with "<|" in it.
    longest = max(MAX_LETTERS + 2, *map(len, words))
    model = models.WordPiece(
        {END_OF_TEXT: 0, **words},
        unk_token=END_OF_TEXT,
        continuing_subword_prefix="",
        max_input_chars_per_word=longest,
    )
    tokenizer = Tokenizer(model)
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = pre_tokenizers.Split(Regex(piece_regex(words)), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([to_bytes, split])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return tokenizer


@cache
def _world_files() -> tuple[str, str]:
    """Return ``tokenizer.json`` and ``vocab.json`` of the World vocabulary, built once, see :mod:`.kept`."""
    return kept_or(lambda: _files_of(read_vocab()))


def _files_of(vocab: dict[int, bytes]) -> tuple[str, str]:
    """Return ``tokenizer.json`` and ``vocab.json`` of a vocabulary."""
    return build_fast_tokenizer(vocab).to_str(), vocab_to_json(vocab)


def tokenizer_config() -> dict[str, Any]:
    """Return ``tokenizer_config.json``: one file for both tokenizers.

    ``tokenizer_class`` is what ``AutoTokenizer`` loads: the fast one, by a name that transformers 4 and 5 know. Without
    it, a directory whose config says ``rwkv`` would be given GPT-NeoX's tokenizer. There is no ``auto_map``: with one,
    ``trust_remote_code=True``, which is meant for the model, would load the Python tokenizer everywhere, and
    ``save_pretrained`` of the fast one would keep the entry without the file that it names.
    """
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "added_tokens_decoder": {
            "0": {
                "content": END_OF_TEXT,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": True,
            }
        },
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "left",
        "split_special_tokens": False,
        "chat_template": CHAT_TEMPLATE,
    }


def save_tokenizers(out_dir: str | Path, vocab: dict[int, bytes] | None = None) -> Path:
    """Write the tokenizer part of a model directory: the fast tokenizer, the Python one, and their configuration.

    Args:
        out_dir: created if it is missing; files of the same names are replaced, and those that would override them
            are removed.
        vocab: ``{id: token}``; by default the World vocabulary, whose files are kept.
    """
    tokenizer_json, vocab_json = _world_files() if vocab is None else _files_of(vocab)
    files = {
        "tokenizer.json": tokenizer_json,
        "tokenizer_config.json": json.dumps(tokenizer_config(), ensure_ascii=False, indent=2) + "\n",
        "vocab.json": vocab_json,
        TOKENIZER_CODE: (HUB_CODE / TOKENIZER_CODE).read_text(encoding="utf-8"),
    }
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (out_dir / name).write_text(text, encoding="utf-8", newline="\n")
    for name in OVERRIDING:
        (out_dir / name).unlink(missing_ok=True)
    return out_dir


def python_tokenizer(folder: str | Path) -> RwkvWorldTokenizer:
    """Return the Python tokenizer with the ``vocab.json`` and the settings of a directory; no code of it is run.

    Raises:
        InputError: the directory has no ``vocab.json``, or one without the 256 single bytes, or it names an added token
            that the Python tokenizer refuses.
    """
    if not Path(folder).is_dir():  # transformers would look for it on the Hub
        raise InputError(f"There is no directory {shown(folder)}; give one that save_tokenizers or convert made.")
    try:
        tokenizer: RwkvWorldTokenizer = RwkvWorldTokenizer.from_pretrained(folder)
    except Exception as error:  # a file of another form than expected shows in many ways
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(f"Cannot load the Python tokenizer of {shown(folder)}: {reason}; run refresh on it.") from None
    return tokenizer
