"""The README.md of a converted model: what it is, how to load it, where it came from, and the proof of it."""

from pathlib import Path

import torch

from ..checkpoints.versions import CheckpointInfo

TEMPLATE = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags:
- rwkv
---

# {name}, converted from {source}

{parameters:,} parameters, {layers} layers, hidden size {hidden}, vocabulary of {vocab:,} rows.
{numbers}

{example}

{note}

{faster}

{tokenizers}
"""

FROM_TEXT = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this directory, or the name of this repository
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code={trust})
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code={trust}, dtype="auto")
inputs = tokenizer("The old man looked at the sea and", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0]))
```"""

FROM_IDS = """```python
import torch
from transformers import AutoModelForCausalLM

folder = "."  # this directory, or the name of this repository
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code={trust}, dtype="auto")
ids = torch.tensor([[1, 2, 3]])  # from the tokenizer that this model was trained with
print(model.generate(ids, max_new_tokens=40)[0])
```"""

TOKENIZERS = """Two tokenizers are included, with the same ids: a fast one (`tokenizer.json`, no custom code), which
`AutoTokenizer` loads, and one in readable Python (`tokenization_rwkv_world.py`), which is loaded by its name:

```python
from transformers.dynamic_module_utils import get_class_from_dynamic_module

python_class = get_class_from_dynamic_module("tokenization_rwkv_world.RwkvWorldTokenizer", folder)
tokenizer = python_class.from_pretrained(folder)
```

Id 0 is `<|endoftext|>`: start, end and padding."""

NO_TOKENIZERS = """The World tokenizers are not for this model, which was trained with another vocabulary. Id 0 is taken
as start, end and padding, as in World and Pile models; if it is not, correct `config.json` and
`generation_config.json`."""

UNCHANGED = "Converted without any change to the numbers from BlinkDL's format; only the names of the tensors differ."
CAST = "Converted from BlinkDL's format: the numbers were rounded to {dtype}, and the names of the tensors differ."
REFRESHED = "The numbers are those of the model directory that this one was refreshed from, without any change."

FASTER = """On an NVIDIA GPU, the model of this directory's code has a method for speed: after
`model.compile_decoding(batch_sizes=(1,), prompt_pieces=(64, 512))`, `generate` runs recorded CUDA graphs."""

NATIVE = """transformers loads this directory with its own `{native}`. With `trust_remote_code=True` it takes
`{code}` instead, which reads the same weights and also decodes batches and heeds attention masks."""

CUSTOM = """The model's code is in this directory (`{code}`, written for transformers 5); read it before you
allow it to run with `trust_remote_code=True`."""


def model_card(info: CheckpointInfo, source: Path, dtype: torch.dtype | None, with_tokenizer: bool) -> str:
    """Return the card of a converted model.

    The license is that of this project and of BlinkDL's World models; change it if the checkpoint has another.

    Args:
        source: the checkpoint that was converted, or the directory that was refreshed.
        dtype: what all tensors were cast to.
        with_tokenizer: it is a World model, and has the World tokenizers.
    """
    native = info.row.native_class if info.row.runs_natively(info.layers) else None
    code = info.row.class_prefix.partition(".")[0] + ".py"
    trust = native is None
    return TEMPLATE.format(
        name=f"RWKV-{info.version}{' World' if with_tokenizer else ''}",
        source=source.name,
        parameters=info.parameters,
        layers=info.layers,
        hidden=info.hidden_size,
        vocab=info.vocab_size,
        numbers=REFRESHED if source.is_dir() else sentence_on_numbers(info, dtype),
        example=(FROM_TEXT if with_tokenizer else FROM_IDS).format(trust=trust),
        note=(NATIVE if native else CUSTOM).format(native=native, code=code),
        faster=FASTER,
        tokenizers=TOKENIZERS if with_tokenizer else NO_TOKENIZERS,
    )


def sentence_on_numbers(info: CheckpointInfo, dtype: torch.dtype | None) -> str:
    """Say whether a change to ``dtype``, or to none, rounded any number."""
    if dtype is None or all(holds(dtype, getattr(torch, old)) for old in info.dtypes):
        return UNCHANGED
    return CAST.format(dtype=str(dtype).removeprefix("torch."))


def holds(dtype: torch.dtype, other: torch.dtype) -> bool:
    """Say whether every number of ``other`` is also one of ``dtype``, so that nothing is rounded."""
    return torch.promote_types(dtype, other) == dtype
