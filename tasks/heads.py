"""The names of heads, the paper's head for every token, and the loss that all heads on tokens share.

Shapes: N tokens of the micro batch, M scored tokens among them, B proteins, D hidden, C classes.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from proteinlm.models.objectives import NOT_SCORED
from proteinlm.models.packed import Packed

HeadName = Literal["paper", "tape"]
"""paper: ProteinLM's Megatron path, behind its 3B column. tape: TAPE's PyTorch heads."""
INITIAL_STANDARD_DEVIATION = 0.02
WHOLE_WEIGHT = -1
"""`dim` of weight_norm for one length of the whole weight, as in TAPE: PyTorch's None, which its types leave out."""


def check_head(name: str) -> None:
    """ValueError where there is no head `name`."""
    if name not in get_args(HeadName):
        raise ValueError(f"head is {name!r}; accepted: {', '.join(get_args(HeadName))}")


class TokenHead(nn.Module):
    """The paper's head for labels on residues: Linear(D, D), tanh, dropout, Linear(D, C).

    Source: ProteinLM's Megatron path, megatron/model/token_classification.py; weights N(0, 0.02), biases 0.
    """

    def __init__(self, hidden_size: int, num_classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden_size, num_classes)
        for layer in (self.dense, self.classifier):
            nn.init.normal_(layer.weight, mean=0.0, std=INITIAL_STANDARD_DEVIATION)
            nn.init.zeros_(layer.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden [M, D] -> logits [M, C]."""
        logits: Tensor = self.classifier(self.dropout(torch.tanh(self.dense(hidden))))
        return logits


def scored_tokens(labels: Tensor) -> Tensor:
    """Indices [M] of the tokens whose label counts, from labels [N]."""
    return torch.nonzero(labels != NOT_SCORED).squeeze(1)


def sum_per_protein(values: Tensor, protein_index: Tensor, num_proteins: int) -> Tensor:
    """Values [M] of tokens in proteins `protein_index` [M], summed to [B] in float32. No tokens give zeros."""
    zeros = torch.zeros(num_proteins, dtype=torch.float32, device=values.device)
    return zeros.index_add(0, protein_index, values.float())


def classify_tokens(
    head: nn.Module, hidden: Tensor, packed: Packed, labels: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """Cross-entropy of the scored tokens, computed for them alone.

    Returns the per-protein columns [B] "loss" (summed, in nats; carries the gradient, also where nothing is scored),
    "scored" and "correct", and the cross-entropy [M] of each scored token in the order of `scored_tokens`.
    """
    selected = scored_tokens(labels)
    targets = labels[selected].long()
    logits = head(hidden[selected]).float()
    cross_entropy = functional.cross_entropy(logits, targets, reduction="none")
    protein_index, num_proteins = packed.protein_index[selected], packed.num_proteins
    with torch.no_grad():
        correct = logits.argmax(dim=1) == targets
        columns = {
            "scored": sum_per_protein(torch.ones_like(cross_entropy), protein_index, num_proteins),
            "correct": sum_per_protein(correct, protein_index, num_proteins),
        }
    columns["loss"] = sum_per_protein(cross_entropy, protein_index, num_proteins)
    return columns, cross_entropy
