"""Attention in bf16 on a CPU, by plain matrix products with the weights in memory.

torch's fused attention is three times slower there than two matrix products (AVX-512 bf16, L about 140).

Shapes: b proteins of one group, L tokens of its longest, H heads, d size of a head.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LONGEST = 1024
"""Tokens up to which bf16 attention on a CPU keeps its weights [b, H, L, L] in memory."""

WEIGHTS_IN_CACHE = 2**19
"""Attention weights that are computed at a time on a CPU: 1 MiB of bf16, about a core's cache."""


def attend_explicitly(query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None, dropout: float) -> Tensor:
    """What F.scaled_dot_product_attention does, [b, H, L, d] each, with the weights in memory."""
    size, heads, length, head_size = query.shape
    query, key, value = (part.reshape(size * heads, length, head_size) for part in (query, key, value))
    bias: Tensor | None = None
    if key_mask is not None:
        bias = torch.zeros_like(key_mask, dtype=query.dtype).masked_fill_(~key_mask, float("-inf"))
        bias = bias.expand(size, heads, 1, length).reshape(size * heads, 1, length)
    # torch does not type `apply` of an autograd function
    attended: Tensor = _Explicit.apply(query, key, value, bias, dropout)  # type: ignore[no-untyped-call]
    return attended.view(size, heads, length, head_size)


class _Explicit(torch.autograd.Function):
    """softmax(query key^T / sqrt(d) + bias) value: [b H, L, d] three times and [b H, 1, L] -> [b H, L, d].

    By hand: a few of the b H matrices at a time, so that scores and their gradients [L, L] never leave the core's cache
    and only the weights are kept; and autograd gives the key's gradient transposed, which is slow to read back.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
        matrices, length, size = query.shape
        keeps = any(ctx.needs_input_grad)
        weights = query.new_empty((matrices, length, length) if keeps else 0)
        kept = None
        if dropout > 0.0:
            kept = query.new_empty((matrices, length, length)).bernoulli_(1.0 - dropout).div_(1.0 - dropout)
        attended = torch.empty_like(query)
        for rows in _in_cache(matrices, length):
            part_bias = None if bias is None else bias[rows]
            scores = _scaled_product(query[rows], key[rows].transpose(1, 2), size**-0.5, part_bias)
            part = torch.softmax(scores, -1, out=weights[rows] if keeps else None)
            torch.bmm(part if kept is None else part * kept[rows], value[rows], out=attended[rows])
        ctx.save_for_backward(query, key, value, weights, kept)
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weights, kept = ctx.saved_tensors
        matrices, length, size = query.shape
        grad = grad.contiguous()
        grads = [torch.empty_like(query) for _ in range(3)]
        for rows in _in_cache(matrices, length):
            part = weights[rows]
            torch.bmm((part if kept is None else part * kept[rows]).transpose(1, 2), grad[rows], out=grads[2][rows])
            of_weights = torch.bmm(grad[rows], value[rows].transpose(1, 2))
            if kept is not None:
                of_weights *= kept[rows]
            of_scores = torch.ops.aten._softmax_backward_data(of_weights, part, -1, part.dtype)
            _scaled_product(of_scores, key[rows], size**-0.5, out=grads[0][rows])
            _scaled_product(of_scores.transpose(1, 2), query[rows], size**-0.5, out=grads[1][rows])
        return *grads, None, None


def _in_cache(matrices: int, length: int) -> Iterator[slice]:
    """Slices of equally many [L, L] matrices, at most what WEIGHTS_IN_CACHE holds but at least one.

    Equally many: oneDNN makes a kernel for every shape that it meets, in half a millisecond.
    """
    most = max(1, min(matrices, WEIGHTS_IN_CACHE // length**2))
    step = next(step for step in range(most, 0, -1) if matrices % step == 0)
    return (slice(start, start + step) for start in range(0, matrices, step))


def _scaled_product(
    left: Tensor, right: Tensor, scale: float, bias: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    if bias is None:
        return torch.baddbmm(left.new_empty(()), left, right, beta=0.0, alpha=scale, out=out)
    return torch.baddbmm(bias, left, right, alpha=scale, out=out)
