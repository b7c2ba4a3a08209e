"""The training loop: windows in, steps of AdamW, a log, resume after a kill, and a ``.pth`` at the end."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..errors import InputError
from ..vocab import VOCAB_SIZE, read_vocab
from .fast import COMPILING, fast_step
from .model import TrainedModel, mini_config
from .windows import INSERTED, ORDINARY, PADDING, REPEATED, WindowOptions, Windows


@dataclass(frozen=True)
class TrainOptions:
    """All that decides the result of a run. The defaults are the recipe of the shipped RWKV-5.0 checkpoint."""

    version: str = "5.0"  # or "4", "5.1", "5.2"
    layers: int = 14
    hidden: int = 128  # D
    attention: int = 128  # A
    ffn: int = 512
    windows: WindowOptions = field(default_factory=WindowOptions)
    batch: int = 256  # windows a step
    steps: int = 0  # how long to train: either so many steps,
    minutes: float = 0.0  # or so many minutes of training
    learning_rate: float = 3e-3
    warmup: int = 150  # steps
    cooldown: float = 0.4  # the last part of training, in which the learning rate falls to 2 %
    repeated_weight: float = 3.0  # in the loss, of content words that the window has seen before
    inserted_weight: float = 0.1  # of words that were put in, where they first occur
    tied: bool = True
    unigram_bias: bool = True
    head_rows: int = 16384
    table_bits: int = 5  # of the mantissa, kept in emb and head of the exported file; bf16 has 7
    seed: int = 1


@dataclass
class Progress:
    """Where a run is; saved with the weights, so that a resumed run goes on with the same batches."""

    step: int = 0
    epoch: int = 0
    position: int = 0  # windows of this epoch that are done
    seconds: float = 0.0  # of training, without preparation and evaluation


class Run:
    """A training run in a folder: ``log.jsonl``, ``state.pt`` to resume from, ``model.pth`` at the end."""

    def __init__(self, options: TrainOptions, windows: Windows, folder: str | Path, device: str = "cpu"):
        self.options, self.windows, self.folder = options, windows, Path(folder)
        self.device = torch.device(device)
        self.progress = Progress()
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
        kinds = {PADDING: 0.0, ORDINARY: 1.0, INSERTED: options.inserted_weight, REPEATED: options.repeated_weight}
        self.weight_of = torch.tensor([kinds[kind] for kind in range(len(kinds))], device=self.device)
        self.loaded: tuple[int, Tensor, Tensor] | None = None  # the epoch on the device

    # batches

    def load_epoch(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Return ids of trained rows (n, T + 1) int32 and kinds uint8 on the device, in the order of training."""
        if self.loaded is None or self.loaded[0] != epoch:
            ids, kinds = self.windows.epoch(epoch)
            if len(ids) < self.options.batch:
                raise InputError(
                    f"The corpus gives {len(ids)} windows, fewer than one batch of {self.options.batch}; "
                    "give a longer text or a smaller batch."
                )
            order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(self.options.seed + epoch))
            order = order.to(self.device)
            ids = torch.from_numpy(ids.view(np.int16)).to(self.device)[order].int() & 0xFFFF
            rows = self.row_of[ids]
            unknown = (rows == 0) & (ids != 0)  # a token that epoch 0 did not have: read as id 0, not learned
            kinds = torch.from_numpy(kinds).to(self.device)[order].masked_fill(unknown, PADDING)
            self.loaded = epoch, rows, kinds
        return self.loaded[1:]

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """Return ids (B, T + 1) int64 and kinds (B, T + 1) of the next batch; a last, smaller one is left out."""
        ids, kinds = self.load_epoch(self.progress.epoch)
        if self.progress.position + self.options.batch > len(ids):
            self.progress.epoch, self.progress.position = self.progress.epoch + 1, 0
            ids, kinds = self.load_epoch(self.progress.epoch)
        part = slice(self.progress.position, self.progress.position + self.options.batch)
        self.progress.position = part.stop
        return ids[part].long(), kinds[part]

    # one step

    def fraction(self) -> float:
        """Return how much of the training is done."""
        if self.options.steps:
            return self.progress.step / self.options.steps
        return self.progress.seconds / (60 * self.options.minutes)

    def set_learning_rate(self) -> None:
        """Warm up, stay, and fall linearly to 2 %."""
        warm = min(1.0, (self.progress.step + 1) / self.options.warmup)
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
        masks = torch.stack([(kinds == ORDINARY) | (kinds == REPEATED), kinds == REPEATED])
        return torch.cat([loss.detach()[None], (losses * masks).sum((1, 2)) / masks.sum((1, 2)).clamp(min=1)])

    # the whole run

    def train(self, save_every: int = 0, progress: bool = True, stop_after: int = 0) -> Iterator[dict]:
        """Train to the end and yield a line of the log every 1 % of the way (and write it to ``log.jsonl``).

        Args:
            save_every: steps between two saved states; 0 saves none.
            stop_after: stop after this step, as if the process were killed there.
        """
        state = self.progress
        with ExitStack() as stack:
            bar = stack.enter_context(tqdm(total=100, unit="%", disable=not progress))
            step = stack.enter_context(fast_step(self))
            running = torch.zeros(3, device=self.device)
            made, marks, lines, last = 0, 0, int(self.fraction() * 100), time.monotonic()
            while self.fraction() < 1:
                self.set_learning_rate()
                running += step(*self.next_batch())
                state.step, made, marks = state.step + 1, made + 1, marks + 1
                if made == COMPILING or state.step % 20 == 0 or int(self.fraction() * 100) > lines:
                    self.synchronize()
                    now = time.monotonic()
                    state.seconds += now - last if made > COMPILING else 0.0
                    last = now
                due = int(self.fraction() * 100) > lines
                if due:
                    lines = int(self.fraction() * 100)
                    yield self.log(bar, (running / marks).tolist())
                    running.zero_()
                    marks = 0
                if save_every and state.step % save_every == 0:
                    self.save()
                if state.step == stop_after:
                    return
                if due:
                    last = time.monotonic()  # what the caller did with the line is no training

    def synchronize(self) -> None:
        """Wait until the device has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def log(self, bar: tqdm, means: list[float]) -> dict:
        names = ("loss", "cross_entropy", "repeated_cross_entropy")
        tokens = self.progress.step * self.options.batch * self.options.windows.length
        line = {"step": self.progress.step, "tokens": tokens, "seconds": round(self.progress.seconds, 1)}
        line |= {name: round(mean, 4) for name, mean in zip(names, means, strict=True)}
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        bar.update(min(100, int(self.fraction() * 100)) - bar.n)
        bar.set_postfix(loss=line["loss"], tokens=f"{tokens / 1e6:.1f}M")
        return line

    def save(self) -> None:
        """Write all that :meth:`resume` needs; a kill in the middle leaves the state before."""
        state = {
            "options": json.dumps(asdict(self.options)),
            "progress": asdict(self.progress),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            state["cuda_random"] = torch.cuda.get_rng_state()
        partial = self.folder / "state.partial"
        torch.save(state, partial)
        partial.replace(self.folder / "state.pt")

    def resume(self) -> bool:
        """Go on where the saved state stopped; return whether there was one.

        Raises:
            InputError: it belongs to a run with other options.
        """
        path = self.folder / "state.pt"
        if not path.exists():
            return False
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["options"] != json.dumps(asdict(self.options)):
            raise InputError(f"{path} was saved by a run with other options; give another folder, or remove it.")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        torch.set_rng_state(state["random"].cpu())
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_random"].cpu())
        return True

    def weights(self) -> dict[str, Tensor]:
        """Return the checkpoint so far, in BlinkDL's format."""
        return self.model.export(self.tokens.to(self.device), self.counts.to(self.device), self.options.table_bits)

    def export(self) -> Path:
        """Write ``model.pth`` and return its path."""
        partial, path = self.folder / "model.partial", self.folder / "model.pth"
        torch.save(self.weights(), partial)
        partial.replace(path)
        return path


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
    blocks = {name: p for name, p in model.model.named_parameters() if name != "embeddings.weight"}
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
