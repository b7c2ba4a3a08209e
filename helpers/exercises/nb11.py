"""The exercises of notebook 11: expected losses, chance, the kinds of a window, a sampled softmax."""

import math

import torch

from .checking import Exercise, equal

# 11.1


def losses_to_expect(counts):
    shares = counts[counts > 0] / counts.sum()
    return math.log(len(counts)), -(shares * shares.log()).sum().item()


def _only_seen(counts):
    return losses_to_expect(counts[counts > 0])


def _in_bits(counts):
    return tuple(loss / math.log(2) for loss in losses_to_expect(counts))


def _not_a_number(counts):
    shares = counts / counts.sum()
    return math.log(len(counts)), -(shares * shares.log()).sum().item()


def _unweighted(counts):
    shares = counts[counts > 0] / counts.sum()
    return math.log(len(counts)), -shares.log().mean().item()


# 11.2


def standard_errors_apart(a, b, n):
    p, q = a / 100, b / 100
    error = (p * (1 - p) / n + q * (1 - q) / n) ** 0.5
    return (p - q) / error


def _no_sign(a, b, n):
    return abs(standard_errors_apart(a, b, n))


def _percents_mixed(a, b, n):
    return 100 * standard_errors_apart(a, b, n)


def _errors_added(a, b, n):
    p, q = a / 100, b / 100
    return (p - q) / ((p * (1 - p) / n) ** 0.5 + (q * (1 - q) / n) ** 0.5)


def _one_error(a, b, n):
    p, q = a / 100, b / 100
    return (p - q) / (p * (1 - p) / n) ** 0.5


def _no_root(a, b, n):
    p, q = a / 100, b / 100
    return (p - q) / (p * (1 - p) / n + q * (1 - q) / n)


# 11.3


def kinds_of(window, inserted, common):
    seen, kinds = set(), []
    for token in window:
        word = token.strip()
        if token in seen and word.isalpha() and word not in common:
            kinds.append("repeated")
        elif token not in seen and word in inserted:
            kinds.append("inserted")
        else:
            kinds.append("ordinary")
        seen.add(token)
    return kinds


def _put_in_each_time(window, inserted, common):
    kinds = kinds_of(window, inserted, common)
    return ["inserted" if token.strip() in inserted else kind for token, kind in zip(window, kinds, strict=True)]


def _never_put_in(window, inserted, common):
    return kinds_of(window, set(), common)


def _common_too(window, inserted, common):
    return kinds_of(window, inserted, set())


def _all_that_repeats(window, inserted, common):
    kinds = kinds_of(window, inserted, common)
    return ["repeated" if token in window[:place] else kinds[place] for place, token in enumerate(window)]


def _looks_ahead(window, inserted, common):
    """Call a content word repeated wherever it occurs more than once."""
    kinds = kinds_of(window, inserted, common)
    words = (token.strip() for token in window)
    content = [word.isalpha() and word not in common and word not in inserted for word in words]
    often = [content[place] and window.count(token) > 1 for place, token in enumerate(window)]
    return ["repeated" if again else kind for again, kind in zip(often, kinds, strict=True)]


# 11.4


def sampled_loss(logits, certain, drawn, target):
    stands_for = (len(logits) - len(certain)) / len(drawn)
    terms = torch.cat([logits[certain], logits[drawn] + math.log(stands_for)])
    return terms.logsumexp(0) - logits[target]


def _not_weighted(logits, certain, drawn, target):
    return logits[torch.cat([certain, drawn])].logsumexp(0) - logits[target]


def _all_weighted(logits, certain, drawn, target):
    rows = torch.cat([certain, drawn])
    return logits[rows].logsumexp(0) + math.log(len(logits) / len(rows)) - logits[target]


def _of_all_rows(logits, certain, drawn, target):
    terms = torch.cat([logits[certain], logits[drawn] + math.log(len(logits) / len(drawn))])
    return terms.logsumexp(0) - logits[target]


def _number_added(logits, certain, drawn, target):
    terms = torch.cat([logits[certain], logits[drawn] + (len(logits) - len(certain)) / len(drawn)])
    return terms.logsumexp(0) - logits[target]


def _only_the_denominator(logits, certain, drawn, target):
    return sampled_loss(logits, certain, drawn, target) + logits[target]


def _sampled_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    cases = []
    for size, certain, drawn in ((50, 5, 9), (1000, 100, 90), (40, 10, 30)):
        rows = torch.randperm(size, generator=generator)
        logits = 2 * torch.randn(size, generator=generator)
        cases.append((logits, rows[:certain], rows[certain : certain + drawn], int(rows[2])))
    return cases


EXERCISES = (
    Exercise(
        losses_to_expect,
        lambda: [
            (torch.tensor([1.0, 1.0, 1.0, 1.0]),),
            (torch.tensor([3.0, 1.0, 0.0]),),
            (torch.arange(20.0),),
        ],
        {
            "0 · ln 0 is not a number; leave tokens with count 0 out of the entropy.": _not_a_number,
            "V is the number of all tokens, those with count 0 as well.": _only_seen,
            "Your logarithm is that of base 2; a loss is in nats, with the natural logarithm.": _in_bits,
            "The entropy is a mean in which each token counts as often as it occurs: p times ln p.": _unweighted,
        },
        "If the first loss of a run is neither of the two, look at the initial values before anything else.",
        same=lambda given, expected: equal(torch.tensor(given), torch.tensor(expected)),  # NaN is like NaN
    ),
    Exercise(
        standard_errors_apart,
        lambda: [(11.64, 7.26, 5153), (11.64, 11.08, 5153), (19.08, 22.39, 5153), (22.5, 20.0, 150)],
        {
            "The sign is missing: a - b is negative if b is better.": _no_sign,
            "Your difference is in percent, and your error in shares; divide both by 100, or neither.": _percents_mixed,
            "Errors do not add up, but their squares do: take the root of the sum of the squares.": _errors_added,
            "Both runs have an error, and you took one.": _one_error,
            "You divided by the square of the standard error; take its root.": _no_root,
        },
        "Without renaming: 7.6 standard errors, no chance. Without the bias: 0.9, which can be chance. "
        "RWKV-5.2 against 5.0 in the long runs: 4.2, but in one run each.",
    ),
    Exercise(
        kinds_of,
        lambda: [
            ([" Nora", " met", " Tom", ".", " Tom", " laughed", "."], {"Tom"}, {"met"}),
            ([" Tom", " left", " the", " house", ",", " the", " house", ",", " Tom"], {"Tom"}, {"the"}),
            ([" He", " saw", " a", " dog", ".", " He", " saw", " Bo", ";", " a", " dog", " Bo"], {"Bo"}, {"a", "He"}),
        ],
        {
            "A put-in word is inserted only where it first occurs; after that it can be copied.": _put_in_each_time,
            "You never look at inserted: nobody can know a put-in word where it first occurs.": _never_put_in,
            "A common word is no content word, however often it occurs.": _common_too,
            "A comma or a common word that comes again is ordinary; only content words are worth copying.": (
                _all_that_repeats
            ),
            "A word is repeated from its second occurrence on; the first cannot be copied.": _looks_ahead,
        },
        "The real one, `WindowMaker` in `helpers/training/windows.py`, does this for whole arrays of ids; "
        "there, a put-in name can have several tokens.",
    ),
    Exercise(
        sampled_loss,
        _sampled_cases,
        {
            "Drawn rows stand for those that were not drawn as well; weight them up.": _not_weighted,
            "Only drawn rows are weighted up; a certain row stands for itself.": _all_weighted,
            "The rest has V - len(certain) rows, not V.": _of_all_rows,
            "To multiply a term by a number, add the logarithm of that number to its logit.": _number_added,
            "That is the logarithm of the denominator; subtract the target's logit.": _only_the_denominator,
        },
        "If all rows are taken, as in the third case, this is the exact loss.",
        reveal=False,
    ),
)
