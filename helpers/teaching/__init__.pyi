from .chat_widget import ChatWidget
from .decay_widget import DecayExplorer, decay_figure
from .drawing import arrow, box, canvas, cells, label
from .environment import check_environment
from .notebook import record, show_source
from .overview import parts_figure
from .pictures_tokenizer import (
    byte_alphabet_figure,
    character_bytes_figure,
    pipeline_figure,
    searches_figure,
    trie_figure,
)
from .playground import Playground
from .plotting import new_figure, show
from .state_explorer import StateExplorer, explorer_figure
from .token_view import TokenizerExplorer, show_tokens, tokens_html
from .trie_walk import TrieWalk

__all__ = [
    "ChatWidget",
    "DecayExplorer",
    "Playground",
    "StateExplorer",
    "TokenizerExplorer",
    "TrieWalk",
    "arrow",
    "box",
    "byte_alphabet_figure",
    "canvas",
    "cells",
    "character_bytes_figure",
    "check_environment",
    "decay_figure",
    "explorer_figure",
    "label",
    "new_figure",
    "parts_figure",
    "pipeline_figure",
    "record",
    "searches_figure",
    "show",
    "show_source",
    "show_tokens",
    "tokens_html",
    "trie_figure",
]
