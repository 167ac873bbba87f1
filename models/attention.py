"""Attention of every protein to itself alone, on an unpadded stream, in groups of near-equal length: what CPUs take,
and GPUs without variable-length flash attention (varlen_attention.py). Attention in bf16 on a CPU is computed by plain
matrix products (cpu_attention.py); all else is torch's own.

    [N, 3 D] -> rotated queries, keys, values [b, H, L, d] of each group -> attended -> [N, D]

Shapes: N tokens of the micro batch, B proteins, P slots of the padded stream (packed.py), b proteins of one group, L
tokens of its longest, D hidden, H heads, d size of a head.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from proteinlm.models.cpu_attention import LONGEST, attend_explicitly
from proteinlm.models.packed import AttentionGroup, Packed

ROTARY_BASE = 10000.0

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines [longest L, d / 2] of every position and frequency."""


def rotation(num_positions: int, head_size: int, device: torch.device) -> Rotation:
    """Rotary angles of positions 0 to `num_positions` in fp32, as in ESM-2 (RoFormer's, halves instead of pairs)."""
    positions = torch.arange(num_positions, device=device, dtype=torch.float32)
    steps = torch.arange(0, head_size, 2, device=device, dtype=torch.float32)
    angles = positions[:, None] * (1.0 / (ROTARY_BASE ** (steps / head_size)))
    return angles.cos(), angles.sin()


class GroupsAttention:
    """Attention of one micro batch in groups, the same for all layers."""

    def __init__(self, packed: Packed, angles: Rotation | None, dropout: float) -> None:
        """`angles` None leaves queries and keys as they are; `dropout` is on the attention weights.

        Raises ValueError where `packed` has lost its groups.
        """
        if not packed.groups:
            raise ValueError(
                "a micro batch without groups (Packed.without_groups, Packed.filled) needs variable-length attention: "
                "a GPU of compute capability 8.0, bf16 or fp16, and no dropout on attention weights"
            )
        self._groups, self._source, self._slot = packed.groups, packed.source, packed.slot
        self._angles, self._dropout = angles, dropout

    def attend(self, qkv: Tensor, num_heads: int) -> Tensor:
        """Queries, keys and values [N, 3 D] -> attended values [N, D]."""
        angles = self._angles
        if angles is not None:
            angles = (angles[0].to(qkv.dtype), angles[1].to(qkv.dtype))
        heads = ToHeads.apply(qkv, self._groups, self._source, self._slot, angles, num_heads)  # type: ignore[no-untyped-call]
        attended = []
        for index, group in enumerate(self._groups):
            query, key, value = heads[3 * index : 3 * index + 3]
            attended.append(_attend_group(query, key, value, group.key_mask, self._dropout))
        return _FromHeads.apply(self._groups, self._slot, *attended)  # type: ignore[no-untyped-call, no-any-return]


@dataclass(frozen=True)
class OpaqueAttention:
    """Attention in groups that a compiler does not look into, for they differ from one micro batch to the next."""

    groups: GroupsAttention
    call: Callable[[GroupsAttention, Tensor, int], Tensor]

    def attend(self, qkv: Tensor, num_heads: int) -> Tensor:
        """What `groups` attends: [N, 3 D] -> [N, D]."""
        return self.call(self.groups, qkv, num_heads)


def opaque(groups: GroupsAttention) -> OpaqueAttention:
    """`groups` inside compiled layers."""
    return OpaqueAttention(groups, _uncompiled_attend())


@cache
def _uncompiled_attend() -> Callable[[GroupsAttention, Tensor, int], Tensor]:
    # when it is needed and not before: this imports torch's compiler, which takes seconds
    return torch.compiler.disable(GroupsAttention.attend)  # type: ignore[no-untyped-call, no-any-return]


class ToHeads(torch.autograd.Function):
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
        """[N, 3 D] -> [b, H, L, d] three times for each group."""
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
        """Gradients of queries, keys and values of each group -> that of [N, 3 D]."""
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
    if query.dtype == torch.bfloat16 and query.device.type == "cpu" and query.shape[2] <= LONGEST:
        return attend_explicitly(query, key, value, key_mask, dropout)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=key_mask, dropout_p=dropout)
