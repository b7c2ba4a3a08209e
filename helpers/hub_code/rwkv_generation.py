# Copyright 2026 The RWKV World on Hugging Face authors
# SPDX-License-Identifier: Apache-2.0
"""What ``generate`` asks of a model that has a state where others have a cache of keys and values."""

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin

from .rwkv_inputs import State


class UncroppableState(tuple):
    is_croppable = False


class RwkvGenerationMixin(GenerationMixin):
    """``generate`` with a state that is handed on, reordered for beams and repeated for samples, by this code alone."""

    def _reorder_cache(self, state: State, beam_idx: Tensor) -> State:
        """Let each beam continue from the state of the beam that it came from."""
        time_shift, wkv, channel_shift = (part.index_select(0, beam_idx.to(part.device)) for part in state)
        return time_shift, wkv, channel_shift

    def _expand_inputs_for_generation(self, expand_size: int = 1, **kwargs):
        """Repeat a state that the caller gave to ``generate`` as often as the prompt, for beams and several samples."""
        # the type that transformers declares for self, here and in prepare_inputs_for_generation, fits no model
        ids, kwargs = super()._expand_inputs_for_generation(expand_size=expand_size, **kwargs)  # type: ignore[misc]
        if kwargs.get("state") is not None and expand_size > 1:
            kwargs["state"] = tuple(part.repeat_interleave(expand_size, dim=0) for part in kwargs["state"])
        return ids, kwargs

    def _update_model_kwargs_for_generation(self, outputs: Any, model_kwargs: dict, *args, **kwargs) -> dict:
        """Hand the state on to the next step: from 5.24 on, ``generate`` does so only for outputs of names it knows."""
        model_kwargs = super()._update_model_kwargs_for_generation(outputs, model_kwargs, *args, **kwargs)
        if outputs.state is not None:
            model_kwargs["state"] = outputs.state
        return model_kwargs

    def _prefill(self, *args, **kwargs):
        """Mark the state after the prompt: on Apple GPUs, generate asks whether tokens can be taken back from it."""
        output = super()._prefill(*args, **kwargs)
        if output.state is not None:
            output.state = UncroppableState(output.state)
        return output

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.LongTensor,
        next_sequence_length: int | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs,
    ):
        """After the prompt, each step reads one token, which is real: masking it would only cost time.

        ``generate`` looks for ``inputs_embeds`` in this signature before it accepts them.
        """
        if next_sequence_length == 1:
            kwargs["attention_mask"] = None
        inputs = super().prepare_inputs_for_generation(
            input_ids, next_sequence_length=next_sequence_length, inputs_embeds=inputs_embeds, **kwargs
        )
        inputs.pop("position_ids", None)  # a row is one text, however far it has got
        inputs.pop("tokenizer", None)  # generate needs it for stop strings, and hands it on
        if inputs.get("state") is not None:  # under this name PEFT sees that its virtual tokens have been read
            inputs["past_key_values"] = inputs.pop("state")
        return inputs

    def generate_batch(self, *args, **kwargs):
        """Refuse continuous batching at once; it would end in an error about masks after the model was compiled."""
        raise NotImplementedError(
            "generate_batch manages pages of keys and values, which RWKV has not: use generate with a padded batch"
        )
