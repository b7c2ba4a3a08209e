"""Train a small RWKV World model from scratch: corpus -> augmented windows -> training -> ``.pth``.

:mod:`.options` is all that decides the result, :mod:`.augment` rewrites text, :mod:`.windows` cuts and encodes it,
:mod:`.model` is the project's own RWKV model as it is trained, :mod:`.wkv_triton` its fast form on a GPU, :mod:`.fast`
how a step runs, :mod:`.trainer` the loop, and :mod:`.run` a whole run.
"""

import lazy_loader

# the public names are listed in __init__.pyi; each is imported when it is first used
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
