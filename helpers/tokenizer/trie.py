"""The World tokenizer in its shortest form: a trie and a greedy walk through it.

Read this one to understand the algorithm. The tokenizers that travel with a model are in
``hub_code/tokenization_rwkv_world.py`` (Python) and :mod:`helpers.tokenizer.fast` (``tokenizer.json``).
"""

from typing import Any

TOKEN_ID = None  # the key, in a trie node, of the id of the token that ends there; all other keys are bytes
Node = dict[int | None, Any]  # what follows each byte is a node again


class TrieTokenizer:
    """Greedy longest match over UTF-8 bytes, for any vocabulary ``{id: token}``.

    Not handled: special tokens (id 0 is decoded as the end of the text, and never produced).
    """

    def __init__(self, vocab: dict[int, bytes]):
        self.vocab = vocab
        self.root: Node = {}
        for index, token in vocab.items():
            node = self.root
            for byte in token:
                node = node.setdefault(byte, {})
            node[TOKEN_ID] = index

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text``.

        Raises:
            ValueError: no token starts with some byte of the text. The World vocabulary has all 256 bytes.
        """
        source, ids, start = text.encode("utf-8"), [], 0
        while start < len(source):
            index, end = self.longest_match(source, start)
            ids.append(index)
            start = end
        return ids

    def longest_match(self, source: bytes, start: int) -> tuple[int, int]:
        """Return the id and the end of the longest token that ``source`` has at ``start``."""
        node, found = self.root, None
        for position in range(start, len(source)):
            byte = source[position]
            if byte not in node:
                break
            node = node[byte]
            if TOKEN_ID in node:
                found = node[TOKEN_ID], position + 1
        if found is None:
            raise ValueError(f"no token starts with byte {source[start]:#04x}, at byte {start} of the text")
        return found

    def decode(self, ids: list[int]) -> str:
        """Return the text up to the first id 0; bytes that are not UTF-8 become U+FFFD."""
        ids = ids[: ids.index(0)] if 0 in ids else ids
        return b"".join(self.vocab[index] for index in ids).decode("utf-8", errors="replace")
