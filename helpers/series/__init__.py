"""The notebooks as a whole: run them headless, and compare their outputs with the committed ones.

:mod:`.run` executes and sums up, :mod:`.check` holds form and outputs to their rules.
"""

import lazy_loader

# the public names are listed in __init__.pyi; each is imported when it is first used
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
