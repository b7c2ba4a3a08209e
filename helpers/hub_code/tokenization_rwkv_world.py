# Copyright 2026 The RWKV World on Hugging Face authors
# SPDX-License-Identifier: Apache-2.0
"""The RWKV World tokenizer for Hugging Face: greedy longest match over UTF-8 bytes, in plain Python.

``AutoTokenizer.from_pretrained(directory, trust_remote_code=True)`` loads it. It gives the same ids as BlinkDL's
``TRIE_TOKENIZER`` (https://github.com/BlinkDL/ChatRWKV/blob/main/rwkv_pip_package/src/rwkv/rwkv_tokenizer.py) for every
text. It knows no offsets; the fast tokenizer in ``tokenizer.json`` beside this file does, and needs no custom code.

A World token is a byte string that need not be valid UTF-8, while a Hugging Face token is a ``str``. A token is
therefore written in GPT-2's byte alphabet, one visible character for each byte: ``b" a"`` is ``"Ġa"``.
"""

import json
import os
from collections.abc import Iterable

from transformers import AddedToken, PreTrainedTokenizer

END_OF_TEXT = "<|endoftext|>"  # the name that World models' id 0 goes by; BlinkDL's file gives it none

# GPT-2's byte alphabet: a byte that is a visible Latin-1 character stands for itself, the others follow from U+0100 on.
_VISIBLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_HIDDEN = [byte for byte in range(256) if byte not in _VISIBLE]
BYTE_TO_CHAR = {byte: chr(byte) for byte in _VISIBLE} | {byte: chr(256 + n) for n, byte in enumerate(_HIDDEN)}
CHAR_TO_BYTE = {char: byte for byte, char in BYTE_TO_CHAR.items()}


class RwkvWorldTokenizer(PreTrainedTokenizer):
    """World tokenizer with ids 1..65529 from ``vocab.json`` and id 0, the end of a text, as a special token.

    Args:
        vocab_file: JSON object ``{token in the byte alphabet: id}`` without id 0.
        errors: how :meth:`decode` treats bytes that are not UTF-8, as in ``bytes.decode``.

    Raises:
        ValueError: the vocabulary lacks a single byte, so that some texts could not be encoded.
    """

    vocab_files_names = {"vocab_file": "vocab.json"}
    model_input_names = ["input_ids", "attention_mask"]
    padding_side = "left"  # a recurrent model must end on the last token of the prompt, not on padding

    def __init__(
        self,
        vocab_file: str,
        errors: str = "replace",
        bos_token: str = END_OF_TEXT,
        eos_token: str = END_OF_TEXT,
        pad_token: str = END_OF_TEXT,
        unk_token: str | None = None,
        **kwargs,
    ):
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
