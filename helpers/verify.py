"""Prove a conversion: original and converted side by side, and a certificate that says how far they are apart.

The original runs in the ``rwkv`` package, on an fp32 copy, since that package rounds the embedding in the file's dtype.
The converted model runs in transformers, in fp32 as well. One runs after the other, so that memory holds only one.
"""

import argparse
import json
import math
import platform
import tempfile
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoTokenizer
from transformers.utils import logging

from . import lambada, parity
from .atomic import write_text
from .checkpoints import CheckpointInfo, describe, load_checkpoint, sha256
from .conversion import pieces
from .errors import InputError
from .model_card import with_certificate
from .model_dir import load_converted, weight_files
from .oracle import fp32_copy, load_oracle
from .paths import BUILD
from .tokenizer_check import compare, fuzz_texts, load_cases, reference_tokenizer

LENGTHS = (1, 63, 64, 65, 200)  # one token, ends of chunks (32 tokens up to 96, then 64), a long text
SEEDS = (0, 1)
DECODED, DECODED_OF_TEXT = 48, 16  # tokens that are read one by one, of each seed and of each text
TOLERANCE = 1e-4  # of logits, relative to the largest if it is over 1; about a hundred roundings of fp32
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
class Run:
    """One comparison: what is read, all at once (``prefill``) or token by token (``decode``)."""

    mode: str
    text: str
    ids: list[int]


def plan_runs(vocab_size: int, lengths: tuple[int, ...], seeds: tuple[int, ...]) -> list[Run]:
    """Return the comparisons to make. Texts need the World vocabulary, so other models get random ids only."""
    runs = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for length in lengths:
            ids = torch.randint(1, min(vocab_size, 65530), (length,), generator=generator).tolist()
            runs.append(Run("prefill", f"random ids, seed {seed}", ids))
        runs.append(Run("decode", f"random ids, seed {seed}", ids[:DECODED]))
    if vocab_size >= 65530:
        for language, text in TEXTS.items():
            ids = reference_tokenizer().encode(text)
            runs += [Run("prefill", language, ids), Run("decode", language, ids[:DECODED_OF_TEXT])]
    return runs


def verify(
    checkpoint: str | Path,
    folder: str | Path,
    lengths: tuple[int, ...] = LENGTHS,
    seeds: tuple[int, ...] = SEEDS,
    tolerance: float = TOLERANCE,
    data: str | Path | None = None,
    limit: int | None = None,
    progress: bool = True,
) -> dict:
    """Compare a converted directory with its checkpoint; write ``parity.json`` and a section of the model card there.

    Args:
        lengths, seeds: of the random ids.
        tolerance: see :meth:`helpers.parity.Parity.within`.
        data, limit: LAMBADA passages to score with both models; see :func:`helpers.lambada.read_texts`.

    Returns:
        The certificate, with ``"passed"``: bool, and ``"failures"``: a list of sentences.

    Raises:
        InputError: one of the two is no model, or they are models of different kinds.
    """
    checkpoint, folder = Path(checkpoint), Path(folder)
    if not lengths or not seeds or min(lengths) < 1:
        raise InputError("Give at least one length, of one token or more, and at least one seed.")
    original = load_checkpoint(checkpoint)
    info = describe(original, str(checkpoint))
    refuse_other_model(info, load_converted(folder)[1], checkpoint, folder)
    refuse_without_reference(info, checkpoint)
    texts = lambada.read_texts(data, limit) if data else []
    certificate = {
        "original": {"file": checkpoint.name, "sha256": sha256(checkpoint), "version": info.version},
        "converted": {file.name: sha256(file) for file in weight_files(folder)},
        "compared_in": {"dtype": "float32", "prefix": "none", "tolerance": tolerance},
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers", "rwkv")}
        | {"python": platform.python_version()},
        "weights": compare_weights(original, load_converted(folder)[0]),
        "tokenizers": compare_tokenizers(folder),
    }
    runs = plan_runs(info.vocab_size, lengths, seeds)
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="verify-", dir=BUILD) as scratch:  # the copy may be large
        reference = fp32_copy(checkpoint, Path(scratch))
        certificate["runs"] = compare_runs(reference, folder, info, runs, tolerance, progress)
        if texts:
            certificate["lambada"] = compare_lambada(reference, folder, texts, progress)
    certificate["failures"] = failures(certificate)
    certificate["passed"] = not certificate["failures"]
    write_certificate(folder, certificate)
    return certificate


def write_certificate(folder: Path, certificate: dict) -> None:
    """Write ``parity.json``, and a section of the model card, into a converted directory."""
    write_text(folder / "parity.json", json.dumps(certificate, indent=2, ensure_ascii=False) + "\n")
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.exists() else ""
    write_text(card, with_certificate(text, certificate))


def refuse_other_model(info: CheckpointInfo, other: CheckpointInfo, checkpoint: Path, folder: Path) -> None:
    """Raise InputError if two models cannot be compared at all."""
    for field in ("version", "layers", "hidden_size", "attention_size", "heads", "ffn_size", "vocab_size"):
        theirs, ours = getattr(info, field), getattr(other, field)
        if theirs != ours:
            raise InputError(
                f"{folder} is another model than {checkpoint}: its {field} is {ours}, not {theirs}; "
                "give the checkpoint that it was converted from."
            )


def refuse_without_reference(info: CheckpointInfo, checkpoint: Path) -> None:
    """Raise InputError for the few models that the ``rwkv`` package cannot run."""
    limits = {
        "an RWKV-5 of one layer": info.version != "4" and info.layers == 1,
        "an RWKV-5.0 or 5.1 of one head": info.version in ("5.0", "5.1") and info.heads == 1,
        "one with a time-mix of another width": info.attention_size != info.hidden_size,
    }
    for limit, applies in limits.items():
        if applies:
            raise InputError(f"The model in {checkpoint} is {limit}, which the rwkv package cannot run: no reference.")


def compare_weights(original: dict[str, Tensor], converted: dict[str, Tensor]) -> dict:
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
    return {
        "tensors": len(original),
        "identical": len(original) - len(different),
        "different": different,
        "cast_to": cast,
    }


def compare_runs(
    reference: Path, folder: Path, info: CheckpointInfo, runs: list[Run], tolerance: float, progress: bool
) -> list[dict]:
    """Run both sides and return one row for each comparison."""
    # an RWKV-4 directory has two classes: transformers' own, which cannot load one layer, and ours
    trusts = [True] if info.version != "4" else [True, False] if info.layers > 1 else [True]
    with tqdm(total=len(runs) * (1 + len(trusts)), unit="run", disable=not progress) as bar:
        oracle = load_oracle(reference)
        expected = []
        for run in runs:
            expected.append(getattr(parity, f"original_{run.mode}")(oracle, run.ids))
            bar.update()
        del oracle
        rows = []
        for trust in trusts:
            model = lambada.load_model(folder, trust)
            for run, theirs in zip(runs, expected, strict=True):
                result = parity.compare(getattr(parity, f"converted_{run.mode}")(model, run.ids), theirs)
                rows.append(row(type(model).__name__, run, result, tolerance))
                bar.update()
    return rows


def row(class_name: str, run: Run, result: parity.Parity, tolerance: float) -> dict:
    """Return a comparison as it stands in the certificate."""
    numbers = {name: value for name, value in asdict(result).items() if name != "state_diff"}
    return {
        "class": class_name,
        "mode": run.mode,
        "input": run.text,
        **numbers,
        "max_state_diff": result.max_state_diff,
        "within_tolerance": result.within(tolerance),
        "first_difference": result.where(tolerance),
    }


def compare_tokenizers(folder: Path, fuzz: int = 2000) -> dict:
    """Count the texts that the tokenizers of a directory encode otherwise than BlinkDL's."""
    reference = reference_tokenizer().encode
    texts = [case.text for case in load_cases()] + list(fuzz_texts(fuzz))
    mismatches = {}
    for kind, trust in (("fast", False), ("slow", True)):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
        encode = partial(tokenizer.encode, add_special_tokens=False, split_special_tokens=True)
        mismatches[f"{kind}_mismatches"] = len(compare(reference, encode, texts))
    return {"texts": len(texts), **mismatches}


def compare_lambada(reference: Path, folder: Path, texts: list[str], progress: bool) -> dict:
    """Score passages with both models and return the results and the largest difference of a document."""
    documents = lambada.encode(texts, reference_tokenizer().encode)
    total = len(documents)
    theirs = lambada.collect(lambada.score_original(load_oracle(reference), documents), total, progress)
    ours = lambada.collect(lambada.score_converted(lambada.load_model(folder), documents), total, progress)
    (ppl, accuracy), (our_ppl, our_accuracy) = lambada.summarize(theirs), lambada.summarize(ours)
    difference, changed = lambada.compare(ours, theirs)
    return {
        "documents": len(texts),
        "original": {"ppl": ppl, "acc": accuracy},
        "converted": {"ppl": our_ppl, "acc": our_accuracy},
        "max_abs_logprob_diff": difference,
        "other_predictions": len(changed),
    }


def failures(certificate: dict) -> list[str]:
    """Say in sentences what is outside the tolerance."""
    found = []
    weights, tokenizers = certificate["weights"], certificate["tokenizers"]
    if weights["different"]:
        found.append(f"{len(weights['different'])} tensors have other numbers, the first is {weights['different'][0]}.")
    bad = [row for row in certificate["runs"] if not row["within_tolerance"]]
    if bad:
        first = bad[0]
        found.append(
            f"{len(bad)} of {len(certificate['runs'])} comparisons are outside the tolerance; {first['class']}, "
            f"{first['mode']} of {first['input']}, begins to differ in {first['first_difference']}."
        )
    found += [f"The {kind} tokenizer gives other ids for {tokenizers[f'{kind}_mismatches']} texts."
              for kind in ("fast", "slow") if tokenizers[f"{kind}_mismatches"]]  # fmt: skip
    largest = certificate.get("lambada", {}).get("max_abs_logprob_diff", 0.0)
    limit = 10 * certificate["compared_in"]["tolerance"]  # a document's log-probability sums up several logits
    if not largest <= limit or math.isnan(largest):
        found.append(f"A LAMBADA passage's log-probability differs by {largest:.2g}, more than {limit:.2g}.")
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT.pth", help="the original")
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="the converted model; the certificate is written there"
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, metavar="TOKENS", help="of random ids")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, metavar="SEED", help="of random ids")
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, help=f"relative, of logits (default: {TOLERANCE})"
    )
    parser.add_argument("--data", metavar="FILE.jsonl", help="also compare on these LAMBADA passages, or: hub")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N passages")


def main(args: argparse.Namespace) -> int:
    logging.set_verbosity_error()  # hints and bars of transformers would stand between ours
    logging.disable_progress_bar()
    certificate = verify(
        args.checkpoint, args.folder, tuple(args.lengths), tuple(args.seeds), args.tolerance, args.data, args.limit
    )
    runs = certificate["runs"]
    worst = max(runs, key=lambda row: row["max_abs_logit_diff"])
    print(f"weights     {certificate['weights']['identical']} of {certificate['weights']['tensors']} tensors identical")
    print(f"logits      {len(runs)} comparisons, largest difference {worst['max_abs_logit_diff']:.2g}")
    print(f"state       largest difference {max(row['max_state_diff'] for row in runs):.2g} of the largest number")
    print(f"next token  the same at {min(row['argmax_agreement'] for row in runs):.2%} of positions or more")
    print(f"tokenizers  {json.dumps(certificate['tokenizers'])}")
    if "lambada" in certificate:
        print(f"LAMBADA     {json.dumps(certificate['lambada'])}")
    for sentence in certificate["failures"]:
        print(f"FAILED: {sentence}")
    verdict = "passed" if certificate["passed"] else "not passed"
    print(f"{verdict}: see {args.folder / 'parity.json'} and the model card, {args.folder / 'README.md'}")
    return 0 if certificate["passed"] else 1
