# Copyright 2026 The RWKV World on Hugging Face authors
# SPDX-License-Identifier: Apache-2.0
"""Which transformers this code needs. Every file that travels with a model asks before it imports anything newer."""

import transformers

OLDEST = (5, 15)  # before, beam search gave other texts without an error


def require_transformers() -> None:
    """Raise ImportError, in one sentence, if transformers is too old for the code beside this file."""
    installed = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    if installed < OLDEST:
        needed = ".".join(map(str, OLDEST))
        raise ImportError(
            f"this model's code needs transformers >= {needed}, this is {transformers.__version__}: "
            f"run pip install 'transformers>={needed}'"
        )
