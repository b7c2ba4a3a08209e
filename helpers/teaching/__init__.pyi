from .chat_widget import ChatWidget
from .drawing import arrow, box, canvas, cells, label
from .environment import check_environment
from .notebook import record, show_source
from .overview import parts_figure
from .playground import Playground
from .plotting import new_figure, show
from .token_view import TokenizerExplorer, show_tokens, tokens_html, trie_figure

__all__ = [
    "ChatWidget",
    "Playground",
    "TokenizerExplorer",
    "arrow",
    "box",
    "canvas",
    "cells",
    "check_environment",
    "label",
    "new_figure",
    "parts_figure",
    "record",
    "show",
    "show_source",
    "show_tokens",
    "tokens_html",
    "trie_figure",
]
