# Copyright 2026 The RWKV World on Hugging Face authors
# SPDX-License-Identifier: Apache-2.0
"""What RWKV-4, 5 and 6 models share: token shift, channel-mix, the block, and the Hugging Face classes.

The mathematics that makes a version that version, its time-mix, is in
``modeling_rwkv4.py``, ``modeling_rwkv5.py`` and ``modeling_rwkv6.py``.

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

Packing: several texts one behind the other in a row, with ``position_ids`` that begin again at 0, or ``seq_idx``, or
``cu_seq_lens_q``. They are cut into rows of their own, which begin with an empty state.
"""

from .rwkv_requirements import require_transformers

require_transformers()  # before the imports that an older one would fail at

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import ModelOutput

from .rwkv_decoding import RwkvDecodingMixin
from .rwkv_generation import RwkvGenerationMixin
from .rwkv_inputs import (
    CACHE_NAMES,
    Packing,
    State,
    fitting_mask,
    front_order,
    given_state,
    given_tokens,
    refuse_unknown,
    reorder_tokens,
    text_starts,
)
from .rwkv_linear import HALF, RwkvLinear

READ_AT_ONCE = 2048  # tokens of all rows: a longer prompt is read in pieces when only its last logits are wanted
READ_AT_ONCE_GPU = 16384  # a GPU is idle with little to do; fewer where the hidden size is over 1,024
LOSS_OPTIONS = ("num_items_in_batch", "ignore_index", "shift_labels")  # of transformers' loss for causal models
HALVE_EVERY = 6  # blocks: how often the residual stream is halved in fp16, as in the rwkv package, to stay below 65504


class WithState(ModelOutput):
    """An output whose state is found, too, by ``get`` and a name of a cache, as transformers' utilities ask for it."""

    state: State | None

    def get(self, key, default=None):
        if key in CACHE_NAMES and self.state is not None:
            return self.state
        return super().get(key, default)


@dataclass
class RwkvOutput(WithState):
    """Output of the model without its head: hidden states (B, T, D) and the state after the last token."""

    last_hidden_state: Tensor | None = None
    state: State | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class RwkvCausalLMOutput(WithState):
    """Output of the language model: loss (), logits (B, T, V) and the state after the last token."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    state: State | None = None
    hidden_states: tuple[Tensor, ...] | None = None


def at_least_fp32(x: Tensor) -> Tensor:
    """Return ``x`` in fp32, or unchanged if it is fp64."""
    return x.float() if x.dtype in HALF else x


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Let matrix products of fp32 stay fp32 in mixed precision."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def scaled(x: Tensor, scale: float) -> Tensor:
    return x if scale == 1.0 else x * scale


def is_real(tokens: int, lengths: Tensor) -> Tensor:
    """Say which tokens are no padding, (B, T), if each row has so many real tokens (B,), in front."""
    return torch.arange(tokens, device=lengths.device) < lengths[:, None]


def split_chunks(x: Tensor, size: int) -> Tensor:
    """Cut the tokens of x (..., T, N) into n chunks, (..., n, size, N); the last one is filled up with zeros."""
    return F.pad(x, (0, 0, 0, -x.shape[-2] % size)).unflatten(-2, (-1, size))


class Fp32GroupNorm(nn.GroupNorm):
    """GroupNorm that computes in fp32 (or fp64), whatever dtype its parameters have."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = at_least_fp32(self.weight), at_least_fp32(self.bias)
        return F.group_norm(at_least_fp32(x), self.num_groups, weight, bias, self.eps)


def token_shift(x: Tensor, before: Tensor) -> Tensor:
    """Return the token before each token: ``before`` (B, D) for the first one, then ``x[:, t - 1]``; x is (B, T, D)."""
    first = before.to(x)[:, None]
    return first if x.shape[1] == 1 else torch.cat([first, x[:, :-1]], dim=1)


def last_token(x: Tensor, before: Tensor, lengths: Tensor | None) -> Tensor:
    """Return the last real token of each row, (B, D), or ``before`` for a row that has none."""
    if lengths is None:
        return x[:, -1]
    with_before = torch.cat([before.to(x)[:, None], x], dim=1)
    return with_before[torch.arange(len(x), device=x.device), lengths]


def mix(x: Tensor, previous: Tensor, ratio: Tensor) -> Tensor:
    """Interpolate, channel by channel, between a token and the one before it: ``ratio x + (1 - ratio) previous``."""
    return torch.lerp(previous, x, ratio.to(x.dtype))


def piece_size(rows: int, hidden_size: int, device: str) -> int:
    """Return how many tokens of each row to read at once: whole chunks, so that memory stays within bounds."""
    limit = READ_AT_ONCE if device == "cpu" else min(READ_AT_ONCE_GPU, READ_AT_ONCE_GPU * 1024 // hidden_size)
    return max(limit // max(rows, 1) // 64, 1) * 64


class RwkvMixer(nn.Module):
    """What time-mix and channel-mix have in common: learned ratios of mixing a token with the one before it."""

    inputs: tuple[str, ...]  # the matrices that read a mixture
    ratios: tuple[str, ...]  # the names of the ratios

    def __init__(
        self, config: PreTrainedConfig, layer: int, inputs: tuple[str, ...], ratios: tuple[str, ...] | None = None
    ):
        super().__init__()
        self.inputs = inputs
        self.ratios = ratios or tuple(f"time_mix_{name}" for name in inputs)
        self.depth = layer / max(config.num_hidden_layers - 1, 1)  # 0 in the first block, 1 in the last
        self.rise = 1 - layer / config.num_hidden_layers  # 1 in the first block, almost 0 in the last
        for name in self.ratios:
            self.register_parameter(name, nn.Parameter(torch.empty(1, 1, config.hidden_size)))

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

    def start_decays(self, ladder: Callable[[Tensor], Tensor]) -> None:
        """Let the decays w = exp(-exp(d)) start with the d that ``ladder`` gives for a tensor of that shape."""
        self.time_decay.data.copy_(ladder(self.time_decay))


class RwkvMatrixTimeMix(RwkvTimeMix):
    """A time-mix that remembers a matrix S of N x N numbers for each head, which may start as a trained one."""

    heads: int
    head_size: int
    time_state: nn.Parameter | None

    def add_time_state(self, config: PreTrainedConfig) -> None:
        self.time_state = None
        if config.has_time_state:
            self.time_state = nn.Parameter(torch.zeros(self.heads, self.head_size, self.head_size))

    def initialize_time_state(self) -> None:
        if self.time_state is not None:
            init.zeros_(self.time_state)

    def initial_wkv(self, batch_size: int) -> Tensor:
        """Return S before the first token, (B, H, N, N): zeros, or the checkpoint's trained state (stored as S^T)."""
        if self.time_state is None:
            return at_least_fp32(self.time_decay).new_zeros(batch_size, self.heads, self.head_size, self.head_size)
        return at_least_fp32(self.time_state).mT.expand(batch_size, -1, -1, -1)


class RwkvChannelMix(RwkvMixer):
    """Channel-mix, the feed-forward layer of RWKV-4, 5 and 6: ``sigmoid(R x') * V(relu(K x')^2)``.

    Source: RWKV-4 paper (arXiv 2305.13048), equations 16 to 18.
    """

    ratio_names = ("time_mix_key", "time_mix_receptance")

    def __init__(self, config: PreTrainedConfig, layer: int):
        super().__init__(config, layer, inputs=("key", "receptance"), ratios=self.ratio_names)
        hidden, inner = config.hidden_size, config.intermediate_size
        self.key = RwkvLinear(hidden, inner, bias=False)
        self.receptance = RwkvLinear(hidden, hidden, bias=False)
        self.value = RwkvLinear(inner, hidden, bias=False)

    def forward(self, x: Tensor, before: Tensor, lengths: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
        for_key, for_receptance = self.mixed(x, token_shift(x, before))
        k = torch.relu(self.key(for_key))
        k = k**2 if torch.is_grad_enabled() else k.square_()  # in place: new memory takes longer than the squares
        r = torch.sigmoid(self.receptance(for_receptance))
        return r * self.value(scaled(k, scale)), last_token(x, before, lengths)

    def mixed(self, x: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the key and the receptance read, each (B, T, D)."""
        key, receptance = (mix(x, previous, getattr(self, name)) for name in self.ratios)
        return key, receptance


class RwkvBlock(GradientCheckpointingLayer):
    """One layer: ``x + time_mix(ln1(x))``, then ``x + channel_mix(ln2(x))``. Block 0 first normalizes the embedding."""

    names = ("pre_ln", "attention", "feed_forward")  # of the first norm, time-mix and channel-mix in the weights' names
    pre_ln: nn.LayerNorm
    attention: RwkvTimeMix
    feed_forward: RwkvMixer

    def __init__(self, config: PreTrainedConfig, layer: int, time_mix: RwkvTimeMix, channel_mix: RwkvMixer):
        super().__init__()
        pre_ln, attention, feed_forward = self.names
        norm = {"normalized_shape": config.hidden_size, "eps": config.layer_norm_epsilon}
        if layer == 0:
            self.add_module(pre_ln, nn.LayerNorm(**norm))
        self.ln1 = nn.LayerNorm(**norm)
        self.ln2 = nn.LayerNorm(**norm)
        self.add_module(attention, time_mix)
        self.add_module(feed_forward, channel_mix)
        self.layer = layer

    def mix_time(
        self,
        x: Tensor,
        before: Tensor,
        state: Tensor | None,
        lengths: Tensor | None,
        scale: float,
        first_value: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return what time-mix adds, its new state in two parts, and what the first block hands on to all others."""
        return *self.attention(x, before, state, lengths, scale), first_value

    def forward(
        self,
        hidden: Tensor,
        state: tuple[Tensor, Tensor | None, Tensor] | None,
        lengths: Tensor | None,
        scale: float,
        first_value: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor]:
        """Return hidden states, what the first block hands on (None in most versions), and the state in three parts."""
        if state is None:
            nothing = torch.zeros_like(hidden[:, 0])
            state = (nothing, None, nothing)
        time_shift, wkv, channel_shift = state
        if self.layer == 0:
            hidden = self.pre_ln(hidden)
        normed = self.ln1(hidden)
        update, time_shift, wkv, first_value = self.mix_time(normed, time_shift, wkv, lengths, scale, first_value)
        hidden = hidden + update
        update, channel_shift = self.feed_forward(self.ln2(hidden), channel_shift, lengths, scale)
        return hidden + update, first_value, time_shift, wkv, channel_shift


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

    time_mix_class: Callable[..., RwkvTimeMix]  # called with the configuration and the number of the block, as is
    channel_mix_class: Callable[..., RwkvMixer] = RwkvChannelMix
    block_class: type[RwkvBlock] = RwkvBlock
    embeddings_name = "embeddings"
    embeddings: nn.Embedding

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.add_module(self.embeddings_name, nn.Embedding(config.vocab_size, config.hidden_size))
        layers = range(config.num_hidden_layers)
        self.blocks = nn.ModuleList(
            self.block_class(config, n, self.time_mix_class(config, n), self.channel_mix_class(config, n))
            for n in layers
        )
        self.ln_out = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings

    def set_input_embeddings(self, embeddings: nn.Embedding) -> None:
        setattr(self, self.embeddings_name, embeddings)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        state: State | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        position_ids: Tensor | None = None,
        seq_idx: Tensor | None = None,
        cu_seq_lens_q: Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> RwkvOutput | tuple:
        """Read T more tokens.

        Args:
            input_ids: (B, T) int64; or ``inputs_embeds``: (B, T, D).
            attention_mask: (B, T) or longer (then its last T columns count), 1 for real tokens, 0 for padding.
            state: what an earlier call returned; ``None`` starts afresh. Also under the names of ``CACHE_NAMES``.
            use_cache: return the state; by default only in evaluation mode. Of packed rows it is that of the last text.
            position_ids, seq_idx, cu_seq_lens_q: where packed texts begin, see :func:`.rwkv_inputs.text_starts`.

        Raises:
            ValueError: not exactly one of ``input_ids`` and ``inputs_embeds``, no tokens, a mask of another shape, a
                cache of another kind, a state for packed rows, or attentions are asked for.
            TypeError: an unknown keyword.
        """
        state = given_state(state, kwargs)
        refuse_unknown(kwargs, output_attentions)
        tokens = given_tokens(input_ids, inputs_embeds)
        hidden = self.embeddings(tokens) if inputs_embeds is None else tokens
        use_cache = bool(self.config.use_cache and not self.training) if use_cache is None else use_cache
        with_hidden = bool(self.config.output_hidden_states) if output_hidden_states is None else output_hidden_states
        starts = text_starts(hidden, attention_mask, position_ids, seq_idx, cu_seq_lens_q)
        if starts is None:
            output = self.read(hidden, attention_mask, state, use_cache, with_hidden)
        elif state is None:
            output = self.read_packed(hidden, attention_mask, starts, use_cache, with_hidden)
        else:
            raise ValueError("packed texts begin afresh: give a state only with rows of a single text")
        return output.to_tuple() if return_dict is False else output

    def read(
        self, hidden: Tensor, attention_mask: Tensor | None, state: State | None, use_cache: bool, with_hidden: bool
    ) -> RwkvOutput:
        """Let embedded tokens (B, T, D) through all blocks; arguments as of :meth:`forward`."""
        order, lengths = front_order(attention_mask, hidden)
        if order is not None and lengths is not None:
            padding = torch.arange(hidden.shape[1], device=hidden.device) >= lengths[:, None]
            hidden = reorder_tokens(hidden, order).masked_fill(padding[..., None], 0.0)  # NaN times 0 would be NaN
        device = hidden.device  # with a device_map, blocks may be elsewhere
        states = [None] * len(self.blocks) if state is None else zip(*(s.unbind(1) for s in state), strict=True)
        halving = hidden.dtype == torch.float16 and not self.training
        hidden_states, new_states, first_value = [], [], None
        for layer, (block, layer_state) in enumerate(zip(self.blocks, states, strict=True)):
            if with_hidden:
                hidden_states.append(hidden)
            scale = 0.5 ** (layer // HALVE_EVERY) if halving else 1.0
            hidden, first_value, *layer_state = block(hidden, layer_state, lengths, scale, first_value)
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
        return RwkvOutput(
            last_hidden_state=hidden_states[-1],
            state=new_state,
            hidden_states=tuple(hidden_states) if with_hidden else None,
        )

    def read_packed(
        self, hidden: Tensor, attention_mask: Tensor | None, starts: Tensor, use_cache: bool, with_hidden: bool
    ) -> RwkvOutput:
        """Read rows of several texts, which begin at ``starts`` (B, T), each text as a row of its own."""
        packing = Packing.of(starts)
        mask = fitting_mask(attention_mask, hidden)
        real = torch.ones_like(starts) if mask is None else mask.to(hidden.device) != 0
        rows = self.read(packing.unpack(hidden), packing.unpack(real), None, use_cache, with_hidden=True)
        hidden_states = tuple(packing.pack(x) for x in rows.hidden_states or ())
        state = None
        if rows.state is not None:
            time_shift, wkv, channel_shift = (packing.last_texts(part) for part in rows.state)
            state = time_shift, wkv, channel_shift
        return RwkvOutput(
            last_hidden_state=hidden_states[-1], state=state, hidden_states=hidden_states if with_hidden else None
        )


class RwkvForCausalLM(RwkvDecodingMixin, RwkvPreTrainedModel, RwkvGenerationMixin):
    """The model with its language-modeling head. A subclass sets ``model_class``."""

    model_class: type[RwkvModel]
    rwkv: RwkvModel
    _tied_weights_keys = {"head.weight": "rwkv.embeddings.weight"}

    def __init_subclass__(cls, **kwargs):
        """Enter the class where Trainer looks whether label smoothing has to shift the labels by one: by its name."""
        super().__init_subclass__(**kwargs)
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.setdefault(cls.__name__, cls.__name__)

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        setattr(self, self.base_model_prefix, self.model_class(config))
        self.head: nn.Linear = RwkvLinear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        return self.head

    def set_output_embeddings(self, head: nn.Linear) -> None:
        self.head = head

    def read_beginning(
        self, inputs: dict[str, Tensor], state: State | None, keep: int
    ) -> tuple[dict[str, Tensor], State | None]:
        """Read a long prompt piece by piece, but for its end; so the memory it takes does not grow with its length.

        Returns the inputs that are left, at least ``keep`` tokens, and the state before them.
        """
        some = next(iter(inputs.values()))
        size = piece_size(some.shape[0], self.config.hidden_size, some.device.type)
        while min(x.shape[1] for x in inputs.values()) >= size + keep:
            piece = {name: x[:, :size] for name, x in inputs.items()}
            state = self.rwkv(**piece, state=state, use_cache=True).state
            inputs = {name: x[:, size:] for name, x in inputs.items()}
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
        output_attentions: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        position_ids: Tensor | None = None,
        seq_idx: Tensor | None = None,
        cu_seq_lens_q: Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> RwkvCausalLMOutput | tuple:
        """Read T more tokens and predict the one after each. Arguments as in :meth:`RwkvModel.forward`, and:

        Args:
            labels: (B, T) int64, usually ``input_ids``; -100 is left out of the loss. The shift by one is done here.
            logits_to_keep: compute the logits of the last so many positions only (0: all), or of these positions.
                Without gradients, a prompt whose last logits are wanted is read in pieces, in constant memory.
            kwargs: options of transformers' loss, such as ``num_items_in_batch``.
        """
        loss_options = {name: kwargs.pop(name) for name in LOSS_OPTIONS if name in kwargs}
        state = given_state(state, kwargs)
        refuse_unknown(kwargs, output_attentions)
        tokens = given_tokens(input_ids, inputs_embeds)
        mask = fitting_mask(attention_mask, tokens)
        given = {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "attention_mask": mask}
        inputs = {name: tensor for name, tensor in given.items() if tensor is not None}
        boundaries = {"position_ids": position_ids, "seq_idx": seq_idx, "cu_seq_lens_q": cu_seq_lens_q}
        may_be_packed = any(boundary is not None for boundary in boundaries.values())
        with_hidden = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        if self._decoding is not None:
            asked = boundaries | {"labels": labels, "inputs_embeds": inputs_embeds, "hidden states": with_hidden}
            recorded = self._decode(tokens, mask, state, use_cache, logits_to_keep, asked)
            if recorded is not None:
                result = RwkvCausalLMOutput(logits=recorded[0], state=recorded[1])
                return result.to_tuple() if return_dict is False else result
        needs_all = torch.is_grad_enabled() or with_hidden or labels is not None or may_be_packed
        if isinstance(logits_to_keep, int) and logits_to_keep > 0 and not needs_all:
            inputs, state = self.read_beginning(inputs, state, logits_to_keep)
        output = self.rwkv(
            **inputs, **boundaries, state=state, use_cache=use_cache, output_hidden_states=with_hidden, return_dict=True
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.head(output.last_hidden_state[:, keep])
        loss = None
        if labels is not None:
            labels = self.predicted(labels, mask, text_starts(tokens, mask, position_ids, seq_idx, cu_seq_lens_q))
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **loss_options)
        result = RwkvCausalLMOutput(loss=loss, logits=logits, state=output.state, hidden_states=output.hidden_states)
        return result.to_tuple() if return_dict is False else result

    @staticmethod
    def predicted(labels: Tensor, mask: Tensor | None, starts: Tensor | None) -> Tensor:
        """Leave out of the loss what nothing predicts: the token after padding, and the first of each packed text."""
        if mask is not None:
            labels = torch.where(F.pad(mask[:, :-1], (1, 0), value=1) != 0, labels, -100)
        return labels if starts is None else labels.masked_fill(starts.to(labels.device), -100)
