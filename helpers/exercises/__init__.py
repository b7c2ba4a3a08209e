"""The exercises of the series: ``check`` says what is right and wrong in a learner's function.

:mod:`.checking` is the mechanism. A module per notebook, ``nb02`` for notebook 02, holds its exercises: solutions,
inputs and typical mistakes. The notebooks show a solution folded away; its only source is here.
"""

import lazy_loader

# the public names are listed in __init__.pyi; each is imported when it is first used
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
