"""The table of behaviours: what was measured, beside what was read in the source of the original ports."""

import html

Answer = str | None  # None: right; else a few words on what happens instead

UNKNOWN = "?"  # cannot be told from reading

# BBuf/RWKV-World-HF-Tokenizer, read, not run: rwkv_world_v5.0_model/modeling_rwkv5.py at 122aa69 (RWKV-5.0), and
# rwkv_world_v5_model_batch/modeling_rwkv5.py at 51beae0 (RWKV-5.2)
READ: dict[str, tuple[Answer, Answer]] = {
    "prefill equals the rwkv package": ("GroupNorm eps 1e-5", None),
    "decode equals the rwkv package": ("GroupNorm eps 1e-5", None),
    "a model of one layer": ("divides by zero", "divides by zero"),
    "batch == its rows, prefill": ("view() for one row", None),
    "batch == its rows, cached decode": ("view() for one row", None),
    "left padding changes nothing": ("mask unused", "mask unused"),
    "right padding: logits": (None, None),
    "right padding: state": ("mask unused", "mask unused"),
    "a text can be split anywhere": (None, None),
    "a state that is given stays as it is": ("overwritten in place", "overwritten in place"),
    "generate continues a given state": ("reads one token only", "reads one token only"),
    "generate, padded batch": ("mask unused", "mask unused"),
    "generate, several samples": ("view() for one row", None),
    "generate, beam search": ("state not reordered", "state not reordered"),
    "inputs_embeds": ("needs input_ids", None),
    "logits_to_keep": ("no such argument", "no such argument"),
    "save after a forward pass": ("pre_ln baked in", "fp16: divided weights"),
    "loss with labels": (None, None),
    "gradients of every parameter": ("no state in training", "state under no_grad"),
    "gradient checkpointing": ("declared, not done", "declared, not done"),
    "1,000 tokens in fp16": (UNKNOWN, UNKNOWN),
    "torch.compile, one graph": (UNKNOWN, UNKNOWN),
}

GROUPS = (("this project", 4), ("transformers", 1), ("original ports (read)", 2))
GOOD, BAD = "#00795a", "#b34700"  # readable on white and on black


def cell(answer: Answer) -> str:
    """Return one cell: a tick, a question mark, or a cross with what happens instead."""
    if answer is None:
        return f'<td style="color: {GOOD}; text-align: center">✓</td>'
    if answer == UNKNOWN:
        return '<td style="text-align: center">?</td>'
    return f'<td style="color: {BAD}; text-align: left">✗ {html.escape(answer)}</td>'


def table_html(measured: dict[str, dict[str, Answer]]) -> str:
    """Return the table as HTML.

    Args:
        measured: for each column, ``5.0``, ``5.1``, ``5.2``, ``4`` and transformers' ``4``, the answers of
            :func:`helpers.proof.behaviour.measure`.
    """
    groups = "".join(f'<th colspan="{width}" style="text-align: center">{name}</th>' for name, width in GROUPS)
    versions = [name.split()[0] for name in measured] + ["5.0", "5.2"]
    heads = "".join(f'<th style="text-align: center">RWKV-{version}</th>' for version in versions)
    rows = []
    for behaviour, read in READ.items():
        answers = [column[behaviour] for column in measured.values()] + list(read)
        cells = "".join(map(cell, answers))
        rows.append(f'<tr><td style="text-align: left">{html.escape(behaviour)}</td>{cells}</tr>')
    head = f"<thead><tr><th></th>{groups}</tr><tr><th></th>{heads}</tr></thead>"
    return f'<table style="font-size: 90%">{head}<tbody>{"".join(rows)}</tbody></table>'
