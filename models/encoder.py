"""The protein encoders and the language model head: tokens of a packed micro batch in, hidden states of each out.

ProteinEncoder, the transformer: pre-LayerNorm, as in the paper; with learned positions it computes what ProteinLM does,
with rotary ones and token dropout what ESM-2 does, with learned ones, token dropout and a LayerNorm on the embedding
what ESM-1b does. CnnEncoder, the convolutional reference for finetuning, is trained from scratch.

Shapes: N tokens of the micro batch, D hidden, M width of the MLP, V rows of the token table, S slots of a row in which
the proteins lie with gaps between them.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.attention import GroupsAttention, opaque, rotation
from proteinlm.models.config import ModelConfig
from proteinlm.models.packed import Packed
from proteinlm.models.residual_stream import StreamEmbedding, StreamNorm, working_dtype
from proteinlm.models.varlen_attention import VarlenAttention, takes_lengths, varlen_attention

MASKED_IN_TRAINING = 0.15 * 0.8
"""Share of mask tokens in the training of every ESM model: 15 % of the residues were scored, 80 % of them masked. A
constant of token dropout, whatever share another training masks."""

CompileMode = Literal["dynamic", "static"]
"""dynamic: one compiled layer for micro batches of any size. static: one for micro batches that are filled alike
(`Packed.filled`)."""


class Attention(Protocol):
    """Attention of one micro batch: in groups (attention.py) or by cumulative lengths (varlen_attention.py)."""

    def attend(self, qkv: Tensor, num_heads: int) -> Tensor:
        """Queries, keys and values [N, 3 D] -> attended values [N, D]."""


class SelfAttention(nn.Module):
    """Each protein attends to itself: [N, D] -> [N, D]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor, attention: Attention) -> Tensor:
        """[N, D] -> [N, D]."""
        output: Tensor = self.output(attention.attend(self.qkv(hidden), self.num_heads))
        return output


class FeedForward(nn.Module):
    """GELU MLP: [N, D] -> [N, M] -> [N, D]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gelu = "tanh" if config.gelu == "tanh" else "none"
        self.expand = nn.Linear(config.hidden_size, config.mlp_size)
        self.output = nn.Linear(config.mlp_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """[N, D] -> [N, D]."""
        output: Tensor = self.output(F.gelu(self.expand(hidden), approximate=self.gelu))
        return output


class EncoderLayer(nn.Module):
    """x + attention(LN(x)), then x + MLP(LN(x)): the paper's pre-LayerNorm layer, [N, D] -> [N, D]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.attention_norm = StreamNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = SelfAttention(config)
        self.feed_forward_norm = StreamNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)

    def forward(self, hidden: Tensor, attention: Attention) -> Tensor:
        """[N, D] -> [N, D]."""
        hidden = hidden + self._drop(self.attention(self.attention_norm(hidden), attention))
        return hidden + self._drop(self.feed_forward(self.feed_forward_norm(hidden)))

    def _drop(self, part: Tensor) -> Tensor:
        # F.dropout with p = 0 still draws and multiplies on a CPU
        return F.dropout(part, self.dropout) if self.training and self.dropout > 0.0 else part


class ProteinEncoder(nn.Module):
    """Embedding, layers, final LayerNorm; freshly made weights are drawn from torch's global generator."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = StreamEmbedding(config.padded_vocab_size, config.hidden_size)
        self.position_embedding = (
            StreamEmbedding(config.max_positions, config.hidden_size) if config.position == "learned" else None
        )
        self.embedding_norm = (
            StreamNorm(config.hidden_size, eps=config.layer_norm_eps) if config.embedding_norm else None
        )
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.final_norm = StreamNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.apply(partial(initialise, initializer_range=config.initializer_range))
        self._shrink_output_projections()
        self._compiled: CompileMode | None = None

    def compile_layers(self, mode: CompileMode, device: torch.device) -> None:
        """Have the layers compiled when they first run, on `device`: one graph for all of them, around attention.

        Weights and their names stay as they are. On a GPU "static" tries many kernels for each product: minutes at the
        start. What earlier models of this process had compiled is forgotten, for they share a limit on recompilations.
        """
        torch.compiler.reset()
        tries_kernels = mode == "static" and device.type == "cuda"
        for layer in self.layers:
            layer.compile(mode="max-autotune-no-cudagraphs" if tries_kernels else None)
        self._compiled = mode

    def uncompiled(self) -> AbstractContextManager[None]:
        """Context in which the layers run as they are written, and forward hooks within them are called."""
        return torch.compiler.set_stance("force_eager") if self._compiled else nullcontext()

    def forward(self, packed: Packed) -> Tensor:
        """Hidden states [N, D] of the proteins' tokens, after the final LayerNorm; what fills the stream is left out.

        bf16 under bf16 autocast, else of the weights' type. Raises ValueError where learned positions do not reach to
        the end of a protein, and where `packed` has no groups but needs them.
        """
        hidden = self._embedded(packed)
        if self.training and self.config.dropout > 0.0:
            hidden = F.dropout(hidden, self.config.dropout)
        attention = self._attention(packed)
        if self._compiled == "dynamic" and isinstance(attention, VarlenAttention):
            for tensor in (hidden, attention.cumulative_lengths, *(attention.angles or ())):
                torch._dynamo.mark_dynamic(tensor, 0)  # else the second micro batch would be compiled once more
        for layer in self.layers:
            if self.config.activation_checkpointing and torch.is_grad_enabled():
                hidden = checkpoint(layer, hidden, attention, use_reentrant=False)
            else:
                hidden = layer(hidden, attention)
        final: Tensor = self.final_norm(hidden)
        return final[: final.shape[0] - packed.num_filling] if packed.num_filling else final

    def _attention(self, packed: Packed) -> Attention:
        """By cumulative lengths where the device has it, else in groups."""
        device, size = packed.tokens.device, self.config.head_size
        is_rotary = self.position_embedding is None
        dropout = self.config.dropout if self.training else 0.0
        dtype = working_dtype(self.token_embedding.weight)
        if takes_lengths(device, dtype, size, dropout):
            return varlen_attention(packed, size if is_rotary else None, dtype)
        angles = rotation(packed.longest, size, device) if is_rotary else None
        groups = GroupsAttention(packed, angles, dropout)
        return opaque(groups) if self._compiled else groups

    def _embedded(self, packed: Packed) -> Tensor:
        """[N, D]: token dropout, then positions, then the LayerNorm, each where the model has it (ESM's order)."""
        hidden: Tensor = self.token_embedding(packed.tokens)
        if self.config.token_dropout:
            scale = token_dropout_scale(packed)
            if hidden.dtype == torch.bfloat16:
                scale = scale.to(hidden.dtype)  # a product in fp32 would be one more copy of the stream
            hidden = (hidden * scale).to(hidden.dtype)
        if self.position_embedding is not None:
            self._check_positions(packed)
            hidden = hidden + self.position_embedding(packed.positions)
        if self.embedding_norm is not None:
            hidden = self.embedding_norm(hidden)
        return hidden

    def _check_positions(self, packed: Packed) -> None:
        longest = max(packed.lengths)  # of the proteins: what fills the stream has no positions
        if longest > self.config.max_positions:
            raise ValueError(
                f"a protein has {longest} tokens (special tokens counted), but the model has learned positions "
                f"for max_positions = {self.config.max_positions}; crop the protein or use position: rotary"
            )

    def _shrink_output_projections(self) -> None:
        """Both projections into the residual stream start smaller, so that its variance does not grow with depth."""
        deviation = self.config.initializer_range / math.sqrt(2 * self.config.num_hidden_layers)
        for layer in self.layers:
            assert isinstance(layer, EncoderLayer)
            nn.init.normal_(layer.attention.output.weight, std=deviation)
            nn.init.normal_(layer.feed_forward.output.weight, std=deviation)


def token_dropout_scale(packed: Packed) -> Tensor:
    """What token dropout multiplies the embedding of each token with, [N, 1] fp32: zero for mask tokens, for the others

        (1 - 0.15 * 0.8) / (1 - mask tokens / tokens of this protein, special tokens counted)

    As dropout does, this keeps the expected size of a protein's summed embeddings: it is 1 at the share of mask tokens
    that ESM was trained with, 0.88 without a mask token. Source: modeling_esm.py of transformers, EsmEmbeddings.
    """
    borders = packed.cumulative_lengths
    masks_before = F.pad(packed.is_mask.cumsum(0), (1, 0))[borders]
    share = masks_before.diff() / borders.diff()
    scale = (1.0 - MASKED_IN_TRAINING) / (1.0 - share)
    # a protein of mask tokens alone has a share of 1; all of its tokens are zero
    return scale[packed.protein_index].masked_fill(packed.is_mask, 0.0)[:, None]


def initialise(module: nn.Module, initializer_range: float) -> None:
    """The paper's start for a module's own weights: N(0, initializer_range), biases zero, LayerNorm the identity."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=initializer_range)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=initializer_range)


class LanguageModelHead(nn.Module):
    """Dense, exact GELU, LayerNorm, and the encoder's token table as decoder: hidden [M, D] -> logits [M, V]."""

    def __init__(self, config: ModelConfig, token_embedding: nn.Embedding) -> None:
        super().__init__()
        self.num_tokens = get_alphabet(config.alphabet).size
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = StreamNorm(config.hidden_size, eps=config.layer_norm_eps)
        initialise(self.dense, config.initializer_range)
        # The same Parameter object, and this module's own: ZeRO-3 gathers a weight for the modules that register it.
        self.decoder_weight = token_embedding.weight
        self.decoder_bias = nn.Parameter(self.dense.weight.new_zeros(config.padded_vocab_size))

    def forward(self, hidden: Tensor) -> Tensor:
        """[M, D] -> logits [M, V]; the rows that only pad the token table are left out."""
        transformed = self.norm(F.gelu(self.dense(hidden)))
        return F.linear(transformed, self.decoder_weight[: self.num_tokens], self.decoder_bias[: self.num_tokens])


KERNEL_SIZES = (5, 9)
"""Kernel size of each block's convolution, in residues; it is centred on the residue that it computes."""


class CnnBlock(nn.Module):
    """x + GELU(Conv1d(LayerNorm(x))): [N, D] -> [N, D]."""

    def __init__(self, config: ModelConfig, kernel_size: int) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.convolution = nn.Conv1d(config.hidden_size, config.hidden_size, kernel_size, padding=kernel_size // 2)

    def forward(self, hidden: Tensor, slots: Tensor, num_slots: int) -> Tensor:
        """`slots` [N]: where each token lies in the row with gaps, `num_slots` S."""
        states: Tensor = self.norm(hidden)
        row = states.new_zeros(num_slots, states.shape[1]).index_copy(0, slots, states)
        seen = F.gelu(self.convolution(row.T[None])[0].T[slots])
        return hidden + (F.dropout(seen, self.dropout) if self.training and self.dropout > 0.0 else seen)


class CnnEncoder(nn.Module):
    """An encoder with the interface of `ProteinEncoder`; of the config it reads alphabet, hidden_size, dropout,
    layer_norm_eps, vocab_multiple and initializer_range (of the embedding).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.padded_vocab_size, config.hidden_size)
        initialise(self.token_embedding, config.initializer_range)
        self.blocks = nn.ModuleList(CnnBlock(config, size) for size in KERNEL_SIZES)
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, packed: Packed) -> Tensor:
        """Hidden states [N, D] after the final LayerNorm."""
        packed = packed.without_filling()
        hidden: Tensor = self.token_embedding(packed.tokens)
        gap = max(KERNEL_SIZES) // 2
        slots = torch.arange(packed.num_tokens, device=hidden.device) + gap * packed.protein_index
        num_slots = packed.num_tokens + gap * (packed.num_proteins - 1)
        for block in self.blocks:
            hidden = block(hidden, slots, num_slots)
        final: Tensor = self.final_norm(hidden)
        return final
