"""TAPE's head for labels on residues: two convolutions along each protein, none of which sees its neighbours.

Shapes: N tokens of the micro batch, B proteins, D hidden, C classes, G places of the stream with gaps.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from proteinlm.models.packed import Packed
from proteinlm.tasks.heads import WHOLE_WEIGHT

TAPE_HIDDEN_SIZE = 512
GAP = 2
"""Empty places after each protein: what the wider convolution reaches beyond a protein's end."""


class ConvolutionHead(nn.Module):
    """BatchNorm(D), Conv(D, 512, width 5), ReLU, Conv(512, C, width 3), both weight-normalised over the whole kernel.

    Source: SimpleConv in TAPE's tape/models/modeling_utils.py. TAPE's batch statistics count padding and ours have
    none to count; in training they are those of the micro batch, so this head alone depends on how batches are cut.
    """

    def __init__(self, hidden_size: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(hidden_size)
        self.wide = weight_norm(nn.Conv1d(hidden_size, TAPE_HIDDEN_SIZE, 5, padding=2), dim=WHOLE_WEIGHT)
        self.narrow = weight_norm(nn.Conv1d(TAPE_HIDDEN_SIZE, num_classes, 3, padding=1), dim=WHOLE_WEIGHT)

    def forward(self, hidden: Tensor, packed: Packed) -> Tensor:
        """Hidden [N, D] of every token, special ones too as in TAPE -> logits [N, C]."""
        place = torch.arange(packed.num_tokens, device=hidden.device) + GAP * packed.protein_index
        num_places = packed.num_tokens + GAP * packed.num_proteins
        is_token = torch.zeros(num_places, dtype=hidden.dtype, device=hidden.device)
        is_token[place] = 1
        normed = self._normed(hidden)
        spread = normed.new_zeros(num_places, hidden.shape[1]).index_copy(0, place, normed)
        features = torch.relu(self.wide(spread.T[None])) * is_token  # gaps are as empty as what lies beyond an end
        logits: Tensor = self.narrow(features)[0].T[place]
        return logits

    def _normed(self, hidden: Tensor) -> Tensor:
        if len(hidden) > 1:
            normed: Tensor = self.norm(hidden)
            return normed
        norm = self.norm  # one token has no variance: it is measured by what was seen before
        return functional.batch_norm(hidden, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
