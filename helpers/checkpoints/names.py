"""Names of tensors: BlinkDL's in the ``.pth`` file, and those that the published Hugging Face repositories use.

Two layouts: RWKV-4, 5 and 6 as in the published RWKV/rwkv-*-world repositories, with the prefix ``rwkv``, and RWKV-7 as in
RWKV/RWKV7-*, where only the prefix ``rwkv7`` is added. The head has no prefix.
"""

# prefix of a layout -> part of a name in the .pth file -> the same in Hugging Face's
RENAMES: dict[str, dict[str, str]] = {
    "rwkv": {
        "emb": "embeddings",
        "ln0": "pre_ln",
        "att": "attention",
        "ffn": "feed_forward",
        "time_mix_k": "time_mix_key",
        "time_mix_v": "time_mix_value",
        "time_mix_r": "time_mix_receptance",
        "time_mix_g": "time_mix_gate",
    },
    "rwkv7": {},
}
OLD_NAMES = {prefix: {new: old for old, new in names.items()} for prefix, names in RENAMES.items()}


def hub_name(name: str, prefix: str = "rwkv") -> str:
    """Return the Hugging Face name of a checkpoint's tensor in the layout of that prefix.

    ``blocks.3.att.time_mix_k`` is ``rwkv.blocks.3.attention.time_mix_key``.
    """
    renamed = ".".join(RENAMES[prefix].get(part, part) for part in name.split("."))
    return renamed if name.startswith("head.") else f"{prefix}.{renamed}"


def layout_of(name: str) -> str | None:
    """Return the prefix of a Hugging Face name's layout; None if it has none of the two."""
    prefix = name.partition(".")[0]
    return prefix if prefix in RENAMES else None


def pth_name(name: str) -> str:
    """Return the checkpoint's name of a Hugging Face tensor: the inverse of :func:`hub_name`, in both layouts."""
    prefix = layout_of(name)
    if prefix is None:
        return name
    old_names = OLD_NAMES[prefix]
    return ".".join(old_names.get(part, part) for part in name.removeprefix(f"{prefix}.").split("."))
