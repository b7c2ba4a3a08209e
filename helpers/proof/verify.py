"""Prove a conversion: original and converted side by side, and a certificate that says how far they are apart.

The original runs in the ``rwkv`` package, on an fp32 copy, since that package rounds the embedding in the file's dtype.
The converted model runs in transformers, in fp32 as well. One runs after the other, so that memory holds only one.
"""

import math
import platform
import tempfile
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoTokenizer

from ..atomic import write_text
from ..checkpoints.files import load_checkpoint, pieces, sha256
from ..checkpoints.format import describe
from ..checkpoints.oracle import fp32_copy, load_oracle, refuse_without_reference
from ..checkpoints.versions import CheckpointInfo
from ..conversion.loading import check_directory, load_model
from ..conversion.reading import is_world, load_converted, weight_files
from ..errors import InputError
from ..lambada.passages import check_vocabulary, encode, read_texts
from ..lambada.protocol import collect, compare_results, score_converted, score_original, summarize
from ..paths import BUILD
from ..tokenizer.check import find_mismatches, fuzz_texts, load_cases, reference_tokenizer
from ..tokenizer.fast import python_tokenizer
from .card import with_certificate
from .certificate import (
    LENGTHS,
    SEEDS,
    TOLERANCE,
    Certificate,
    LambadaResult,
    Mode,
    OriginalFile,
    RunResult,
    Score,
    Setting,
    TokenizersResult,
    WeightsResult,
    write_certificate,
)
from .parity import READERS, Parity, compare_traces

MOST_TOKENS, MAX_SEED = 10**6, 2**63 - 1  # of random ids
DECODED, DECODED_OF_TEXT = 48, 16  # tokens that are read one by one, of each seed and of each text
TEXTS = {
    "English": "The old man looked at the sea and said nothing. In the evening the boats came back, one by one.",
    "Chinese": "老人望着大海，什么也没说。傍晚，船一只一只地回来了。",
    "Japanese": "老人は海を見て、何も言わなかった。夕方、船が一隻ずつ帰ってきた。",
    "Russian": "Старик смотрел на море и молчал. Вечером лодки вернулись одна за другой.",
    "Arabic": "نظر الرجل العجوز إلى البحر ولم يقل شيئا. في المساء عادت القوارب واحدا تلو الآخر.",
    "Spanish": "El viejo miró el mar y no dijo nada. Por la tarde volvieron las barcas, una a una.",
    "Python": "def back(boats):\n    for boat in sorted(boats):\n        yield boat.name, boat.hour + 1\n",
    "emoji": "👴🏽 🌊 … 🌆 ⛵⛵ 🇯🇵 👩‍👩‍👧 ✅",
}


@dataclass(frozen=True)
class Reading:
    """What both sides read for one comparison, all at once (``prefill``) or token by token (``decode``)."""

    mode: Mode
    text: str
    ids: list[int]


def plan_readings(vocab_size: int, lengths: tuple[int, ...], seeds: tuple[int, ...]) -> list[Reading]:
    """Return the comparisons to make. Texts need the World vocabulary, so other models get random ids only."""
    readings = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for length in lengths:
            ids = torch.randint(1, min(vocab_size, 65530), (length,), generator=generator).tolist()
            readings.append(Reading("prefill", f"random ids, seed {seed}", ids))
        readings.append(Reading("decode", f"random ids, seed {seed}", ids[:DECODED]))
    if vocab_size >= 65530:
        for language, text in TEXTS.items():
            ids = reference_tokenizer().encode(text)
            readings += [Reading("prefill", language, ids), Reading("decode", language, ids[:DECODED_OF_TEXT])]
    return readings


def verify(
    checkpoint: str | Path,
    folder: str | Path,
    lengths: tuple[int, ...] = LENGTHS,
    seeds: tuple[int, ...] = SEEDS,
    tolerance: float = TOLERANCE,
    data: str | Path | None = None,
    limit: int | None = None,
    progress: bool = True,
) -> Certificate:
    """Compare a converted directory with its checkpoint, and return the certificate.

    It is written there, too, as ``parity.json`` and as a section of the model card.

    Args:
        lengths, seeds: of the random ids.
        tolerance: see :meth:`helpers.proof.parity.Parity.within`.
        data, limit: LAMBADA passages to score with both models; see :func:`helpers.lambada.passages.read_texts`.

    Raises:
        InputError: one of the two is no model, or they are models of different kinds.
    """
    checkpoint, folder = Path(checkpoint), Path(folder)
    if not lengths or not seeds or min(lengths) < 1:
        raise InputError("Give at least one length, of one token or more, and at least one seed.")
    if max(lengths) > MOST_TOKENS or not all(0 <= seed <= MAX_SEED for seed in seeds):
        raise InputError(f"Give lengths up to {MOST_TOKENS:,} tokens, and seeds from 0 to {MAX_SEED}.")
    if not 0 < tolerance < math.inf:
        raise InputError(f"The tolerance is {tolerance}; give a finite number above 0, such as 1e-4.")
    original = load_checkpoint(checkpoint)
    info = describe(original, str(checkpoint))
    refuse_other_model(info, load_converted(folder)[1], checkpoint, folder)
    check_directory(folder)
    refuse_without_reference(info, checkpoint)
    texts = read_texts(data, limit) if data else []
    if texts:
        check_vocabulary(info.vocab_size, encode(texts, reference_tokenizer().encode), checkpoint)
    readings = plan_readings(info.vocab_size, lengths, seeds)
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="verify-", dir=BUILD) as scratch:  # the copy may be large
        reference = fp32_copy(checkpoint, Path(scratch))
        certificate = Certificate(
            original=OriginalFile(checkpoint.name, sha256(checkpoint), info.version),
            converted={file.name: sha256(file) for file in weight_files(folder)},
            compared_in=Setting("float32", "none", tolerance),
            versions={name: version(name) for name in ("torch", "transformers", "tokenizers", "rwkv")}
            | {"python": platform.python_version()},
            weights=compare_weights(original, load_converted(folder)[0]),
            # a model of another vocabulary has its own tokenizer, or none
            tokenizers=compare_tokenizers(folder) if is_world(folder, info.vocab_size) else TokenizersResult(0, 0, 0),
            runs=compare_runs(reference, folder, info, readings, tolerance, progress),
            lambada=compare_lambada(reference, folder, texts, progress) if texts else None,
        )
    write_certificate(folder, certificate)
    card = folder / "README.md"
    write_text(card, with_certificate(card.read_text(encoding="utf-8") if card.exists() else "", certificate))
    return certificate


def refuse_other_model(info: CheckpointInfo, other: CheckpointInfo, checkpoint: Path, folder: Path) -> None:
    """Raise InputError if two models cannot be compared at all."""
    for field in ("version", "layers", "hidden_size", "attention_size", "heads", "ffn_size", "vocab_size"):
        theirs, ours = getattr(info, field), getattr(other, field)
        if theirs != ours:
            raise InputError(
                f"{folder} is another model than {checkpoint}: its {field} is {ours}, not {theirs}; "
                "give the checkpoint that it was converted from."
            )


def compare_weights(original: dict[str, Tensor], converted: dict[str, Tensor]) -> WeightsResult:
    """Count the tensors that are equal bit for bit, after a change of dtype if the converted ones have another."""
    different = []
    for name, weight in original.items():
        other = converted[name]
        pairs = zip(pieces(weight), pieces(other), strict=True)
        if not all(torch.equal(a.to(other.dtype), b) for a, b in pairs):
            different.append(name)
    cast = sorted(
        {str(converted[n].dtype).removeprefix("torch.") for n, w in original.items() if w.dtype != converted[n].dtype}
    )
    return WeightsResult(len(original), len(original) - len(different), different, cast)


def compare_runs(
    reference: Path, folder: Path, info: CheckpointInfo, readings: list[Reading], tolerance: float, progress: bool
) -> list[RunResult]:
    """Let both sides read everything and return one row for each comparison."""
    # some directories have two classes: ours, and transformers' own
    trusts = [True, False] if info.row.runs_natively(info.layers) else [True]
    with tqdm(total=len(readings) * (1 + len(trusts)), unit="run", disable=not progress) as bar:
        oracle = load_oracle(reference)
        expected = []
        for reading in readings:
            expected.append(READERS[reading.mode].original(oracle, reading.ids))
            bar.update()
        del oracle
        rows = []
        for trust in trusts:
            model = load_model(folder, trust)
            for reading, theirs in zip(readings, expected, strict=True):
                ours = READERS[reading.mode].converted(model, reading.ids)
                rows.append(run_result(type(model).__name__, reading, compare_traces(ours, theirs), tolerance))
                bar.update()
    return rows


def run_result(class_name: str, reading: Reading, parity: Parity, tolerance: float) -> RunResult:
    """Return a comparison as it stands in the certificate."""
    return RunResult(
        class_name=class_name,
        mode=reading.mode,
        input=reading.text,
        tokens=parity.tokens,
        max_abs_logit_diff=parity.max_abs_logit_diff,
        mean_abs_logit_diff=parity.mean_abs_logit_diff,
        max_abs_logit=parity.max_abs_logit,
        argmax_agreement=parity.argmax_agreement,
        max_state_diff=parity.max_state_diff,
        within_tolerance=parity.within(tolerance),
        first_difference=parity.where(tolerance),
    )


def compare_tokenizers(folder: Path, fuzz: int = 2000) -> TokenizersResult:
    """Count the texts that the tokenizers of a directory encode otherwise than BlinkDL's."""
    reference = reference_tokenizer().encode
    texts = [case.text for case in load_cases()] + list(fuzz_texts(fuzz))
    # without the configuration's class, transformers warns that the model type is unknown
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    fast = AutoTokenizer.from_pretrained(folder, config=config, trust_remote_code=False)
    mismatches = []
    for tokenizer in (fast, python_tokenizer(folder)):
        encode = partial(tokenizer.encode, add_special_tokens=False, split_special_tokens=True)
        mismatches.append(len(find_mismatches(reference, encode, texts)))
    return TokenizersResult(len(texts), *mismatches)


def compare_lambada(reference: Path, folder: Path, texts: list[str], progress: bool) -> LambadaResult:
    """Score passages with both models."""
    documents = encode(texts, reference_tokenizer().encode)
    theirs = collect(score_original(load_oracle(reference), documents), len(documents), progress)
    ours = collect(score_converted(load_model(folder), documents), len(documents), progress)
    difference, changed = compare_results(ours, theirs)
    return LambadaResult(
        documents=len(texts),
        original=Score(*summarize(theirs)),
        converted=Score(*summarize(ours)),
        max_abs_logprob_diff=difference,
        other_predictions=len(changed),
    )
