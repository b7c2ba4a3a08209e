# Copyright 2026 The RWKV World on Hugging Face authors
# SPDX-License-Identifier: Apache-2.0
"""The RWKV World tokenizer for Hugging Face: greedy longest match over UTF-8 bytes, in plain Python.

It gives the same ids as BlinkDL's ``TRIE_TOKENIZER``
(https://github.com/BlinkDL/ChatRWKV/blob/main/rwkv_pip_package/src/rwkv/rwkv_tokenizer.py) for every text. It is here
to be read: ``AutoTokenizer`` loads the fast tokenizer in ``tokenizer.json`` beside this file, which has the same ids,
knows offsets too, and needs no custom code. This one is loaded by its name::

    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    python_class = get_class_from_dynamic_module("tokenization_rwkv_world.RwkvWorldTokenizer", directory)
    tokenizer = python_class.from_pretrained(directory)

A World token is a byte string that need not be valid UTF-8, while a Hugging Face token is a ``str``. A token is
therefore written in GPT-2's byte alphabet, one visible character for each byte: ``b" a"`` is ``"Ġa"``.
"""

import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import chain
from types import SimpleNamespace

from tokenizers import decoders
from transformers import AddedToken, PreTrainedTokenizer

END_OF_TEXT = "<|endoftext|>"  # the name that World models' id 0 goes by; BlinkDL's file gives it none

# GPT-2's byte alphabet: a byte that is a visible Latin-1 character stands for itself, the others follow from U+0100 on.
_VISIBLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_HIDDEN = [byte for byte in range(256) if byte not in _VISIBLE]
BYTE_TO_CHAR = {byte: chr(byte) for byte in _VISIBLE} | {byte: chr(256 + n) for n, byte in enumerate(_HIDDEN)}
CHAR_TO_BYTE = {char: byte for byte, char in BYTE_TO_CHAR.items()}

# \s and \w as in Rust's regular expressions, for tokens that a user adds; Python's own mean other characters.
_SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_WORD_CATEGORIES = {"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "Pc"}
_CIRCLED_LETTERS = [
    *range(0x24B6, 0x24EA),
    *range(0x1F130, 0x1F14A),
    *range(0x1F150, 0x1F16A),
    *range(0x1F170, 0x1F18A),
]
_WORD_CHARS = {"\u200c", "\u200d", *map(chr, _CIRCLED_LETTERS)}  # beside those of the categories


class RwkvWorldTokenizer(PreTrainedTokenizer):
    """World tokenizer with ids 1..65529 from ``vocab.json`` and id 0, the end of a text, as a special token.

    Args:
        vocab_file: JSON object ``{token in the byte alphabet: id}`` without id 0.
        errors: how :meth:`decode` treats bytes that are not UTF-8, as in ``bytes.decode``.

    Raises:
        ValueError: there is no vocabulary, it lacks a single byte, so that some texts could not be encoded, or an added
            token is one that :func:`refuse_byte_spelling` refuses.
    """

    _auto_class = "AutoTokenizer"  # a directory that this class saves needs this file: save_pretrained copies it
    vocab_files_names = {"vocab_file": "vocab.json"}
    model_input_names = ["input_ids", "attention_mask"]
    padding_side = "left"  # a recurrent model must end on the last token of the prompt, not on padding

    def __init__(
        self,
        vocab_file: str | None,
        errors: str = "replace",
        bos_token: str = END_OF_TEXT,
        eos_token: str = END_OF_TEXT,
        pad_token: str = END_OF_TEXT,
        unk_token: str | None = None,
        **kwargs,
    ):
        if vocab_file is None:
            raise ValueError("The directory has no vocab.json, which the Python tokenizer needs.")
        with open(vocab_file, encoding="utf-8") as file:
            self.encoder: dict[str, int] = json.load(file)
        if missing := BYTE_TO_CHAR.values() - self.encoder.keys():
            raise ValueError(
                f"{vocab_file} lacks {len(missing)} of the 256 single bytes: use the vocab.json of the model."
            )
        self.decoder = {index: token for token, index in self.encoder.items()}
        self.errors = errors
        self._trie = build_trie(self.encoder)
        self._max_length = max(map(len, self.encoder))
        refuse_byte_spelling(kwargs.get("added_tokens_decoder", {}).values())
        # All of this must exist before super().__init__, which already asks for the vocabulary. So must id 0: else
        # END_OF_TEXT is appended to the vocabulary, as id 65529, which is the token of 128 spaces.
        self._added_tokens_decoder = {0: AddedToken(END_OF_TEXT, special=True, normalized=False)}
        super().__init__(
            errors=errors,
            bos_token=bos_token,
            eos_token=eos_token,
            pad_token=pad_token,
            unk_token=unk_token,
            **kwargs,
        )

    @property
    def vocab_size(self) -> int:
        """Number of tokens with id 0, without tokens that a user added."""
        return len(self.encoder) + 1

    def get_vocab(self) -> dict[str, int]:
        return {**self.encoder, **self._added_tokens_encoder}

    @property
    def backend_tokenizer(self) -> SimpleNamespace:
        """What transformers asks to learn how tokens become text: by their bytes, not each by itself.

        Without it, stop strings are compared with tokens decoded one by one, and one with a character that is spread
        over several tokens never stops (https://github.com/huggingface/transformers/issues/46519).
        """
        return SimpleNamespace(decoder=decoders.ByteLevel())

    def _add_tokens(self, new_tokens: list[str] | list[AddedToken], special_tokens: bool = False) -> int:
        refuse_byte_spelling(new_tokens)
        properties = {"special": special_tokens, "normalized": not special_tokens}
        # as AddedToken, since the base class would skip a str that was added before with other properties
        named = [token if isinstance(token, AddedToken) else AddedToken(token, **properties) for token in new_tokens]
        return super()._add_tokens(named, special_tokens=special_tokens)

    def tokenize(self, text: str, split_special_tokens: bool | None = None, **kwargs) -> list[str]:
        """Cut out the tokens that were added, as the fast tokenizer does, and split what is left.

        ``split_special_tokens=True`` leaves special tokens in the text, as ordinary text.
        """
        if split_special_tokens is None:
            split_special_tokens = self.split_special_tokens
        ordinary = set(self.all_special_tokens) if split_special_tokens else set()
        pieces: list[str | AddedToken] = [text]
        for normalized in (False, True):  # the fast tokenizer looks for these in this order
            added = {t.content: t for t in self._added_tokens_decoder.values() if t.normalized == normalized}
            pieces = list(chain.from_iterable(cut_out(piece, added, ordinary) for piece in pieces))
        return list(chain.from_iterable(self._tokenize(p) if isinstance(p, str) else [p.content] for p in pieces))

    def _tokenize(self, text: str, **kwargs) -> list[str]:
        """Split ``text`` into tokens, each the longest that the rest of the text starts with."""
        source, tokens, start = to_byte_alphabet(text), [], 0
        while start < len(source):
            node = self._trie
            for char in source[start : start + self._max_length]:
                if char not in node:
                    break
                node = node[char]
                if None in node:
                    token = node[None]  # the longest so far; the first character always sets it
            tokens.append(token)
            start += len(token)
        return tokens

    def _convert_token_to_id(self, token: str) -> int | None:
        return self.encoder.get(token)

    def _convert_id_to_token(self, index: int) -> str:
        return self.decoder.get(index, "")  # the models have 65,536 rows; ids 65530..65535 were never trained

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join the tokens' bytes, then decode: a character's bytes may be spread over several tokens."""
        return b"".join(map(self._token_to_bytes, tokens)).decode("utf-8", self.errors)

    def _token_to_bytes(self, token: str) -> bytes:
        if token in self.encoder:
            return bytes(CHAR_TO_BYTE[char] for char in token)
        return token.encode("utf-8")  # id 0 and tokens that a user added are ordinary text

    def _decode(self, token_ids: int | list[int], *args, stop_at_end_of_text: bool = False, **kwargs) -> str:
        """Decode ids. ``stop_at_end_of_text=True`` skips ids 0 at the start (padding) and ends at the next id 0."""
        if stop_at_end_of_text:
            token_ids = until_end_of_text([token_ids] if isinstance(token_ids, int) else token_ids)
        return super()._decode(token_ids, *args, **kwargs)

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        """Write ``vocab.json``, one token a line in the order of the ids."""
        name = (f"{filename_prefix}-" if filename_prefix else "") + self.vocab_files_names["vocab_file"]
        path = os.path.join(save_directory, name)
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(self.encoder, ensure_ascii=False, indent=0) + "\n")
        return (path,)


def to_byte_alphabet(text: str) -> str:
    """Return the UTF-8 bytes of ``text``, each as its character of the byte alphabet.

    Raises:
        ValueError: the text holds half of a surrogate pair, which no UTF-8 exists for.
    """
    try:
        return text.encode("utf-8").decode("latin-1").translate(BYTE_TO_CHAR)
    except UnicodeEncodeError as error:
        raise ValueError(
            f"The text has a lone surrogate, {text[error.start]!r}, at position {error.start}, which UTF-8 cannot"
            " express; replace it first, for example with"
            " text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')."
        ) from None


def refuse_byte_spelling(tokens: Iterable[str | AddedToken]) -> None:
    """Refuse to add a token like ``é``, which is also how the single byte E9 is written.

    Raises:
        ValueError: all characters of a token are of the byte alphabet, and they stand for other bytes than its text.
    """
    for content in map(str, tokens):
        if not content.isascii() and CHAR_TO_BYTE.keys() >= set(content):
            spelled = bytes(CHAR_TO_BYTE[char] for char in content).hex(" ")
            raise ValueError(
                f"The token {content!r} cannot be added: written so, it stands for the bytes {spelled}, and would be"
                " decoded as those; use a name in ASCII."
            )


def cut_out(text: str | AddedToken, added: dict[str, AddedToken], ordinary: set[str]) -> Iterator[str | AddedToken]:
    """Yield the tokens of ``added`` that stand in ``text``, the longest at each place, and what is between them.

    Those named in ``ordinary`` are left in the text. A ``text`` that is a token already is yielded as it is.

    ``single_word``, ``lstrip`` and ``rstrip`` mean what they mean to the fast tokenizer. Source: ``find_matches`` in
    https://github.com/huggingface/tokenizers/blob/main/tokenizers/src/tokenizer/added_vocabulary.rs
    """
    if isinstance(text, AddedToken):
        yield text
        return
    names = sorted(filter(None, added), key=len, reverse=True)
    matches = re.finditer("|".join(map(re.escape, names)), text) if names else ()
    done = 0
    for match in matches:
        token, (start, end) = added[match[0]], match.span()
        if token.content in ordinary:
            continue
        if token.single_word and (is_word(text[:start][-1:]) or is_word(text[end:][:1])):
            continue
        if token.lstrip:
            start = max(len(text[:start].rstrip(_SPACES)), done)
        if token.rstrip:
            end = len(text) - len(text[end:].lstrip(_SPACES))
        yield text[done:start]
        if start < end:  # else the token before it has taken all of it, by rstrip
            yield token
        done = end
    yield text[done:]


def is_word(char: str) -> bool:
    """Say whether a character belongs to a word: a letter, a mark, a digit, ``_`` or a joiner. ``""`` does not."""
    return char in _WORD_CHARS or (char != "" and unicodedata.category(char) in _WORD_CATEGORIES)


def build_trie(tokens: Iterable[str]) -> dict:
    """Return nested dictionaries, a character a level; the key ``None`` holds the token that ends at a node."""
    root: dict = {}
    for token in tokens:
        node = root
        for char in token:
            node = node.setdefault(char, {})
        node[None] = token
    return root


def until_end_of_text(ids: list[int]) -> list[int]:
    """Drop ids 0 at the start, which pad a batch on the left, and everything from the next id 0 on."""
    ids = list(ids)
    start = next((n for n, index in enumerate(ids) if index != 0), len(ids))
    end = next((n for n, index in enumerate(ids[start:], start) if index == 0), len(ids))
    return ids[start:end]
