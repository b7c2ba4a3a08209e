"""Names of tensors: BlinkDL's in the ``.pth`` file, and those of converted models, in a layout of :mod:`.versions`."""

from .versions import LAYOUT_4_TO_6, LAYOUTS, Layout


def hub_name(name: str, layout: Layout = LAYOUT_4_TO_6) -> str:
    """Return the name in a converted model of a checkpoint's tensor.

    ``blocks.3.att.time_mix_k`` is ``rwkv.blocks.3.attention.time_mix_key`` in the layout of RWKV-5.
    """
    renamed = ".".join(layout.renames.get(part, part) for part in name.split("."))
    return renamed if name.startswith("head.") else f"{layout.prefix}.{renamed}"


def pth_name(name: str) -> str:
    """Return the checkpoint's name of a converted model's tensor: the inverse of :func:`hub_name` in any layout."""
    prefix, _, rest = name.partition(".")
    if prefix not in LAYOUTS:
        return name
    old_names = {new: old for old, new in LAYOUTS[prefix].renames.items()}
    return ".".join(old_names.get(part, part) for part in rest.split("."))


def is_hub_name(name: str) -> bool:
    """Say whether a tensor of a converted model can have that name."""
    return any(hub_name(pth_name(name), layout) == name for layout in LAYOUTS.values())
