"""What a user of transformers may try with a model, each tried for real on a small one: a table of behaviours.

Each behaviour is a function that takes a :class:`Subject` and returns ``None`` if the model does the right thing, or
says in a few words what it does instead. An exception counts as an answer too.
"""

import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM

from ..checkpoints.oracle import load_oracle
from ..checkpoints.synthetic import write_random_checkpoint
from ..conversion.directory import convert
from . import parity

VOCAB = 256
TOLERANCE = 1e-4  # fp32 logits of these models are of size 10: about a hundred roundings
WORDS = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}  # options of every generate


@dataclass(frozen=True)
class Subject:
    """A small random checkpoint of two blocks, its converted directory, and whose code loads it."""

    checkpoint: Path
    folder: Path
    one_layer: Path  # the same version with a single block
    own_code: bool = True  # ours, in the directory; else the class inside transformers

    def load(self, folder: Path | None = None, **options):
        """Load a fresh model, in evaluation mode; options as of ``from_pretrained``."""
        options = {"dtype": torch.float32, "trust_remote_code": self.own_code} | options
        return AutoModelForCausalLM.from_pretrained(folder or self.folder, **options).eval()

    @cached_property
    def model(self):
        return self.load()


def make_subject(version: str, work: Path, own_code: bool = True) -> Subject:
    """Write and convert the two checkpoints of a subject below ``work``, unless they are there already."""
    names = [f"rwkv{version}-{layers}" for layers in (2, 1)]
    for name, layers in zip(names, (2, 1), strict=True):
        if not (work / name).exists():
            source = work / f"{name}.pth"
            write_random_checkpoint(source, version, layers, head_size=32, vocab_size=VOCAB, dtype=torch.float32)
            convert(source, work / name, progress=False)
    return Subject(work / f"{names[0]}.pth", work / names[0], work / names[1], own_code)


def ids_of(tokens: int, rows: int = 1, seed: int = 0) -> Tensor:
    """Return random ids (rows, tokens) without id 0."""
    return torch.randint(1, VOCAB, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def off_by(ours: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> str | None:
    """Compare two tensors."""
    if ours.shape != expected.shape:
        return f"shape {list(ours.shape)}, not {list(expected.shape)}"
    difference = (ours - expected).abs().max().item()
    return None if difference <= tolerance else f"off by {difference:.2g}"


def other_tokens(ours: Tensor, expected: Tensor) -> str | None:
    """Compare two tensors of ids, row by row."""
    wrong = (ours != expected).any(-1).sum().item()
    return None if wrong == 0 else f"other text in {wrong} of {len(ours)} rows"


def first_problem(problems: Iterable[str | None]) -> str | None:
    return next((problem for problem in problems if problem), None)


def generated_logits(model, output) -> str | None:
    """Compare the logits that ``generate`` saw at each step with those of reading the finished texts at once."""
    seen = torch.stack(output.logits, dim=1)
    again = model(output.sequences).logits[:, -seen.shape[1] - 1 : -1]
    return off_by(seen, again)


# Equal to the original


@cache
def reference(checkpoint: Path):
    return load_oracle(checkpoint)


def prefill(subject: Subject) -> str | None:
    ids = ids_of(100)[0].tolist()
    expected = parity.original_prefill(reference(subject.checkpoint), ids)
    return off_by(parity.converted_prefill(subject.model, ids)[0], expected[0])


def decode(subject: Subject) -> str | None:
    ids = ids_of(20)[0].tolist()
    expected = parity.original_decode(reference(subject.checkpoint), ids)
    return off_by(parity.converted_decode(subject.model, ids)[0], expected[0])


def one_layer(subject: Subject) -> str | None:
    logits = subject.load(subject.one_layer)(ids_of(5)).logits
    return None if logits.isfinite().all() else "not finite"


# Batches and padding


def batch_prefill(subject: Subject) -> str | None:
    ids = ids_of(20, rows=3)
    return off_by(subject.model(ids).logits, torch.cat([subject.model(row[None]).logits for row in ids]))


def batch_decode(subject: Subject) -> str | None:
    model, ids = subject.model, ids_of(8, rows=3)
    state = model(ids[:, :6], use_cache=True).state
    for t in (6, 7):
        output = model(ids[:, t : t + 1], state=state, use_cache=True)
        state = output.state
    return off_by(output.logits, model(ids).logits[:, -1:])


def padded(side: str, ids: Tensor, count: int = 5) -> tuple[Tensor, Tensor]:
    """Return ids with ``count`` zeros on one side, and the attention mask."""
    where = (count, 0) if side == "left" else (0, count)
    return torch.nn.functional.pad(ids, where), torch.nn.functional.pad(torch.ones_like(ids), where)


def left_padding(subject: Subject) -> str | None:
    ids, mask = padded("left", ids_of(20))
    return off_by(subject.model(ids, attention_mask=mask).logits[:, 5:], subject.model(ids[:, 5:]).logits)


def right_padding(subject: Subject) -> str | None:
    ids, mask = padded("right", ids_of(20))
    return off_by(subject.model(ids, attention_mask=mask).logits[:, :20], subject.model(ids[:, :20]).logits)


def right_padding_state(subject: Subject) -> str | None:
    ids, mask = padded("right", ids_of(20))
    ours = subject.model(ids, attention_mask=mask, use_cache=True).state
    expected = subject.model(ids[:, :20], use_cache=True).state
    return first_problem(map(off_by, ours, expected))


# The state


def split_anywhere(subject: Subject) -> str | None:
    model, ids = subject.model, ids_of(70)
    whole = model(ids).logits
    problems = []
    for cut in (1, 13, 64, 69):
        first = model(ids[:, :cut], use_cache=True)
        second = model(ids[:, cut:], state=first.state, use_cache=True)
        problems.append(off_by(torch.cat([first.logits, second.logits], dim=1), whole))
    return first_problem(problems)


def state_kept(subject: Subject) -> str | None:
    state = subject.model(ids_of(20), use_cache=True).state
    before = [part.clone() for part in state]
    subject.model(ids_of(1), state=state, use_cache=True)
    problem = first_problem(map(off_by, state, before))
    return problem and "overwritten in place"


def prompt_cache(subject: Subject) -> str | None:
    model, ids = subject.model, ids_of(20)
    expected = model.generate(ids, max_new_tokens=6, **WORDS)
    state = model(ids[:, :15], use_cache=True).state
    return other_tokens(model.generate(ids[:, 15:], state=state, max_new_tokens=6, **WORDS)[:, 5:], expected[:, 20:])


# Generation


def padded_generation(subject: Subject) -> str | None:
    texts = [ids_of(length, seed=length) for length in (9, 14, 14)]
    rows = [padded("left", text, 14 - text.shape[1]) for text in texts]
    ids, mask = (torch.cat(parts) for parts in zip(*rows, strict=True))
    together = subject.model.generate(ids, attention_mask=mask, max_new_tokens=6, **WORDS)[:, 14:]
    alone = [subject.model.generate(t, max_new_tokens=6, **WORDS)[:, t.shape[1] :] for t in texts]
    return other_tokens(together, torch.cat(alone))


def several_samples(subject: Subject) -> str | None:
    torch.manual_seed(0)
    options = WORDS | {"do_sample": True, "num_return_sequences": 3, "output_logits": True}
    output = subject.model.generate(ids_of(9), max_new_tokens=6, return_dict_in_generate=True, **options)
    return generated_logits(subject.model, output)


def beam_search(subject: Subject) -> str | None:
    """The score of the best beam must be the log-probability of its text."""
    options = {"num_beams": 3, "length_penalty": 0.0, "output_scores": True, "return_dict_in_generate": True}
    output = subject.model.generate(ids_of(9), max_new_tokens=6, **WORDS, **options)
    log_p = subject.model(output.sequences[:, :-1]).logits.log_softmax(-1)[0, -6:]
    score = log_p.gather(1, output.sequences[0, -6:, None]).sum()
    return off_by(output.sequences_scores, score[None])


def inputs_embeds(subject: Subject) -> str | None:
    model, ids = subject.model, ids_of(9)
    embedded = model.get_input_embeddings()(ids)
    written = model.generate(inputs_embeds=embedded, max_new_tokens=6, **WORDS)
    expected = model.generate(ids, max_new_tokens=6, **WORDS)
    return off_by(model(inputs_embeds=embedded).logits, model(ids).logits) or other_tokens(written, expected[:, 9:])


def logits_to_keep(subject: Subject) -> str | None:
    every = subject.model(ids_of(20)).logits
    kept = [subject.model(ids_of(20), logits_to_keep=keep).logits for keep in (1, torch.tensor([3, 7]))]
    return off_by(kept[0], every[:, -1:]) or off_by(kept[1], every[:, [3, 7]])


# Weights and training


def save_after_forward(subject: Subject) -> str | None:
    """The native class divides weights every ``rescale_every`` blocks, 6 by default and here 1; ours never does."""
    options: dict[str, Any] = {} if subject.own_code else {"rescale_every": 1}
    model = subject.load(**options)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    model(ids_of(5))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        after = subject.load(Path(folder)).state_dict()
    wrong = sum(not torch.equal(weight, after[name]) for name, weight in before.items())
    return None if wrong == 0 else f"{wrong} tensors changed"


def cross_entropy(logits: Tensor, ids: Tensor) -> Tensor:
    """The loss of predicting each token but the first, in the dtype of the logits."""
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def loss(subject: Subject) -> str | None:
    ids = ids_of(24, rows=2)
    labels = torch.where(torch.arange(24) < 4, -100, ids)  # the first four tokens do not count
    output = subject.model(ids, labels=labels)
    return off_by(output.loss, cross_entropy(output.logits[:, 3:], ids[:, 3:]))


def gradients(subject: Subject) -> str | None:
    """The slope of the loss along each parameter's gradient, in fp64, against a finite difference."""
    model, ids = subject.load().double().train(), ids_of(24, rows=2)
    with torch.enable_grad():
        cross_entropy(model(ids).logits, ids).backward()
    weights, wrong = {name: p.detach() for name, p in model.named_parameters()}, 0
    for name, parameter in model.named_parameters():
        if parameter.grad is None or not parameter.grad.any():
            wrong += 1
            continue
        slope = parameter.grad.norm()
        step = 5e-4 * parameter.grad / slope
        moved = [weights | {name: weights[name] + sign * step} for sign in (1, -1)]
        ends = [cross_entropy(torch.func.functional_call(model, w, (ids,)).logits, ids) for w in moved]
        expected = (ends[0] - ends[1]) / 1e-3
        # a class that computes parts in fp32 has an error of about 1e-8 in each loss
        wrong += int((slope - expected).abs() > 1e-3 * slope + 2e-5)
    return None if wrong == 0 else f"wrong for {wrong} of {len(weights)} parameters"


def gradient_checkpointing(subject: Subject) -> str | None:
    """The same gradients while less is kept: some forward pass must run again in the backward pass."""
    results, calls = [], []
    for checkpointing in (False, True):
        model = subject.load().train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.rwkv.blocks[0].ln1.register_forward_hook(lambda *_: calls.append(1))
        with torch.enable_grad():
            cross_entropy(model(ids_of(24)).logits, ids_of(24)).backward()
        results.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    return off_by(results[0], results[1]) or (None if len(calls) == 2 else "nothing is recomputed")


def half_precision(subject: Subject) -> str | None:
    """A long text in fp16: finite, and the loss within 1 % of fp32's."""
    ids = ids_of(1000)
    expected = subject.model(ids, labels=ids).loss
    ours = subject.load(dtype=torch.float16)(ids, labels=ids).loss
    return off_by(ours.float(), expected, tolerance=0.01 * expected.item())


def compiled(subject: Subject) -> str | None:
    """Trace the whole model as one graph; without generating code, which would take a compiler."""
    torch._dynamo.reset()
    model = subject.load()
    with torch.no_grad():
        ours = torch.compile(model, fullgraph=True, backend="eager")(ids_of(12)).logits
        return off_by(ours, model(ids_of(12)).logits)


BEHAVIOURS: dict[str, Callable[[Subject], str | None]] = {
    "prefill equals the rwkv package": prefill,
    "decode equals the rwkv package": decode,
    "a model of one layer": one_layer,
    "batch == its rows, prefill": batch_prefill,
    "batch == its rows, cached decode": batch_decode,
    "left padding changes nothing": left_padding,
    "right padding: logits": right_padding,
    "right padding: state": right_padding_state,
    "a text can be split anywhere": split_anywhere,
    "a state that is given stays as it is": state_kept,
    "generate continues a given state": prompt_cache,
    "generate, padded batch": padded_generation,
    "generate, several samples": several_samples,
    "generate, beam search": beam_search,
    "inputs_embeds": inputs_embeds,
    "logits_to_keep": logits_to_keep,
    "save after a forward pass": save_after_forward,
    "loss with labels": loss,
    "gradients of every parameter": gradients,
    "gradient checkpointing": gradient_checkpointing,
    "1,000 tokens in fp16": half_precision,
    "torch.compile, one graph": compiled,
}


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers and Python warnings: some subjects warn on every call."""
    level = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity(50)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        transformers.utils.logging.set_verbosity(level)


def measure(subject: Subject, names: Iterable[str] = BEHAVIOURS) -> dict[str, str | None]:
    """Try behaviours on a subject: ``None`` where it does right, else a few words on what it does instead."""
    results = {}
    for name in names:
        with quiet(), torch.no_grad():
            try:
                results[name] = BEHAVIOURS[name](subject)
            except Exception as error:  # whatever a model raises is its answer
                results[name] = f"{type(error).__name__}"
    return results
