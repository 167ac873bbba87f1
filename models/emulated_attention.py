"""Variable-length attention for a CPU, so that what GPUs run can be tested without one.

torch's `varlen_attn` is an operator whose kernel only GPUs have. Here it gets one for CPUs, and one for its gradient,
in plain formulas and in fp32: all else (the operator's signature, shapes, gradient and what a compiler sees of it) is
as on a GPU. Slow: for small models in tests alone.

Shapes: N tokens, S sequences, H heads, L tokens of one sequence, d size of a head.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from proteinlm.models.varlen_attention import EMULATED

CPU = "cpu"


@contextmanager
def emulated_attention() -> Iterator[None]:
    """Inside the body, encoders on a CPU attend by cumulative lengths, in any precision."""
    _register()
    EMULATED.add(CPU)
    try:
        yield
    finally:
        EMULATED.discard(CPU)


@cache
def _register() -> None:
    import torch.nn.attention.varlen  # defines the operators

    torch.library.register_kernel("torch_attn::_varlen_attn", CPU, _attend)
    torch.library.register_kernel("torch_attn::_varlen_attn_backward", CPU, _gradients)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, borders: Tensor, same: Tensor, longest: int, *_: object
) -> tuple[Tensor, Tensor, Tensor]:
    """[N, H, d] three times, [S + 1] -> attended [N, H, d], log of the weights' sum [H, N], state of no random draw."""
    attended, log_sums = torch.empty_like(query), torch.empty(query.shape[1], len(query))
    with torch.autocast(CPU, enabled=False):
        for rows in _sequences(borders, longest):
            queries, keys, values = (_heads_first(part[rows]) for part in (query, key, value))
            scores = queries @ keys.transpose(1, 2) * query.shape[2] ** -0.5
            log_sum = scores.logsumexp(-1)
            attended[rows] = ((scores - log_sum[..., None]).exp() @ values).transpose(0, 1).to(query.dtype)
            log_sums[:, rows] = log_sum.float()
    return attended, log_sums, torch.zeros(2, dtype=torch.uint64)


def _gradients(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attended: Tensor,
    log_sums: Tensor,
    borders: Tensor,
    *options: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients [N, H, d] of query, key and value, from `grad` [N, H, d] of what was attended."""
    _, longest, *_ = options
    grads = tuple(torch.empty_like(part) for part in (query, key, value))
    scale = query.shape[2] ** -0.5
    with torch.autocast(CPU, enabled=False):
        for rows in _sequences(borders, longest):
            parts = (grad, query, key, value, attended)
            of_attended, queries, keys, values, outputs = (_heads_first(part[rows]) for part in parts)
            weights = (queries @ keys.transpose(1, 2) * scale - log_sums[:, rows, None]).exp()
            of_weights = of_attended @ values.transpose(1, 2)
            of_scores = weights * (of_weights - (of_attended * outputs).sum(-1, keepdim=True)) * scale
            found = (of_scores @ keys, of_scores.transpose(1, 2) @ queries, weights.transpose(1, 2) @ of_attended)
            for whole, part in zip(grads, found, strict=True):
                whole[rows] = part.transpose(0, 1).to(query.dtype)
    return grads[0], grads[1], grads[2]


def _sequences(borders: Tensor, longest: int) -> Iterator[slice]:
    """The rows of each sequence that is not empty.

    Raises ValueError for a sequence of more than `longest` tokens, of which a GPU would compute the first ones alone.
    """
    for start, end in pairwise(borders.tolist()):
        if end - start > longest:
            raise ValueError(f"a sequence has {end - start} tokens, but the longest was said to have {longest}")
        if end > start:
            yield slice(start, end)


def _heads_first(rows: Tensor) -> Tensor:
    """[L, H, d] -> [H, L, d] in fp32, or in fp64 where it is."""
    return rows.transpose(0, 1).to(torch.promote_types(rows.dtype, torch.float32))
