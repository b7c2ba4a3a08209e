"""Where lm-eval's task ``lambada_local`` gets its passages: from the same function as the command ``lambada``."""

from datasets import Dataset

from helpers.lambada import SAMPLE, read_texts


def load(data: str = str(SAMPLE), **settings) -> dict[str, Dataset]:
    """Return the passages as lm-eval wants them; ``data`` and other settings come from ``--metadata``.

    Raises:
        InputError: see :func:`helpers.lambada.passages.read_texts`.
    """
    return {"test": Dataset.from_list([{"text": text} for text in read_texts(data)])}
