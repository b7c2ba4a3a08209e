"""Train a small RWKV World model from scratch: corpus -> augmented windows -> training -> ``.pth``.

:mod:`.augment` rewrites text, :mod:`.windows` cuts and encodes it, :mod:`.model` is the project's own RWKV model as it
is trained, :mod:`.wkv_triton` its fast form on a GPU, :mod:`.trainer` the loop, and :mod:`.command` the shell command.
"""
