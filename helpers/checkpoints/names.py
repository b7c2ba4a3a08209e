"""Names of tensors: BlinkDL's in the ``.pth`` file, and those that the published Hugging Face repositories use."""

# part of a name in the .pth file -> the same in Hugging Face's, as in the published RWKV/rwkv-*-world repositories
RENAMES = {
    "emb": "embeddings",
    "ln0": "pre_ln",
    "att": "attention",
    "ffn": "feed_forward",
    "time_mix_k": "time_mix_key",
    "time_mix_v": "time_mix_value",
    "time_mix_r": "time_mix_receptance",
    "time_mix_g": "time_mix_gate",
}
OLD_NAMES = {new: old for old, new in RENAMES.items()}


def hub_name(name: str) -> str:
    """Return the Hugging Face name of a checkpoint's tensor: ``blocks.3.att.time_mix_k`` is
    ``rwkv.blocks.3.attention.time_mix_key``."""
    renamed = ".".join(RENAMES.get(part, part) for part in name.split("."))
    return renamed if name.startswith("head.") else f"rwkv.{renamed}"


def pth_name(name: str) -> str:
    """Return the checkpoint's name of a Hugging Face tensor: the inverse of :func:`hub_name`."""
    return ".".join(OLD_NAMES.get(part, part) for part in name.removeprefix("rwkv.").split("."))
