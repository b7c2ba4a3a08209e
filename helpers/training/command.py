"""``python -m helpers train``: train a small checkpoint from a text file."""

import argparse
import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from ..errors import InputError
from ..lambada import Document, collect, encode, read_texts, score_converted, summarize
from ..sampling import Sampling, stream
from ..trie import TrieTokenizer
from ..vocab import read_vocab
from .model import loaded_model
from .trainer import Run, TrainOptions
from .windows import WindowOptions, Windows

PROMPT = "The old man looked at the sea and"
EVALUATIONS = (25, 50, 75, 100)  # percent of training after which the model is measured


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = TrainOptions()
    parser.add_argument("--corpus", type=Path, required=True, help="UTF-8 text, or .xz; <|doc|> between documents")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="log, saved state, model.pth")
    parser.add_argument("--version", choices=("4", "5.0", "5.1", "5.2"), default="5.0")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--steps", type=int, default=0, help="train so many steps,")
    length.add_argument("--minutes", type=float, default=0.0, help="or so long")
    for name in ("layers", "hidden", "attention", "ffn", "batch"):
        parser.add_argument(f"--{name}", type=int, default=getattr(default, name), help="default: %(default)s")
    parser.add_argument("--window", type=int, default=default.windows.length, help="tokens (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=default.learning_rate, help="default: %(default)s")
    parser.add_argument("--head-rows", type=int, default=default.head_rows, help="of the softmax in a step")
    parser.add_argument("--table-bits", type=int, default=default.table_bits, help="of emb and head in the file")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--processes", type=int, default=4, help="that prepare text (default: %(default)s)")
    parser.add_argument("--save-every", type=int, default=1000, help="steps between saved states")
    parser.add_argument("--lambada", type=Path, metavar="FILE", help="measure on this JSON Lines file meanwhile")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    tricks = parser.add_argument_group("tricks to leave out, for ablations")
    tricks.add_argument("--no-rename", action="store_true", help="keep the names of the corpus")
    tricks.add_argument("--no-styles", action="store_true", help="keep its quotes, dashes and paragraph breaks")
    tricks.add_argument("--untied", action="store_true", help="start the head independently of the embedding")
    tricks.add_argument("--no-unigram-bias", action="store_true", help="no bias in the head")
    tricks.add_argument("--repeated-weight", type=float, default=default.repeated_weight, help="default: %(default)s")


def options_from(args: argparse.Namespace) -> TrainOptions:
    names = ("version", "steps", "minutes", "layers", "hidden", "attention", "ffn", "batch", "learning_rate")
    return TrainOptions(
        **{name: getattr(args, name) for name in (*names, "head_rows", "table_bits", "seed", "repeated_weight")},
        windows=WindowOptions(args.window, not args.no_rename, not args.no_styles, args.seed),
        tied=not args.untied,
        unigram_bias=not args.no_unigram_bias,
    )


def measure(run: Run, documents: list[Document]) -> dict:
    """Return LAMBADA's numbers, and a sample text, of the checkpoint so far."""
    model = loaded_model(run.weights()).to(run.device)
    result = {"sample": sample(model, PROMPT)}
    if documents:
        perplexity, accuracy = summarize(collect(score_converted(model, documents), len(documents), show=False))
        result |= {"lambada_perplexity": round(perplexity, 2), "lambada_accuracy": round(accuracy, 2)}
    return result


def sample(model, prompt: str, tokens: int = 60) -> str:
    """Return ``prompt`` with a continuation; the same one for the same weights."""
    tokenizer = TrieTokenizer(read_vocab())
    settings = Sampling(temperature=0.8, presence_penalty=0.5, max_new_tokens=tokens)
    with torch.inference_mode():
        new_ids = [token for token, _ in stream(model, tokenizer.encode(prompt), settings)]
    return prompt + tokenizer.decode(new_ids)


def train(
    options: TrainOptions, windows: Windows, out: Path, documents: list[Document], save_every: int, device: str
) -> dict:
    """Train, measure on the way, write ``model.pth`` and ``result.json`` into ``out``; return the latter."""
    run = Run(options, windows, out, device)
    if run.resume():
        print(f"resumed after step {run.progress.step}", flush=True)
    result = {"options": asdict(options), "rows": len(run.tokens), "evaluations": []}
    if run.device.type == "cuda":
        result["device"] = torch.cuda.get_device_name()
    waiting = [percent for percent in EVALUATIONS if percent > 100 * run.fraction()]
    for line in run.train(save_every, progress=sys.stderr.isatty()):
        if waiting and 100 * run.fraction() >= waiting[0]:
            waiting.pop(0)
            result["evaluations"].append(line | measure(run, documents))
            print(json.dumps(result["evaluations"][-1]), flush=True)
    run.export()
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def main(args: argparse.Namespace) -> int:
    if not (args.steps > 0 or args.minutes > 0):
        raise InputError("Give --steps or --minutes as a positive number.")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Cannot write into {args.out}: {error.strerror}; give another --out.") from None
    texts = read_texts(args.lambada) if args.lambada else []
    documents = encode(texts, TrieTokenizer(read_vocab()).encode)
    options = options_from(args)
    windows = Windows(args.corpus, args.out / "windows", options.windows, args.processes)
    try:
        train(options, windows, args.out, documents, args.save_every, args.device)
    finally:
        windows.close()
    shutil.rmtree(args.out / "windows")
    print(f"{args.out / 'model.pth'} is complete")
    return 0
