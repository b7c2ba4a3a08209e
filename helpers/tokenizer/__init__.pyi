from .check import find_mismatches, fuzz_texts, load_cases, reference_tokenizer
from .fast import build_fast_tokenizer, piece_regex, python_tokenizer, save_tokenizers, trie_regex
from .stats import collisions, ids_lost, is_utf8, script
from .trie import TrieTokenizer
from .vocab import (
    VOCAB_SIZE,
    chars_to_token,
    read_vocab,
    token_to_chars,
    vocab_from_json,
    vocab_to_json,
    vocab_to_txt,
    world_vocab_path,
)

__all__ = [
    "VOCAB_SIZE",
    "TrieTokenizer",
    "build_fast_tokenizer",
    "chars_to_token",
    "collisions",
    "find_mismatches",
    "fuzz_texts",
    "ids_lost",
    "is_utf8",
    "load_cases",
    "piece_regex",
    "python_tokenizer",
    "read_vocab",
    "reference_tokenizer",
    "save_tokenizers",
    "script",
    "token_to_chars",
    "trie_regex",
    "vocab_from_json",
    "vocab_to_json",
    "vocab_to_txt",
    "world_vocab_path",
]
