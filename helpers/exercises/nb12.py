"""The exercises of notebook 12: bytes, the bend of the roof, shared weights, and two ways between loop and product."""

import math
from functools import partial

import torch
from torch import Tensor

from ..checkpoints import checkpoint_info, expected_shapes
from .checking import Exercise, Function

# 12.1


def most_tokens_per_second(shapes, number_bytes, bandwidth):
    moved = 0
    for name, shape in shapes.items():
        numbers = shape[1] if name == "emb.weight" else torch.Size(shape).numel()  # of the embedding one row
        moved += number_bytes * numbers
    return bandwidth / moved


def _whole_table(shapes, number_bytes, bandwidth):
    return bandwidth / (number_bytes * sum(map(math.prod, shapes.values())))


def _no_row(shapes, number_bytes, bandwidth):
    return bandwidth / (number_bytes * sum(math.prod(s) for name, s in shapes.items() if name != "emb.weight"))


def _shape_cases() -> list[tuple]:
    tiny = {"emb.weight": (100, 8), "blocks.0.att.key.weight": (8, 8), "blocks.0.ln1.weight": (8,)}
    large = expected_shapes(checkpoint_info("5.0", 24, 2048))
    return [(tiny, 4, 1e6), (tiny | {"head.weight": (100, 8)}, 2, 1e6), (large, 2, 4.8e12)]


# 12.2


def bend(moved, operations, bandwidth, rate):
    T = 1
    while T * operations / rate < moved / bandwidth:
        T += 1
    return T


# 12.3


def batch_roof(rows, weight_bytes, state_bytes, operations, bandwidth, rate):
    moving = (weight_bytes + rows * state_bytes) / bandwidth
    computing = rows * operations / rate
    return rows / max(moving, computing)


def _weights_per_row(rows, weight_bytes, state_bytes, operations, bandwidth, rate):
    return rows / max(rows * (weight_bytes + state_bytes) / bandwidth, rows * operations / rate)


def _one_state(rows, weight_bytes, state_bytes, operations, bandwidth, rate):
    return rows / max((weight_bytes + state_bytes) / bandwidth, rows * operations / rate)


def _one_computed(rows, weight_bytes, state_bytes, operations, bandwidth, rate):
    return rows / max((weight_bytes + rows * state_bytes) / bandwidth, operations / rate)


# 12.4


def states_in_pieces(by_product, A, S, log_w, size, p):
    states = [S[:, None]]
    for piece in A.split(p, 1):
        states.append(by_product(piece, states[-1][:, -1], log_w, size)[:, 1:])
    return torch.cat(states, 1)


def _first_state_each_time(by_product, A, S, log_w, size, p):
    return torch.cat([S[:, None], *(by_product(piece, S, log_w, size)[:, 1:] for piece in A.split(p, 1))], 1)


def _state_kept_twice(by_product, A, S, log_w, size, p):
    states = [S[:, None]]
    for piece in A.split(p, 1):
        states.append(by_product(piece, states[-1][:, -1], log_w, size))
    return torch.cat(states[1:], 1)


def _all_at_once(by_product, A, S, log_w, size, p):
    return by_product(A, S, log_w, size)


def _at_most(p: int) -> Function:
    """Return ``states_by_product`` of the notebook, which here refuses more than p chunks."""

    def states_by_product(A: Tensor, S: Tensor, log_w: Tensor, size: int) -> Tensor:
        if A.shape[1] > p:
            raise ValueError(f"by_product was given {A.shape[1]} chunks at once, more than p = {p}")
        c = size * torch.arange(A.shape[1] + 1)
        triangle = torch.exp(log_w[:, None, None] * (c[:, None] - c).clamp(min=0)).tril()
        parts = torch.cat([S[:, None], A], 1)
        return (triangle @ parts.flatten(2)).view_as(parts)

    return states_by_product


def _piece_cases() -> list[tuple]:
    generator, log_w = torch.Generator().manual_seed(0), -torch.tensor([0.001, 0.05])
    cases = []
    for p in (1, 7, 16):
        A, S = (torch.randn(2, *size, 4, 4, generator=generator) for size in ((20,), ()))
        cases.append((_at_most(p), A, S, log_w, 16, p))
    return cases


# 12.5


def states_by_doubling(A, S, log_w, size):
    sums, reach, rounds = torch.cat([S[:, None], A], 1), 1, 0  # place n: the sum of the last `reach` parts up to it
    while reach < sums.shape[1]:
        kept = torch.exp(log_w * size * reach)[:, None, None, None]
        joined = sums[:, reach:] + kept * sums[:, :-reach]
        sums = torch.cat([sums[:, :reach], joined], 1)
        reach, rounds = 2 * reach, rounds + 1
    return sums, rounds


def _doubling(A: Tensor, S: Tensor, log_w: Tensor, size: int, fades: bool = True, last: int = 1) -> tuple[Tensor, int]:
    """As the solution, with the decay of one chunk in every round, or without the last round."""
    sums, reach, rounds = torch.cat([S[:, None], A], 1), 1, 0
    while last * reach < sums.shape[1]:
        kept = torch.exp(log_w * size * (reach if fades else 1))[:, None, None, None]
        sums = torch.cat([sums[:, :reach], sums[:, reach:] + kept * sums[:, :-reach]], 1)
        reach, rounds = 2 * reach, rounds + 1
    return sums, rounds


def _chunk_by_chunk(A, S, log_w, size):
    states = [S]
    for added in A.unbind(1):
        states.append(torch.exp(log_w * size)[:, None, None] * states[-1] + added)
    return torch.stack(states, 1), A.shape[1]


def _doubling_cases() -> list[tuple]:
    generator, log_w = torch.Generator().manual_seed(1), -torch.tensor([0.001, 0.05])
    return [
        (torch.randn(2, n, 4, 4, generator=generator), torch.randn(2, 4, 4, generator=generator), log_w, 16)
        for n in (1, 2, 7, 8, 20)
    ]


EXERCISES = (
    Exercise(
        most_tokens_per_second,
        _shape_cases,
        {
            "You count the whole embedding; a token reads one row of it, shape[1] numbers.": _whole_table,
            "You leave the embedding out; one row of it, shape[1] numbers, is read.": _no_row,
            "You divide the bytes by the bandwidth: those are the seconds of one token. "
            "Tokens per second is one divided by that.": lambda *given: 1 / most_tokens_per_second(*given),
            "You count numbers, not bytes; each has number_bytes.": lambda s, n, b: n * most_tokens_per_second(s, n, b),
        },
        "The 1.5B shape moves 2.89 GB per token in bf16, so an H200, with 4.8 TB/s, writes at most 1,663 tokens per "
        "second.",
    ),
    Exercise(
        bend,
        lambda: [(1000.0, 10.0, 100.0, 50.0), (575e6, 189e6, 25e9, 233e9), (2.9e9, 3e9, 4.8e12, 800e12)],
        {
            "You compare bytes with operations; compare seconds, bytes / bandwidth with operations / rate.": (
                lambda moved, operations, bandwidth, rate: math.ceil(moved / operations)
            ),
            "You round down; then multiplying still takes less time than moving. Take the next whole number.": (
                lambda moved, operations, bandwidth, rate: math.floor(moved / bandwidth / (operations / rate))
            ),
            "Upside down: T x operations / rate has to reach moved / bandwidth.": (
                lambda moved, operations, bandwidth, rate: math.ceil(operations / rate / (moved / bandwidth))
            ),
        },
        "The faster a machine multiplies, the longer a prompt has to be before that is its limit: "
        "29 tokens on the core of the second case, 162 on the GPU of the third.",
    ),
    Exercise(
        batch_roof,
        lambda: [
            (1, 570e6, 5e6, 289e6, 25e9, 233e9),
            (4, 570e6, 5e6, 289e6, 25e9, 233e9),
            (16, 570e6, 5e6, 289e6, 25e9, 233e9),
            (64, 570e6, 5e6, 289e6, 25e9, 233e9),
        ],
        {
            "You read the weights once per text; all texts of the batch share one reading.": _weights_per_row,
            "You move one state; each text has its own.": _one_state,
            "You compute one token; each text needs its own.": _one_computed,
            "You return steps per second; a step gives a token for each text.": (
                lambda rows, *given: batch_roof(rows, *given) / rows
            ),
        },
        "As long as the weights are the limit, another text is nearly free; from some batch on multiplying is, and the "
        "gain ends: 169 tokens per second for 4 texts, 615 for 16, 806 for 64 and for any more.",
    ),
    Exercise(
        states_in_pieces,
        _piece_cases,
        {
            "You begin every piece with S; its first state is the last state of the piece before.": (
                _first_state_each_time
            ),
            "The state between two pieces is in your result twice; drop the first one of each piece.": (
                _state_kept_twice
            ),
            "You give all chunks to by_product at once; cut A into pieces of p chunks.": _all_at_once,
        },
        "The operations fall from n² to n p, and the starts grow to about 9 n / p. `wkv5_chunked` does the same with "
        "p = `CHUNKS_AT_ONCE` = 64, which suits a GPU and keeps the memory bounded, however long the text is. On one "
        "CPU core the fastest p was 16 for 128 chunks of 2 heads of 32 channels.",
        reveal=False,
    ),
    Exercise(
        states_by_doubling,
        _doubling_cases,
        {
            "You go from chunk to chunk, which takes a round for each. In one round, every place takes in what stands "
            "`reach` places before it, all at once.": _chunk_by_chunk,
            "What is `reach` chunks away decays through `reach` chunks, not through one.": (
                partial(_doubling, fades=False)
            ),
            "You stop too early: go on until `reach` is at least the number of places, n + 1.": (
                partial(_doubling, last=2)
            ),
            "You leave out S, the first of the n + 1 parts.": (
                lambda A, S, log_w, size: _doubling(A, torch.zeros_like(S), log_w, size)
            ),
            "Return two values: the states, and the number of rounds.": lambda *given: states_by_doubling(*given)[0],
        },
        "64 chunks take 7 rounds and 43 starts, where the loop takes 131 and the product 9; the operations grow with "
        "n log n, not with n². On one CPU core, where starts are cheap, the loop stayed the fastest for 2,048 chunks "
        "of 2 heads of 16 channels, and the product took more than ten times as long as the scan. `running_states` in "
        "notebook 07 is a scan, too, with a matrix in place of each decay.",
    ),
)
