"""Proof: original and converted side by side, the certificate of it, and what models do with what users try.

:mod:`.verify` makes a :mod:`.certificate`: it asks both sides the same :mod:`.questions`, :mod:`.judging` compares the
answers, :mod:`.parity` logits and states, :mod:`.precision` logits in bf16 and fp16, :mod:`.vocabulary` the tokenizers,
and :mod:`.contents` all other files; :mod:`.results` are its parts. :mod:`.card` writes it into the model card, with
the :mod:`.tables` that the shell shows, too, and :mod:`.changes` says what has changed since.
:mod:`.behaviour` tries a list of behaviours on a model, :mod:`.behaviour_table` shows them.
"""

import lazy_loader

# the public names are listed in __init__.pyi; each is imported when it is first used
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
