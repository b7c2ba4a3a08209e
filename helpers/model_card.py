"""The README.md of a converted model: what it is, how to load it, where it came from, and the proof of it."""

import re

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


BEGIN, END = "<!-- parity certificate, by verify -->", "<!-- end of the parity certificate -->"
SIDES = ("original", "converted")
CERTIFICATE = """## Parity certificate: {verdict}

This model in transformers, against `{file}` in BlinkDL's `rwkv` package; both in fp32, without a prefix token, on the
same ids. Every number is in [parity.json](parity.json). SHA-256 of that file: `{sha256}`.

| what | compared | result |
|---|---|---|
{rows}

Versions: {versions}.
"""


def with_certificate(card: str, certificate: dict) -> str:
    """Return the card with a section about the certificate, in the place of an earlier one or at the end."""
    section = CERTIFICATE.format(
        verdict="passed" if certificate["passed"] else "FAILED",
        rows="\n".join(f"| {' | '.join(row)} |" for row in certificate_rows(certificate)),
        versions=", ".join(f"{name} {number}" for name, number in certificate["versions"].items()),
        **certificate["original"],
    )
    rest = re.sub(rf"\n*{re.escape(BEGIN)}.*?{re.escape(END)}\n*", "\n", card, flags=re.DOTALL)
    return f"{rest.rstrip()}\n\n{BEGIN}\n{section}{END}\n".lstrip()


def certificate_rows(certificate: dict) -> list[tuple[str, str, str]]:
    """Return the rows of the table: what was compared, on what, and the result."""
    runs, weights, tokenizers = (certificate[name] for name in ("runs", "weights", "tokenizers"))
    tokens = sum(run["tokens"] for run in runs)
    mean = sum(run["mean_abs_logit_diff"] * run["tokens"] for run in runs) / tokens
    worst, largest, state = (
        max(run[name] for run in runs) for name in ("max_abs_logit_diff", "max_abs_logit", "max_state_diff")
    )
    cast = f"after a change to {', '.join(weights['cast_to'])}" if weights["cast_to"] else "bit for bit"
    same = min(run["argmax_agreement"] for run in runs)
    rows = [
        ("weights", f"{weights['tensors']} tensors", f"{weights['identical']} equal, {cast}"),
        (
            "logits",
            f"{len(runs)} runs, prefill and decoding, {tokens:,} tokens",
            f"largest difference {worst:.1e}, mean {mean:.1e}; the largest logit is {largest:.1f}",
        ),
        ("next token", "every position of these runs", f"the same at {same:.2%} or more of a run"),
        ("state", "after each run", f"largest difference {state:.1e} of the largest number"),
        (
            "tokenizers",
            f"{tokenizers['texts']:,} texts",
            f"other ids: fast {tokenizers['fast_mismatches']}, Python {tokenizers['slow_mismatches']}",
        ),
    ]
    if scores := certificate.get("lambada"):
        sides = [f"{side} ppl {scores[side]['ppl']:.2f} acc {scores[side]['acc']:.2f}" for side in SIDES]
        difference = f"largest difference of a passage {scores['max_abs_logprob_diff']:.1e}"
        rows.append(("LAMBADA", f"{scores['documents']:,} passages", "; ".join([*sides, difference])))
    return rows + [("**outside the tolerance**", sentence, "**failed**") for sentence in certificate["failures"]]
