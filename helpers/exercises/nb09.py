"""The exercises of notebook 09."""

import math
import re

import numpy as np

from .checking import Exercise, equal

# 1. the last sentence alone


def last_sentence(text):
    import re

    sentence = re.split(r"(?<=[.?!])\"?\s+|\n\n", text)[-1]
    return sentence if " " in sentence else " ".join(text.split(" ")[-4:])


def texts() -> list[tuple[str]]:
    return [
        ('It was late. The maid screamed. "You may speak," said uncle Thaddeus',),
        ("Who was there? Nobody knew! He called for Homer",),
        ('She turned round. "Not now." He closed the door',),
        ("The rain went on.\n\nIn the morning there was a letter from Anna",),
        ('"Is it far?" asked the boy, and looked at the map of Mr. Brown',),
        ("They waited for the boat to come. Silence. Bells",),
    ]


def split_at(pattern, text, least_two_words: bool = True):
    sentence = re.split(pattern, text)[-1]
    return sentence if " " in sentence or not least_two_words else " ".join(text.split(" ")[-4:])


SENTENCE = Exercise(
    solution=last_sentence,
    cases=texts,
    mistakes={
        "A question mark or an exclamation mark ends a sentence, too.": lambda text: split_at(
            r"(?<=\.)\"?\s+|\n\n", text
        ),
        "A sentence can end in a quotation mark: allow one between the mark and the white space.": lambda text: (
            split_at(r"(?<=[.?!])\s+|\n\n", text)
        ),
        "One word is left: a passage needs a context and a target, so take the last four words then.": lambda text: (
            split_at(r"(?<=[.?!])\"?\s+|\n\n", text, least_two_words=False)
        ),
        "That is the whole text; split it.": lambda text: text,
    },
    why="Scored that way, the 150 passages give perplexity 101,774 and accuracy 0.67 %, against 114 and 27.33 % with "
    "the whole passage: almost nothing is left, since the answer is elsewhere in the passage.",
)

# 2. four lines against twenty million parameters


def rule(context):
    import re

    names = re.findall(r"(?<=[a-z,] )[A-Z][a-z]+", context)
    return names[-1] if names else ""


def contexts() -> list[tuple[str]]:
    return [
        ("The maid called Thaddeus and then uncle Ben. Rain fell. He said to",),
        ("We met Anna, Peter and Maria at the lake. Later she wrote to",),
        ("It rained. Nobody came. They waited for the",),
        ("My aunt Miriam knew old Jakob from the army. The boys said that",),
    ]


RULE = Exercise(
    solution=rule,
    cases=contexts,
    mistakes={
        "Words at the start of a sentence are capitalized without being names: ask for a small letter and a space "
        "before.": lambda context: (re.findall(r"[A-Z][a-z]+", context) or [""])[-1],
        "That is the first name; take the last.": lambda context: (
            re.findall(r"(?<=[a-z,] )[A-Z][a-z]+", context) or [""]
        )[0],
        "Without any name the answer is an empty text.": lambda context: re.findall(
            r"(?<=[a-z,] )[A-Z][a-z]+", context
        )[-1],
    },
    why="On the 150 passages the rule gets 36.7 %, the model 27.3 %, and at least one of the two 54.0 %: they know "
    "different things.",
)

# 3. how many passages?


def passages_needed(share, points):
    import math

    deviation = math.sqrt(2 * share * (1 - share))  # of the difference of two models, for one passage each
    return math.ceil((1.96 * deviation / (points / 100)) ** 2)


def needs() -> list[tuple[float, float]]:
    return [(0.2733, 10.0), (0.2733, 1.7), (0.36, 0.02), (0.5, 5.0)]


NEEDED = Exercise(
    solution=passages_needed,
    cases=needs,
    mistakes={
        "That is the interval of one model; the difference of two has twice the variance.": lambda share, points: (
            math.ceil(1.96**2 * share * (1 - share) / (points / 100) ** 2)
        ),
        "The points are percent: 1.7 points are a share of 0.017.": lambda share, points: math.ceil(
            1.96**2 * 2 * share * (1 - share) / points**2
        ),
        "The variance of one hit is p (1 - p), not p.": lambda share, points: math.ceil(
            1.96**2 * 2 * share / (points / 100) ** 2
        ),
        "Round up: a part of a passage is one more passage.": lambda share, points: int(
            1.96**2 * 2 * share * (1 - share) / (points / 100) ** 2
        ),
    },
    why="150 passages tell two models apart from 10.1 points on, 5,153 from 1.7 points on. For the article's gap of "
    "0.02 points, which is one passage of 5,153, 44 million at its 36 %. Unpaired comparisons are that weak.",
)

# 4. paired and unpaired


def intervals(a, b, draws):
    import numpy as np

    paired = [(b[row] - a[row]).mean() for row in draws]
    unpaired = [b[other].mean() - a[row].mean() for row, other in zip(draws, np.roll(draws, 1, axis=0), strict=True)]
    return [tuple(np.percentile(means, [2.5, 97.5])) for means in (paired, unpaired)]


def score_pairs() -> list[tuple]:
    cases = []
    for seed, spread in ((0, 0.05), (1, 0.5), (2, 2.0)):
        generator = np.random.default_rng(seed)
        a = -5 + 3 * generator.standard_normal(60)
        b = a + 0.02 + spread * generator.standard_normal(60)
        cases.append((a, b, generator.integers(60, size=(400, 60))))
    return cases


def both_from(a, b, draws, paired: bool, percent=(2.5, 97.5)):
    others = draws if paired else np.roll(draws, 1, axis=0)
    means = [b[other].mean() - a[row].mean() for row, other in zip(draws, others, strict=True)]
    return [tuple(np.percentile(means, percent))] * 2


def narrow(a, b, draws):
    return [both_from(a, b, draws, paired, (5, 95))[0] for paired in (True, False)]


def a_moved(a, b, draws):
    moved = zip(draws, np.roll(draws, 1, axis=0), strict=True)
    means = [b[row].mean() - a[other].mean() for row, other in moved]
    return [both_from(a, b, draws, paired=True)[0], tuple(np.percentile(means, [2.5, 97.5]))]


def half(right: int):
    """Return a function whose answer has only this one of the two intervals, and None for the other."""
    return lambda a, b, draws: [pair if place == right else None for place, pair in enumerate(intervals(a, b, draws))]


def same_where_known(given, expected) -> bool:
    """Compare two pairs of intervals; where None is expected, anything will do."""
    pairs = zip(given, expected, strict=True)
    return all(wanted is None or equal(interval, wanted) for interval, wanted in pairs)


INTERVALS = Exercise(
    solution=intervals,
    cases=score_pairs,
    same=same_where_known,
    mistakes={
        "Both of your intervals are paired: for the unpaired one, model B must get other passages than A.": (
            lambda a, b, draws: both_from(a, b, draws, paired=True)
        ),
        "Both of your intervals are unpaired: for the paired one, take the same passages of both models.": (
            lambda a, b, draws: both_from(a, b, draws, paired=False)
        ),
        "That is a 90 % interval; the middle 95 % begins at 2.5 and ends at 97.5.": narrow,
        "You measure A minus B; the difference asked for is B minus A.": lambda a, b, draws: [
            (-high, -low) for low, high in intervals(a, b, draws)
        ],
        "Your paired interval is right. In the unpaired one you moved the drawings of a; leave those, and let b get "
        "row i - 1.": a_moved,
        "Your paired interval is right; the unpaired one is not. There a gets row i and b gets row i - 1; the mean of "
        "b's drawing minus the mean of a's is one number.": half(0),
        "Your unpaired interval is right; the paired one is not. There a and b get the same row.": half(1),
    },
    reveal=False,
    why="What makes a passage hard is hard for both models, and cancels only if both get the same passages. "
    "`compare_paired` does it with 2,000 draws.",
)

EXERCISES = (SENTENCE, RULE, NEEDED, INTERVALS)
