"""Embedding and LayerNorm of a residual stream that is bf16 under bf16 autocast, and of the weights' type elsewhere.

Autocast alone leaves the stream in fp32: it computes LayerNorm in fp32 and leaves embeddings and sums as they are, so
that copies of [N, D] in fp32 go through memory several times a layer. Here the embedding is cast once, and LayerNorm
reads and writes bf16, with its statistics in fp32 inside the kernel. Weights stay fp32, and so do their gradients.
fp16 needs the stream's range and keeps it in fp32.

Shapes: N tokens, D hidden, R rows of a table.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

ROWS_AT_A_TIME = 8192
"""Tokens whose gradients are summed in fp32 at a time on a CPU."""


def working_dtype(weight: Tensor) -> torch.dtype:
    """The type of matrix products with such a weight, here and now (autocast is a state of the thread)."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


def stream_dtype(weight: Tensor) -> torch.dtype:
    """The residual stream's type in a model of such weights, here and now."""
    return torch.bfloat16 if working_dtype(weight) == torch.bfloat16 else weight.dtype


class StreamEmbedding(nn.Embedding):
    """A table [R, D] whose rows begin the residual stream: ids [N] -> [N, D] of the stream's type."""

    def forward(self, ids: Tensor) -> Tensor:
        """[N] -> [N, D]."""
        dtype = stream_dtype(self.weight)
        if dtype == self.weight.dtype:
            return super().forward(ids)
        # torch does not type `apply` of an autograd function
        rows: Tensor = _CastRows.apply(self.weight, ids, dtype)  # type: ignore[no-untyped-call]
        return rows


class StreamNorm(nn.LayerNorm):
    """LayerNorm that leaves a bf16 stream bf16: [N, D] -> [N, D]."""

    def forward(self, hidden: Tensor) -> Tensor:
        """[N, D] -> [N, D]."""
        if hidden.dtype != torch.bfloat16:
            return super().forward(hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            return F.layer_norm(hidden, self.normalized_shape, *self.weights_for(hidden), self.eps)

    def weights_for(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias [D] as the device's kernel takes them beside a bf16 stream.

        A GPU's wants one type for all and keeps its statistics in fp32 whatever that is; a CPU's keeps them in fp32
        beside weights in fp32 alone.
        """
        if hidden.device.type == "cpu":
            return self.weight, self.bias
        return self.weight.to(hidden.dtype), self.bias.to(hidden.dtype)


class _CastRows(torch.autograd.Function):
    """Rows `ids` [N] of a table [R, D], in another type than the table's; its gradient is summed in fp32.

    By hand: the plain formulas make [N, D] of the table's type on the way, or sum thousands of rows in bf16.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.rows, ctx.dtype = len(table), table.dtype
        return F.embedding(ids, table.to(dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (ids,) = ctx.saved_tensors
        if grad.device.type != "cpu":  # sums in fp32 by itself
            return _summed(grad, ids, ctx.rows).to(ctx.dtype), None, None
        total = torch.zeros(ctx.rows, grad.shape[1], dtype=ctx.dtype)
        for part, at in zip(torch.split(grad, ROWS_AT_A_TIME), torch.split(ids, ROWS_AT_A_TIME), strict=True):
            total += _summed(part.to(ctx.dtype), at, ctx.rows)
        return total, None, None


def _summed(grad: Tensor, ids: Tensor, rows: int) -> Tensor:
    """Gradients [N, D] of the tokens of each row: [R, D]."""
    total: Tensor = torch.ops.aten.embedding_dense_backward(grad, ids, rows, -1, False)
    return total
