"""A whole run of LAMBADA, on one or several processes, that can be killed and continued."""

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

from ..checkpoints.format import describe_checkpoint
from ..checkpoints.oracle import fp32_copy, load_oracle
from ..checkpoints.versions import WORLD_IDS
from ..conversion.isolated import IsolatedModel
from ..conversion.loading import check_directory, choose_device, load_model, other_code, refuse_other_code
from ..conversion.reading import load_converted
from ..errors import InputError
from .passages import SAMPLE, Document, check_vocabulary, hash_texts, read_texts
from .protocol import (
    Result,
    ScoreLog,
    default_batch_tokens,
    encode_world,
    not_finite,
    plan_batches,
    score_batch,
    score_batches,
    score_targets,
    score_with_oracle,
    target_logits,
)
from .results import Header, append_results, hash_model, results_so_far, write_results

STRATEGIES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}  # names of the rwkv package
Scorer = Callable[[list[Document]], list[Result]]


@dataclass(frozen=True)
class RunOptions:
    """What to run: either ``checkpoint``, with the ``rwkv`` package, or ``model``, with transformers.

    Args:
        data: see :func:`helpers.lambada.passages.read_texts`; so ``limit``.
        prefix: what stands before each passage, one of ``PREFIXES``.
        out: append each document's result to this file; the same options then go on where a run stopped.
        dtype: of the weights, by its name.
        tf32: let a GPU round the inputs of fp32 products to 10 bits.
        device: by default a GPU if there is one.
        device_map: ``"auto"`` spreads a converted model over all GPUs.
        batch_tokens: that a converted model reads at once.
        trust_remote_code: run code of the directory that is not this project's, in a process of its own.

    Raises:
        InputError: the options contradict each other or name nothing.
    """

    checkpoint: Path | None = None
    model: Path | None = None
    data: str = str(SAMPLE)
    limit: int | None = None
    prefix: str = "none"
    out: Path | None = None
    dtype: str = "float32"
    tf32: bool = False
    device: str | None = None
    device_map: str | None = None
    batch_tokens: int | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if (self.checkpoint is None) == (self.model is None):
            raise InputError("Give a checkpoint or a converted model, one of the two.")
        if self.dtype not in STRATEGIES:
            raise InputError(f"There is no dtype {self.dtype}; choose one of {', '.join(STRATEGIES)}.")
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise InputError(f"--batch-tokens is {self.batch_tokens}; give a number from 1 on.")
        if self.checkpoint and (self.device_map or self.batch_tokens or self.trust_remote_code):
            raise InputError(
                "--device-map, --batch-tokens and --trust-remote-code are for --model; "
                "the original is run one passage at a time."
            )
        if self.device_map and self.device:
            raise InputError("Give --device or --device-map, not both.")
        if self.device_map and "WORLD_SIZE" in os.environ:
            raise InputError("--device-map spreads one process over all GPUs; start it without torchrun or accelerate.")
        if self.out and not self.out.absolute().parent.is_dir():
            raise InputError(f"There is no directory {self.out.parent} for --out; make it first.")
        if self.out and self.out.is_dir():
            raise InputError(f"--out {self.out} is a directory; give the name of a file.")

    @property
    def path(self) -> Path:
        """Return the checkpoint or the directory."""
        path = self.checkpoint or self.model
        assert path is not None  # see __post_init__
        return path


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


def score_all(
    score: Scorer,
    documents: list[Document],
    batches: list[list[int]],
    header: Header,
    out: Path | None = None,
    processes: Processes = Processes(),
    show: bool = True,
) -> list[Result]:
    """Score documents batch by batch and return the results in their order; all processes return the same.

    Process N of M takes every M-th batch, from batch N on. What is in a batch depends neither on M nor on what an
    earlier run has already made, so each document is always scored beside the same others and gets the same number.

    Args:
        score: scores the documents of one batch.
        batches: indices of documents, each index once.
        header: what the results are of, for ``out``.
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
    log = ScoreLog(len(documents), show and first)
    log.add(done, lines=processes.count == 1)
    missing = [batch for batch in batches if not done.keys() >= set(batch)]
    for results in score_batches(score, documents, missing[processes.rank :: processes.count]):
        if ours:
            append_results(ours, [(index, result) for index, result in results.items() if index not in done])
        log.add(results, lines=processes.count == 1)
    for results in processes.gather(log.results):
        log.add(results)
    log.bar.close()
    if out and first:
        write_results(out, header, log.results)
        remove_parts(out)
    return log.in_order


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


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let a GPU round the inputs of fp32 products to 10 bits, or forbid it, for as long as the block lasts."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def evaluate(options: RunOptions) -> str | None:
    """Run LAMBADA, with BlinkDL's lines on the way, and return a line that says what the numbers are of.

    All processes of a run that ``torchrun`` or ``accelerate launch`` started call it; only the first returns the line.

    Raises:
        InputError: the passages or the model cannot be read, ``out`` holds something else, the directory's code is not
            this project's and not trusted, or a result is not finite.
    """
    device = choose_device(options.device)
    texts = read_texts(options.data, options.limit)
    documents = encode_world(texts, options.prefix)
    with joined_processes() as processes, tf32(options.tf32):
        first = processes.rank == 0
        if first and (copies := len(texts) - len(set(texts))):
            print(f"note: {copies} of {len(texts)} passages are repeated; each one counts", file=sys.stderr)
        header = processes.from_first(describe_run(options, texts, device) if first else None)
        if options.out and first:
            results_so_far(options.out, header)  # refuse now, not after loading a large model
        with load_scorer(options, documents, device) as (score, batches):
            start = time.perf_counter()
            results = score_all(score, documents, batches, header, options.out, processes)
            seconds = time.perf_counter() - start
        if bad := not_finite(results):
            raise InputError(
                f"{len(bad)} of {len(results)} results of {options.path} are not finite, the first of document "
                f"{bad[0]}: the model is broken, or {options.dtype} is too small for its numbers."
            )
        return summary_line(header, processes.count, seconds) if first else None


def describe_run(options: RunOptions, texts: list[str], device: str) -> Header:
    """Return the header of this run.

    Raises:
        InputError: the model cannot be read.
    """
    if options.model:
        check_directory(options.model)
        refuse_other_code(options.model, [] if options.trust_remote_code else other_code(options.model))
    engine = "rwkv" if options.checkpoint else "transformers"
    try:
        model = hash_model(options.path) if options.out else ""  # 10 s for a large one: only where it is written down
    except OSError as error:
        raise InputError(f"Cannot read the model {options.path}: {error.strerror}; check the path.") from None
    return Header(
        model=model,
        data=hash_texts(texts),
        documents=len(texts),
        prefix=options.prefix,
        engine=engine,
        dtype=options.dtype,
        tf32=options.tf32,
        made_with={
            "model": options.path.name,
            "torch": torch.__version__,
            engine: version(engine),
            "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        },
    )


@contextmanager
def load_scorer(
    options: RunOptions, documents: list[Document], device: str
) -> Iterator[tuple[Scorer, list[list[int]]]]:
    """Load the model, and yield the function that scores one batch, and the batches for it.

    Raises:
        InputError: the model cannot be loaded, or is not a World model.
    """
    if options.checkpoint:
        check_vocabulary(describe_checkpoint(options.checkpoint).vocab_size, documents, options.checkpoint)
        path = fp32_copy(options.checkpoint) if options.dtype == "float32" else options.checkpoint
        oracle = load_oracle(path, f"{device} {STRATEGIES[options.dtype]}")
        yield partial(score_with_oracle, oracle), [[index] for index in range(len(documents))]
        return
    folder, dtype, device_map = options.path, getattr(torch, options.dtype), options.device_map
    batch_tokens = options.batch_tokens or default_batch_tokens(device)
    batches = plan_batches(documents, batch_tokens)
    if other_code(folder):  # describe_run has refused it unless it is trusted
        check_vocabulary(load_converted(folder)[1].vocab_size, documents, folder)
        with IsolatedModel(folder, dtype, device, device_map, options.tf32) as stranger:
            yield partial(score_elsewhere, stranger, piece=batch_tokens), batches
        return
    model = load_model(folder, dtype=dtype, device=device, device_map=device_map)
    check_vocabulary(model.get_input_embeddings().num_embeddings, documents, folder)
    yield partial(score_batch, model, piece=batch_tokens), batches


def score_elsewhere(stranger: IsolatedModel, documents: list[Document], piece: int) -> list[Result]:
    """Score some documents with a model in another process, from which only logits are taken.

    Raises:
        InputError: it answers with something else.
    """
    targets = [document.target for document in documents]
    counts = [len(target) for target in targets]
    rows = [document.inputs for document in documents]
    logits = stranger.ask(target_logits, rows=rows, counts=counts, piece=piece).get("logits")
    if logits is None or logits.dim() != 2 or len(logits) != sum(counts) or logits.shape[1] < WORLD_IDS:
        raise InputError(f"The code in {stranger.folder} does not answer with the logits of these passages.")
    return score_targets(logits, targets)


def summary_line(header: Header, processes: int, seconds: float) -> str:
    """Return what the numbers are of, in one line."""
    engine = f"{header.engine} {header.made_with[header.engine]} on {header.made_with['device']}"
    precision = f"{header.dtype}, TF32 {'on' if header.tf32 else 'off'}"
    where = engine if processes == 1 else f"{engine}, {processes} processes"
    return f"{header.documents} documents, prefix {header.prefix}, {precision}, {where}, {seconds:.1f} s"
