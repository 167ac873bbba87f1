"""A small convolutional encoder, trained from scratch: a reference without attention and without pretraining.

Token embedding, two residual blocks (LayerNorm, Conv1d of 5 and of 9 residues, GELU), final LayerNorm: every residue
sees 6 residues to either side. PEER's ProteinCNN (Xu et al. 2022; Shanehsazzadeh et al. 2020) is the same idea with two
convolutions of 5 and 1,024 channels.

Convolutions run on one row in which the proteins lie with gaps of zeros between them, as wide as a kernel reaches; the
rest works on the unpadded stream, so the gaps are zero again before every convolution and no protein sees another.

Shapes: N tokens of the micro batch, S slots of the row with gaps, D hidden.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import initialise
from proteinlm.models.packed import Packed

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
        hidden: Tensor = self.token_embedding(packed.tokens)
        gap = max(KERNEL_SIZES) // 2
        slots = torch.arange(packed.num_tokens, device=hidden.device) + gap * packed.protein_index
        num_slots = packed.num_tokens + gap * (packed.num_proteins - 1)
        for block in self.blocks:
            hidden = block(hidden, slots, num_slots)
        final: Tensor = self.final_norm(hidden)
        return final
