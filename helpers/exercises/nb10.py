"""The exercises of notebook 10: stop a stream, compare memories, keep a state on disk, score endings."""

import functools
import os
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .checking import Exercise
from .models import random_model

# 10.1


def first_sentence(pieces):
    text = ""
    for piece in pieces:
        for character in piece:
            text += character
            if character in ".?!":
                return text
    return text


def _whole_piece(pieces):
    text = ""
    for piece in pieces:
        text += piece
        if any(mark in piece for mark in ".?!"):
            break
    return text


def _without_the_mark(pieces):
    return first_sentence(pieces).rstrip(".?!")


def _full_stop_only(pieces):
    text = "".join(pieces)
    return text[: text.find(".") + 1] or text


def _none_at_the_end(pieces):
    text = first_sentence(pieces)
    return text if text[-1:] in tuple(".?!") else None


# 10.2


def tokens_until_larger(hidden, attention, head_size, kv_channels):
    state = attention * head_size + 2 * hidden
    return state // (2 * kv_channels) + 1


def _keys_only(hidden, attention, head_size, kv_channels):
    return (attention * head_size + 2 * hidden) // kv_channels + 1


def _no_shifts(hidden, attention, head_size, kv_channels):
    return attention * head_size // (2 * kv_channels) + 1


def _full_width(hidden, attention, head_size, kv_channels):
    return tokens_until_larger(hidden, attention, head_size, hidden)


def _as_large(hidden, attention, head_size, kv_channels):
    return -(-(attention * head_size + 2 * hidden) // (2 * kv_channels))


# 10.3


def cache_on_disk(state, path):
    from safetensors.torch import load_file, save_file

    names = ("time_shift", "wkv", "channel_shift")
    save_file({name: part.contiguous() for name, part in zip(names, state, strict=True)}, path)
    stored = load_file(path)
    return os.path.getsize(path), tuple(stored[name] for name in names)


def _order_of_the_file(state, path):
    size, _ = cache_on_disk(state, path)
    return size, tuple(load_file(path).values())


def _not_contiguous(state, path):
    save_file(dict(zip(("time_shift", "wkv", "channel_shift"), state, strict=True)), path)
    return cache_on_disk(state, path)


def _numbers_counted(state, path):
    return sum(part.numel() for part in state), cache_on_disk(state, path)[1]


def _content(state, path):
    _, stored = cache_on_disk(state, path)
    return Path(path).read_bytes(), stored


@functools.cache
def _folder() -> tempfile.TemporaryDirectory:
    """Return a folder that is removed when the program ends."""
    return tempfile.TemporaryDirectory(prefix="exercise-")


def _states() -> list[tuple]:
    """Return states of two models in files that do not exist yet; the last one is a view, as a row of a batch is."""
    generator = torch.Generator().manual_seed(0)
    folder = Path(tempfile.mkdtemp(dir=_folder().name))
    cases = []
    for number, (rows, layers) in enumerate(((1, 2), (3, 3))):
        shapes = ((rows, layers, 8), (rows, layers, 2, 4, 4), (rows, layers, 8))
        state = tuple(torch.randn(shape, generator=generator) for shape in shapes)
        cases.append((state, str(folder / f"prompt-{number}.safetensors")))
    view = tuple(part.transpose(0, 1) for part in state)
    return [*cases, (view, str(folder / "view.safetensors"))]


# 10.4


def score_endings(model, state, ids, mask, shared):
    rows = tuple(part.repeat_interleave(len(ids), dim=0) for part in state)
    with torch.no_grad():
        log_probabilities = model(ids, attention_mask=mask, state=rows).logits[:, :-1].log_softmax(dim=-1)
    chosen = log_probabilities.gather(2, ids[:, 1:, None])[..., 0]
    return (chosen * mask[:, 1:])[:, shared - 1 :].sum(dim=1)


def _padding_counts(model, state, ids, mask, shared):
    return _scored(model, state, ids, mask, mask.new_ones(mask.shape), shared)


def _start_counts(model, state, ids, mask, shared):
    return _scored(model, state, ids, mask, mask, 1)


def _off_by_one(model, state, ids, mask, shared):
    logits = model(ids, attention_mask=mask, state=_repeated(state, len(ids))).logits.detach()
    chosen = logits.log_softmax(dim=-1).gather(2, ids[:, :, None])[..., 0]
    return (chosen * mask)[:, shared:].sum(dim=1)


def _one_too_late(model, state, ids, mask, shared):
    return _scored(model, state, ids, mask, mask, shared + 1)


def _logits_added(model, state, ids, mask, shared):
    logits = model(ids, attention_mask=mask, state=_repeated(state, len(ids))).logits.detach()
    chosen = logits[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    return (chosen * mask[:, 1:])[:, shared - 1 :].sum(dim=1)


def _without_state(model, state, ids, mask, shared):
    return score_endings(model, tuple(torch.zeros_like(part) for part in state), ids, mask, shared)


def _repeated(state: tuple, rows: int) -> tuple:
    return tuple(part.repeat_interleave(rows, dim=0) for part in state)


def _scored(model, state: tuple, ids: Tensor, mask: Tensor, counted: Tensor, shared: int) -> Tensor:
    """Return the sums as the solution does, with another mask for what counts."""
    logits = model(ids, attention_mask=mask, state=_repeated(state, len(ids))).logits.detach()
    chosen = logits[:, :-1].log_softmax(dim=-1).gather(2, ids[:, 1:, None])[..., 0]
    return (chosen * counted[:, 1:])[:, shared - 1 :].sum(dim=1)


def _ending_cases() -> list[tuple]:
    """Return a tiny random model, what it read before, and batches of endings, padded on the right."""
    model, cases = random_model(), []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for lengths, shared in (((3, 5, 4), 2), ((6, 2), 1)):
            ids = torch.randint(1, 64, (len(lengths), max(lengths)))
            ids[:, :shared] = ids[0, :shared]
            mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
            with torch.no_grad():
                state = model(torch.randint(1, 64, (1, 7)), use_cache=True).state
            cases.append((model, state, ids * mask, mask, shared))
    return cases


EXERCISES = (
    Exercise(
        first_sentence,
        lambda: [
            ([" room", ".\n\n", '"I'],),
            ([" Where", ' is he?"', " she said."],),
            ([" Stop", "! Who", " goes"],),
            ([" and", " so", " on"],),
        ],
        {
            "A piece can go on after the mark, as in '.\\n\\n'; cut inside the piece.": _whole_piece,
            "The mark belongs to the sentence; return it as well.": _without_the_mark,
            "A sentence also ends at a question mark or an exclamation mark.": _full_stop_only,
            "A text without a mark is returned as it is.": _none_at_the_end,
        },
        '`generate` does this with `stop_strings=[".", "?", "!"]`, but keeps the rest of the last token.',
    ),
    Exercise(
        tokens_until_larger,
        lambda: [
            (768, 768, 64, 768),
            (128, 128, 64, 128),
            (2048, 2048, 64, 256),
            (160, 320, 32, 160),
            (100, 100, 8, 30),
        ],
        {
            "A cache has keys and values: 2 · kv_channels numbers per token and layer.": _keys_only,
            "The state also has two vectors for token shift, 2 · hidden numbers.": _no_shifts,
            "The cache keeps kv_channels numbers of each, not hidden.": _full_width,
            "At that number of tokens both are equally large; larger is one token more.": _as_large,
        },
        "34 tokens for a model that keeps all keys; with an eighth, as in the third case, 265: less than a page.",
    ),
    Exercise(
        cache_on_disk,
        _states,
        {
            "load_file gives the tensors in an order of its own; take them by their names.": _order_of_the_file,
            "A part of the state can be a view; save_file wants part.contiguous().": _not_contiguous,
            "Count the bytes of the file, not the numbers of the state: os.path.getsize(path).": _numbers_counted,
            "You return what is in the file; the size is asked for, a number: os.path.getsize(path).": _content,
        },
        "Such a file can be sent to another computer, which then goes on where this one has stopped.",
        reveal=False,
    ),
    Exercise(
        score_endings,
        _ending_cases,
        {
            "You add what stands behind the end of shorter rows; multiply by the mask.": _padding_counts,
            "You add the shared tokens as well; begin with the token number shared.": _start_counts,
            "Logits at position t predict the token at t + 1; yours are shifted by one.": _off_by_one,
            "You begin one token too late. The log-probabilities begin with token number 1, since nothing predicts "
            "number 0, so that of token number shared stands at shared - 1.": _one_too_late,
            "You add logits; take log_softmax over the vocabulary first.": _logits_added,
            "You forgot the state; the endings are to follow what was read before.": _without_state,
        },
        'After `kept`, the notebook\'s model gives `" sea."` -6.4, `" two boys."` -11.9 and `" potato."` -13.9.',
        reveal=False,
    ),
)
