# Copyright 2026 The RWKV World on Hugging Face authors
# SPDX-License-Identifier: Apache-2.0
"""What a model is given, checked and brought into one form: tokens, masks, packed texts, a state. B, T, D: see
``rwkv_common.py``."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

State = tuple[Tensor, Tensor, Tensor]

# names under which transformers and PEFT ask for a cache, of which RWKV's state takes the place; ``cache`` from 5.24 on
CACHE_NAMES = ("past_key_values", "cache")

# what collators for attention give beside the boundaries of texts, and says nothing more
IGNORED = ("cu_seq_lens_k", "max_length_q", "max_length_k")


def given_tokens(input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
    """Return whichever is given: ids (B, T) or embeddings (B, T, D)."""
    if input_ids is not None and inputs_embeds is None:
        tokens = input_ids
    elif inputs_embeds is not None and input_ids is None:
        tokens = inputs_embeds
    else:
        raise ValueError("give exactly one of input_ids and inputs_embeds")
    if tokens.shape[1] == 0:
        raise ValueError("the input has no tokens: give at least one, for example id 0, the end of text")
    return tokens


def given_state(state: State | None, options: dict[str, Any]) -> State | None:
    """Return the state, which may also be among the keywords ``options``, as a cache; it is taken out of them.

    Raises:
        ValueError: it is given twice, or what is given is the cache of an attention model.
    """
    for name in CACHE_NAMES:
        cache = options.pop(name, None)
        if cache is None:
            continue
        if state is not None:
            raise ValueError(f"give the state once: as state or as {name}")
        if not isinstance(cache, tuple | list) or [torch.is_tensor(part) for part in cache] != [True] * 3:
            raise ValueError(
                f"{name} is a {type(cache).__name__}, a cache of keys and values, which RWKV has not: give the state "
                "that an earlier call returned; instead of prefix tuning, use LoRA or prompt tuning"
            )
        time_shift, wkv, channel_shift = cache
        state = time_shift, wkv, channel_shift
    return state


def refuse_unknown(options: dict[str, Any], output_attentions: bool | None) -> None:
    """Raise an error for what would otherwise be ignored without a word.

    Raises:
        TypeError: a keyword that no model has, for example a misspelt one.
        ValueError: attentions are asked for.
    """
    if unknown := [name for name, value in options.items() if name not in IGNORED and value is not None]:
        raise TypeError(f"forward() got an unexpected keyword argument {unknown[0]!r}")
    if output_attentions:
        raise ValueError("output_attentions is set, and RWKV computes no attention matrices: leave it out")


def fitting_mask(attention_mask: Tensor | None, tokens: Tensor) -> Tensor | None:
    """Return the last T columns of a mask for ``tokens``, (B, T) or (B, T, D)."""
    if attention_mask is None:
        return None
    rows, columns = tokens.shape[:2]
    if attention_mask.dim() != 2 or attention_mask.shape[0] != rows or attention_mask.shape[1] < columns:
        raise ValueError(f"attention_mask has shape {tuple(attention_mask.shape)}, expected {(rows, columns)}")
    return attention_mask[:, -columns:]


def front_order(attention_mask: Tensor | None, hidden: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return for each row the order (B, T) that puts real tokens first, and their number (B,); None without a mask."""
    mask = fitting_mask(attention_mask, hidden)
    if mask is None:
        return None, None
    real = mask.to(device=hidden.device).ne(0).to(torch.int64)
    return torch.argsort(real, dim=1, descending=True, stable=True), real.sum(dim=1)


def reorder_tokens(x: Tensor, order: Tensor) -> Tensor:
    """Reorder the tokens of each row: x is (B, T, D), order (B, T)."""
    return x.gather(1, order[:, :, None].expand_as(x))


def text_starts(
    tokens: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    seq_idx: Tensor | None,
    cu_seq_lens: Tensor | None,
) -> Tensor | None:
    """Return where a row goes over from one text to the next, (B, T) bool, or None if each row is a single text.

    Args:
        tokens: (B, T) or (B, T, D).
        position_ids: (B or 1, T), 0 at the beginning of each text.
        seq_idx: (B or 1, T), the number of the text that a token belongs to.
        cu_seq_lens: (texts + 1,), where texts begin in the only row, and its end.

    Raises:
        ValueError: ``cu_seq_lens`` with more than one row.
    """
    if position_ids is None and seq_idx is None and cu_seq_lens is None:
        return None
    rows, columns = tokens.shape[:2]
    starts = torch.zeros(rows, columns, dtype=torch.bool, device=tokens.device)
    if position_ids is not None:
        starts |= position_ids[..., -columns:].to(tokens.device) == 0
    if seq_idx is not None:
        starts[:, 1:] |= (seq_idx[:, 1:] != seq_idx[:, :-1]).to(tokens.device)
    if cu_seq_lens is not None:
        if rows != 1:
            raise ValueError(f"cu_seq_lens_q cuts a single row, and there are {rows}")
        starts[0, cu_seq_lens[1:-1].to(tokens.device, torch.int64)] = True
    mask = fitting_mask(attention_mask, tokens)
    real = torch.ones_like(starts) if mask is None else mask.to(tokens.device) != 0
    starts &= real & (real.cumsum(dim=1) > 1)  # with the first text of a row nothing ends
    return starts if starts.any() else None


@dataclass(frozen=True)
class Packing:
    """Where each token of packed rows goes when every text gets a row of its own.

    Args:
        text: (B, T), the number of a token's text, counted through all rows.
        place: (B, T), its place in that text.
    """

    text: Tensor
    place: Tensor

    @classmethod
    def of(cls, starts: Tensor) -> "Packing":
        """Return the packing of rows in which texts begin at ``starts`` (B, T), and at their first token."""
        in_row = starts.cumsum(dim=1)
        texts = in_row[:, -1] + 1
        step = torch.arange(starts.shape[1], device=starts.device).expand_as(starts)
        begin = torch.where(starts, step, 0).cummax(dim=1).values
        return cls(in_row + (texts.cumsum(dim=0) - texts)[:, None], step - begin)

    def unpack(self, x: Tensor) -> Tensor:
        """Give every text of x (B, T, ...) a row, filled up with zeros on the right."""
        rows = x.new_zeros(int(self.text.max()) + 1, int(self.place.max()) + 1, *x.shape[2:])
        return rows.index_put((self.text, self.place), x)

    def pack(self, rows: Tensor) -> Tensor:
        """Put texts back to where :meth:`unpack` found them."""
        return rows[self.text, self.place]

    def last_texts(self, rows: Tensor) -> Tensor:
        """Return the row of the last text of each packed row, (B, ...)."""
        return rows[self.text[:, -1]]
