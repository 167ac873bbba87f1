"""Labels on whole proteins: pooling without weights, and the heads that answer for each protein.

Shapes: N tokens of the micro batch, B proteins, D hidden, C classes or 1 number.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from proteinlm.models.packed import Packed
from proteinlm.tasks.heads import INITIAL_STANDARD_DEVIATION, WHOLE_WEIGHT, HeadName, TokenHead, check_head

PoolName = Literal["cls", "mean"]
LAST_SPECIAL_ID = 3
"""In every alphabet <cls> and the end token have an id up to this one, and residues have higher ones."""
TAPE_HIDDEN_SIZE = 512


def first_token(hidden: Tensor, packed: Packed) -> Tensor:
    """Hidden [N, D] of each protein's <cls> [B, D]: what the paper and TAPE read."""
    return hidden[packed.cumulative_lengths[:-1].long()]


def mean_of_residues(hidden: Tensor, packed: Packed) -> Tensor:
    """Mean [B, D] over each protein's residues, special tokens left out; zeros for a protein without residues.

    Pretraining by masked residues alone never trains <cls>; this reads what it does train.
    """
    weights = (packed.tokens > LAST_SPECIAL_ID).float()
    sums = torch.zeros(packed.num_proteins, hidden.shape[1], dtype=torch.float32, device=hidden.device)
    sums = sums.index_add(0, packed.protein_index, hidden.float() * weights[:, None])
    counts = torch.zeros(packed.num_proteins, device=hidden.device).index_add(0, packed.protein_index, weights)
    return (sums / counts.clamp(min=1)[:, None]).to(hidden.dtype)


POOLS: Mapping[str, Callable[[Tensor, Packed], Tensor]] = {"cls": first_token, "mean": mean_of_residues}


def get_pool(name: str) -> Callable[[Tensor, Packed], Tensor]:
    """The pooling `name`; ValueError names the accepted ones."""
    if name not in POOLS:
        raise ValueError(f"pool is {name!r}; accepted: {', '.join(POOLS)}")
    return POOLS[name]


class TapeSequenceHead(nn.Module):
    """TAPE's head for a label on the protein: Linear(D, D), tanh, Linear(D, 512), ReLU, Linear(512, C).

    The last two are weight-normalised over the whole matrix, and no dropout is between them. Source: TAPE's
    ProteinBertPooler, and SimpleMLP in tape/models/modeling_utils.py, which starts as PyTorch's layers do.
    """

    def __init__(self, hidden_size: int, num_outputs: int) -> None:
        super().__init__()
        self.pooler = nn.Linear(hidden_size, hidden_size)
        nn.init.normal_(self.pooler.weight, mean=0.0, std=INITIAL_STANDARD_DEVIATION)
        nn.init.zeros_(self.pooler.bias)
        self.dense = weight_norm(nn.Linear(hidden_size, TAPE_HIDDEN_SIZE), dim=WHOLE_WEIGHT)
        self.output = weight_norm(nn.Linear(TAPE_HIDDEN_SIZE, num_outputs), dim=WHOLE_WEIGHT)

    def forward(self, pooled: Tensor) -> Tensor:
        """Pooled [B, D] -> logits or numbers [B, C]."""
        outputs: Tensor = self.output(torch.relu(self.dense(torch.tanh(self.pooler(pooled)))))
        return outputs


def make_sequence_head(name: HeadName, hidden_size: int, num_outputs: int) -> nn.Module:
    """The head `name` from pooled [B, D] to [B, C].

    "paper" has the layers of the paper's head on residues: its pooler, Linear(D, D) and tanh, then dropout and
    Linear(D, C) (ProteinLM's megatron/model/classification.py).
    """
    check_head(name)
    return TokenHead(hidden_size, num_outputs) if name == "paper" else TapeSequenceHead(hidden_size, num_outputs)
