"""The README.md of a converted model: what it is, how to load it, where it came from."""

from .checkpoints import CheckpointInfo

TEMPLATE = """---
library_name: transformers
pipeline_tag: text-generation
tags:
- rwkv
---

# RWKV-{version} World, converted from {source}

{parameters:,} parameters, {layers} layers, hidden size {hidden}, vocabulary of {vocab:,} rows. Converted without any
change to the numbers from BlinkDL's format; only the names of the tensors differ.

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

NATIVE = """transformers loads this directory with its own `RwkvForCausalLM`. With `trust_remote_code=True` it takes
`modeling_rwkv4.py` instead, which reads the same weights and also decodes batches and heeds attention masks."""

CUSTOM = """The model's code is in this directory (`modeling_rwkv5.py`, written for transformers 5); read it before you
allow it to run with `trust_remote_code=True`."""


def model_card(info: CheckpointInfo, source: str) -> str:
    """Return the card of a model converted from the file named ``source``."""
    native = info.version == "4"
    return TEMPLATE.format(
        version=info.version,
        source=source,
        parameters=info.parameters,
        layers=info.layers,
        hidden=info.hidden_size,
        vocab=info.vocab_size,
        trust=not native,
        note=NATIVE if native else CUSTOM,
    )
