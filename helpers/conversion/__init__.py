"""Model directories: write them from a checkpoint, read and load them, update them, and move them to and from the Hub.

:mod:`.directory` converts, with :mod:`.weights`, :mod:`.configuration` and :mod:`.model_card`; :mod:`.reading` and
:mod:`.loading` open a directory as tensors and as a model; :mod:`.export` goes back to a ``.pth`` file, :mod:`.fla` to
the layout of flash-linear-attention; :mod:`.refresh` brings an older directory up to date, and :mod:`.hub` downloads
and uploads.
"""

import lazy_loader

# the public names are listed in __init__.pyi; each is imported when it is first used
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
