from .chat_widget import ChatWidget
from .environment import check_environment
from .notebook import record
from .overview import parts_figure
from .playground import Playground
from .plotting import new_figure, show
from .token_view import TokenizerExplorer, show_tokens, tokens_html, trie_figure

__all__ = [
    "ChatWidget",
    "Playground",
    "TokenizerExplorer",
    "check_environment",
    "new_figure",
    "parts_figure",
    "record",
    "show",
    "show_tokens",
    "tokens_html",
    "trie_figure",
]
