"""Prove a conversion: original and converted side by side, and a certificate that says how far they are apart.

The original runs in the ``rwkv`` package, on an fp32 copy, since that package rounds the embedding in the file's dtype.
The converted model runs in transformers, in fp32 as well. One runs after the other, so that memory holds only one.
"""

import platform
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from ..atomic import scratch_folder, write_text
from ..checkpoints.files import load_checkpoint, pieces, sha256
from ..checkpoints.format import describe
from ..checkpoints.oracle import fp32_copy, load_oracle, refuse_without_reference
from ..checkpoints.versions import WORLD_IDS, WORLD_ROWS, CheckpointInfo
from ..conversion.configuration import config_class
from ..conversion.contents import checksums, marks, names_in
from ..conversion.isolated import IsolatedModel
from ..conversion.loading import check_directory, load_model, other_code, read_config, refuse_other_code
from ..conversion.names import CARD, CERTIFICATE
from ..conversion.reading import is_world, load_converted
from ..errors import InputError
from ..lambada.passages import check_vocabulary, encode, read_texts
from ..lambada.protocol import (
    collect,
    compare_results,
    default_batch_tokens,
    plan_batches,
    score_batch,
    score_batches,
    score_original,
    summarize,
)
from ..lambada.run import score_elsewhere
from ..paths import BUILD
from ..tokenizer.check import reference_tokenizer
from .card import with_certificate
from .certificate import LENGTHS, SEEDS, TOLERANCE, Certificate, write_certificate
from .contents import compare_contents, compare_record
from .judging import compare_answers
from .questions import LONG, Question
from .results import LambadaResult, OriginalFile, Score, Setting, TokenizersResult, WeightsResult
from .vocabulary import compare_tokenizers

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


OUR_CODE, THEIR_CODE = "this project's classes", "the directory's own code, in a process of its own"
NO_TOKENIZERS = TokenizersResult(0, 0, 0, 0, 0, 0, [])


def plan_questions(vocab_size: int, lengths: tuple[int, ...], seeds: tuple[int, ...]) -> list[Question]:
    """Return what both sides are asked. Texts need the World vocabulary, so other models get random ids only."""
    questions = []
    for seed in seeds:
        text, ids = f"random ids, seed {seed}", random_ids(vocab_size, seed, max(*lengths, DECODED))
        questions += [Question("prefill", text, [ids[:length]]) for length in lengths]
        questions.append(Question("decode", text, [ids[:DECODED]]))
    if vocab_size >= WORLD_IDS:
        for language, text in TEXTS.items():
            ids = reference_tokenizer().encode(text)
            questions += [
                Question("prefill", language, [ids]),
                Question("decode", language, [ids[:DECODED_OF_TEXT]]),
            ]
    text, ids = f"random ids, seed {seeds[0]}", random_ids(vocab_size, seeds[0], LONG)
    rows = [ids[:40], ids[40:73], ids[80:107], ids[110:133]]
    return [
        *questions,
        Question("long", text, [ids]),
        Question("batch", text, rows),
        Question("loss", text, [ids[:65]]),
        Question("generate", text, [ids[:20]]),
        Question("generate", f"{text}, two rows", [ids[:20], ids[20:33]]),
        Question("beams", text, [ids[:12]]),
    ]


def random_ids(vocab_size: int, seed: int, count: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, min(vocab_size, WORLD_IDS), (count,), generator=generator).tolist()


def verify(
    checkpoint: str | Path,
    folder: str | Path,
    lengths: tuple[int, ...] = LENGTHS,
    seeds: tuple[int, ...] = SEEDS,
    tolerance: float = TOLERANCE,
    data: str | Path | None = None,
    limit: int | None = None,
    progress: bool = True,
    trust_remote_code: bool = False,
) -> Certificate:
    """Compare a converted directory with its checkpoint, and return the certificate.

    It is written there, too, as ``parity.json`` and as a section of the model card.

    Args:
        lengths, seeds: of the random ids.
        tolerance: see :meth:`helpers.proof.parity.Parity.within`; with more than the usual one, nothing is proved.
        data, limit: LAMBADA passages to score with both models; see :func:`helpers.lambada.passages.read_texts`.
        trust_remote_code: run modeling code of the directory that is not this project's, in a process of its own;
            code that is the same is never run from there.

    Raises:
        InputError: one of the two is no model, they are models of different kinds, the directory's code is not this
            project's and not trusted, or a file changes meanwhile. Then nothing is written.
    """
    checkpoint, folder = Path(checkpoint), Path(folder)
    if not lengths or not seeds or min(lengths) < 1:
        raise InputError("Give at least one length, of one token or more, and at least one seed.")
    if max(lengths) > MOST_TOKENS or not all(0 <= seed <= MAX_SEED for seed in seeds):
        raise InputError(f"Give lengths up to {MOST_TOKENS:,} tokens, and seeds from 0 to {MAX_SEED}.")
    if not 0 < tolerance < 1:
        raise InputError(f"The tolerance is {tolerance}; give a number above 0 and below 1, such as 1e-4.")
    original = load_checkpoint(checkpoint)
    info = describe(original, str(checkpoint))
    # a model of another vocabulary has its own tokenizer, or none
    world = is_world(folder, read_config(folder).get("vocab_size", WORLD_ROWS))
    check_directory(folder, with_tokenizer=world)
    weights, converted = load_converted(folder)
    refuse_other_model(info, converted, checkpoint, folder)
    strange = other_code(folder)
    refuse_other_code(folder, [] if trust_remote_code else strange)
    refuse_without_reference(info, checkpoint)
    texts = read_texts(data, limit) if data else []
    if texts:
        check_vocabulary(info.vocab_size, encode(texts, reference_tokenizer().encode), checkpoint)
    questions = plan_questions(info.vocab_size, lengths, seeds)
    names = [name for name in names_in(folder) if name not in (CARD, CERTIFICATE)]
    before, files, source = marks(folder, names), checksums(folder, names), sha256(checkpoint)
    contents = compare_contents(folder, converted, world, strange)
    recorded_of = compare_record(folder, source, strange)
    for found, recorded in zip((contents.different, contents.remarks), recorded_of, strict=True):
        found.extend(recorded)
    config = config_class(info.row).from_dict(read_config(folder))
    BUILD.mkdir(parents=True, exist_ok=True)
    with scratch_folder(BUILD, "verify") as scratch:  # the copy may be large
        reference = fp32_copy(checkpoint, scratch)
        runs, checks, lower = compare_answers(reference, folder, info, questions, tolerance, progress, bool(strange))
        certificate = Certificate(
            original=OriginalFile(checkpoint.name, source, info.version),
            files=files,
            compared_in=Setting("float32", "none", tolerance, THEIR_CODE if strange else OUR_CODE),
            versions={name: version(name) for name in ("torch", "transformers", "tokenizers", "rwkv")}
            | {"python": platform.python_version()},
            weights=compare_weights(original, weights),
            contents=contents,
            tokenizers=compare_tokenizers(folder, config) if world else NO_TOKENIZERS,
            runs=runs,
            checks=checks,
            lower_precision=lower,
            lambada=compare_lambada(reference, folder, texts, tolerance, progress, bool(strange)) if texts else None,
        )
    if (now := marks(folder, names)) != before:
        changed = next(name for name in names if now.get(name) != before.get(name))
        raise InputError(f"{folder / changed} changed while it was verified; leave the directory alone, and try again.")
    card = folder / CARD
    write_text(card, with_certificate(card.read_text(encoding="utf-8") if card.is_file() else "", certificate))
    certificate = replace(certificate, files=dict(sorted({**files, **checksums(folder, [CARD])}.items())))
    write_certificate(folder, certificate)
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


def compare_lambada(
    reference: Path, folder: Path, texts: list[str], tolerance: float, progress: bool, strange: bool
) -> LambadaResult:
    """Score passages with both models."""
    documents = encode(texts, reference_tokenizer().encode)
    theirs = collect(score_original(load_oracle(reference), documents), len(documents), progress)
    piece = default_batch_tokens("cpu")
    with IsolatedModel(folder, torch.float32) if strange else nullcontext() as stranger:
        score = (
            partial(score_elsewhere, stranger, piece=piece)
            if stranger
            else partial(score_batch, load_model(folder), piece=piece)
        )
        batches = plan_batches(documents, piece)
        ours = collect(score_batches(score, documents, batches), len(documents), progress)
    difference, changed = compare_results(ours, theirs)
    return LambadaResult(
        documents=len(texts),
        original=Score(*summarize(theirs)),
        converted=Score(*summarize(ours)),
        max_abs_logprob_diff=difference,
        limit=10 * tolerance,
        limit_is=f"10 times {tolerance:g}, since a passage's log-probability sums up several logits",
        other_predictions=len(changed),
    )
