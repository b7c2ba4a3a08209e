"""What both sides are asked in a proof: texts to read, at once, one by one, in batches and in pieces, and to continue.

A question is plain data, and so is an answer: named tensors. So the model may be in another process, while what is made
of its answers is decided here. :func:`answer` asks a transformers model, :func:`expected` the ``rwkv`` package; of a
batch, the package reads each row by itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..hub_code.rwkv_common import READ_AT_ONCE
from .parity import (
    Trace,
    common_state,
    converted_decode,
    converted_prefill,
    original_decode,
    original_prefill,
)

Kind = Literal["prefill", "decode", "long", "batch", "generate", "beams", "loss"]
Answer = dict[str, Tensor]

PADDED = ("not at all", "on the left", "on the right", "in the middle")  # the rows of a batch
LONG = READ_AT_ONCE + 60  # tokens: our models read such a prompt in two pieces
KEPT = 16  # of its last logits, which are compared
ORACLE_PIECE = 1024  # tokens that the package reads at once: in some versions its memory grows with their square
WRITTEN, BEAMS, WRITTEN_BY_BEAMS = 16, 3, 6  # tokens, beams
WITHOUT_LOSS = 4  # tokens at the start of a text that the loss does not count
STATE = ("time_shift", "wkv", "channel_shift")


@dataclass(frozen=True)
class Question:
    """What to do with some rows of ids.

    Args:
        kind: read a row at once (``prefill``), token by token (``decode``) or in pieces, for its last logits
            (``long``); read a padded batch (``batch``); go on with the most probable tokens (``generate``), or with
            the most probable text (``beams``); compute the loss (``loss``).
        text: what the ids are, for people.
    """

    kind: Kind
    text: str
    rows: list[list[int]]

    @property
    def needs_batches(self) -> bool:
        """Say whether transformers' own class of RWKV-4 is known to answer it wrongly, or not at all."""
        return len(self.rows) > 1 or self.kind == "beams"


def as_answer(traces: list[Trace]) -> Answer:
    """Return traces as named tensors: ``0.logits``, ``0.time_shift`` and so on."""
    parts = [{"logits": logits, **dict(zip(STATE, state, strict=True))} for logits, state in traces]
    return {f"{row}.{name}": tensor for row, part in enumerate(parts) for name, tensor in part.items()}


def as_traces(answer: Answer, rows: int) -> list[Trace]:
    """Return the traces that :func:`as_answer` named; what is missing has no numbers."""
    nothing = torch.empty(0)
    found = [[answer.get(f"{row}.{name}", nothing) for name in ("logits", *STATE)] for row in range(rows)]
    return [(logits, (time_shift, wkv, channel_shift)) for logits, time_shift, wkv, channel_shift in found]


# by a transformers model


def answer(model: Any, kind: Kind, rows: list[list[int]]) -> Answer:
    """Let a transformers model answer; the arguments are those of a :class:`Question`."""
    with torch.no_grad():
        return ANSWERS[kind](model, rows)


def tensor_of(model: Any, rows: list[list[int]]) -> Tensor:
    return torch.tensor(rows, device=model.device)


def read_long(model: Any, rows: list[list[int]]) -> Answer:
    """Read a prompt as generation does, where only the last logits count."""
    output = model(tensor_of(model, rows), logits_to_keep=KEPT, use_cache=True)
    return as_answer([(output.logits[0].float().cpu(), common_state(output.state))])


def read_batch(model: Any, rows: list[list[int]]) -> Answer:
    """Read a padded batch at once, but for the last token of each row, which is read with the state of the others."""
    last = tensor_of(model, [row[-1:] for row in rows])
    beginnings = [row[:-1] for row in rows]
    longest = max(map(len, beginnings))
    ids, mask = torch.zeros(2, len(rows), longest, dtype=torch.long, device=model.device).unbind(0)
    places = []
    for number, row in enumerate(beginnings):
        places.append(places_of(len(row), longest, PADDED[number % len(PADDED)]))
        ids[number, places[-1]], mask[number, places[-1]] = torch.tensor(row, device=model.device), 1
    first = model(ids, attention_mask=mask, use_cache=True)
    second = model(last, state=first.state, use_cache=True)
    logits = [torch.cat([first.logits[n, place], second.logits[n]]) for n, place in enumerate(places)]
    states = [tuple(part[n : n + 1].cpu() for part in second.state) for n in range(len(rows))]
    return as_answer([(x.float().cpu(), (s[0], s[1], s[2])) for x, s in zip(logits, states, strict=True)])


def places_of(length: int, longest: int, padded: str) -> list[int]:
    """Return the columns of a row's tokens, where ``padded`` says on which side it is filled up."""
    gap = longest - length
    start = {"on the left": 0, "in the middle": length // 2}.get(padded, length)  # of the padding
    return [*range(start), *range(start + gap, longest)]


def write_greedily(model: Any, rows: list[list[int]]) -> Answer:
    """Go on with the most probable token, up to the end of the text; several rows are padded on the left."""
    longest = max(map(len, rows))
    ids = tensor_of(model, [[0] * (longest - len(row)) + row for row in rows])
    mask = tensor_of(model, [[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    written = model.generate(ids, attention_mask=mask, max_new_tokens=WRITTEN, do_sample=False, num_beams=1)
    return {f"{number}.ids": row.cpu() for number, row in enumerate(written[:, longest:])}


def write_with_beams(model: Any, rows: list[list[int]]) -> Answer:
    """Look for the most probable continuation, and return the logarithm of its probability."""
    options = {"do_sample": False, "num_beams": BEAMS, "length_penalty": 0.0, "eos_token_id": None, "pad_token_id": 0}
    output = model.generate(
        tensor_of(model, rows),
        max_new_tokens=WRITTEN_BY_BEAMS,
        output_scores=True,
        return_dict_in_generate=True,
        **options,
    )
    return {"score": output.sequences_scores[0]}


def compute_loss(model: Any, rows: list[list[int]]) -> Answer:
    labels = tensor_of(model, [[-100] * WITHOUT_LOSS + row[WITHOUT_LOSS:] for row in rows])
    return {"loss": model(tensor_of(model, rows), labels=labels).loss}


ANSWERS: dict[Kind, Callable[[Any, list[list[int]]], Answer]] = {
    "prefill": lambda model, rows: as_answer([converted_prefill(model, rows[0])]),
    "decode": lambda model, rows: as_answer([converted_decode(model, rows[0])]),
    "long": read_long,
    "batch": read_batch,
    "generate": write_greedily,
    "beams": write_with_beams,
    "loss": compute_loss,
}


# by the rwkv package


@torch.inference_mode()
def expected(oracle: Any, question: Question) -> Answer:
    """Let the ``rwkv`` package answer; with the logits behind what it writes, to see how clear its choices were."""
    if question.kind in ("prefill", "batch"):
        return as_answer([original_prefill(oracle, row) for row in question.rows])
    if question.kind == "decode":
        return as_answer([original_decode(oracle, question.rows[0])])
    if question.kind == "generate":
        found = [expected_words(oracle, row) for row in question.rows]
        return {f"{number}.{name}": x for number, parts in enumerate(found) for name, x in parts.items()}
    row = question.rows[0]
    if question.kind == "long":
        state = read_pieces(oracle, row[:-KEPT])
        return as_answer([original_prefill(oracle, row[-KEPT:], state)])
    if question.kind == "beams":
        return expected_beam(oracle, row)
    logits = original_prefill(oracle, row)[0]
    loss = F.cross_entropy(logits[WITHOUT_LOSS - 1 : -1].double(), torch.tensor(row[WITHOUT_LOSS:]))
    return {"loss": loss, "largest": logits.abs().max()}


def read_pieces(oracle: Any, ids: list[int]) -> Any:
    """Return the state after ``ids``."""
    state = None
    for start in range(0, len(ids), ORACLE_PIECE):
        _, state = oracle.forward(ids[start : start + ORACLE_PIECE], state)
    return state


def expected_words(oracle: Any, row: list[int]) -> Answer:
    """Return the most probable continuation, up to the end of the text, and the logits of each choice."""
    ids: list[int] = []
    seen: list[Tensor] = []
    logits, state = oracle.forward(row, None)
    while len(ids) < WRITTEN and ids[-1:] != [0]:
        seen.append(logits.float().reshape(-1).clone())
        ids.append(int(seen[-1].argmax()))
        logits, state = oracle.forward(ids[-1:], state)
    return {"ids": torch.tensor(ids), "logits": torch.stack(seen)}


def expected_beam(oracle: Any, row: list[int]) -> Answer:
    """Return the logarithm of the probability of the best text that a beam search finds."""
    logits, state = oracle.forward(row, None)
    beams, largest = [(0.0, logits, state)], torch.tensor(0.0)
    for step in count(1):
        scores = torch.stack([score + x.double().reshape(-1).log_softmax(-1) for score, x, _ in beams])
        largest = torch.stack([largest, *(x.float().abs().max() for _, x, _ in beams)]).max()
        best = scores.flatten().topk(BEAMS)
        if step == WRITTEN_BY_BEAMS:
            break
        chosen = []
        for score, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            beam, index = divmod(place, scores.shape[1])
            state = [part.clone() for part in beams[beam][2]]  # the package changes a state in place
            chosen.append((score, *oracle.forward([index], state)))
        beams = chosen
    return {"score": best.values[0], "largest": largest}
