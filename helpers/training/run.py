"""A whole training run: from a corpus to ``model.pth``, measured on the way."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..atomic import claim, owned_folder, write_text
from ..conversion.loading import choose_device
from ..errors import InputError
from ..generation.sampling import Sampling, stream
from ..inputs import check_regular
from ..lambada.passages import Document, read_texts
from ..lambada.protocol import collect, encode_world, score_converted, summarize
from ..tokenizer.trie import TrieTokenizer
from ..tokenizer.vocab import read_vocab
from .model import loaded_model
from .options import TrainOptions, difference, origin
from .trainer import LOG, MODEL, STATE, TrainingRun, read_state
from .windows import Windows, hash_corpus, read_corpus

RESULT, WINDOWS = "result.json", "windows"  # beside the files of the trainer
PROMPT = "The old man looked at the sea and"
EVALUATIONS = (25, 50, 75, 100)  # percent of training after which the model is measured


def train_from_text(
    corpus: Path,
    out: Path,
    options: TrainOptions,
    passages: Path | None = None,
    processes: int = 4,
    save_every: int = 1000,
    device: str | None = None,
    progress: bool = True,
) -> Path:
    """Train a checkpoint from a text file, in the folder ``out``, and return the path of ``model.pth`` there.

    A run that was killed goes on when it is started again with the same arguments; one that is finished is left as it
    is. In a folder of another run, or with files of these names that no run of ours wrote, nothing is done. A second
    process in the same folder is refused.

    Args:
        corpus: see :mod:`.windows`.
        passages: JSON Lines to measure LAMBADA's numbers on meanwhile.
        processes: that prepare text beside this one.
        save_every: steps between two saved states; 0 saves none.
        device: by default a GPU if there is one.

    Raises:
        InputError: a file cannot be read or written, the folder belongs to another run, there is no such device, or
            memory does not suffice.
    """
    if not (options.steps > 0 or options.minutes > 0):
        raise InputError("Give --steps or --minutes as a positive number.")
    for name, value, most in (("processes", processes, 256), ("save-every", save_every, 10**9)):
        if not 0 <= value <= most:
            raise InputError(f"--{name} is {value}; give a number from 0 to {most:,}.")
    device = choose_device(device)
    check_folder(out)
    with owned_folder(out) as folder:
        if is_finished(out, options, corpus, device):
            return out / MODEL
        claim(folder, (f"{WINDOWS}/*", LOG, STATE, RESULT))
        clear_partials(folder)
        if (out / STATE).exists():  # look now, not when the windows have been made
            read_state(out / STATE, origin_of(options, corpus, device))
        documents = encode_world(read_texts(passages)) if passages else []
        windows = Windows(corpus, out / WINDOWS, options.windows, processes)
        try:
            with enough_memory():
                train(options, windows, out, documents, save_every, device, progress)
        except InputError:
            windows.remove()  # another run, after what is wrong has been mended, may need other ones
            raise
        finally:
            windows.close()
        windows.remove()
    return out / MODEL


def check_folder(out: Path) -> None:
    """Raise InputError if one of the files that a run writes is something else in ``out``, such as a pipe."""
    for name in (LOG, STATE, RESULT, MODEL):
        if os.path.lexists(out / name):
            check_regular(out / name, "the file of an earlier run", "give another --out")


def clear_partials(folder: Path) -> None:
    """Remove the files that a process was writing when it was killed."""
    for name in (LOG, STATE, RESULT, MODEL):
        for path in folder.glob(f".{name}.*.partial"):
            path.unlink()


def origin_of(options: TrainOptions, corpus: Path, device: str) -> dict[str, Any]:
    """Return what a run is made from."""
    return origin(options, hash_corpus(read_corpus(corpus)), torch.device(device).type)


def is_finished(out: Path, options: TrainOptions, corpus: Path, device: str) -> bool:
    """Say whether the model of this run is in ``out`` already.

    Raises:
        InputError: it is the model of another run, or nothing says of which.
    """
    if not (out / MODEL).exists():
        return False
    try:
        theirs = json.loads((out / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(
            f"{out / MODEL} is there, and no {RESULT} says what it was made from; give another --out."
        ) from None
    if found := difference(theirs, origin_of(options, corpus, device)):
        raise InputError(f"{out / MODEL} was made by another run: {found}; give another --out.")
    print(f"{out / MODEL} was made by this run before; nothing is left to do", flush=True)
    return True


@contextmanager
def enough_memory() -> Iterator[None]:
    """Turn what torch raises when memory does not suffice into one sentence."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not known:
            raise
        raise InputError("There is too little memory for this run; give a smaller batch, window or model.") from None


def train(
    options: TrainOptions,
    windows: Windows,
    out: Path,
    documents: list[Document],
    save_every: int,
    device: str,
    progress: bool = True,
) -> dict[str, Any]:
    """Train, measure on the way, write ``result.json`` and ``model.pth`` into ``out``; return the former."""
    run = TrainingRun(options, windows, out, device)
    if run.resume():
        print(f"resumed after step {run.position.step}", flush=True)
    waiting = [percent for percent in EVALUATIONS if percent > 100 * run.fraction()]
    for line in run.train(save_every, progress):
        if waiting and 100 * run.fraction() >= waiting[0]:
            waiting.pop(0)
            run.evaluations.append(line | measure(run, documents))
            print(json.dumps(run.evaluations[-1]), flush=True)
    result = run.origin | {"rows": len(run.tokens), "evaluations": run.evaluations}
    if run.device.type == "cuda":
        result["device"] = torch.cuda.get_device_name(run.device)
    write_text(out / RESULT, json.dumps(result, indent=1) + "\n")
    run.export()  # last of all: a run is finished when its model is there
    return result


def measure(run: TrainingRun, documents: list[Document]) -> dict[str, Any]:
    """Return LAMBADA's numbers, and a sample text, of the checkpoint so far."""
    model: Any = loaded_model(run.weights())
    model.to(run.device)
    result: dict[str, Any] = {"sample": sample(model, PROMPT)}
    if documents:
        perplexity, accuracy = summarize(collect(score_converted(model, documents), len(documents), show=False))
        result |= {"lambada_perplexity": round(perplexity, 2), "lambada_accuracy": round(accuracy, 2)}
    return result


def sample(model: Any, prompt: str, tokens: int = 60) -> str:
    """Return ``prompt`` with a continuation; the same one for the same weights."""
    tokenizer = TrieTokenizer(read_vocab())
    settings = Sampling(temperature=0.8, presence_penalty=0.5, max_new_tokens=tokens)
    with torch.inference_mode():
        new_ids = [token for token, _ in stream(model, tokenizer.encode(prompt), settings)]
    return prompt + tokenizer.decode(new_ids)
