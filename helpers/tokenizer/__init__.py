"""The World vocabulary and its tokenizers: BlinkDL's text file, JSON, a trie to read, and an exact fast one.

Its files are :mod:`.vocab` (read and write the vocabulary), :mod:`.stats` (look at it), :mod:`.trie` (the algorithm in
its shortest form), :mod:`.fast` (``tokenizer.json``), :mod:`.kept` (keep it for the next run) and :mod:`.check` (hard
cases, random texts, mismatches).
"""

import lazy_loader

# the public names are listed in __init__.pyi; each is imported when it is first used
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
