"""The exercises of notebook 03: half-lives, the memory of one token, decays that depend on the text, no loop."""

import math

import torch
from torch import Tensor

from .checking import Exercise


def decay_for(half_life):
    return math.log(math.log(2) / half_life)


def forget(S, k, v, w, age):
    return S - w**age * torch.outer(k, v)


def text_mask(w, u):
    T = len(w)
    M = u * torch.eye(T, dtype=w.dtype)
    for i in range(T):
        for j in range(i):
            M[i, j] = w[j + 1 : i].prod()  # of no numbers at all: 1
    return M


def wkv5_without_loop(r, k, v, w, M, S):
    size, N = len(M), r.shape[1]
    r, k, v = (x.view(-1, size, N) for x in (r, k, v))  # (n, C, N): n chunks side by side
    step = torch.arange(size)[:, None]
    inside = ((r @ k.mT) * M) @ v
    added = (k * w ** (size - 1 - step)).mT @ v  # A_m, (n, N, N)
    parts = torch.cat([S[None], added])  # S_0, A_0, A_1, ...: part p is there from the beginning of chunk p on
    chunk = torch.arange(len(parts))
    age = chunk[:, None] - chunk  # in chunks
    factor = torch.where(age >= 0, w ** (size * age.clamp(min=0)), 0.0)
    states = (factor @ parts.flatten(1)).view_as(parts)  # S before each chunk, and after the last one
    y = inside + w**step * (r @ states[:-1])
    return y.flatten(0, 1), states[-1]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def memories() -> list[tuple]:
    """States that really hold the token in question: written with numbers that a learner can follow, then at random."""
    one, two = torch.tensor([1.0, 0.0]), torch.tensor([2.0, 3.0])
    cases = [(torch.outer(one, two), one, two, 0.5, 0)]
    for seed, (w, age) in enumerate([(0.5, 1), (0.9, 3), (0.99, 10)]):
        k, v = random(2, 3, seed=seed)
        S = random(3, 3, seed=seed + 10) + w**age * torch.outer(k, v)
        cases.append((S, k, v, w, age))
    return cases


def decays() -> list[tuple]:
    changing = torch.tensor([0.9, 0.5, 0.8, 0.1, 0.7])
    forgetful = torch.tensor([0.9, 0.8, 0.0, 0.7, 0.6, 0.5])
    return [(changing, 2.0), (torch.full((4,), 0.5), 1.5), (forgetful, 0.3), (torch.tensor([0.4]), 1.0)]


def mask(size: int, w: float, u: float) -> Tensor:
    gap = torch.arange(size)[:, None] - torch.arange(size) - 1
    past = torch.tensor(w, dtype=torch.float64) ** gap.clamp(min=0)
    return torch.where(gap >= 0, past, 0.0) + u * (gap == -1)


def texts() -> list[tuple]:
    cases = []
    for seed, (chunks, size, w) in enumerate([(1, 4, 0.5), (3, 4, 0.9), (8, 8, 0.97)]):
        r, k, v = random(3, chunks * size, 3, seed=seed)
        decay = torch.tensor(w, dtype=torch.float64)
        cases.append((r, k, v, decay, mask(size, w, 1.3), random(3, 3, seed=seed + 10)))
    return cases


def each_pair(entry):
    """Return a mask whose lower half is ``entry(w, i, j)``."""

    def wrong(w, u):
        M = u * torch.eye(len(w), dtype=w.dtype)
        for i in range(len(w)):
            for j in range(i):
                M[i, j] = entry(w, i, j)
        return M

    return wrong


def state_before_last(r, k, v, w, M, S):
    """The right y, and S before the last chunk."""
    y, _ = wkv5_without_loop(r, k, v, w, M, S)
    end = len(r) - len(M)
    return y, wkv5_without_loop(r[:end], k[:end], v[:end], w, M, S)[1] if end else S


def decayed_late(r, k, v, w, M, S):
    """Each part is one chunk older than it should be, but for the initial state."""
    y, after = wkv5_without_loop(r, k, v, w, M, S)
    size, last = len(M), torch.zeros_like(S)
    for start in range(0, len(r), size):
        rows = slice(start, start + size)
        step = torch.arange(size)[:, None]
        y[rows] += w**step * (r[rows] @ last) * (w**size - 1)
        last = w**size * last + (k[rows] * w ** (size - 1 - step)).T @ v[rows]
    return y, after + last * (w**size - 1)


def undecayed_reading(r, k, v, w, M, S):
    """Each token of a chunk reads S as if it were the first one."""
    y, after = wkv5_without_loop(r, k, v, w, M, S)
    size = len(M)
    for start in range(0, len(r), size):
        _, before = wkv5_without_loop(r[:start], k[:start], v[:start], w, M, S) if start else (None, S)
        rows = slice(start, start + size)
        y[rows] += (1 - w ** torch.arange(size)[:, None]) * (r[rows] @ before)
    return y, after


def one_chunk_after_another(r, k, v, w, M, S, between):
    """y (n, C, N) and all n + 1 states, if the state decays by ``between`` from one chunk to the next."""
    size, outputs, states = len(M), [], [S]
    step = torch.arange(size)[:, None]
    for start in range(0, len(r), size):
        part = slice(start, start + size)
        outputs.append(((r[part] @ k[part].T) * M) @ v[part] + w**step * (r[part] @ states[-1]))
        states.append(between * states[-1] + (k[part] * w ** (size - 1 - step)).T @ v[part])
    return torch.stack(outputs), torch.stack(states)


def chunks_like_tokens(r, k, v, w, M, S):
    """The states decay by one token per chunk."""
    y, states = one_chunk_after_another(r, k, v, w, M, S, w)
    return y.flatten(0, 1), states[-1]


def all_states(r, k, v, w, M, S):
    y, states = one_chunk_after_another(r, k, v, w, M, S, w ** len(M))
    return y.flatten(0, 1), states


def states_before_chunks(r, k, v, w, M, S):
    y, states = all_states(r, k, v, w, M, S)
    return y, states[:-1]


def y_alone(r, k, v, w, M, S):
    return wkv5_without_loop(r, k, v, w, M, S)[0]


def still_in_chunks(r, k, v, w, M, S):
    y, states = one_chunk_after_another(r, k, v, w, M, S, w ** len(M))
    return y, states[-1]


EXERCISES = (
    Exercise(
        solution=decay_for,
        cases=lambda: [(1.0,), (1000.0,), (10.0,), (0.5,)],
        mistakes={
            "You return w itself. The file stores d, and w = exp(-exp(d)).": lambda half_life: 0.5 ** (1 / half_life),
            "You undo one exponential only; there are two: w = exp(-exp(d)).": lambda half_life: (
                math.log(2) / half_life
            ),
            "The sign is wrong: a larger d means a faster decay, so a shorter half-life.": lambda half_life: (
                -math.log(math.log(2) / half_life)
            ),
        },
        why="$w^h = 1/2$ says $h\\,e^d = \\ln 2$. Adding 1 to $d$ divides the half-life by $e$.",
    ),
    Exercise(
        solution=forget,
        cases=memories,
        mistakes={
            "You take away what the token wrote, but since then it has decayed `age` times.": lambda S, k, v, w, age: (
                S - torch.outer(k, v)
            ),
            "Rows of S belong to the key and columns to the value: the outer product is kᵀv, not vᵀk.": (
                lambda S, k, v, w, age: S - w**age * torch.outer(v, k)
            ),
            "One decay too many: the token that was just written (age 0) has not decayed yet.": (
                lambda S, k, v, w, age: S - w ** (age + 1) * torch.outer(k, v)
            ),
            "You add the token a second time; take it away.": lambda S, k, v, w, age: S + w**age * torch.outer(k, v),
        },
        why="The state is a sum, and what each token has put in can be taken out again. That is linearity, and the "
        "next section stands on it.",
    ),
    Exercise(
        solution=text_mask,
        cases=decays,
        mistakes={
            "The decay of token j itself is in your product. At token j the old state decays, then token j is added: "
            "its own decay does not touch it.": each_pair(lambda w, i, j: w[j:i].prod()),
            "The decay of token i is in your product. Token i reads before it lets the state decay.": each_pair(
                lambda w, i, j: w[j + 1 : i + 1].prod()
            ),
            "Your product is shifted by one: it holds the decay of token j, which does not touch what token j adds, "
            "and lacks that of token i - 1, which does.": each_pair(lambda w, i, j: w[j : i - 1].prod()),
            "You take a power of one decay. Each token between j and i has a decay of its own: multiply them.": (
                each_pair(lambda w, i, j: w[i] ** (i - j - 1))
            ),
            "Your mask is transposed: row i is the token that reads.": lambda w, u: text_mask(w, u).T,
        },
        why="The powers of w became products, and nothing else changed. So a decay that depends on the text can be "
        "written out just as well: this is the mask of RWKV-6. What is lost is that all texts share one mask.",
    ),
    Exercise(
        solution=wkv5_without_loop,
        cases=texts,
        mistakes={
            "The initial state is missing: it reaches every chunk, decayed by all tokens before that chunk.": (
                lambda r, k, v, w, M, S: wkv5_without_loop(r, k, v, w, M, torch.zeros_like(S))
            ),
            "What chunk m added arrives one chunk too old: at the beginning of chunk m + 1 it has not decayed by a "
            "whole chunk yet, the exponent is C (n - m - 1).": decayed_late,
            "Token i of a chunk reads S after i decays: the factor w^i is missing where r reads S.": undecayed_reading,
            "y is right. But you return S before the last chunk, not after it.": state_before_last,
            "From one chunk to the next, S decays by w^C, a whole chunk; you let it decay by w, one token.": (
                chunks_like_tokens
            ),
            "You return all n + 1 states; return only the last one, states[-1] of shape (N, N).": all_states,
            "You return the states before the chunks; return only the one after the last chunk, of shape (N, N).": (
                states_before_chunks
            ),
            "You return y alone. Return two things: y, and S after the last token.": y_alone,
            "Your y is still in chunks, (n, C, N). Put the tokens in one row again: y.flatten(0, 1) has (n C, N).": (
                still_in_chunks
            ),
        },
        why="The loop over tokens became a triangular matrix, the mask, and the loop over chunks another, `factor`. "
        "Both times the reason is that each step is linear in $S$.",
        reveal=False,
    ),
)
