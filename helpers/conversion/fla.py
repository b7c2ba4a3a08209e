"""A converted directory in the layout of flash-linear-attention, which llama.cpp and mlx-lm read, too.

Two small files are for the way back alone, and no other program looks at them: the names of the checkpoint's tensors in
their order, and tensors of block 0 that some RWKV-7 have, nothing reads, and fla has no place for.
"""

import json
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from ..atomic import new_directory, refuse_existing, write_text
from ..checkpoints.files import save_checkpoint
from ..checkpoints.fla import FlaLayout, to_fla
from ..checkpoints.intact import CheckedFile, checked
from ..checkpoints.versions import VERSIONS, CheckpointInfo
from ..errors import InputError
from ..tokenizer.fast import save_tokenizers
from ..tokenizer.vocab import VOCAB_FILE_NAME, world_vocab_path
from .directory import TOKENIZER_BYTES, refuse_small_disk
from .names import CARD, PTH_NAMES, PTH_UNUSED
from .reading import is_world, load_converted, weight_files
from .record import write_record
from .refresh import old_context_length
from .sizes import SHARD_LIMIT, parse_size
from .weights import total_bytes, write_weights

CARD_TEXT = """---
license: apache-2.0
pipeline_tag: text-generation
tags:
- rwkv
---

# RWKV-{version} in the layout of flash-linear-attention, from {source}

{parameters:,} parameters, {layers} layers, hidden size {hidden}, vocabulary of {vocab:,} rows.
{sentences}

```python
import fla  # flash-linear-attention, which needs a GPU
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this directory, or the name of this repository
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").cuda()
```

`{names}` and `{unused}`, if it is there, are for the way back: `python -m helpers export` makes of this directory
the `.pth` file that it came from.
"""


def export_fla(
    folder: str | Path, out: str | Path, max_shard_size: str = SHARD_LIMIT, progress: bool = True
) -> tuple[Path, list[str]]:
    """Write a converted directory to the new directory ``out``, in fla's names and configuration.

    Return it, and sentences on what fla computes otherwise than the checkpoint's own code.

    Raises:
        InputError: ``folder`` is no converted model, or of a version that fla does not have, ``out`` is not empty, or
            the disk is full. Then there is no ``out``.
    """
    folder, out = Path(folder), Path(out)
    refuse_existing(out)
    limit = parse_size(max_shard_size)
    files = tuple(CheckedFile.plain(file) for file in weight_files(folder))
    weights, info = load_converted(folder)
    layout = layout_of(info, folder)
    renamed, unused = to_fla(weights, layout)
    length = old_context_length(folder)
    with new_directory(out) as new:
        refuse_small_disk(new, total_bytes(weights, None) + TOKENIZER_BYTES)
        with checked(*files, hashed=True) as checks:
            hashes = write_weights(new, renamed, None, None, limit, folder, progress)
            if unused:
                save_checkpoint(unused, new / PTH_UNUSED)
            write_text(new / PTH_NAMES, json.dumps(list(weights), indent=0) + "\n")
            write_text(new / "config.json", json.dumps(fla_config(info, layout, length), indent=2) + "\n")
            special_ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
            GenerationConfig(**special_ids).save_pretrained(new)  # type: ignore[no-untyped-call]
            if is_world(folder, info.vocab_size):
                save_tokenizers(new)
                write_text(new / VOCAB_FILE_NAME, world_vocab_path().read_bytes().decode().replace("\r\n", "\n"))
            write_text(new / CARD, card(info, layout, folder))
        write_record(new, {file.path: checks.sha256(file) for file in files}, hashes)
    return out, list(layout.limits(info))


def layout_of(info: CheckpointInfo, folder: Path) -> FlaLayout:
    """Return what the version of a model is in fla.

    Raises:
        InputError: fla does not have it.
    """
    if info.row.fla is None:
        known = " and ".join(f"RWKV-{name}" for name, row in VERSIONS.items() if row.fla)
        raise InputError(
            f"{folder} is an RWKV-{info.version}, which flash-linear-attention does not have (it has {known}); "
            "export to a .pth file instead."
        )
    return info.row.fla


def fla_config(info: CheckpointInfo, layout: FlaLayout, context_length: int) -> dict[str, Any]:
    """Return ``config.json`` with the fields of fla's ``RWKV6Config`` and ``RWKV7Config``.

    There is no ``pad_token_id``: fla gives it to the embedding, whose row 0, of the end of text, would then never be
    trained.
    """
    return {
        "architectures": [layout.model_class],
        "model_type": info.row.model_type,
        "attn_mode": "chunk",
        "hidden_size": info.hidden_size,
        "hidden_ratio": info.ffn_size / info.hidden_size,
        "intermediate_size": info.ffn_size,
        "num_hidden_layers": info.layers,
        **layout.fields(info),
        "hidden_act": "sqrelu",
        "max_position_embeddings": context_length,
        "norm_first": True,
        "norm_bias": True,
        "norm_eps": 1e-5,
        "attn": None,
        "use_cache": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "tie_word_embeddings": False,
        "fuse_norm": True,
        "fuse_cross_entropy": True,
        "vocab_size": info.vocab_size,
        "dtype": info.main_dtype,
    }


def card(info: CheckpointInfo, layout: FlaLayout, folder: Path) -> str:
    """Return the model card."""
    return CARD_TEXT.format(
        version=info.version,
        source=folder.resolve().name,
        parameters=info.parameters,
        layers=info.layers,
        hidden=info.hidden_size,
        vocab=info.vocab_size,
        sentences="\n".join(("No number was changed.", *layout.limits(info))),
        names=PTH_NAMES,
        unused=PTH_UNUSED,
    )
