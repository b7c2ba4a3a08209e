"""LAMBADA: perplexity and accuracy of the last word of a passage, original and converted, document by document.

:mod:`.passages` reads and cuts, :mod:`.protocol` scores, :mod:`.run` is a whole run that can be killed and continued,
:mod:`.results` its files, :mod:`.comparison` two of them side by side; ``lm_eval_tasks/`` is the same for lm-eval.
"""

import lazy_loader

# the public names are listed in __init__.pyi; each is imported when it is first used
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
