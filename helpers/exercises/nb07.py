"""Exercises of notebook 07: erasing, decays, one step as a matrix, a chunk as a triangle."""

import math
from functools import partial

import torch
from torch import Tensor

from .checking import Exercise


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# 1


def erase(S, key, share):
    direction = key / key.norm()
    found = direction @ S  # what S holds under the key
    return S - share * torch.outer(direction, found)


def erase_cases() -> list[tuple]:
    basis = torch.eye(3, dtype=torch.float64)
    memory = torch.arange(9, dtype=torch.float64).view(3, 3) + 1
    return [(memory, basis[1], 1.0), (memory, 2 * basis[0], 0.5), (numbers(4, 4, seed=1), numbers(4, seed=2), 0.7)]


# 2


def half_life(x):
    decay = torch.exp(-math.exp(-0.5) * torch.sigmoid(x))
    return math.log(2) / -torch.log(decay)


def half_life_cases() -> list[tuple]:
    return [(torch.tensor([-6.0, 0.0, 6.0]).double(),), (numbers(4, seed=3),), (torch.tensor([100.0]).double(),)]


# 3


def transition(w, direction, share):
    return torch.diag(w) - torch.outer(direction * share, direction)


def transition_cases() -> list[tuple]:
    cases = []
    for seed in (4, 5):
        direction = numbers(4, seed=seed)
        decay, share = torch.sigmoid(numbers(4, seed=seed + 10)), torch.sigmoid(numbers(4, seed=seed + 20))
        cases.append((decay, direction / direction.norm(), share))
    return [(torch.ones(2).double(), torch.tensor([1.0, 0.0]).double(), torch.tensor([1.0, 0.3]).double()), *cases]


# 4


def final_state(w, k, v, a, b, S):
    through = torch.cumprod(w, dim=0)  # W_t
    a_before = a * through / w  # a_t W_{t-1}
    k_after, b_after = k / through, b / through
    strictly = torch.ones(len(w), len(w), dtype=w.dtype).tril(-1)
    system = torch.eye(len(w), dtype=w.dtype) - (a_before @ b_after.T) * strictly
    right = a_before @ S + ((a_before @ k_after.T) * strictly) @ v
    u = torch.linalg.solve_triangular(system, right, upper=False)
    return through[-1][:, None] * (S + k_after.T @ v + b_after.T @ u)


def final_state_cases() -> list[tuple]:
    cases = []
    for seed, tokens in ((6, 1), (7, 2), (8, 6)):
        w = torch.exp(-0.6 * torch.sigmoid(numbers(tokens, 4, seed=seed)))
        k, v = numbers(tokens, 4, seed=seed + 10), numbers(tokens, 4, seed=seed + 20)
        direction = k / k.norm(dim=-1, keepdim=True)
        share = torch.sigmoid(numbers(tokens, 4, seed=seed + 30))
        cases.append((w, k, v, -direction, direction * share, numbers(4, 4, seed=seed + 40)))
    return cases


def by_loop(w, k, v, a, b, S, decay_erased=False, order="read first"):
    """Walk through the chunk, with one of the mistakes that can be made."""
    for w_t, k_t, v_t, a_t, b_t in zip(w, k, v, a, b, strict=True):
        found = a_t @ (w_t[:, None] * S if order == "decay first" else S)
        erased = torch.outer(b_t, found)
        S = w_t[:, None] * (S + erased if decay_erased else S) + (0 if decay_erased else erased) + torch.outer(k_t, v_t)
    return S


def without_erasing(w, k, v, a, b, S):
    through = torch.cumprod(w, dim=0)
    return through[-1][:, None] * (S + (k / through).T @ v)


EXERCISES = (
    Exercise(
        solution=erase,
        cases=erase_cases,
        mistakes={
            "The key is not normalized: a key twice as long would then erase four times as much.": (
                lambda S, key, share: S - share * torch.outer(key, key @ S)
            ),
            "You take the share off everything, not off what stands under the key.": (
                lambda S, key, share: (1 - share) * S
            ),
            "Rows of S belong to keys, columns to values: what a key finds is `direction @ S`, not `S @ direction`.": (
                lambda S, key, share: S - share * torch.outer(S @ (key / key.norm()), key / key.norm())
            ),
        },
        why="With `share=1` nothing is left under this key, and whatever stands under keys at right angles stays.",
    ),
    Exercise(
        solution=half_life,
        cases=half_life_cases,
        mistakes={
            "This is the decay of RWKV-5, exp(-exp(x)). Here a sigmoid stands in place of the inner exp.": (
                lambda x: math.log(2) / torch.exp(x)
            ),
            "The factor e^-0.5 is missing.": lambda x: math.log(2) / torch.sigmoid(x),
            "This is the decay w. The half-life is the t with w^t = 1/2.": (
                lambda x: torch.exp(-math.exp(-0.5) * torch.sigmoid(x))
            ),
        },
        why=(
            "The shortest half-life is ln 2 / e^-0.5 = 1.14 tokens, which no x, however large, gets below. What must "
            "go at once, the eraser takes."
        ),
    ),
    Exercise(
        solution=transition,
        cases=transition_cases,
        mistakes={
            "The matrix is transposed: the share belongs to the channel that loses (rows), not to the one read.": (
                lambda w, direction, share: torch.diag(w) - torch.outer(direction, direction * share)
            ),
            "The sign is wrong: what is found is taken off.": (
                lambda w, direction, share: torch.diag(w) + torch.outer(direction * share, direction)
            ),
            "Here the decay also hits what is erased. In RWKV-7 both act on the old state, side by side.": (
                lambda w, direction, share: (
                    torch.diag(w) @ (torch.eye(len(w), dtype=w.dtype) - torch.outer(direction * share, direction))
                )
            ),
        },
        why=(
            "A step multiplies the state by this matrix. RWKV-5 and 6 have a diagonal there: channels never mix. "
            "Here they do, which is what lets RWKV-7 keep track of things that change places."
        ),
    ),
    Exercise(
        solution=final_state,
        cases=final_state_cases,
        mistakes={
            "This chunk never erases: the rows u are missing.": without_erasing,
            "You erase from the state after its decay; a_t reads S of the token before, not yet decayed (W of t-1).": (
                partial(by_loop, order="decay first")
            ),
            "What a token erases is decayed at the same token. Only from the next token on it is (W of s, not s-1).": (
                partial(by_loop, decay_erased=True)
            ),
        },
        why="Two matrix products, a triangle, two matrix products, however many tokens there are. No loop over tokens.",
    ),
)
