"""Attention of every protein to itself alone, on an unpadded stream: in groups of near-equal length, or by cumulative
lengths on GPUs that have variable-length flash attention. Attention in bf16 on a CPU is computed here, by plain matrix
products with the weights in memory; all else is torch's own.

    groups   [N, 3 D] -> rotated queries, keys, values [b, H, L, d] of each group -> attended -> [N, D]
    flash    [N, 3 D] -> rotated queries, keys, values [N, H, d] -> attended -> [N, D]; nothing is regrouped or padded

Shapes: N tokens of the micro batch, B proteins, P slots of the padded stream (packed.py), b proteins of one group, L
tokens of its longest, D hidden, H heads, d size of a head.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from proteinlm.models.packed import AttentionGroup, Packed

ROTARY_BASE = 10000.0

FIRST_WITH_FLASH = (8, 0)
"""CUDA compute capability (sm_80, Ampere) from which torch has flash attention."""

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines [longest L, d / 2] of every position and frequency."""


def rotation(num_positions: int, head_size: int, device: torch.device) -> Rotation:
    """Rotary angles of positions 0 to `num_positions` in fp32, as in ESM-2 (RoFormer's, halves instead of pairs)."""
    positions = torch.arange(num_positions, device=device, dtype=torch.float32)
    steps = torch.arange(0, head_size, 2, device=device, dtype=torch.float32)
    angles = positions[:, None] * (1.0 / (ROTARY_BASE ** (steps / head_size)))
    return angles.cos(), angles.sin()


def attend(qkv: Tensor, packed: Packed, angles: Rotation | None, num_heads: int, dropout: float) -> Tensor:
    """Queries, keys and values [N, 3 D] -> attended values [N, D].

    `angles` None leaves queries and keys as they are; `dropout` is on the attention weights.
    """
    if angles is not None:
        angles = (angles[0].to(qkv.dtype), angles[1].to(qkv.dtype))
    head_size = qkv.shape[1] // (3 * num_heads)
    if has_flash(_capability(qkv.device), qkv.dtype, head_size, dropout):
        return _attend_by_flash(qkv, packed, angles, num_heads)
    heads = _ToHeads.apply(qkv, packed.groups, packed.source, packed.slot, angles, num_heads)  # type: ignore[no-untyped-call]
    attended = []
    for index, group in enumerate(packed.groups):
        query, key, value = heads[3 * index : 3 * index + 3]
        attended.append(_attend_group(query, key, value, group.key_mask, dropout))
    return _FromHeads.apply(packed.groups, packed.slot, *attended)  # type: ignore[no-untyped-call, no-any-return]


def has_flash(capability: tuple[int, int] | None, dtype: torch.dtype, head_size: int, dropout: float) -> bool:
    """Whether torch's variable-length flash attention takes it; `capability` None: no GPU, or a torch without it."""
    return (
        capability is not None
        and capability >= FIRST_WITH_FLASH
        and dtype in (torch.float16, torch.bfloat16)
        and head_size % 8 == 0
        and head_size <= 256
        and dropout == 0.0  # it has none
    )


def _capability(device: torch.device) -> tuple[int, int] | None:
    return _cuda_capability(device.index) if device.type == "cuda" else None


@lru_cache
def _cuda_capability(index: int) -> tuple[int, int] | None:
    return torch.cuda.get_device_capability(index) if torch.backends.cuda.is_flash_attention_available() else None


def _attend_by_flash(qkv: Tensor, packed: Packed, angles: Rotation | None, num_heads: int) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    if angles is not None:
        angles = (angles[0][packed.positions, None, None], angles[1][packed.positions, None, None])
    each_token = (AttentionGroup(0, packed.num_tokens, 1, None),)  # one token long: [N, H, 1, d]
    heads = _ToHeads.apply(qkv, each_token, None, None, angles, num_heads)  # type: ignore[no-untyped-call]
    query, key, value = (part.squeeze(2) for part in heads)
    borders, longest = packed.cumulative_lengths, packed.longest
    attended = varlen_attn(query, key, value, borders, borders, longest, longest)
    assert isinstance(attended, Tensor)  # more than one only where more is asked for
    return attended.flatten(1)


class _ToHeads(torch.autograd.Function):
    """qkv [N, 3 D] -> for each group its queries, keys, values [b, H, L, d], one after the other, rotated.

    By hand: gathering, rotating and putting heads first is one pass over qkv, and so is its gradient; what autograd
    makes of the plain formulas takes a fifth of the attention's time more (AVX-512 bf16, D 256).
    """

    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        groups: tuple[AttentionGroup, ...],
        source: Tensor | None,
        slot: Tensor | None,
        angles: Rotation | None,
        num_heads: int,
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(slot, *(angles or ()))
        ctx.groups, ctx.num_heads = groups, num_heads
        slots = qkv.contiguous() if source is None else qkv.index_select(0, source)
        parts: list[Tensor] = []
        for group, rows in zip(groups, _of_groups(slots, groups), strict=True):
            before = _heads_first(rows, group, 3, num_heads)
            after = torch.empty_like(before, memory_format=torch.contiguous_format)
            for number in range(3):
                _rotate(before[number], after[number], angles if number < 2 else None)
            parts += after
        return tuple(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        slot, *angles = ctx.saved_tensors
        back = (angles[0], -angles[1]) if angles else None
        hidden = ctx.num_heads * grads[0].shape[-1]
        slots = grads[0].new_empty((_num_slots(ctx.groups), 3 * hidden))
        for index, (group, rows) in enumerate(zip(ctx.groups, _of_groups(slots, ctx.groups), strict=True)):
            after = _heads_first(rows, group, 3, ctx.num_heads)
            for number in range(3):
                _rotate(grads[3 * index + number], after[number], back if number < 2 else None)
        # what lies in padded slots is zero (masked key, unread query) and left behind
        return (slots if slot is None else slots.index_select(0, slot)), None, None, None, None, None


class _FromHeads(torch.autograd.Function):
    """[b, H, L, d] of each group -> [N, D]."""

    @staticmethod
    def forward(ctx: Any, groups: tuple[AttentionGroup, ...], slot: Tensor | None, *attended: Tensor) -> Tensor:
        ctx.save_for_backward(slot)
        ctx.groups, ctx.num_heads = groups, attended[0].shape[1]
        slots = attended[0].new_empty((_num_slots(groups), ctx.num_heads * attended[0].shape[3]))
        for group, rows, part in zip(groups, _of_groups(slots, groups), attended, strict=True):
            _heads_first(rows, group, 1, ctx.num_heads)[0].copy_(part)
        return slots if slot is None else slots.index_select(0, slot)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slot,) = ctx.saved_tensors
        groups = ctx.groups
        if slot is None:
            grad = grad.contiguous()
        else:
            grad = grad.new_zeros((_num_slots(groups), grad.shape[1])).index_copy_(0, slot, grad)
        parts = zip(groups, _of_groups(grad, groups), strict=True)
        return None, None, *(_heads_first(rows, group, 1, ctx.num_heads)[0] for group, rows in parts)


def _num_slots(groups: tuple[AttentionGroup, ...]) -> int:
    return groups[-1].start + groups[-1].num_proteins * groups[-1].length


def _of_groups(slots: Tensor, groups: tuple[AttentionGroup, ...]) -> tuple[Tensor, ...]:
    """The rows of each group out of [P, ...]."""
    return slots.split_with_sizes([group.num_proteins * group.length for group in groups])


def _heads_first(rows: Tensor, group: AttentionGroup, parts: int, num_heads: int) -> Tensor:
    """A view of the rows [b L, parts D] of a group as [parts, b, H, L, d]."""
    return rows.view(group.num_proteins, group.length, parts, num_heads, -1).permute(2, 0, 3, 1, 4)


def _rotate(before: Tensor, after: Tensor, angles: Rotation | None) -> None:
    """Write [b, H, L, d] rotated by its positions into `after`; as it is for `angles` None."""
    if angles is None:
        after.copy_(before)
        return
    length = before.shape[2]
    cos, sin = (table[..., :length, :] for table in angles)  # [L, d / 2] for all proteins, or [b, 1, 1, d / 2]
    first, second = before.chunk(2, dim=-1)
    first_after, second_after = after.chunk(2, dim=-1)
    torch.mul(first, cos, out=first_after).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=second_after).addcmul_(first, sin)


def _attend_group(query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None, dropout: float) -> Tensor:
    """Attention within each protein of one group, [b, H, L, d] each."""
    # torch's fused attention is three times slower than two matrix products here (AVX-512 bf16, L about 140)
    if query.dtype == torch.bfloat16 and query.device.type == "cpu" and query.shape[2] <= LONGEST:
        return attend_explicitly(query, key, value, key_mask, dropout)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=key_mask, dropout_p=dropout)


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
