"""A whole training run: from a corpus to ``model.pth``, measured on the way."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..atomic import write_text
from ..errors import InputError
from ..generation.sampling import Sampling, stream
from ..lambada.passages import Document, read_texts
from ..lambada.protocol import collect, encode_world, score_converted, summarize
from ..tokenizer.trie import TrieTokenizer
from ..tokenizer.vocab import read_vocab
from .model import loaded_model
from .options import TrainOptions
from .trainer import TrainingRun
from .windows import Windows

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

    A run that was killed goes on when it is started again with the same arguments.

    Args:
        corpus: see :mod:`.windows`.
        passages: JSON Lines to measure LAMBADA's numbers on meanwhile.
        processes: that prepare text beside this one.
        save_every: steps between two saved states.
        device: by default a GPU if there is one.

    Raises:
        InputError: a file cannot be read or written, or the folder belongs to a run with other options.
    """
    if not (options.steps > 0 or options.minutes > 0):
        raise InputError("Give --steps or --minutes as a positive number.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Cannot write into {out}: {error.strerror}; give another --out.") from None
    documents = encode_world(read_texts(passages)) if passages else []
    windows = Windows(corpus, out / "windows", options.windows, processes)
    try:
        train(options, windows, out, documents, save_every, device, progress)
    finally:
        windows.close()
    shutil.rmtree(out / "windows")
    return out / "model.pth"


def train(
    options: TrainOptions,
    windows: Windows,
    out: Path,
    documents: list[Document],
    save_every: int,
    device: str | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Train, measure on the way, write ``model.pth`` and ``result.json`` into ``out``; return the latter."""
    run = TrainingRun(options, windows, out, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if run.resume():
        print(f"resumed after step {run.position.step}", flush=True)
    evaluations: list[dict] = []
    result: dict[str, Any] = {"options": asdict(options), "rows": len(run.tokens), "evaluations": evaluations}
    if run.device.type == "cuda":
        result["device"] = torch.cuda.get_device_name()
    waiting = [percent for percent in EVALUATIONS if percent > 100 * run.fraction()]
    for line in run.train(save_every, progress):
        if waiting and 100 * run.fraction() >= waiting[0]:
            waiting.pop(0)
            evaluations.append(line | measure(run, documents))
            print(json.dumps(evaluations[-1]), flush=True)
    run.export()
    write_text(out / "result.json", json.dumps(result, indent=1) + "\n")
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
