"""The training loop: windows in, steps of AdamW, a log, resume after a kill, and a ``.pth`` at the end."""

import json
import math
import pickle
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..atomic import replaced_file, write_text
from ..errors import InputError
from ..tokenizer.vocab import VOCAB_SIZE, read_vocab
from .fast import COMPILING, fast_step
from .model import TrainedModel, mini_config
from .options import TrainOptions, difference, origin
from .windows import Kind, Windows

LOG, STATE, MODEL = "log.jsonl", "state.pt", "model.pth"  # in the folder of a run
OTHER_STATE = "give another folder, or remove {} to begin again"
# what torch.load and load_state_dict raise about a file that is damaged, or of another run
LOAD_ERRORS = (
    pickle.UnpicklingError,
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
)


@dataclass
class Position:
    """Where a run is; saved with the weights, so that a resumed run goes on with the same batches."""

    step: int = 0
    epoch: int = 0
    position: int = 0  # windows of this epoch that are done
    seconds: float = 0.0  # of training, without preparation and evaluation


class TrainingRun:
    """A training run in a folder: ``log.jsonl``, ``state.pt`` to resume from, ``model.pth`` at the end.

    ``evaluations`` is what its caller measured on the way; it is saved with the state.

    Raises:
        InputError: on a GPU, sizes that its kernel cannot have.
    """

    def __init__(self, options: TrainOptions, windows: Windows, folder: str | Path, device: str = "cpu"):
        self.options, self.windows, self.folder = options, windows, Path(folder)
        self.device = torch.device(device)
        if self.device.type == "cuda":
            options.check_kernel()
        self.position = Position()
        self.evaluations: list[dict] = []
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(options.seed)
        self.tokens, counts = trained_tokens(windows.epoch(0)[0])
        self.row_of = torch.zeros(VOCAB_SIZE, dtype=torch.int32)
        self.row_of[self.tokens] = torch.arange(len(self.tokens), dtype=torch.int32)
        self.row_of, self.counts = self.row_of.to(self.device), counts
        sizes = (options.layers, options.hidden, options.attention, options.ffn)
        config = mini_config(options.version, len(self.tokens), *sizes)
        model = TrainedModel(config, counts, options.tied, options.unigram_bias, options.head_rows)
        self.model = model.to(self.device)
        self.optimizer = make_optimizer(self.model, options, self.device)
        weights = {Kind.PADDING: 0.0, Kind.ORDINARY: 1.0}
        weights |= {Kind.INSERTED: options.inserted_weight, Kind.REPEATED: options.repeated_weight}
        self.weight_of = torch.tensor([weights[kind] for kind in Kind], device=self.device)
        self.loaded: tuple[int, Tensor, Tensor] | None = None  # the epoch on the device

    @property
    def origin(self) -> dict[str, Any]:
        """Return what this run is made from."""
        return origin(self.options, self.windows.corpus, self.device.type)

    # batches

    def load_epoch(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Return ids of trained rows (n, T + 1) int32 and kinds uint8 on the device, in the order of training."""
        if self.loaded is None or self.loaded[0] != epoch:
            new_ids, new_kinds = self.windows.epoch(epoch)
            if len(new_ids) < self.options.batch:
                raise InputError(
                    f"The corpus gives {len(new_ids)} windows, fewer than one batch of {self.options.batch}; "
                    "give a longer text or a smaller batch."
                )
            order = torch.randperm(len(new_ids), generator=torch.Generator().manual_seed(self.options.seed + epoch))
            order = order.to(self.device)
            ids = torch.from_numpy(new_ids.view(np.int16)).to(self.device)[order].int() & 0xFFFF
            rows = self.row_of[ids]
            unknown = (rows == 0) & (ids != 0)  # a token that epoch 0 did not have: read as id 0, not learned
            kinds = torch.from_numpy(new_kinds).to(self.device)[order].masked_fill(unknown, Kind.PADDING)
            self.loaded = epoch, rows, kinds
        return self.loaded[1:]

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """Return ids (B, T + 1) int64 and kinds (B, T + 1) of the next batch; a last, smaller one is left out."""
        ids, kinds = self.load_epoch(self.position.epoch)
        if self.position.position + self.options.batch > len(ids):
            self.position.epoch, self.position.position = self.position.epoch + 1, 0
            ids, kinds = self.load_epoch(self.position.epoch)
        part = slice(self.position.position, self.position.position + self.options.batch)
        self.position.position = part.stop
        return ids[part].long(), kinds[part]

    # one step

    def fraction(self) -> float:
        """Return how much of the training is done."""
        if self.options.steps:
            return self.position.step / self.options.steps
        return self.position.seconds / (60 * self.options.minutes)

    def set_learning_rate(self) -> None:
        """Warm up, stay, and fall linearly to 2 %."""
        warm = min(1.0, (self.position.step + 1) / self.options.warmup)
        cool = min(1.0, (1 - self.fraction()) / self.options.cooldown)
        for group in self.optimizer.param_groups:
            rate = group["full_rate"] * warm * (0.02 + 0.98 * max(0.0, cool))
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)  # the address is part of a CUDA graph
            else:
                group["lr"] = rate

    def update(self, ids: Tensor, kinds: Tensor) -> Tensor:
        """Make one step; return the weighted loss, and the mean cross-entropy of all known and of repeated tokens."""
        kinds = kinds[:, 1:]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            loss, losses = self.model(ids, self.weight_of[kinds.long()])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        masks = torch.stack([(kinds == Kind.ORDINARY) | (kinds == Kind.REPEATED), kinds == Kind.REPEATED])
        return torch.cat([loss.detach()[None], (losses * masks).sum((1, 2)) / masks.sum((1, 2)).clamp(min=1)])

    # the whole run

    def train(self, save_every: int = 0, progress: bool = True, stop_after: int = 0) -> Iterator[dict]:
        """Train to the end and yield a line of the log every 1 % of the way (and write it to ``log.jsonl``).

        Args:
            save_every: steps between two saved states; 0 saves none.
            stop_after: stop after this step, as if the process were killed there.
        """
        percent = self.percent()
        with tqdm(total=100, unit="%", disable=not progress) as bar, fast_step(self) as step:
            clock, losses = Clock(self.position, self.device), MeanLosses(self.device)
            while self.fraction() < 1:
                self.set_learning_rate()
                losses.add(step(*self.next_batch()))
                self.position.step += 1
                saving = save_every > 0 and self.position.step % save_every == 0
                clock.count_step(look=saving or self.percent() > percent)
                logging = self.percent() > percent
                if logging:
                    percent = self.percent()
                    yield self.log(bar, losses.take())
                if saving:
                    self.save()
                if self.position.step == stop_after:
                    return
                if logging or saving:
                    clock.restart()

    def percent(self) -> int:
        return int(100 * self.fraction())

    def log(self, bar: tqdm, means: list[float]) -> dict:
        """Write a line of the log, and return it.

        Raises:
            InputError: the loss is no longer a number, or the disk is full.
        """
        if not all(map(math.isfinite, means)):
            raise InputError(
                f"The loss is {means[0]} after step {self.position.step}: training has gone astray; "
                "give a smaller learning rate, and another folder."
            )
        names = ("loss", "cross_entropy", "repeated_cross_entropy")
        tokens = self.position.step * self.options.batch * self.options.windows.length
        line = {"step": self.position.step, "tokens": tokens, "seconds": round(self.position.seconds, 1)}
        line |= {name: round(mean, 4) for name, mean in zip(names, means, strict=True)}
        path = self.folder / LOG
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise InputError(f"Cannot write {path}: {error.strerror}; make room, and start the run again.") from None
        bar.update(min(100, self.percent()) - bar.n)
        bar.set_postfix(loss=line["loss"], tokens=f"{tokens / 1e6:.1f}M")
        return line

    def save(self) -> None:
        """Write all that :meth:`resume` needs; a kill in the middle leaves the state before.

        Raises:
            InputError: the disk is full.
        """
        state = {
            "origin": self.origin,
            "position": asdict(self.position),
            "evaluations": self.evaluations,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            state["cuda_random"] = torch.cuda.get_rng_state(self.device)
        write_tensors(self.folder / STATE, state)

    def resume(self) -> bool:
        """Go on where the saved state stopped; return whether there was one. Later lines of the log are taken back.

        Raises:
            InputError: it belongs to another run, or is damaged.
        """
        path = self.folder / STATE
        if path.exists():
            state = read_state(path, self.origin, self.device)
            try:
                self.restore(state)
            except LOAD_ERRORS:
                raise InputError(f"{path} does not fit this run, or is damaged; {OTHER_STATE.format(path)}.") from None
        cut_log(self.folder / LOG, self.position.step)
        return path.exists()

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`save` wrote."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.position = Position(**state["position"])
        self.evaluations = list(state["evaluations"])
        torch.set_rng_state(state["random"].cpu())
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_random"].cpu(), self.device)

    def weights(self) -> dict[str, Tensor]:
        """Return the checkpoint so far, in BlinkDL's format."""
        return self.model.export(self.tokens.to(self.device), self.counts.to(self.device), self.options.table_bits)

    def export(self) -> Path:
        """Write ``model.pth`` and return its path.

        Raises:
            InputError: the disk is full.
        """
        path = self.folder / MODEL
        write_tensors(path, self.weights())
        return path


def read_state(path: Path, ours: Mapping[str, Any], device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return what :meth:`TrainingRun.save` wrote for a run that is made from the same as ``ours``.

    Raises:
        InputError: it belongs to another run, or is damaged.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        found = difference(state["origin"], ours)
    except LOAD_ERRORS:
        raise InputError(f"{path} is damaged, or of an older version; remove it to begin again.") from None
    if found:
        raise InputError(f"{path} was saved by another run: {found}; {OTHER_STATE.format(path)}.")
    return state


def write_tensors(path: Path, content: dict[str, Any]) -> None:
    """Write what :func:`torch.load` reads.

    Raises:
        InputError: the system refuses to write. Then ``path`` is as it was.
    """
    with replaced_file(path) as partial:
        try:
            torch.save(content, partial)
        except RuntimeError:  # what torch makes of every error of the system
            raise InputError(f"Cannot write {path}: the disk may be full; nothing was changed there.") from None


def cut_log(path: Path, step: int) -> None:
    """Leave only the lines up to a step in a log, if there is one; those behind it are made again.

    Raises:
        InputError: it is another kind of file, or the system refuses.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        steps = [json.loads(line)["step"] for line in lines[:-1]]
        with suppress(ValueError):  # the last line may be incomplete
            steps += [json.loads(line)["step"] for line in lines[-1:]]
        kept = [line for line, its_step in zip(lines, steps, strict=False) if its_step <= step]
    except FileNotFoundError:
        return
    except (OSError, ValueError, LookupError, TypeError):
        raise InputError(f"{path} is not the log of a training run; give another folder.") from None
    write_text(path, "".join(line + "\n" for line in kept))


class Clock:
    """Adds up the seconds of training: without those of compilation, and of what is done between two steps."""

    def __init__(self, position: Position, device: torch.device):
        self.position, self.device = position, device
        self.steps = 0  # of this process
        self.restart()

    def restart(self) -> None:
        self.last = time.monotonic()

    def count_step(self, look: bool) -> None:
        """Count a step. Looking at the clock waits for the device, so it is done seldom, or when ``look`` asks."""
        self.steps += 1
        if look or self.steps == COMPILING or self.position.step % 20 == 0:
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            now = time.monotonic()
            self.position.seconds += now - self.last if self.steps > COMPILING else 0.0
            self.last = now


class MeanLosses:
    """The means of what the steps returned, kept on the device until they are asked for."""

    def __init__(self, device: torch.device):
        self.total, self.steps = torch.zeros(3, device=device), 0

    def add(self, losses: Tensor) -> None:
        self.total += losses
        self.steps += 1

    def take(self) -> list[float]:
        """Return the means since the last call."""
        means = (self.total / self.steps).tolist()
        self.total.zero_()
        self.steps = 0
        return means


def trained_tokens(ids: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return the tokens that get a row, and their counts in ``ids``: id 0, all that occur, and all short plain words.

    The words need not occur yet: they may be put in as names later.
    """
    counts = np.bincount(ids.ravel(), minlength=VOCAB_SIZE)
    wanted = counts > 0
    wanted[0] = True
    for index, token in read_vocab().items():
        word = token.removeprefix(b" ").decode("ascii", errors="replace")
        if word.isascii() and word.isalpha() and len(word) <= 14 and (len(word) == 1 or word[1:].islower()):
            wanted[index] = True
    tokens = np.flatnonzero(wanted)
    return torch.from_numpy(tokens), torch.from_numpy(counts[tokens]).float()


def make_optimizer(model: TrainedModel, options: TrainOptions, device: torch.device) -> torch.optim.AdamW:
    """Return AdamW with a group for each kind of parameter.

    A large eps for the tables: a token that has not occurred for long has a tiny second moment, and its row would
    otherwise be pushed down by full steps for ever.
    """
    rate, cuda = options.learning_rate, device.type == "cuda"
    blocks = {name: p for name, p in model.model.named_parameters() if p is not model.model.embeddings.weight}
    matrices = [p for name, p in blocks.items() if name.endswith("weight") and p.dim() == 2]
    vectors = [p for name, p in blocks.items() if not (name.endswith("weight") and p.dim() == 2)]
    groups = [
        {"params": [model.model.embeddings.weight], "lr": rate, "weight_decay": 0.0, "eps": 3e-7},
        {"params": [model.delta], "lr": rate * 0.3, "weight_decay": 0.05, "eps": 3e-7}
        if options.tied
        else {"params": [model.delta], "lr": rate, "weight_decay": 0.0, "eps": 3e-7},
        {"params": [model.bias], "lr": rate, "weight_decay": 0.0, "eps": 1e-6},
        {"params": [model.link], "lr": rate / 3, "weight_decay": 0.0, "eps": 1e-8},
        {"params": vectors, "lr": rate, "weight_decay": 0.0, "eps": 1e-8},
        {"params": matrices, "lr": rate, "weight_decay": 0.05, "eps": 1e-8},
    ]
    for group in groups:
        group["full_rate"] = group["lr"]
        if cuda:
            group["lr"] = torch.tensor(group["lr"], device=device)
    return torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=cuda, capturable=cuda)
