# Copyright 2026 The RWKV World on Hugging Face authors
# SPDX-License-Identifier: Apache-2.0
"""What RWKV-4 and RWKV-5 models share: token shift, channel-mix, the block, and the Hugging Face classes.

The mathematics that makes a version that version, its time-mix, is in ``modeling_rwkv4.py`` and ``modeling_rwkv5.py``.

Symbols, here and in every file and notebook of the project::

    B  batch: rows of tokens             H  heads of time-mix
    T  tokens of a row                   N  channels of a head, A / H
    D  hidden size: channels of a token  L  layers (blocks)
    A  width of time-mix                 V  vocabulary: rows of embedding and head
    C  tokens of a chunk                 r k v w u  receptance, key, value, decay, bonus, as in the papers

The state of a model is a tuple of three tensors, batch first, of the same size after 1 or 100,000 tokens::

    time_shift     (B, L, D)     the input of each time-mix at the last token
    wkv            (B, L, ...)   what each time-mix remembers, fp32; its shape depends on the version
    channel_shift  (B, L, D)     the input of each channel-mix at the last token

Nothing is changed in place: a state can be kept, saved, moved and continued from many times, in any dtype and on any
device.

Padding: where ``attention_mask`` is 0, a token is as if it were not there. Real tokens are moved to the front of each
row, every module is told how many there are (``lengths``), and the hidden states are moved back at the end. So padding
on the left, on the right or in the middle gives the logits and the state of the unpadded text.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput

READ_AT_ONCE = 2048  # tokens: a longer prompt is read in pieces when only its last logits are wanted
HALVE_EVERY = 6  # blocks: how often the residual stream is halved in fp16, as in the rwkv package, to stay below 65504


State = tuple[Tensor, Tensor, Tensor]


@dataclass
class RwkvOutput(ModelOutput):
    """Output of the model without its head: hidden states (B, T, D) and the state after the last token."""

    last_hidden_state: Tensor | None = None
    state: State | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class RwkvCausalLMOutput(ModelOutput):
    """Output of the language model: loss (), logits (B, T, V) and the state after the last token."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    state: State | None = None
    hidden_states: tuple[Tensor, ...] | None = None


def at_least_fp32(x: Tensor) -> Tensor:
    """Return ``x`` in fp32, or unchanged if it is fp64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Fp32GroupNorm(nn.GroupNorm):
    """GroupNorm that computes in fp32 (or fp64), whatever dtype its parameters have."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = at_least_fp32(self.weight), at_least_fp32(self.bias)
        return F.group_norm(at_least_fp32(x), self.num_groups, weight, bias, self.eps)


def token_shift(x: Tensor, before: Tensor) -> Tensor:
    """Return the token before each token: ``before`` (B, D) for the first one, then ``x[:, t - 1]``; x is (B, T, D)."""
    return torch.cat([before.to(x)[:, None], x[:, :-1]], dim=1)


def last_token(x: Tensor, before: Tensor, lengths: Tensor | None) -> Tensor:
    """Return the last real token of each row, (B, D), or ``before`` for a row that has none."""
    if lengths is None:
        return x[:, -1]
    with_before = torch.cat([before.to(x)[:, None], x], dim=1)
    return with_before[torch.arange(len(x), device=x.device), lengths]


def mix(x: Tensor, previous: Tensor, ratio: Tensor) -> Tensor:
    """Interpolate, channel by channel, between a token and the one before it: ``ratio x + (1 - ratio) previous``."""
    return torch.lerp(previous, x, ratio.to(x.dtype))


class RwkvMixer(nn.Module):
    """What time-mix and channel-mix have in common: learned ratios of mixing a token with the one before it."""

    inputs: tuple[str, ...]  # the matrices that read a mixture

    def __init__(self, config: PreTrainedConfig, layer: int, inputs: tuple[str, ...]):
        super().__init__()
        self.inputs = inputs
        self.depth = layer / max(config.num_hidden_layers - 1, 1)  # 0 in the first block, 1 in the last
        self.rise = 1 - layer / config.num_hidden_layers  # 1 in the first block, almost 0 in the last
        for name in inputs:
            self.register_parameter(f"time_mix_{name}", nn.Parameter(torch.empty(1, 1, config.hidden_size)))

    def initialize(self) -> None:
        """Initialize the ratios: early blocks look back more, and later channels look back less."""
        for name in self.inputs:
            ratio = getattr(self, f"time_mix_{name}")
            channels = torch.linspace(0, 1, ratio.shape[-1]).view_as(ratio)
            power = self.rise if name in ("key", "value") else 0.5 * self.rise
            init.copy_(ratio, channels**power + (0.3 * self.depth if name == "value" else 0))


class RwkvTimeMix(RwkvMixer):
    """What the time-mixes of all versions have, besides their own mathematics."""

    time_decay: nn.Parameter
    output: nn.Linear
    wkv: Callable[..., tuple[Tensor, Tensor]]  # how it reads many tokens; a faster kernel may replace it

    def initial_wkv(self, batch_size: int) -> Tensor:
        """Return what it remembers before the first token, (B, ...)."""
        raise NotImplementedError


class RwkvChannelMix(RwkvMixer):
    """Channel-mix, the feed-forward layer of RWKV-4 and RWKV-5: ``sigmoid(R x') * V(relu(K x')^2)``.

    Source: RWKV-4 paper (arXiv 2305.13048), equations 16 to 18.
    """

    time_mix_key: nn.Parameter
    time_mix_receptance: nn.Parameter

    def __init__(self, config: PreTrainedConfig, layer: int):
        super().__init__(config, layer, inputs=("key", "receptance"))
        hidden, inner = config.hidden_size, config.intermediate_size
        self.key = nn.Linear(hidden, inner, bias=False)
        self.receptance = nn.Linear(hidden, hidden, bias=False)
        self.value = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor, before: Tensor, lengths: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
        previous = token_shift(x, before)
        k = torch.relu(self.key(mix(x, previous, self.time_mix_key))) ** 2
        r = torch.sigmoid(self.receptance(mix(x, previous, self.time_mix_receptance)))
        return r * self.value(k * scale), last_token(x, before, lengths)


class RwkvBlock(GradientCheckpointingLayer):
    """One layer: ``x + time_mix(ln1(x))``, then ``x + channel_mix(ln2(x))``. Block 0 first normalizes the embedding."""

    def __init__(self, config: PreTrainedConfig, layer: int, time_mix: RwkvTimeMix):
        super().__init__()
        norm = {"normalized_shape": config.hidden_size, "eps": config.layer_norm_epsilon}
        if layer == 0:
            self.pre_ln = nn.LayerNorm(**norm)
        self.ln1 = nn.LayerNorm(**norm)
        self.ln2 = nn.LayerNorm(**norm)
        self.attention = time_mix
        self.feed_forward = RwkvChannelMix(config, layer)
        self.layer = layer

    def forward(
        self, hidden: Tensor, state: tuple[Tensor, Tensor | None, Tensor] | None, lengths: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if state is None:
            nothing = torch.zeros_like(hidden[:, 0])
            state = (nothing, None, nothing)
        time_shift, wkv, channel_shift = state
        if self.layer == 0:
            hidden = self.pre_ln(hidden)
        update, time_shift, wkv = self.attention(self.ln1(hidden), time_shift, wkv, lengths, scale)
        hidden = hidden + update
        update, channel_shift = self.feed_forward(self.ln2(hidden), channel_shift, lengths, scale)
        return hidden + update, time_shift, wkv, channel_shift


class RwkvPreTrainedModel(PreTrainedModel):
    base_model_prefix = "rwkv"
    _no_split_modules = ["RwkvBlock"]
    _is_stateful = True
    supports_gradient_checkpointing = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialize as BlinkDL's training code does: see ``RWKV_Init`` and ``model.py`` of BlinkDL/RWKV-LM."""
        super()._init_weights(module)
        if isinstance(module, RwkvMixer):
            module.initialize()


class RwkvModel(RwkvPreTrainedModel):
    """Embedding, blocks and the last layer norm. A subclass sets ``time_mix_class``."""

    time_mix_class: Callable[..., RwkvTimeMix]  # called with the configuration and the number of the block

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        layers = range(config.num_hidden_layers)
        self.blocks = nn.ModuleList(RwkvBlock(config, layer, self.time_mix_class(config, layer)) for layer in layers)
        self.ln_out = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings

    def set_input_embeddings(self, embeddings: nn.Embedding) -> None:
        self.embeddings = embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        state: State | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> RwkvOutput | tuple:
        """Read T more tokens.

        Args:
            input_ids: (B, T) int64; or ``inputs_embeds``: (B, T, D).
            attention_mask: (B, T) or longer (then its last T columns count), 1 for real tokens, 0 for padding.
            state: what an earlier call returned; ``None`` starts afresh.
            use_cache: return the state; by default only in evaluation mode.

        Raises:
            ValueError: not exactly one of ``input_ids`` and ``inputs_embeds``, no tokens, or a mask of another shape.
        """
        tokens = given_tokens(input_ids, inputs_embeds)
        hidden = self.embeddings(tokens) if inputs_embeds is None else tokens
        use_cache = (self.config.use_cache and not self.training) if use_cache is None else use_cache
        with_hidden = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states

        order, lengths = front_order(attention_mask, hidden)
        if order is not None:
            hidden = reorder_tokens(hidden, order)
        device = hidden.device  # with a device_map, blocks may be elsewhere
        states = [None] * len(self.blocks) if state is None else zip(*(s.unbind(1) for s in state), strict=True)
        halving = hidden.dtype == torch.float16 and not self.training
        hidden_states, new_states = [], []
        for layer, (block, layer_state) in enumerate(zip(self.blocks, states, strict=True)):
            if with_hidden:
                hidden_states.append(hidden)
            scale = 0.5 ** (layer // HALVE_EVERY) if halving else 1.0
            hidden, *layer_state = block(hidden, layer_state, lengths, scale)
            if use_cache:
                new_states.append([part.to(device) for part in layer_state])
            if halving and (layer + 1) % HALVE_EVERY == 0:
                hidden = hidden / 2
        hidden_states.append(self.ln_out(hidden))

        if order is not None:
            back = torch.argsort(order, dim=1)
            hidden_states = [reorder_tokens(x, back.to(x.device)) for x in hidden_states]
        new_state = None
        if use_cache:
            time_shift, wkv, channel_shift = (torch.stack(part, dim=1) for part in zip(*new_states, strict=True))
            new_state = time_shift, wkv, channel_shift
        output = RwkvOutput(
            last_hidden_state=hidden_states[-1],
            state=new_state,
            hidden_states=tuple(hidden_states) if with_hidden else None,
        )
        return output.to_tuple() if return_dict is False else output


def given_tokens(input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
    """Return whichever is given: ids (B, T) or embeddings (B, T, D)."""
    given = [tokens for tokens in (input_ids, inputs_embeds) if tokens is not None]
    if len(given) != 1:
        raise ValueError("give exactly one of input_ids and inputs_embeds")
    tokens = given[0]
    if tokens.shape[1] == 0:
        raise ValueError("the input has no tokens: give at least one, for example id 0, the end of text")
    return tokens


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
    real = (mask != 0).to(device=hidden.device, dtype=torch.int64)
    return torch.argsort(real, dim=1, descending=True, stable=True), real.sum(dim=1)


def reorder_tokens(x: Tensor, order: Tensor) -> Tensor:
    """Reorder the tokens of each row: x is (B, T, D), order (B, T)."""
    return x.gather(1, order[:, :, None].expand_as(x))


class UncroppableState(tuple):
    is_croppable = False


class RwkvForCausalLM(RwkvPreTrainedModel, GenerationMixin):
    """The model with its language-modeling head. A subclass sets ``model_class``."""

    model_class: type[RwkvModel]
    _tied_weights_keys = {"head.weight": "rwkv.embeddings.weight"}

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.rwkv = self.model_class(config)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        return self.head

    def set_output_embeddings(self, head: nn.Linear) -> None:
        self.head = head

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

    def _update_model_kwargs_for_generation(
        self, outputs: RwkvCausalLMOutput, model_kwargs: dict, *args, **kwargs
    ) -> dict:
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
        return super().prepare_inputs_for_generation(  # type: ignore[misc]
            input_ids, next_sequence_length=next_sequence_length, inputs_embeds=inputs_embeds, **kwargs
        )

    def read_beginning(
        self, inputs: dict[str, Tensor], state: State | None, keep: int
    ) -> tuple[dict[str, Tensor], State | None]:
        """Read a long prompt piece by piece, but for its end; so the memory it takes does not grow with its length.

        Returns the inputs that are left, at least ``keep`` tokens, and the state before them.
        """
        while min(x.shape[1] for x in inputs.values()) >= READ_AT_ONCE + keep:
            piece = {name: x[:, :READ_AT_ONCE] for name, x in inputs.items()}
            state = self.rwkv(**piece, state=state, use_cache=True).state
            inputs = {name: x[:, READ_AT_ONCE:] for name, x in inputs.items()}
        return inputs, state

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        state: State | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        **kwargs,
    ) -> RwkvCausalLMOutput | tuple:
        """Read T more tokens and predict the one after each. Arguments as in :meth:`RwkvModel.forward`, and:

        Args:
            labels: (B, T) int64, usually ``input_ids``; -100 is left out of the loss. The shift by one is done here.
            logits_to_keep: compute the logits of the last so many positions only (0: all), or of these positions.
                Without gradients, a prompt whose last logits are wanted is read in pieces, in constant memory.
        """
        mask = fitting_mask(attention_mask, given_tokens(input_ids, inputs_embeds))
        given = {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "attention_mask": mask}
        inputs = {name: tensor for name, tensor in given.items() if tensor is not None}
        with_hidden = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        needs_all = torch.is_grad_enabled() or with_hidden or labels is not None
        if isinstance(logits_to_keep, int) and logits_to_keep > 0 and not needs_all:
            inputs, state = self.read_beginning(inputs, state, logits_to_keep)
        output = self.rwkv(
            **inputs, state=state, use_cache=use_cache, output_hidden_states=with_hidden, return_dict=True
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.head(output.last_hidden_state[:, keep])
        loss = None
        if labels is not None:
            if mask is not None:  # what is said at padding is no prediction of the token after it
                labels = torch.where(F.pad(mask[:, :-1], (1, 0), value=1) != 0, labels, -100)
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        result = RwkvCausalLMOutput(loss=loss, logits=logits, state=output.state, hidden_states=output.hidden_states)
        return result.to_tuple() if return_dict is False else result
