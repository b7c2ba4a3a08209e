"""What notebooks show: figures, tables and widgets. ipywidgets and matplotlib are imported in this room alone.

:mod:`.plotting` is the one style of all figures, :mod:`.notebook` records key numbers, :mod:`.environment` checks
versions; :mod:`.overview`, :mod:`.token_view` and :mod:`.model_view` draw; ``pictures_...`` are made with
:mod:`.drawing`; :mod:`.trie_walk`, :mod:`.playground`, :mod:`.chat_widget`, :mod:`.decay_widget` and
:mod:`.state_explorer` are widgets, with the thread of :mod:`.worker`.
"""

import lazy_loader

# the public names are listed in __init__.pyi; each is imported when it is first used
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
