"""Proof: original and converted side by side, the certificate of it, and what models do with what users try.

:mod:`.parity` compares logits and states, :mod:`.verify` makes a :mod:`.certificate`, :mod:`.card` writes it into the
model card; :mod:`.behaviour` tries a list of behaviours on a model, :mod:`.behaviour_table` shows them.
"""

import lazy_loader

# the public names are listed in __init__.pyi; each is imported when it is first used
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
