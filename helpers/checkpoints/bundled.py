"""The trained checkpoints that the project carries, packed in ``data/``."""

import lzma
import shutil
from pathlib import Path

from ..atomic import replaced_file
from ..errors import InputError
from ..paths import BUILD, DATA, IS_CHECKOUT, shown
from .files import sha256

BUNDLED_SHA256 = {
    "rwkv5-world-mini": "022652c7b08da23e1bba4691a59a2b6ee8551eee3cab96df6ccd97c13aedb716",
    "rwkv4-world-mini": "258373893ffa9175887d2f04c11ad6f6bf8dcd014c5c8bf96ff81cf071c0fbc0",
    "rwkv6-world-mini": "4f874f3388ee8d4701dc2989c2b546fc3990ae192daf9df75490b9455eef85fd",
    "rwkv7-world-mini": "0fbdf4852008b9cef5c4349780fd5e645d34d91b67561a1f38d299348978a827",
}


def bundled_checkpoint(name: str = "rwkv5-world-mini") -> Path:
    """Return the path of a checkpoint that the project carries, unpacked from ``data/`` into ``build/`` when needed.

    Raises:
        InputError: no such checkpoint, or its contents do not have the recorded SHA-256, or the package was installed
            without the repository, which alone has the trained checkpoints.
    """
    if name not in BUNDLED_SHA256:
        raise InputError(f"There is no bundled checkpoint {name!r}; choose one of {', '.join(BUNDLED_SHA256)}.")
    path = BUILD / "checkpoints" / f"{name}.pth"
    if path.exists() and sha256(path) == BUNDLED_SHA256[name]:
        return path
    packed = DATA / f"{name}.pth.xz"
    if not IS_CHECKOUT and not packed.exists():
        raise InputError(f"{name} is not in an installed package; run this in a clone of the project's repository.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as partial:  # two processes may unpack at once
        try:
            with lzma.open(packed) as source, open(partial, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise InputError(f"Cannot unpack {shown(packed)}: {error}; run git checkout -- data.") from None
        if sha256(partial) != BUNDLED_SHA256[name]:
            raise InputError(f"{shown(packed)} is not the file that was published; run git checkout -- data.")
    return path
