"""The command ``lambada``: a whole run, on one or several processes, that can be killed and continued."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from .errors import InputError
from .lambada import (
    PREFIXES,
    SAMPLE,
    Document,
    Progress,
    Result,
    check_directory,
    check_vocabulary,
    default_batch_tokens,
    encode,
    hash_texts,
    load_model,
    plan_batches,
    read_texts,
    score_batch,
    score_batches,
    score_with_oracle,
)
from .lambada_results import Header, append_results, hash_model, results_so_far, write_results

DTYPES = ("float32", "bfloat16", "float16")
STRATEGIES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}  # names of the rwkv package
Scorer = Callable[[list[Document]], list[Result]]


@dataclass(frozen=True)
class Processes:
    """The processes of this run, started by ``torchrun`` or ``accelerate launch``; one of them otherwise."""

    rank: int = 0
    count: int = 1

    def from_first(self, value: Any) -> Any:
        """Return to all processes what the first one has."""
        if self.count == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def gather(self, value: Any) -> list:
        """Return to all processes what each one has."""
        if self.count == 1:
            return [value]
        values = [None] * self.count
        dist.all_gather_object(values, value)
        return values


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """Join the other processes of this run, if there are any, for as long as the block lasts."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    dist.init_process_group("gloo")  # only numbers in Python objects are exchanged, so this is right for GPUs too
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def run(
    score: Scorer,
    documents: list[Document],
    batches: list[list[int]],
    header: Header | None = None,
    out: Path | None = None,
    processes: Processes = Processes(),
    show: bool = True,
) -> list[Result]:
    """Score documents batch by batch and return the results in their order; all processes return the same.

    Batches are dealt out to the processes like cards. They do not depend on how many there are, nor on what an earlier
    run has already made: each document is scored in the same company, so its result is the same number.

    Args:
        score: scores the documents of one batch.
        batches: indices of documents, each index once.
        header: what the results are of; needed with ``out``.
        out: results are appended to this file, and what it holds is not made again. Process N > 0 appends to a file
            of its own, which the first one takes in at the end, or after a killed run at the next start.

    Raises:
        InputError: ``out`` cannot be written, or holds something else.
    """
    first = processes.rank == 0
    done = prepare_file(out, header) if out and first else {}
    done = processes.from_first(done)
    ours = out if first or out is None else part(out, processes.rank)
    if ours and not first:
        write_results(ours, header, {})
    progress = Progress(len(documents), show and first)
    progress.add(done, lines=processes.count == 1)
    missing = [batch for batch in batches if not done.keys() >= set(batch)]
    for results in score_batches(score, documents, missing[processes.rank :: processes.count]):
        if ours:
            append_results(ours, results.items())
        progress.add(results, lines=processes.count == 1)
    for results in processes.gather(progress.results):
        progress.add(results)
    progress.bar.close()
    if out and first:
        write_results(out, header, progress.results)
        remove_parts(out)
    return progress.in_order


def part(out: Path, rank: int) -> Path:
    """Return the file that process ``rank`` writes while a run goes on."""
    return out.with_name(f"{out.name}.part{rank}")


def prepare_file(out: Path, header: Header) -> dict[int, Result]:
    """Start the file of results, with what an earlier run and its other processes made; return that."""
    done = results_so_far(out, header)
    for file in out.parent.glob(f"{out.name}.part*"):
        done |= results_so_far(file, header)
    write_results(out, header, done)
    remove_parts(out)
    return done


def remove_parts(out: Path) -> None:
    for file in out.parent.glob(f"{out.name}.part*"):
        file.unlink(missing_ok=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, metavar="X.pth", help="the original, run by the rwkv package")
    source.add_argument("--model", type=Path, metavar="DIR", help="the converted model, run by transformers")
    parser.add_argument(
        "--data", default=str(SAMPLE), help="a JSON Lines file with the field text, or: hub (default: passages of ours)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N passages")
    parser.add_argument("--prefix", choices=PREFIXES, default="none", help="what stands before each passage")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.jsonl", help="append each document's result here; the same command goes on"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the weights (default: float32)")
    parser.add_argument("--tf32", action="store_true", help="let a GPU round the inputs of fp32 products to 10 bits")
    parser.add_argument("--device", help="for example cpu or cuda:1 (default: a GPU if there is one)")
    parser.add_argument("--device-map", choices=("auto",), help="spread a converted model over all GPUs")
    parser.add_argument("--batch-tokens", type=int, metavar="N", help="tokens that a converted model reads at once")


def main(args: argparse.Namespace) -> int:
    check_arguments(args)
    device = choose_device(args.device)
    texts = read_texts(args.data, args.limit)
    documents = encode_world(texts, args.prefix)
    with joined_processes() as processes:
        if processes.rank == 0 and (copies := len(texts) - len(set(texts))):
            print(f"note: {copies} of {len(texts)} passages are repeated; each one counts", file=sys.stderr)
        torch.backends.cuda.matmul.allow_tf32 = args.tf32
        header = describe_run(args, texts, device) if processes.rank == 0 else None
        header = processes.from_first(header)
        if args.out and processes.rank == 0:
            results_so_far(args.out, header)  # refuse now, not after loading a large model
        score, batches = load_scorer(args, documents, device)
        start = time.perf_counter()
        run(score, documents, batches, header, args.out, processes)
        seconds = time.perf_counter() - start
        if processes.rank == 0:
            print(summary_line(header, processes.count, seconds))
    return 0


def check_arguments(args: argparse.Namespace) -> None:
    """Raise InputError if the arguments contradict each other or name nothing."""
    if args.batch_tokens is not None and args.batch_tokens < 1:
        raise InputError(f"--batch-tokens is {args.batch_tokens}; give a number from 1 on.")
    if args.checkpoint and (args.device_map or args.batch_tokens):
        raise InputError("--device-map and --batch-tokens are for --model; the original is run one passage at a time.")
    if args.device_map and args.device:
        raise InputError("Give --device or --device-map, not both.")
    if args.device_map and "WORLD_SIZE" in os.environ:
        raise InputError("--device-map spreads one process over all GPUs; start it without torchrun or accelerate.")
    if args.out and not args.out.absolute().parent.is_dir():
        raise InputError(f"There is no directory {args.out.parent} for --out; make it first.")
    if args.out and args.out.is_dir():
        raise InputError(f"--out {args.out} is a directory; give the name of a file.")


def choose_device(wanted: str | None) -> str:
    """Return the device that this process uses: by default its own GPU.

    Raises:
        InputError: there is no such device.
    """
    local_rank = os.environ.get("LOCAL_RANK", "0")
    name = wanted or (f"cuda:{local_rank}" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA fails an assertion
        raise InputError(f"Cannot use the device {name}: {str(error).splitlines()[0]}; try --device cpu.") from None
    return name


def encode_world(texts: list[str], prefix: str) -> list[Document]:
    """Encode passages with the World vocabulary."""
    from .trie import TrieTokenizer
    from .vocab import read_vocab

    return encode(texts, TrieTokenizer(read_vocab()).encode, prefix)


def describe_run(args: argparse.Namespace, texts: list[str], device: str) -> Header:
    """Return the header of this run.

    Raises:
        InputError: the model cannot be read.
    """
    path = args.checkpoint or args.model
    if args.model:
        check_directory(args.model)
    engine = "rwkv" if args.checkpoint else "transformers"
    try:
        model = hash_model(path)
    except OSError as error:
        raise InputError(f"Cannot read the model {path}: {error.strerror}; check the path.") from None
    kind = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    made_with = {"model": path.name, "torch": torch.__version__, engine: version(engine), "device": kind}
    return Header(model, hash_texts(texts), len(texts), args.prefix, engine, args.dtype, args.tf32, made_with)


def load_scorer(args: argparse.Namespace, documents: list[Document], device: str) -> tuple[Scorer, list[list[int]]]:
    """Load the model, and return the function that scores one batch, and the batches for it.

    Raises:
        InputError: the model cannot be loaded, or is not a World model.
    """
    if args.checkpoint:
        from .checkpoints import describe_checkpoint
        from .oracle import fp32_copy, load_oracle

        check_vocabulary(describe_checkpoint(args.checkpoint).vocab_size, documents, args.checkpoint)
        path = fp32_copy(args.checkpoint) if args.dtype == "float32" else args.checkpoint
        oracle = load_oracle(path, f"{device} {STRATEGIES[args.dtype]}")
        return partial(score_with_oracle, oracle), [[index] for index in range(len(documents))]
    model = load_model(args.model, dtype=getattr(torch, args.dtype), device=device, device_map=args.device_map)
    check_vocabulary(model.get_input_embeddings().num_embeddings, documents, args.model)
    batch_tokens = args.batch_tokens or default_batch_tokens(model.device)
    return partial(score_batch, model, piece=batch_tokens), plan_batches(documents, batch_tokens)


def summary_line(header: Header, processes: int, seconds: float) -> str:
    """Return what the numbers are of, in one line."""
    engine = f"{header.engine} {header.made_with[header.engine]} on {header.made_with['device']}"
    precision = f"{header.dtype}, TF32 {'on' if header.tf32 else 'off'}"
    where = engine if processes == 1 else f"{engine}, {processes} processes"
    return f"{header.documents} documents, prefix {header.prefix}, {precision}, {where}, {seconds:.1f} s"
