"""Exercises of notebook 06: counting, decays from the text, mixing, and a chunk with them."""

import math

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
