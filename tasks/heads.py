"""Heads that answer for each token or for each protein: the paper's and TAPE's, and the loss of heads on tokens.

TAPE's head for labels on residues is two convolutions along each protein; gaps between the proteins of a micro batch
keep each protein from seeing its neighbours. Heads on proteins read one vector for each protein, made by pooling.

Shapes: N tokens of the micro batch, M scored tokens among them, B proteins, D hidden, C classes (or 1 number),
G positions of the stream with gaps.
"""

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from proteinlm.models.packed import NOT_SCORED, Packed

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


def scored_tokens(labels: Tensor, known: Tensor | None = None) -> Tensor:
    """Indices [M] of the tokens whose label counts, from labels [N]; `known` (`Batch.scored`) where it is there."""
    return torch.nonzero(labels != NOT_SCORED).squeeze(1) if known is None else known


def sum_per_protein(values: Tensor, protein_index: Tensor, num_proteins: int) -> Tensor:
    """Values [M] of tokens in proteins `protein_index` [M], summed to [B] in float32. No tokens give zeros."""
    zeros = torch.zeros(num_proteins, dtype=torch.float32, device=values.device)
    return zeros.index_add(0, protein_index, values.float())


def classify_tokens(
    head: nn.Module, hidden: Tensor, packed: Packed, labels: Tensor, scored: Tensor | None = None
) -> tuple[dict[str, Tensor], Tensor]:
    """Cross-entropy of the scored tokens, computed for them alone; `scored` is `Batch.scored`.

    Returns the per-protein columns [B] "loss" (summed, in nats; carries the gradient, also where nothing is scored),
    "scored" and "correct", and the cross-entropy [M] of each scored token in the order of `scored_tokens`.
    """
    selected = scored_tokens(labels, scored)
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


PoolName = Literal["cls", "mean"]


def first_token(hidden: Tensor, packed: Packed) -> Tensor:
    """Hidden [N, D] of each protein's <cls> [B, D]: what the paper and TAPE read."""
    return hidden[packed.cumulative_lengths[:-1].long()]


def mean_of_residues(hidden: Tensor, packed: Packed) -> Tensor:
    """Mean [B, D] over each protein's residues, special tokens left out; zeros for a protein without residues.

    Pretraining by masked residues alone never trains <cls>; this reads what it does train.
    """
    weights = packed.is_residue.float()
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
