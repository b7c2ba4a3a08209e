"""The README.md of a converted model: what it is, how to load it, where it came from, and the proof of it."""

import torch

from ..checkpoints.versions import CheckpointInfo

TEMPLATE = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags:
- rwkv
---

# RWKV-{version} World, converted from {source}

{parameters:,} parameters, {layers} layers, hidden size {hidden}, vocabulary of {vocab:,} rows.
{numbers}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this directory, or the name of this repository
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code={trust})
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code={trust}, dtype="auto")
inputs = tokenizer("The old man looked at the sea and", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0]))
```

{note}

Two tokenizers are included, with the same ids: a fast one (`tokenizer.json`, no custom code) and one in readable Python
(`tokenization_rwkv_world.py`, used with `trust_remote_code=True`). Id 0 is `<|endoftext|>`: start, end and padding.
"""

UNCHANGED = "Converted without any change to the numbers from BlinkDL's format; only the names of the tensors differ."
CAST = "Converted from BlinkDL's format: the numbers were rounded to {dtype}, and the names of the tensors differ."

NATIVE = """transformers loads this directory with its own `{native}`. With `trust_remote_code=True` it takes
`{code}` instead, which reads the same weights and also decodes batches and heeds attention masks."""

CUSTOM = """The model's code is in this directory (`{code}`, written for transformers 5); read it before you
allow it to run with `trust_remote_code=True`."""


def model_card(info: CheckpointInfo, source: str, dtype: torch.dtype | None = None) -> str:
    """Return the card of a model converted from the file named ``source``; ``dtype`` is what all tensors were cast to.

    The license is that of this project and of BlinkDL's World models; change it if the checkpoint has another.
    """
    native = info.row.native_class
    code = info.row.class_prefix.partition(".")[0] + ".py"
    kept = dtype is None or all(holds(dtype, getattr(torch, old)) for old in info.dtypes)
    return TEMPLATE.format(
        version=info.version,
        source=source,
        parameters=info.parameters,
        layers=info.layers,
        hidden=info.hidden_size,
        vocab=info.vocab_size,
        numbers=UNCHANGED if kept else CAST.format(dtype=str(dtype).removeprefix("torch.")),
        trust=native is None,
        note=(NATIVE if native else CUSTOM).format(native=native, code=code),
    )


def holds(dtype: torch.dtype, other: torch.dtype) -> bool:
    """Say whether every number of ``other`` is also one of ``dtype``, so that nothing is rounded."""
    return torch.promote_types(dtype, other) == dtype
