"""The way back: a converted directory as a ``.pth`` file in BlinkDL's format, equal to the original bit for bit."""

from pathlib import Path

from ..atomic import new_file, refuse_existing
from ..checkpoints.files import save_checkpoint
from .reading import load_converted


def export(folder: str | Path, out: str | Path) -> Path:
    """Write the weights of a converted directory to the new file ``out`` and return it.

    Names, order, shapes and dtypes are those of the checkpoint that was converted. The ``rwkv`` package loads the file.

    Raises:
        InputError: ``folder`` is no converted model, ``out`` exists, or the disk is full. Then there is no ``out``.
    """
    out = Path(out)
    refuse_existing(out)
    weights, _ = load_converted(folder)
    in_order = {name: weight.contiguous() for name, weight in weights.items()}  # those that fla turned are small
    with new_file(out) as partial:
        save_checkpoint(in_order, partial)  # tensor by tensor: the weights are memory-mapped
    return out
