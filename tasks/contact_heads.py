"""Heads that answer for every pair of residues, without a tensor of L x L x 2D.

Both give the log odds of contact, logit 1 minus logit 0: the cross-entropy of two classes depends on nothing else. Both
hold their weights themselves rather than in layers below, because ZeRO-3 gathers a weight for the module that registers
it, and take all proteins of a micro batch in one call, because that gathering is a meeting of all workers.

Shapes: R residues of the micro batch, B proteins, L residues of one protein, D hidden, K rows of a block.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from proteinlm.tasks.heads import INITIAL_STANDARD_DEVIATION

CPU_BLOCK_BYTES = 8 * 2**20
"""Budget of a block of pairs [K, L, D]: it should stay in the processor's cache."""
ACCELERATOR_BLOCK_BYTES = 128 * 2**20
"""The same on a GPU, where small blocks would leave it waiting for the next launch."""
MASK_STEPS = 2**16
"""Dropout is drawn from 16 random bits, a quarter of what torch's own draw costs: 0.1 becomes 6554 / 65536."""


class ConcatenationHead(nn.Module):
    """The paper's head: Linear(2D, D) of (h_j, h_i), tanh, dropout, Linear(D, 2), averaged with its transpose.

    W (h_j, h_i) = W1 h_j + W2 h_i, so that the large product is taken once for each residue and not for each pair. What
    is left (sum, tanh, dropout, dot product) goes by blocks of rows and is done again in the backward pass.

    Source: ProteinLM's Megatron path, megatron/model (contact head); weights N(0, 0.02), biases 0.
    """

    def __init__(self, hidden_size: int, dropout: float = 0.1, block_bytes: int | None = None) -> None:
        """`block_bytes`: memory of one block of pairs, of which a training step holds about two; None: by device."""
        super().__init__()
        self.dropout, self.block_bytes = dropout, block_bytes
        self.dense_weight = nn.Parameter(_drawn(hidden_size, 2 * hidden_size))
        self.dense_bias = nn.Parameter(torch.zeros(hidden_size))
        self.classifier_weight = nn.Parameter(_drawn(2, hidden_size))
        self.classifier_bias = nn.Parameter(torch.zeros(2))

    def forward(self, hidden: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """Hidden [R, D] of residues, `lengths` [B] residues of each protein -> for each protein log odds [L, L].

        They are symmetric, and float32 also where autocast computes the rest in less: rounded ones would be ties.
        """
        of_column, of_row = self.dense_weight.chunk(2, dim=1)  # the first half of the concatenation is h_j
        columns = _full(functional.linear(hidden, of_column, self.dense_bias)).split_with_sizes(list(lengths))
        rows = _full(functional.linear(hidden, of_row)).split_with_sizes(list(lengths))
        weight = _full(self.classifier_weight[1] - self.classifier_weight[0])
        bias = _full(self.classifier_bias[1] - self.classifier_bias[0])
        with torch.autocast(hidden.device.type, enabled=False):
            directed = [self._directed(*protein, weight) for protein in zip(rows, columns, strict=True)]
            return [(log_odds + log_odds.T) / 2 + bias for log_odds in directed]

    def _directed(self, rows: Tensor, columns: Tensor, weight: Tensor) -> Tensor:
        """Log odds [L, L] of the pairs as ordered, without the bias, from both halves [L, D] of the first layer."""
        block_bytes = self.block_bytes or (CPU_BLOCK_BYTES if rows.device.type == "cpu" else ACCELERATOR_BLOCK_BYTES)
        block = max(1, block_bytes // max(1, columns.numel() * columns.element_size()))
        num_dropped = round(self.dropout * MASK_STEPS) if self.training else 0
        scaled = weight * (MASK_STEPS / (MASK_STEPS - num_dropped))
        seed = int(torch.randint(2**62, ())) if num_dropped else 0  # the backward pass draws the same masks again
        apply: Callable[..., Tensor] = _PairSums.apply
        return apply(rows, columns, scaled, block, num_dropped, seed)


class ProductHead(nn.Module):
    """TAPE's head: dropout of (h_i * h_j, h_i - h_j), Linear(2D, 2), averaged with its transpose.

    Without dropout the average is a matrix product: the half of h_i - h_j changes its sign with the transpose and
    cancels. Its weights are kept, as in TAPE, and matter through dropout alone: (i, j) and (j, i) draw masks of their
    own, of which a sum of 2D weighted draws enters the log odds. That sum is drawn here as a normal variable with the
    exact mean and variance of each pair ("fast dropout", Wang and Manning 2013), which are matrix products too.

    Source: songlab-cal/tape, modeling_utils.py, PairwiseContactPredictionHead; weights N(0, 0.02), biases 0.
    """

    def __init__(self, hidden_size: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.dropout = dropout
        self.classifier_weight = nn.Parameter(_drawn(2, 2 * hidden_size))
        self.classifier_bias = nn.Parameter(torch.zeros(2))

    def forward(self, hidden: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """As `ConcatenationHead.forward`."""
        product, difference = _full(self.classifier_weight[1] - self.classifier_weight[0]).chunk(2)
        bias = _full(self.classifier_bias[1] - self.classifier_bias[0])
        is_noisy = self.training and self.dropout > 0
        with torch.autocast(hidden.device.type, enabled=False):
            found = []
            for states in _full(hidden).split_with_sizes(list(lengths)):
                log_odds = (states * product) @ states.T + bias
                found.append(log_odds + self._noise(states, product, difference) if is_noisy else log_odds)
            return found

    def _noise(self, states: Tensor, product: Tensor, difference: Tensor) -> Tensor:
        """What dropout adds to the averaged log odds: symmetric [L, L], mean 0, from states [L, D]."""
        squares = states.square()
        single = squares @ difference.square()
        of_difference = single[:, None] + single - 2 * (states * difference.square()) @ states.T
        variance = (squares * product.square()) @ squares.T + of_difference.clamp_min(0)
        variance = variance * (self.dropout / (1 - self.dropout)) / 2  # of the mean of two independent draws
        draws = torch.randn_like(variance)
        tiny = torch.finfo(variance.dtype).tiny  # the root's slope is infinite at 0
        return (variance + tiny).sqrt() * (draws.triu() + draws.triu(1).T)


class _PairSums(torch.autograd.Function):
    """Sum over D of weight * dropout(tanh(row + column)) for every pair, by blocks that are done again in the backward
    pass. Written by hand because it works in one buffer: what torch's checkpoint takes and frees for each block
    fragments the heap of a CPU process up to several GB.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, columns: Tensor, weight: Tensor, block: int, num_dropped: int, seed: int
    ) -> Tensor:
        """Rows [L, D], columns [L, D], weight [D] -> [L, L]."""
        ctx.save_for_backward(rows, columns, weight)
        ctx.drawn = (block, num_dropped, seed)
        sums = rows.new_empty(len(rows), len(columns))
        for here, activations, _ in _activations(rows, columns, block, num_dropped, seed):
            torch.mv(activations.flatten(0, 1), weight, out=sums[here].view(-1))
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient [L, L] -> those of rows, columns and weight."""
        rows, columns, weight = ctx.saved_tensors
        of_rows, of_columns, of_weight = (torch.zeros_like(values) for values in (rows, columns, weight))
        for here, activations, kept in _activations(rows, columns, *ctx.drawn):
            of_weight.addmv_(activations.flatten(0, 1).T, gradient[here].flatten())
            slopes = activations.square_().neg_().add_(kept).mul_(gradient[here, :, None])
            torch.sum(slopes, 1, out=of_rows[here])
            of_columns += slopes.sum(0)
        return of_rows * weight, of_columns * weight, of_weight, None, None, None


def _activations(
    rows: Tensor, columns: Tensor, block: int, num_dropped: int, seed: int
) -> Iterator[tuple[slice, Tensor, Tensor | float]]:
    """Blocks of rows, tanh(row + column) [K, L, D] after dropout, unscaled, and 1 where dropout kept it (else 0).

    Dropout keeps all but `num_dropped` of MASK_STEPS. Each block overwrites the activations of the last one.
    """
    length, hidden_size = columns.shape
    buffer = rows.new_empty(min(block, len(rows)), length, hidden_size)
    draws = torch.empty(math.ceil(buffer.numel() / 4) if num_dropped else 0, dtype=torch.int64, device=rows.device)
    generator = torch.Generator(rows.device).manual_seed(seed)
    for start in range(0, len(rows), block):
        here = slice(start, start + block)
        part = rows[here, None]
        activations = torch.add(part, columns, out=buffer[: len(part)]).tanh_()
        kept: Tensor | float = 1.0
        if num_dropped:
            bits = draws.random_(-(2**63), None, generator=generator).view(torch.int16)[: activations.numel()]
            kept = (bits >= num_dropped - MASK_STEPS // 2).view(activations.shape)
            activations.mul_(kept)
        yield here, activations, kept


def _drawn(*shape: int) -> Tensor:
    return torch.empty(*shape).normal_(0.0, INITIAL_STANDARD_DEVIATION)


def _full(values: Tensor) -> Tensor:
    """In float32, or in float64 where they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
