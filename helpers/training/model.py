"""The project's own RWKV model as it is trained: its blocks unchanged, embedding and head in a form that learns fast.

Only tokens that occur get a row ("trained rows"); export puts them into the full table of 65,536. The head is
``E A^T + D`` with E the embedding, A starting as the identity and D as zero: at the first step the two tables are tied,
at the last they need not be. Column 0 of the head is a bias for each token, started at the logarithm of its
frequency: ``ln_out`` is held at weight 0, bias 1 there, so that channel 0 is the constant 1. The ``.pth`` has no trace
of all this; it holds plain ``emb``, ``ln_out`` and ``head``.
"""

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig

from ..checkpoints.format import checkpoint_info, describe
from ..checkpoints.names import hub_name, pth_name
from ..checkpoints.versions import MODEL_TYPES
from ..conversion.configuration import base_model_class, language_model_class, model_config
from ..hub_code.rwkv_common import RwkvBlock, RwkvForCausalLM, RwkvModel
from ..tokenizer.vocab import VOCAB_SIZE
from .options import head_size

UNSEEN_LOGIT = -3.0  # tokens that never occur are this much less likely than the rarest that do, e^-3


def mini_config(version: str, rows: int, layers: int, hidden: int, attention: int, ffn: int) -> PreTrainedConfig:
    """Return the configuration of a model with ``rows`` tokens; heads have 64 channels, or fewer in tiny models."""
    channels = head_size(attention)
    info = checkpoint_info(version, layers, hidden, channels, rows, ffn_size=ffn, attention_size=attention)
    return model_config(info, torch.float32)


def new_blocks(config: PreTrainedConfig) -> RwkvModel:
    """Return a new model, whose matrices are orthogonal.

    Those that write into the residual stream, and the receptance of channel-mix, are zero.
    """
    model = base_model_class(MODEL_TYPES[config.model_type])(config)
    for layer, block in enumerate(blocks_of(model)):
        attention, ffn = block.attention, block.feed_forward
        nn.init.zeros_(attention.output.weight)
        nn.init.zeros_(ffn.get_parameter("value.weight"))
        for name in ffn.inputs:
            matrix = ffn.get_parameter(f"{name}.weight")
            nn.init.orthogonal_(matrix) if name == "key" else nn.init.zeros_(matrix)
        for name in attention.inputs:
            nn.init.orthogonal_(getattr(attention, name).weight, gain=1.0 if name in ("value", "gate") else 0.3)
        attention.start_decays(partial(decay_ladder, layer))
    nn.init.normal_(model.embeddings.weight, std=0.02)
    return model.float()


def blocks_of(model: RwkvModel) -> list[RwkvBlock]:
    return cast(list[RwkvBlock], list(model.blocks))  # an nn.ModuleList does not say of what


def decay_ladder(layer: int, like: Tensor) -> Tensor:
    """Return initial decays from slow to fast, so that each layer remembers both the passage and the last words.

    A weight of e^-1 is left after exp(-decay) tokens: 150 to 650 for the slowest, 4 or 20 for the fastest.
    """
    slow, fast = -6.5 + 0.75 * (layer % 3), -1.5 - 1.5 * (layer % 2)
    return slow + (fast - slow) * torch.linspace(0, 1, like.numel()).view_as(like)


def block_forward(block: RwkvBlock, h: Tensor, first_value: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return ``block(h)`` for texts (B, T, D) that begin here, and what the first block hands on to all others.

    Block 0's ``pre_ln`` is left to the caller.
    """
    start = h.new_zeros(h.shape[0], h.shape[2])
    wkv = block.attention.initial_wkv(h.shape[0])
    update, _, _, first_value = block.mix_time(block.ln1(h), start, wkv, None, 1.0, first_value)
    h = h + update
    update, *_ = block.feed_forward(block.ln2(h), start, None, 1.0)
    return h + update, first_value


def weighted_loss(
    h: Tensor, head: Tensor, log_weights: Tensor, targets: Tensor, weights: Tensor, z_loss: float
) -> tuple[Tensor, Tensor]:
    """Return the loss () and the cross-entropy of each token (M,).

    Args:
        h: (M, D). head: (R, D), a selection of rows. log_weights: (R,), for how many rows each of them stands.
        targets: (M,) positions in that selection. weights: (M,).
        z_loss: pulls the logarithm of the softmax's denominator towards 0, which keeps logits small.
    """
    denominator = torch.logsumexp((h @ head.mT).float() + log_weights, dim=-1)
    own = (h * head.index_select(0, targets)).sum(-1)  # the target stands for itself alone; cheaper than a gather
    losses = denominator - own
    total = weights.sum().clamp(min=1e-6)
    return ((losses + z_loss * denominator**2) * weights).sum() / total, losses.detach()


class TrainedModel(nn.Module):
    """Blocks of the project, and the head described above.

    Args:
        config: of a model with only the trained rows.
        counts: (rows,) how often each trained token occurs in the corpus; row 0 is the end of text.
        tied, unigram_bias: switch a trick off, to measure what it brings.
        head_rows: compute the softmax over so many rows a step; the rest is sampled, see :meth:`choose_rows`.
    """

    constant: Tensor
    common: Tensor

    def __init__(
        self,
        config: PreTrainedConfig,
        counts: Tensor,
        tied: bool = True,
        unigram_bias: bool = True,
        head_rows: int = 16384,
        z_loss: float = 1e-4,
    ):
        super().__init__()
        rows, hidden = config.vocab_size, config.hidden_size
        self.model = new_blocks(config)
        self.tied, self.head_rows, self.z_loss = tied, min(head_rows, rows), z_loss
        self.link = nn.Parameter(torch.eye(hidden))  # A
        self.delta = nn.Parameter(torch.zeros(rows, hidden))  # D
        frequency = torch.log((counts + 3) / counts.sum())
        self.bias = nn.Parameter(frequency - frequency.mean() if unigram_bias else torch.zeros(rows))
        self.register_buffer("constant", (torch.arange(hidden) == 0).float() * float(unigram_bias), persistent=False)
        self.register_buffer("common", counts.argsort(descending=True).argsort() < head_rows // 4, persistent=False)
        self.run_block: Callable = block_forward
        self.run_loss: Callable = weighted_loss

    def head(self, rows: Tensor) -> Tensor:
        """Return these rows of the head, (R, D)."""
        table = self.delta.index_select(0, rows)
        if self.tied:
            table = table + self.model.embeddings.weight.index_select(0, rows) @ self.link.mT
        return table * (1 - self.constant) + self.bias.index_select(0, rows)[:, None] * self.constant

    def norm(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of ``ln_out``, with the constant channel."""
        norm = self.model.ln_out
        return norm.weight * (1 - self.constant), norm.bias * (1 - self.constant) + self.constant

    def hidden(self, ids: Tensor) -> Tensor:
        """Return the hidden states that the head reads, (B, T, D), for ids (B, T) of trained rows."""
        h = self.model.embeddings.weight.index_select(0, ids.flatten()).view(*ids.shape, -1)
        blocks = blocks_of(self.model)
        h, first_value = blocks[0].pre_ln(h), None
        for block in blocks:
            h, first_value = self.run_block(block, h, first_value)
        return F.layer_norm(h, h.shape[-1:], *self.norm(), self.model.ln_out.eps)

    def choose_rows(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return R rows for the softmax, and the logarithm of how many rows each stands for.

        Certain are all tokens of the batch (so every target, and every word that could be copied) and the most
        frequent ones. The others are drawn at random and weighted up: the denominator stays right on average.
        """
        certain = self.common.index_fill(0, ids.flatten(), True)
        rows = torch.where(certain, 2.0, torch.rand(len(certain), device=ids.device)).topk(self.head_rows).indices
        left, drawn = (~certain).sum(), self.head_rows - certain.sum()
        stands_for = torch.log(left / drawn.clamp(min=1))
        return rows, torch.where(certain[rows], 0.0, stands_for)

    def forward(self, ids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of predicting ids[:, 1:] and each token's cross-entropy (B, T).

        Args:
            ids: (B, T + 1) int64, trained rows. weights: (B, T), of each predicted token.
        """
        rows, log_weights = self.choose_rows(ids)
        place = torch.full((len(self.delta),), -1, device=ids.device)
        place[rows] = torch.arange(len(rows), device=ids.device)
        targets = place[ids[:, 1:]]
        weights = weights * (targets >= 0)  # a batch with more different tokens than head_rows cannot have all
        h, targets = self.hidden(ids[:, :-1]).flatten(0, 1), targets.clamp(min=0).flatten()
        loss, losses = self.run_loss(h, self.head(rows), log_weights, targets, weights.flatten(), self.z_loss)
        return loss, losses.view(weights.shape)

    @torch.no_grad()
    def export(self, tokens: Tensor, counts: Tensor, table_bits: int = 5) -> dict[str, Tensor]:
        """Return a checkpoint in BlinkDL's format, bf16, with all 65,536 rows.

        Args:
            tokens: (rows,) the token id of each trained row. counts: as in training.
            table_bits: of the mantissa, kept in ``emb`` and ``head``.
        """
        head = self.head(torch.arange(len(tokens), device=tokens.device))
        seldom = counts <= 5
        unseen = head[seldom if seldom.any() else slice(None)].mean(0)
        unseen = unseen + UNSEEN_LOGIT * self.constant
        full_head = unseen.repeat(VOCAB_SIZE, 1)
        full_embedding = torch.zeros_like(full_head)
        full_head[tokens], full_embedding[tokens] = head, self.model.embeddings.weight
        weight, bias = self.norm()
        prefix = self.model.base_model_prefix
        tensors = {pth_name(f"{prefix}.{name}"): tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {"emb.weight": short(full_embedding, table_bits), "head.weight": short(full_head, table_bits)}
        tensors |= {"ln_out.weight": weight, "ln_out.bias": bias}
        return {name: tensor.to("cpu", torch.bfloat16).clone() for name, tensor in tensors.items()}


def short(x: Tensor, bits: int) -> Tensor:
    """Round to so many bits of mantissa. 5 of them change a number by at most 1.6 %, and hardly change LAMBADA.

    The bits that are then zero compress to nothing: a packed file of 17 instead of 20 MB.
    """
    mantissa, exponent = torch.frexp(x.float())  # 0.5 <= |mantissa| < 1: its first bit is not stored
    return torch.ldexp(torch.round(mantissa * 2 ** (bits + 1)) / 2 ** (bits + 1), exponent)


def loaded_model(weights: dict[str, Tensor]) -> RwkvForCausalLM:
    """Return the project's model, in fp32 and evaluation mode, with the tensors of a checkpoint in BlinkDL's format."""
    info = describe(weights)
    model = language_model_class(info.row)(model_config(info, torch.float32))
    model.load_state_dict({hub_name(name, info.row.layout): weight for name, weight in weights.items()})
    return model.float().eval()
