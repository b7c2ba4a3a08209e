"""Rewrite a passage so that it teaches copying instead of remembering: other names, other nouns, other typography.

A model that reads the same novel ten times learns its names by heart. If every reading has other names, the only way
to predict a name is to look it up in the passage, which is what LAMBADA asks for.
"""

import random
import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

WORD = re.compile(r"[A-Za-z]+")
WORDS_KEPT = re.compile(r"([A-Za-z]+)")  # re.split keeps what a group matches: words stand at odd positions
TITLES = frozenset((
    "Mr", "Mrs", "Ms", "Dr", "Miss", "Sir", "Lady", "Lord", "God", "Monsieur", "Madame", "Mademoiselle", "Captain",
    "Colonel", "Major", "Doctor", "Professor", "Uncle", "Aunt", "Saint", "Heaven", "English", "French", "German",
    "Christmas",
))  # fmt: skip
VOWELS = ("a", "e", "i", "o", "u", "a", "e", "i", "o", "ai", "ea", "ee", "ia", "io")
STARTS = (*"bcdfghjklmnprstvwz", "br", "ch", "cl", "dr", "gr", "kl", "sh", "st", "th", "tr")
ENDS = (*"nrlsmkxdt", "th", "nd", "rt", "ck", *[""] * 12)
DASHES = ("--", " - ", "-", "...", " – ", "…")


@dataclass(frozen=True)
class Lexicon:
    """What is a name, what is a noun, and what may stand in for them. Made by :func:`build_lexicon`."""

    names: frozenset[str]  # capitalized words that hardly ever occur in lower case
    nouns: frozenset[str]  # lower-case words of at least 4 letters outside the 400 most frequent; most are nouns
    corpus_names: list[str]
    vocabulary_names: list[str]  # one token each: such words have a row in the embedding, and deserve training
    corpus_nouns: list[str]
    noun_weights: list[float]  # of corpus_nouns: the square root of their counts
    vocabulary_nouns: list[str]
    common_words: frozenset[str]  # the 300 most frequent words

    @cached_property
    def noun_thresholds(self) -> list[float]:
        return list(accumulate(self.noun_weights))


def build_lexicon(counts: Counter[str], vocabulary: dict[int, bytes]) -> Lexicon:
    """Tell names from other words by how often a word occurs capitalized and in lower case.

    Args:
        counts: how often each word (a run of ASCII letters) occurs in the corpus, with its case.
        vocabulary: ``{id: token}`` of the tokenizer.
    """
    lower = {word: count for word, count in counts.items() if word.islower()}
    ranked = sorted(lower, key=lambda word: (-lower[word], word))

    def is_name(word: str, count: int) -> bool:
        form = len(word) >= 3 and word[0].isupper() and word[1:].islower() and word not in TITLES
        return form and count >= 3 and lower.get(word.lower(), 0) < 0.15 * count

    names = sorted(word for word, count in counts.items() if is_name(word, count))
    words = single_token_words(vocabulary)
    frequent = set(ranked[:400])
    rarer = [word for word in ranked[400:] if len(word) >= 4]
    corpus_nouns = [word for word in rarer if lower[word] >= 8]
    return Lexicon(
        names=frozenset(names),
        nouns=frozenset(word for word in rarer if lower[word] >= 5),
        corpus_names=[word for word in names if counts[word] >= 8],
        vocabulary_names=[w for w in words if w[0].isupper() and lower.get(w.lower(), 0) < 3 and w not in TITLES],
        corpus_nouns=corpus_nouns,
        noun_weights=[lower[word] ** 0.5 for word in corpus_nouns],
        vocabulary_nouns=[word for word in words if word.islower() and len(word) >= 4 and word not in frequent],
        common_words=frozenset(word for word, _ in counts.most_common(300)),
    )


def single_token_words(vocabulary: dict[int, bytes]) -> list[str]:
    """Return the words that are one token with a space in front: of 3 to 12 letters, only the first may be capital."""
    texts = (token.decode("ascii", errors="ignore") for token in vocabulary.values() if token.isascii())
    words = (text[1:] for text in texts if text[:1] == " " and text[1:].isalpha())
    return sorted(word for word in words if 3 <= len(word) <= 12 and word[1:].islower())


@dataclass(frozen=True)
class Augmenter:
    """Rewrites passages. Each part can be switched off, to measure what it brings."""

    lexicon: Lexicon
    rename: bool = True
    styles: bool = True

    def __call__(self, text: str, rng: random.Random) -> tuple[str, list[str]]:
        """Return the rewritten passage and the words that were put in."""
        inserted: list[str] = []
        if self.rename:
            text, inserted = self.replace_words(text, rng)
        if self.styles:
            text = restyle(text, rng)
        return text, inserted

    def replace_words(self, text: str, rng: random.Random) -> tuple[str, list[str]]:
        """Replace most names of the passage, each by the same other name throughout, and now and then a noun."""
        parts = WORDS_KEPT.split(text)
        counts = Counter(parts[1::2])
        replacements: dict[str, str] = {}
        if rng.random() < 0.7:
            names = [word for word in counts if word in self.lexicon.names and rng.random() < 0.7]
            replacements |= {word: self.new_name(rng) for word in names}
        if rng.random() < 0.3 and self.lexicon.corpus_nouns:
            nouns = [word for word, count in counts.items() if count >= 2 and word in self.lexicon.nouns]
            rng.shuffle(nouns)
            for word in nouns[: rng.choice((1, 1, 2, 3))]:
                replacements[word] = self.new_noun(rng)
                replacements[word.capitalize()] = replacements[word].capitalize()
        taken = set(counts)  # a word that is there already would make two different things one
        for old, new in list(replacements.items()):
            if old not in counts or new in taken:
                del replacements[old]
            taken.add(new)
        if replacements:
            parts[1::2] = [replacements.get(word, word) for word in parts[1::2]]
        return "".join(parts), list(replacements.values())

    def new_name(self, rng: random.Random) -> str:
        """Return a single token (half of the time), a name of the corpus, or syllables that nobody has ever seen."""
        kind = rng.random()
        if kind < 0.5 and self.lexicon.vocabulary_names:
            return rng.choice(self.lexicon.vocabulary_names)
        if kind < 0.8 and self.lexicon.corpus_names:
            return rng.choice(self.lexicon.corpus_names)
        return invented_name(rng)

    def new_noun(self, rng: random.Random) -> str:
        if rng.random() < 0.4 and self.lexicon.vocabulary_nouns:
            return rng.choice(self.lexicon.vocabulary_nouns)
        return rng.choices(self.lexicon.corpus_nouns, cum_weights=self.lexicon.noun_thresholds)[0]


def invented_name(rng: random.Random) -> str:
    """Return one to three random syllables of 3 to 10 letters, for example ``Threanort``."""
    while True:
        syllables = rng.choice((1, 2, 2, 2, 3))
        name = "".join(rng.choice(STARTS) + rng.choice(VOWELS) + rng.choice(ENDS) for _ in range(syllables))[:10]
        if len(name) >= 3:
            return name.capitalize()


def restyle(text: str, rng: random.Random) -> str:
    """Vary quotes, paragraph breaks and dashes, so that the model does not depend on one edition's typography."""
    if rng.random() < 0.4:
        text = curly_quotes(text)
    paragraph = rng.random()
    if paragraph >= 0.5:
        text = text.replace("\n\n", "\n" if paragraph < 0.8 else " \n" if paragraph < 0.9 else " ")
    if "—" in text and rng.random() < 0.5:
        text = text.replace("—", rng.choice(DASHES))
    return text


def curly_quotes(text: str) -> str:
    """Turn straight quotes into opening and closing ones."""
    text = re.sub(r'(^|[\s(—-])"', r"\1“", text).replace('"', "”")
    return re.sub(r"(^|[\s(“—])'", r"\1‘", text).replace("'", "’")
