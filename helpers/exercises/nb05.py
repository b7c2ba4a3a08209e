"""The exercises of notebook 05: sums that cannot overflow, parameters, 5.0 in the form of 5.2, halves of halves."""

import torch

from .checking import Exercise

# 1, medium: RWKV-4's sums, whatever the keys


def wkv4_safe(k: torch.Tensor, v: torch.Tensor, w: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    above, below = torch.zeros_like(k[0]), torch.zeros_like(k[0])
    top = torch.full_like(k[0], -1e38)  # the sums are divided by e^top
    outputs = []
    for t in range(len(k)):
        new = torch.maximum(top, u + k[t])
        old, now = torch.exp(top - new), torch.exp(u + k[t] - new)
        outputs.append((old * above + now * v[t]) / (old * below + now))
        new = torch.maximum(top + w, k[t])
        old, now = torch.exp(top + w - new), torch.exp(k[t] - new)
        above, below, top = old * above + now * v[t], old * below + now, new
    return torch.stack(outputs)


def wkv4_plain(k: torch.Tensor, v: torch.Tensor, w: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    above, below = torch.zeros_like(k[0]), torch.zeros_like(k[0])
    outputs = []
    for t in range(len(k)):
        now = torch.exp(u + k[t])
        outputs.append((above + now * v[t]) / (below + now))
        above = torch.exp(w) * above + torch.exp(k[t]) * v[t]
        below = torch.exp(w) * below + torch.exp(k[t])
    return torch.stack(outputs)


def one_maximum(k: torch.Tensor, v: torch.Tensor, w: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return wkv4_plain(k - k.amax(0), v, w, u)


def decay_forgotten(k: torch.Tensor, v: torch.Tensor, w: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return wkv4_safe(k, v, torch.zeros_like(w), u)


def bonus_forgotten(k: torch.Tensor, v: torch.Tensor, w: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return wkv4_safe(k, v, w, torch.zeros_like(u))


def keys_of_all_sizes() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    k, v = torch.randn(2, 12, 4, generator=generator)
    w, u = -torch.rand(4, generator=generator), torch.randn(4, generator=generator)
    rising = torch.linspace(-200, 200, 12)[:, None] + k
    return [(k, v, w, u), (k + 100, v, w, u), (rising, v, w, u), (k - 300, v, w, u)]


# 2, easy: the parameters of a block


def block_parameters(version: str, D: int, H: int) -> int:
    gated = version in ("5.1", "5.2")
    width = int(3.5 * D) // 32 * 32 if gated else 4 * D
    matrices, ratios = (5, 4) if gated else (4, 3)  # r, k, v, output, and the gate
    per_head = D if version == "5.2" else H
    time_mix = matrices * D * D + ratios * D + 2 * per_head + 2 * D
    channel_mix = 2 * width * D + D * D + 2 * D
    return time_mix + channel_mix + 4 * D


def count_with(version: str, D: int, H: int, wide: bool = False, numbers: bool = False, ratio: bool = False) -> int:
    """Count as the solution does, but with one of its typical mistakes."""
    gated, counted = version in ("5.1", "5.2"), block_parameters(version, D, H)
    if wide and gated:
        counted += 2 * (4 * D - int(3.5 * D) // 32 * 32) * D
    if numbers and version == "5.2":
        counted += 2 * (H - D)
    return counted - (D if ratio and gated else 0)


def count_without(version: str, D: int, H: int, missing: str) -> int:
    """Count as the solution does, but for some tensors."""
    gated = version in ("5.1", "5.2")
    width = int(3.5 * D) // 32 * 32 if gated else 4 * D
    numbers = {
        "a matrix": D * D,
        "the gate": D * D if gated else 0,
        "a wide matrix": width * D,
        "decay and bonus": 2 * (D if version == "5.2" else H),
        "decay or bonus": D if version == "5.2" else H,
        "two vectors": 2 * D,
        "biases": 3 * D,
        "ratios": (4 if gated else 3) * D + 2 * D,
    }
    return block_parameters(version, D, H) - numbers[missing]


def count_unrounded(version: str, D: int, H: int) -> int:
    gated, width = version in ("5.1", "5.2"), int(3.5 * D)
    return block_parameters(version, D, H) + (2 * (width - width // 32 * 32) * D if gated else 0)


# 3, easy: decay and bonus of 5.0 in the form of 5.2


def to_channels(
    time_decay: torch.Tensor, time_first: torch.Tensor, head_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    decay = time_decay.view(-1, 1).expand(-1, head_size)
    bonus = time_first.exp().view(-1, 1).expand(-1, head_size)
    return decay, bonus


def bonus_not_exponentiated(
    time_decay: torch.Tensor, time_first: torch.Tensor, head_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    return to_channels(time_decay, time_first, head_size)[0], time_first.view(-1, 1).expand(-1, head_size)


def decay_computed(
    time_decay: torch.Tensor, time_first: torch.Tensor, head_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    decay, bonus = to_channels(time_decay, time_first, head_size)
    return torch.exp(-torch.exp(decay)), bonus


def heads_mixed(
    time_decay: torch.Tensor, time_first: torch.Tensor, head_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    decay, bonus = (x.flatten().repeat(head_size).view(-1, head_size) for x in (time_decay, time_first.exp()))
    return decay, bonus


def heads_of_5_0() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    decay, bonus = torch.randn(2, 5, generator=generator)
    return [(decay - 3, bonus, 4), (decay[:2, None], bonus[:2, None], 3), (decay[:3], bonus[:3], 8)]


# 4, hard: the scores of 5.2 by halves


def scores_by_halves(r: torch.Tensor, k: torch.Tensor, log_w: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    tokens = len(r)
    if tokens == 1:
        return (r * u * k).sum(-1, keepdim=True)
    half = tokens // 2
    scores = torch.zeros(tokens, tokens, dtype=r.dtype)
    steps = torch.arange(half)[:, None]
    second = r[half:] * torch.exp(log_w * steps)  # p tokens behind the border
    first = k[:half] * torch.exp(log_w * steps.flip(0))  # q tokens in front of it
    scores[half:, :half] = second @ first.T
    scores[:half, :half] = scores_by_halves(r[:half], k[:half], log_w, u)
    scores[half:, half:] = scores_by_halves(r[half:], k[half:], log_w, u)
    return scores


def halves_divided(r: torch.Tensor, k: torch.Tensor, log_w: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    step = torch.arange(len(r))[:, None]
    scores = ((r * torch.exp(log_w * (step - 1))) @ (k / torch.exp(log_w * step)).T).tril(-1)
    return scores + torch.diag((r * u * k).sum(-1))


def halves_with(
    r: torch.Tensor,
    k: torch.Tensor,
    log_w: torch.Tensor,
    u: torch.Tensor,
    behind: int = 0,
    before_border: int = 0,
    turned: bool = False,
    across_only: bool = False,
) -> torch.Tensor:
    """Split as the solution does, but with one of its typical mistakes."""
    tokens, half = len(r), len(r) // 2
    if tokens == 1:
        return (r * u * k).sum(-1, keepdim=True)
    scores, steps = torch.zeros(tokens, tokens, dtype=r.dtype), torch.arange(half)[:, None]
    before = (steps if turned else steps.flip(0)) + before_border
    across = (r[half:] * torch.exp(log_w * (steps + behind))) @ (k[:half] * torch.exp(log_w * before)).T
    scores[half:, :half] = across
    if across_only:
        return scores + torch.diag((r * u * k).sum(-1))
    scores[:half, :half] = halves_with(r[:half], k[:half], log_w, u, behind, before_border, turned)
    scores[half:, half:] = halves_with(r[half:], k[half:], log_w, u, behind, before_border, turned)
    return scores


def chunks_of_5_2() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    cases = []
    for tokens, strongest in ((8, 1.0), (1, 1.0), (2, 0.5), (64, 8.0)):
        r, k = torch.randn(2, tokens, 4, generator=generator)
        cases.append((r, k, -torch.linspace(0.01, strongest, 4), torch.randn(4, generator=generator)))
    return cases


EXERCISES = (
    Exercise(
        solution=wkv4_safe,
        cases=keys_of_all_sizes,
        mistakes={
            "That is the plain form, which overflows. Keep both sums divided by e^top, with top the maximum so far.": (
                wkv4_plain
            ),
            "One maximum for the whole text: early tokens become 0 / 0, and it looks into the future.": one_maximum,
            "The sums do not decay. From token to token, top becomes top + w, unless the new key is larger.": (
                decay_forgotten
            ),
            "The token itself counts with e^(u + k), not with e^k.": bonus_forgotten,
        },
        why="Numerator and denominator are divided by the same $e^{top}$, so it cancels out. This is `add_decayed` of "
        "`modeling_rwkv4.py`; softmax is computed safely in the same way.",
    ),
    Exercise(
        solution=block_parameters,
        cases=lambda: [("5.0", 768, 12), ("5.1", 768, 12), ("5.2", 768, 12), ("5.1", 96, 3), ("5.2", 1024, 16)],
        mistakes={
            "With a gate, channel-mix is narrower: 3.5 D, rounded down to a multiple of 32.": lambda version, D, H: (
                count_with(version, D, H, wide=True)
            ),
            "In 5.2 decay and bonus have one number per channel, not per head.": lambda version, D, H: count_with(
                version, D, H, numbers=True
            ),
            "The gate reads a mixture too: it has a ratio, D numbers more.": lambda version, D, H: count_with(
                version, D, H, ratio=True
            ),
            "You forgot ln1 and ln2: a weight and a bias each.": lambda version, D, H: (
                block_parameters(version, D, H) - 4 * D
            ),
            "3.5 D is rounded down to a multiple of 32: for D = 96 the width is 320.": count_unrounded,
            "The gate's own matrix is missing.": lambda version, D, H: count_without(version, D, H, "the gate"),
            "A D × D matrix is missing: time-mix has four, or five with a gate, and channel-mix its receptance.": (
                lambda version, D, H: count_without(version, D, H, "a matrix")
            ),
            "Channel-mix has two wide matrices: key leads to its width, value back to D.": lambda version, D, H: (
                count_without(version, D, H, "a wide matrix")
            ),
            "Decay and bonus are missing.": lambda version, D, H: count_without(version, D, H, "decay and bonus"),
            "Decay and bonus are two tensors; you counted one.": lambda version, D, H: count_without(
                version, D, H, "decay or bonus"
            ),
            "2 D are missing: ln_x (a weight and a bias), the two ratios of channel-mix, or one of ln1 and ln2.": (
                lambda version, D, H: count_without(version, D, H, "two vectors")
            ),
            "The norms ln1, ln2 and ln_x have a bias each, too.": lambda version, D, H: count_without(
                version, D, H, "biases"
            ),
            "The ratios are missing: D numbers for each mixture, two of them in channel-mix.": lambda version, D, H: (
                count_without(version, D, H, "ratios")
            ),
            "2 D too many: ln0 is in the first block alone.": lambda version, D, H: (
                block_parameters(version, D, H) + 2 * D
            ),
        },
        why="At D = 768 the gate costs 589,824, and the narrower channel-mix returns that: one ratio is left over.",
    ),
    Exercise(
        solution=to_channels,
        cases=heads_of_5_0,
        mistakes={
            "`time_first` is the logarithm of the bonus, `time_faaaa` the bonus itself: exponentiate.": (
                bonus_not_exponentiated
            ),
            "5.2 stores the same d as 5.0, from which w = exp(-exp(d)) is computed later. Copy it as it is.": (
                decay_computed
            ),
            "Numbers of different heads end up in one row. All channels of a head have the number of that head.": (
                heads_mixed
            ),
        },
        why="So every 5.0 model can be written with a decay per channel: 5.2 contains 5.0, and can only do better.",
    ),
    Exercise(
        solution=scores_by_halves,
        cases=chunks_of_5_2,
        mistakes={
            "You divide by w^j, which is too small for fp32 in a fast channel. Split at the border instead.": (
                halves_divided
            ),
            "One step too many: the first token of the second half has p = 0, and q is 0 for the last token of the "
            "first half.": lambda r, k, log_w, u: halves_with(r, k, log_w, u, behind=1),
            "Two steps too many: p is 0 for the first token of the second half, and q is 0 for the last token of the "
            "first half.": lambda r, k, log_w, u: halves_with(r, k, log_w, u, behind=1, before_border=1),
            "Turned around: the last token of the first half has q = 0, the first half - 1.": lambda r, k, log_w, u: (
                halves_with(r, k, log_w, u, turned=True)
            ),
            "Only the pairs across the middle are there. Do the same within each half.": lambda r, k, log_w, u: (
                halves_with(r, k, log_w, u, across_only=True)
            ),
        },
        why="The recursion ends at single tokens, which read themselves with the bonus. `wkv5_scores` does one level "
        "for all blocks of all chunks and heads at once.",
    ),
)
