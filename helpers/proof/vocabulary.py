"""Both tokenizers of a directory against BlinkDL's: the whole vocabulary, hard and random texts, and all settings.

No code of the directory is run: the fast tokenizer has none, and the Python one is read with this project's class.
"""

import hashlib
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedConfig

from ..errors import InputError
from ..hub_code.tokenization_rwkv_world import END_OF_TEXT
from ..tokenizer.check import find_mismatches, fuzz_texts, load_cases, reference_tokenizer
from ..tokenizer.fast import CHAT_TEMPLATE, python_tokenizer
from ..tokenizer.vocab import read_vocab, token_to_chars
from .results import TokenizersResult

FUZZ = 2000  # random texts
EARLIER_TEMPLATES = (  # SHA-256
    "8ae80d8390e76f8169e9684db180569143c9b4d8650fa6881cacb3fae5375b79",
    "b2ea36b9e58eee2806fc4e42a4b54890e7d4195f3c6cd8086423c08576ba5080",
)
SPREAD = 64  # tokens that are decoded together, so that a character may be spread over several


def compare_tokenizers(folder: Path, config: PreTrainedConfig, fuzz: int = FUZZ) -> TokenizersResult:
    """Compare all that the two tokenizers of a directory do with texts and ids.

    Args:
        config: of the model; without it, transformers would read that of the directory.

    Raises:
        InputError: a tokenizer cannot be loaded.
    """
    reference = reference_tokenizer()
    texts = [case.text for case in load_cases()] + list(fuzz_texts(fuzz))
    tokenizers = {"fast": fast_tokenizer(folder, config), "Python": python_tokenizer(folder)}
    (fast_texts, fast_ids, fast_faults), (slow_texts, slow_ids, slow_faults) = (
        judge(name, tokenizer, reference, texts) for name, tokenizer in tokenizers.items()
    )
    return TokenizersResult(
        texts=len(texts),
        fast_mismatches=fast_texts,
        slow_mismatches=slow_texts,
        ids=all_ids(),
        fast_wrong_ids=fast_ids,
        slow_wrong_ids=slow_ids,
        settings=fast_faults + slow_faults,
    )


def judge(name: str, tokenizer: Any, reference: Any, texts: list[str]) -> tuple[int, int, list[str]]:
    """Return how many texts and ids a tokenizer treats otherwise, and sentences on what else is wrong with it."""
    try:
        encode = partial(tokenizer.encode, add_special_tokens=False, split_special_tokens=True)
        mismatches = find_mismatches(reference.encode, encode, texts)
        faults = [f"The {name} tokenizer {fault}." for fault in wrong_settings(tokenizer)]
        return len(mismatches), len(wrong_ids(tokenizer, reference)), faults
    except Exception as error:  # one of another kind may raise anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}".rstrip(" .:")
        return len(texts), all_ids(), [f"The {name} tokenizer failed with {reason}."]


def all_ids() -> int:
    """Return how many ids there are: the vocabulary, and the end of a text."""
    return len(read_vocab()) + 1


def fast_tokenizer(folder: Path, config: PreTrainedConfig) -> Any:
    """Return what ``AutoTokenizer`` loads without code of the directory.

    Raises:
        InputError: that is nothing.
    """
    try:
        return AutoTokenizer.from_pretrained(folder, config=config, trust_remote_code=False)
    except Exception as error:  # the library's own exceptions are plain ones
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
        raise InputError(
            f"Cannot load the tokenizer of {folder}: {reason}; run python -m helpers refresh {folder}."
        ) from None


def wrong_ids(tokenizer: Any, reference: Any) -> set[int]:
    """Return the ids whose token, encoding or decoding differs from BlinkDL's, of the whole vocabulary.

    A token that is no text by itself, such as half of a character, cannot be encoded; its name is compared, and it is
    decoded, alone and beside others.
    """
    vocab = read_vocab()
    ids = list(vocab)
    names = tokenizer.convert_tokens_to_ids([token_to_chars(token) for token in vocab.values()])
    wrong = {index for index, named in zip(ids, names, strict=True) if named != index}
    texts = {index: text for index, token in vocab.items() if (text := as_text(token)) is not None}
    encoded = tokenizer(list(texts.values()), add_special_tokens=False)["input_ids"]
    wrong |= {
        index for (index, text), ours in zip(texts.items(), encoded, strict=True) if ours != reference.encode(text)
    }
    rows = [[index] for index in ids] + [ids[start : start + SPREAD] for start in range(0, len(ids), SPREAD)]
    for row, text in zip(rows, tokenizer.batch_decode(rows), strict=True):
        if text != reference.decodeBytes(row).decode("utf-8", "replace"):
            wrong |= set(row)
    end = (tokenizer.convert_tokens_to_ids(END_OF_TEXT), tokenizer.decode([0]))
    return wrong | ({0} if end != (0, END_OF_TEXT) else set())


def as_text(token: bytes) -> str | None:
    try:
        return token.decode("utf-8")
    except UnicodeDecodeError:
        return None


def wrong_settings(tokenizer: Any) -> Iterator[str]:
    """Say what is wrong with special tokens, padding and template; what follows from that is not tried."""
    faults = list(wrong_names(tokenizer))
    yield from faults or wrong_batch(tokenizer)


def wrong_names(tokenizer: Any) -> Iterator[str]:
    """Say which settings have other values than a conversion gives them."""
    yield from different(
        (f"has {name} {getattr(tokenizer, name)!r}, not {value!r}", getattr(tokenizer, name) == value)
        for name, value in {
            "bos_token": END_OF_TEXT,
            "eos_token": END_OF_TEXT,
            "pad_token": END_OF_TEXT,
            "padding_side": "left",
            "truncation_side": "right",
            "model_input_names": ["input_ids", "attention_mask"],
            "split_special_tokens": False,
            "clean_up_tokenization_spaces": False,
        }.items()
    )
    vocab = read_vocab()
    added = tokenizer.get_added_vocab()
    yield from different(
        [
            (f"has {len(tokenizer):,} tokens, not {len(vocab) + 1:,}", len(tokenizer) == len(vocab) + 1),
            (f"has added tokens beside {END_OF_TEXT}", added == {END_OF_TEXT: 0}),
            (f"has {template_of(tokenizer)}", tokenizer.chat_template == CHAT_TEMPLATE),
        ]
    )


def template_of(tokenizer: Any) -> str:
    """Return what chat template there is instead of today's."""
    template = tokenizer.chat_template
    if isinstance(template, str) and hashlib.sha256(template.encode(errors="replace")).hexdigest() in EARLIER_TEMPLATES:
        return "the chat template of an earlier version, without thinking and tools"
    return "another chat template"


def wrong_batch(tokenizer: Any) -> Iterator[str]:
    """Say what is wrong with the ids and masks of two texts, of which one needs padding."""
    text, vocab = f" a{END_OF_TEXT}b", read_vocab()
    a, b = (next(index for index, token in vocab.items() if token == name) for name in (b" a", b"b"))
    both = tokenizer([text, "b"], padding=True)
    yield from different(
        [
            ("puts other ids around a text, or does not know the end of a text", both["input_ids"][0] == [a, 0, b]),
            ("does not pad with id 0 on the left", both["input_ids"][1] == [0, 0, b]),
            ("does not mask its padding", both["attention_mask"] == [[1, 1, 1], [0, 0, 1]]),
            ("does not leave special tokens out", tokenizer.decode([a, 0, b], skip_special_tokens=True) == " ab"),
        ]
    )


def different(checks: Iterable[tuple[str, bool]]) -> Iterator[str]:
    """Yield the sentences of those checks that failed."""
    return (sentence for sentence, right in checks if not right)
