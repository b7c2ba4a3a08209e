"""Exercises of notebook 06: counting, decays from the text, mixing, a wrong conversion, and a chunk."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from .checking import Exercise


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# 1


def added_parameters(hidden, mix_rank, decay_rank):
    mixing = hidden * 5 * mix_rank + 5 * mix_rank * hidden
    decay = hidden * decay_rank + decay_rank * hidden
    return mixing + decay


# 2


def decay(x, w0, W1, W2):
    return torch.exp(-torch.exp(w0 + torch.tanh(x @ W1) @ W2))


def decay_cases() -> list[tuple]:
    return [
        (numbers(tokens, 6, seed=tokens), numbers(6, seed=5) - 2, numbers(6, 2, seed=6), numbers(2, 6, seed=7))
        for tokens in (1, 3)
    ]


# 3


def mix(x, previous, ratio):
    return x + (previous - x) * ratio


def mix_cases() -> list[tuple]:
    one = torch.ones(2, dtype=torch.float64)
    return [(one, 0 * one, 0.25 * one), (numbers(3, seed=1), numbers(3, seed=2), numbers(3, seed=3))]


# 4


def turned_letters(read, weights, right):
    import itertools

    letters = "xwkvrg"
    for number in range(len(letters) + 1):
        for chosen in itertools.combinations(letters, number):
            names = {"time_maa_" + letter for letter in chosen}
            tried = {name: 1 - t if name.split(".")[-1] in names else t for name, t in weights.items()}
            if torch.allclose(read(tried), right, atol=1e-3):
                return set(chosen)


Read = Callable[[Mapping[str, Tensor]], Tensor]  # weights -> logits


def stand_in(tokens: int, seed: int) -> Read:
    """Return a model of two blocks that mixes tokens as RWKV-6 does, and does little else with them."""
    x, head = numbers(tokens, 8, seed=seed), numbers(8, 20, seed=seed + 1)

    def with_before(x: Tensor, ratio: Tensor) -> Tensor:
        return x + (torch.cat([torch.zeros_like(x[:1]), x[:-1]]) - x) * ratio

    def read(weights: Mapping[str, Tensor]) -> Tensor:
        after = x
        for block in range(2):
            att, ffn = f"blocks.{block}.att.time_maa_", f"blocks.{block}.ffn.time_maa_"
            hints = torch.tanh(with_before(after, weights[att + "x"]) @ weights[att + "w1"]).chunk(5, dim=-1)
            pairs = zip("wkvrg", hints, weights[att + "w2"], strict=True)
            mixed = [with_before(after, weights[att + letter] + hint @ B) for letter, hint, B in pairs]
            after = after + torch.stack([part.roll(place, -1) for place, part in enumerate(mixed)]).sum(0).tanh()
            after = after + (with_before(after, weights[ffn + "k"]) * with_before(after, weights[ffn + "r"])).tanh()
        return after @ head

    return read


def maa_weights(seed: int) -> dict[str, Tensor]:
    """Return all that :func:`stand_in` reads, by the names of a checkpoint, and a matrix that it does not."""
    weights = {"emb.weight": numbers(20, 8, seed=seed)}
    for block in range(2):
        first = seed + 20 * block
        ratios = torch.sigmoid(2 * numbers(8, 1, 1, 8, seed=first))
        kinds = [f"att.time_maa_{letter}" for letter in "xwkvrg"] + ["ffn.time_maa_k", "ffn.time_maa_r"]
        weights |= {f"blocks.{block}.{kind}": ratio for kind, ratio in zip(kinds, ratios, strict=True)}
        weights[f"blocks.{block}.att.time_maa_w1"] = numbers(8, 10, seed=first + 1)
        weights[f"blocks.{block}.att.time_maa_w2"] = 0.1 * numbers(5, 2, 8, seed=first + 2)
    return weights


def turn(weights: Mapping[str, Tensor], letters: Iterable[str], where: str = "") -> dict[str, Tensor]:
    """Return the weights with the ratios of these letters turned round, of the tensors with ``where`` in their name."""
    names = {"time_maa_" + letter for letter in letters}
    return {name: 1 - t if name.split(".")[-1] in names and where in name else t for name, t in weights.items()}


def turned_cases() -> list[tuple]:
    cases = []
    for seed, letters in ((50, "k"), (51, "w"), (52, "wr"), (53, "xvg"), (54, "")):
        read, weights = stand_in(6, seed), maa_weights(seed)
        cases.append((read, turn(weights, letters), read(weights)))
    return cases


def first_that_fits(tries: Iterable[tuple[set[str], Mapping[str, Tensor]]], read: Read, right: Tensor):
    return next((chosen for chosen, tried in tries if torch.allclose(read(tried), right, atol=1e-3)), None)


def every_set(letters: str = "xwkvrg") -> list[set[str]]:
    return [set(chosen) for n in range(len(letters) + 1) for chosen in itertools.combinations(letters, n)]


def one_at_a_time(read, weights, right):
    tries = [(set(letter), turn(weights, letter)) for letter in "xwkvrg"]
    return first_that_fits([(set(), weights), *tries], read, right)


def each_that_helps(read, weights, right):
    off = (read(weights) - right).abs().max()
    return {letter for letter in "xwkvrg" if (read(turn(weights, letter)) - right).abs().max() < off}


def in_att_alone(read, weights, right):
    return first_that_fits(((chosen, turn(weights, chosen, "att")) for chosen in every_set()), read, right)


def thin_ones_too(read, weights, right):
    def tried(chosen):
        return {
            name: 1 - t if any("time_maa_" + letter in name for letter in chosen) else t for name, t in weights.items()
        }

    return first_that_fits(((chosen, tried(chosen)) for chosen in every_set()), read, right)


def tries_pile_up(read, weights, right):
    for chosen in every_set():
        weights = turn(weights, chosen)
        if torch.allclose(read(weights), right, atol=1e-3):
            return chosen
    return None


# 5


def final_state(k, v, log_w, S):
    from_here = log_w.flip(0).cumsum(dim=0).flip(0)  # what decays from a token to the end of the chunk
    after = torch.cat([from_here[1:], torch.zeros_like(from_here[:1])])  # a token does not fade at itself
    return torch.exp(from_here[0])[:, None] * S + (k * torch.exp(after)).T @ v


def final_state_cases() -> list[tuple]:
    cases = []
    for seed, tokens, steepness in ((8, 1, 0.0), (9, 5, 0.0), (10, 40, 4.0)):  # the last one forgets e^-55 per token
        log_w = -torch.exp(numbers(tokens, 4, seed=seed) + steepness)
        state = numbers(4, 4, seed=seed + 30)
        cases.append((numbers(tokens, 4, seed=seed + 10), numbers(tokens, 4, seed=seed + 20), log_w, state))
    return cases


def by_dividing(k, v, log_w, S):
    w = torch.exp(log_w.cumsum(dim=0))
    return w[-1][:, None] * (S + (k / w).T @ v)


EXERCISES = (
    Exercise(
        solution=added_parameters,
        cases=lambda: [(768, 32, 64), (4096, 64, 128), (64, 1, 1)],
        mistakes={
            "There are five mixtures, each with thin matrices of its own.": (
                lambda hidden, mix_rank, decay_rank: 2 * hidden * (mix_rank + decay_rank)
            ),
            "Thin matrices come in pairs: one down to the rank, one up again.": (
                lambda hidden, mix_rank, decay_rank: hidden * (5 * mix_rank + decay_rank)
            ),
            "The pair of the decay is missing.": lambda hidden, mix_rank, decay_rank: 10 * hidden * mix_rank,
            "The pair of the decay has a rank of its own.": lambda hidden, mix_rank, decay_rank: 12 * hidden * mix_rank,
            "Each of the five has a first matrix of its own, too: time_maa_w1 is D × 5 R.": (
                lambda hidden, mix_rank, decay_rank: hidden * (6 * mix_rank + 2 * decay_rank)
            ),
            "The decay is among the five mixtures, and has its own pair besides.": (
                lambda hidden, mix_rank, decay_rank: hidden * (8 * mix_rank + 2 * decay_rank)
            ),
            "Count the thin matrices alone, without the six fixed ratios.": (
                lambda hidden, mix_rank, decay_rank: hidden * (10 * mix_rank + 2 * decay_rank + 6)
            ),
            "That is what full matrices would cost.": lambda hidden, mix_rank, decay_rank: 6 * hidden * hidden,
        },
        why="For D = 768 that is 344,064 per block, a tenth of the 3.5 million that six full matrices would take.",
        reveal=False,
    ),
    Exercise(
        solution=decay,
        cases=decay_cases,
        mistakes={
            "The outer exp and minus are missing: this is how fast, not how much is left.": (
                lambda x, w0, W1, W2: torch.exp(w0 + torch.tanh(x @ W1) @ W2)
            ),
            "The tanh is missing, so a large token could move the decay without bound.": (
                lambda x, w0, W1, W2: torch.exp(-torch.exp(w0 + x @ W1 @ W2))
            ),
            "tanh comes between the two matrices, not after them.": (
                lambda x, w0, W1, W2: torch.exp(-torch.exp(w0 + torch.tanh(x @ W1 @ W2)))
            ),
        },
        why="Whatever the text says, the result lies between 0 and 1. With `W2 = 0` it is the decay of RWKV-5.2.",
    ),
    Exercise(
        solution=mix,
        cases=mix_cases,
        mistakes={
            "In RWKV-4 and 5 the ratio counts the token itself, as you have it. In RWKV-6 it counts the one "
            "before.": lambda x, previous, ratio: previous + (x - previous) * ratio,
            "The shares must add up to 1: what goes to the token before is taken from the token.": (
                lambda x, previous, ratio: x + previous * ratio
            ),
        },
        why="A ratio of 0 takes the token alone, 1 the one before. PyTorch has it as `torch.lerp(x, previous, ratio)`.",
    ),
    Exercise(
        solution=turned_letters,
        cases=turned_cases,
        mistakes={
            "Several letters can be turned at once, and then none of them is right alone: try all sets of letters.": (
                one_at_a_time
            ),
            "A letter that brings the logits nearer need not be a turned one, as the errors of several do not add up. "
            "Only the right set makes them equal.": each_that_helps,
            "k and r stand in `ffn`, too, and were turned there as well.": in_att_alone,
            "Your letter w takes `time_maa_w1` and `time_maa_w2` along. They are no ratios.": thin_ones_too,
            "Your tries pile up: begin each one with the weights as they were given.": tries_pile_up,
        },
        why="64 readings are enough, as the logits agree for one set alone. Had each of the eight ratios of each block "
        "been turned or not by itself, three blocks would make 2^24 sets: then compare block by block, as notebook 04 "
        "does.",
        reveal=False,
    ),
    Exercise(
        solution=final_state,
        cases=final_state_cases,
        mistakes={
            "You divide by products of decays: they reach 0, and 0 / 0 is NaN. Use logarithms.": (by_dividing),
            "A token's own value is not decayed at that token, only from the next one on.": (
                lambda k, v, log_w, S: (
                    torch.exp(log_w.sum(dim=0))[:, None] * S
                    + (k * torch.exp(log_w.flip(0).cumsum(dim=0).flip(0))).T @ v
                )
            ),
            "The state from before the chunk has to decay through the whole chunk.": (
                lambda k, v, log_w, S: S + (k * torch.exp(log_w.cumsum(dim=0)[-1] - log_w.cumsum(dim=0))).T @ v
            ),
        },
        why=f"In the last case a channel keeps e^-{math.exp(4):.0f} of itself per token, and still nothing overflows.",
    ),
)
