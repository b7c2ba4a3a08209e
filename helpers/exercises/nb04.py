"""The exercises of notebook 04: find the first difference, narrow it to a tensor, heads that copy and why."""

import math
from collections.abc import Callable

import torch
from torch import nn

from ..hub_code.configuration_rwkv5 import Rwkv5Config
from ..hub_code.modeling_rwkv5 import Rwkv5ForCausalLM
from ..teaching import model_view
from .checking import Exercise

Rows = list[list[float]]
Place = tuple[int, int] | None

# 1, easy: the first place that differs


def first_difference(rows: list[list[float]], tolerance: float) -> tuple[int, int] | None:
    for block, taps in enumerate(rows):
        for tap, difference in enumerate(taps, start=1):
            if not difference <= tolerance:  # NaN is never <= anything, so it counts as different
                return block, tap
    return None


def largest_difference(rows: Rows, tolerance: float) -> Place:
    worst, block, tap = max((value, -b, -t) for b, taps in enumerate(rows) for t, value in enumerate(taps, start=1))
    return (-block, -tap) if worst > tolerance else None


def nan_overlooked(rows: Rows, tolerance: float) -> Place:
    found = ((b, t) for b, taps in enumerate(rows) for t, value in enumerate(taps, start=1) if value > tolerance)
    return next(found, None)


def taps_from_0(rows: Rows, tolerance: float) -> Place:
    place = first_difference(rows, tolerance)
    return place and (place[0], place[1] - 1)


def differences() -> list[tuple]:
    right, nan = [1e-7, 2e-7, 3e-7], math.nan
    return [
        ([right, [1e-7, 1e-2, 3e-3], [0.5, 0.4, 0.3]], 1e-4),
        ([right, right, [1e-7, 2e-7, 2e-4]], 1e-4),
        ([right, right], 1e-4),
        ([[1e-7, nan, nan], [nan, nan, nan]], 1e-4),
        ([[2e-7, 1e-7, 1e-7], right], 1e-8),
    ]


# 2, medium: from the whole model to one tensor


class Questions(list):
    """Answers whether a model is right with some tensors restored, and is the list of what was asked.

    Raises:
        RuntimeError: one question more than it takes to halve the names until one is left.
    """

    def __init__(self, names: list[str], damaged: str):
        super().__init__()
        self.damaged, self.budget = damaged, math.ceil(math.log2(len(names))) + 1

    def __call__(self, restored: list[str]) -> bool:
        self.append(list(restored))
        if len(self) > self.budget:
            raise RuntimeError(f"more than {self.budget} questions")
        return self.damaged in restored

    def __repr__(self) -> str:
        return "is_right"  # in the message of a check, where a list would be shown as []


def find_damaged(names: list[str], is_right) -> str:
    while len(names) > 1:
        half = names[: len(names) // 2]
        names = half if is_right(half) else names[len(half) :]
    return names[0]


def one_by_one(names: list[str], is_right: Callable[[list[str]], bool]) -> str:
    return next(name for name in names if is_right([name]))


def other_half(names: list[str], is_right: Callable[[list[str]], bool]) -> str:
    while len(names) > 1:
        half = names[: len(names) // 2]
        names = names[len(half) :] if is_right(half) else half
    return names[0]


def middle_lost(names: list[str], is_right: Callable[[list[str]], bool]) -> str:
    while len(names) > 1:
        middle = len(names) // 2
        names = names[:middle] if is_right(names[:middle]) else (names[middle + 1 :] or names[:middle])
    return names[0]


def hunts() -> list[tuple]:
    names = [f"blocks.{n // 20}.tensor{n % 20}" for n in range(286)]
    lists = (names, names[:7], names[:1], names[:100], names)
    return [(some, Questions(some, some[at])) for some, at in zip(lists, (200, 3, 0, 99, 143), strict=True)]


# 3, easy: does a head copy?


def copy_rate(scores: torch.Tensor) -> float:
    n, found = len(scores) // 2, 0
    for i in range(n, 2 * n):
        best = 1 + int(scores[i, 1:i].argmax())  # among the tokens before, without the first
        found += best == i - n + 1
    return found / n


def rate_with(scores: torch.Tensor, first: int = 1, end: int = 0, ahead: int = 1) -> float:
    """Count as the solution does, or with one of its typical mistakes: other columns, or another place looked for."""
    n, found = len(scores) // 2, 0
    for i in range(n, 2 * n):
        last = i + end if end < 2 else 2 * n
        found += first + int(scores[i, first:last].argmax()) == i - n + ahead
    return found / n


def rate_of_both(scores: torch.Tensor) -> float:
    return copy_rate(scores) / 2


def heads_that_copy() -> list[tuple]:
    cases = []
    for number, n in enumerate((9, 12, 15)):
        scores = torch.randn(2 * n, 2 * n, generator=torch.Generator().manual_seed(number))
        for i in range(n, 2 * n):
            scores[i, i - n + (1 if i % 3 else 0)] += 9.0  # what followed, or every third time the word itself
        right = [i for i in range(n, 2 * n) if i % 3]
        scores[right[:2], 0] = 30.0  # the first token
        scores[right[2], right[2]] = 30.0  # itself
        scores[right[3:5], -1] = 30.0  # the future
        cases.append((scores.tril() if number == 1 else scores,))
    return cases


# 4, hard: where does a head that copies get its keys?


def copying_without_shift(load, ids: torch.Tensor, layer: int, head: int) -> list[float]:
    from helpers.teaching import model_view

    rates = []
    for block in range(layer + 1):
        model = load()  # a fresh copy, so that only one block is changed at a time
        with torch.no_grad():
            model.rwkv.blocks[block].attention.time_mix_key.fill_(1)
        rates.append(model_view.copy_rates(model, ids)[layer, head].item())
    return rates


def rates_with(
    case: tuple, name: str = "time_mix_key", value: float = 1.0, keep: bool = False, best: bool = False
) -> list[float]:
    """Measure as the solution does, with one of its typical mistakes."""
    load, ids, layer, head = case
    rates, model = [], load()
    for block in range(layer + 1):
        model = model if keep else load()
        with torch.no_grad():
            getattr(model.rwkv.blocks[block].attention, name).fill_(value)
        found = model_view.copy_rates(model, ids)
        rates.append((found.max() if best else found[layer, head]).item())
    return rates


def copying_model(layers: int, heads: tuple[tuple[int, int], ...]) -> Rwkv5ForCausalLM:
    """Return a small model in which some heads (block, head) copy: their key is the token before, never forgotten.

    Block 0 adds noise, which disturbs them a little.
    """
    torch.manual_seed(0)
    config = Rwkv5Config(version="5.0", vocab_size=30, hidden_size=32, head_size=16, num_hidden_layers=layers)
    model = Rwkv5ForCausalLM(config).eval()
    projection = nn.init.orthogonal_(torch.empty(16, 32))
    with torch.no_grad():
        nn.init.orthogonal_(model.rwkv.embeddings.weight)
        for number, block in enumerate(model.rwkv.blocks):
            nn.init.normal_(block.attention.output.weight, std=1.0 if number == 0 else 0.0)
            nn.init.zeros_(block.feed_forward.value.weight)
        for number, head in heads:
            attention = model.rwkv.blocks[number].attention
            attention.time_mix_key.zero_()
            attention.time_mix_receptance.fill_(1)
            attention.time_decay.fill_(-20)
            rows = slice(16 * head, 16 * head + 16)
            attention.key.weight[rows] = attention.receptance.weight[rows] = projection
    return model


def two_blocks() -> Rwkv5ForCausalLM:
    return copying_model(2, ((1, 1),))


def three_blocks() -> Rwkv5ForCausalLM:
    return copying_model(3, ((1, 0), (2, 1)))


def copying_models() -> list[tuple]:
    ids = torch.arange(1, 29)
    return [(two_blocks, ids, 1, 1), (three_blocks, ids, 2, 1), (three_blocks, ids, 1, 0)]


EXERCISES = (
    Exercise(
        solution=first_difference,
        cases=differences,
        mistakes={
            "You overlook NaN: every comparison with it is false, also `>`. Ask for `not difference <= tolerance`.": (
                nan_overlooked
            ),
            "You return the largest difference. A fault spreads and may grow in later blocks; the first one counts.": (
                largest_difference
            ),
            "Taps are numbered from 1, as in the picture.": taps_from_0,
        },
        why="`not difference <= tolerance` instead of `difference > tolerance`: a NaN must be found, not passed over.",
    ),
    Exercise(
        solution=find_damaged,
        cases=hunts,
        mistakes={
            "You ask about one tensor at a time. Restore half of those that are left, all at once.": one_by_one,
            "You keep the wrong half: if the model is right with some tensors restored, the damage was among them.": (
                other_half
            ),
            "You lose the name in the middle: the second half begins at `len(names) // 2`, not one behind it.": (
                middle_lost
            ),
        },
        why="Each question halves what is left, so 286 tensors take nine. `git bisect` searches commits in this way.",
    ),
    Exercise(
        solution=copy_rate,
        cases=heads_that_copy,
        mistakes={
            "Later tokens are in your search. Token i reads the tokens before it: columns below i.": (
                lambda scores: rate_with(scores, end=2)
            ),
            "A token reads itself in your search. Look at the columns below i, without i.": lambda scores: rate_with(
                scores, end=1
            ),
            "Leave out column 0: many heads read the first token whatever it is.": lambda scores: rate_with(
                scores, first=0
            ),
            "You look for the word itself at i - n. What followed it stands one place further.": lambda scores: (
                rate_with(scores, ahead=0)
            ),
            "Divide by n: only the second readings are counted.": rate_of_both,
        },
        why="`model_view.copy_rates` does this for all heads of all blocks.",
    ),
    Exercise(
        solution=copying_without_shift,
        cases=copying_models,
        mistakes={
            "A ratio of 0 takes everything from the token before. Without token shift the ratio is 1.": lambda *case: (
                rates_with(case, value=0.0)
            ),
            "You change the receptance; it is the key that must say which token stood before.": lambda *case: (
                rates_with(case, name="time_mix_receptance")
            ),
            "The blocks that you changed earlier stay changed. Load a fresh copy for each block.": lambda *case: (
                rates_with(case, keep=True)
            ),
            "You return the best of all heads. Look at `[layer, head]` alone.": lambda *case: rates_with(
                case, best=True
            ),
        },
        why="On the trained model the head finds what followed for 85 % of the tokens. Token shift of any one block "
        "below may go, and it still finds 80 to 88 %; without that of its own block it finds nothing. So this head "
        "does in one block what takes a transformer two. It is a matter of channels: in block 9 nearly four in ten of "
        "the ratios are below 0.1, where the key is made from the token before.",
    ),
)
