"""One pre-LayerNorm layer of the encoder on an unpadded stream, and the rotation and regrouping it needs.

Shapes: N tokens of the micro batch, P slots of the padded stream (packed.py), b proteins of one group, L tokens of its
longest, D hidden, H heads, d size of a head, M width of the MLP.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from proteinlm.models.config import ModelConfig
from proteinlm.models.packed import AttentionGroup, Packed

LONGEST_EXPLICIT_ATTENTION = 1024
"""Tokens up to which bf16 attention on a CPU keeps its weights [b, H, L, L] in memory."""

ROTARY_BASE = 10000.0

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines [N, 1, 1, d / 2] of every position and frequency."""


def rotation(positions: Tensor, head_size: int) -> Rotation:
    """Rotary angles of `positions` [N] in fp32, as in ESM-2 (RoFormer's, halves instead of pairs)."""
    steps = torch.arange(0, head_size, 2, device=positions.device, dtype=torch.float32)
    angles = positions[:, None].float() * (1.0 / (ROTARY_BASE ** (steps / head_size)))
    return angles.cos()[:, None, None, :], angles.sin()[:, None, None, :]


class _Rotate(torch.autograd.Function):
    """Rotates queries and keys of qkv [N, 3 D]; by hand, for the plain formula keeps four more tensors per layer."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, num_heads: int) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.num_heads = num_heads
        return _rotated(qkv, cos, sin, num_heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(grad, cos, -sin, ctx.num_heads), None, None, None


def _rotated(qkv: Tensor, cos: Tensor, sin: Tensor, num_heads: int) -> Tensor:
    rotated = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    shape = (qkv.shape[0], 3, num_heads, 2, cos.shape[-1])
    before, after = qkv.reshape(shape), rotated.view(shape)
    first, second = before[:, :2, :, 0], before[:, :2, :, 1]
    torch.mul(first, cos, out=after[:, :2, :, 0]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=after[:, :2, :, 1]).addcmul_(first, sin)
    after[:, 2].copy_(before[:, 2])
    return rotated


class _ToSlots(torch.autograd.Function):
    """[N, ...] -> [P, ...]; its gradient is a gather too, where index_select's would add row by row."""

    @staticmethod
    def forward(ctx: Any, stream: Tensor, source: Tensor, slot: Tensor) -> Tensor:
        ctx.save_for_backward(slot)
        return stream.index_select(0, source)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (slot,) = ctx.saved_tensors
        return grad.index_select(0, slot), None, None  # a padded slot's gradient is zero: masked key, unread query


class _FromSlots(torch.autograd.Function):
    """[P, ...] -> [N, ...]."""

    @staticmethod
    def forward(ctx: Any, slots: Tensor, slot: Tensor) -> Tensor:
        ctx.save_for_backward(slot)
        ctx.num_slots = slots.shape[0]
        return slots.index_select(0, slot)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (slot,) = ctx.saved_tensors
        return grad.new_zeros((ctx.num_slots, *grad.shape[1:])).index_copy_(0, slot, grad), None


def _attend_group(qkv: Tensor, group: AttentionGroup, dropout: float) -> Tensor:
    """Attention within each protein of one group: qkv [b L, 3, H, d] -> [b L, D]."""
    size, length = group.num_proteins, group.length
    query, key, value = qkv.view(size, length, *qkv.shape[1:]).permute(2, 0, 3, 1, 4)  # each [b, H, L, d]
    # torch's fused attention is three times slower than two matrix products here (AVX-512 bf16, L about 140)
    if qkv.dtype == torch.bfloat16 and qkv.device.type == "cpu" and length <= LONGEST_EXPLICIT_ATTENTION:
        attended = _attend_explicitly(query, key, value, group.key_mask, dropout)
    else:
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=group.key_mask, dropout_p=dropout)
    return attended.transpose(1, 2).reshape(size * length, -1)


def _attend_explicitly(query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None, dropout: float) -> Tensor:
    """What F.scaled_dot_product_attention does, [b, H, L, d] each, with the weights in memory."""
    size, heads, length, head_size = query.shape
    query, key, value = (part.reshape(size * heads, length, head_size) for part in (query, key, value))
    scale = head_size**-0.5
    if key_mask is None:
        scores = torch.bmm(query * scale, key.transpose(1, 2))
    else:
        bias = torch.zeros_like(key_mask, dtype=query.dtype).masked_fill_(~key_mask, float("-inf"))
        bias = bias.expand(size, heads, 1, length).reshape(size * heads, 1, length)
        scores = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=scale)
    weights = scores.softmax(dim=-1)
    if dropout > 0.0:
        weights = F.dropout(weights, dropout)
    return torch.bmm(weights, value).view(size, heads, length, head_size)


class SelfAttention(nn.Module):
    """Each protein attends to itself: [N, D] -> [N, D]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.dropout = config.dropout
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor, packed: Packed, angles: Rotation | None) -> Tensor:
        """`angles` None leaves queries and keys as they are (learned positions)."""
        qkv: Tensor = self.qkv(hidden)
        if angles is not None:
            cos, sin = angles
            cos, sin = cos.to(qkv.dtype), sin.to(qkv.dtype)
            qkv = _Rotate.apply(qkv, cos, sin, self.num_heads)  # type: ignore[no-untyped-call]
        if packed.source is not None:
            qkv = _ToSlots.apply(qkv, packed.source, packed.slot)  # type: ignore[no-untyped-call]
        qkv = qkv.view(qkv.shape[0], 3, self.num_heads, -1)
        dropout = self.dropout if self.training else 0.0
        parts = [
            _attend_group(qkv[group.start : group.start + group.num_proteins * group.length], group, dropout)
            for group in packed.groups
        ]
        attended = parts[0] if len(parts) == 1 else torch.cat(parts)
        if packed.slot is not None:
            attended = _FromSlots.apply(attended, packed.slot)  # type: ignore[no-untyped-call]
        output: Tensor = self.output(attended)
        return output


class FeedForward(nn.Module):
    """GELU MLP: [N, D] -> [N, M] -> [N, D]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gelu = "tanh" if config.gelu == "tanh" else "none"
        self.expand = nn.Linear(config.hidden_size, config.mlp_size)
        self.output = nn.Linear(config.mlp_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """[N, D] -> [N, D]."""
        output: Tensor = self.output(F.gelu(self.expand(hidden), approximate=self.gelu))
        return output


class EncoderLayer(nn.Module):
    """x + attention(LN(x)), then x + MLP(LN(x)): the paper's pre-LayerNorm layer, [N, D] -> [N, D]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = SelfAttention(config)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)

    def forward(self, hidden: Tensor, packed: Packed, angles: Rotation | None) -> Tensor:
        """[N, D] -> [N, D]."""
        hidden = hidden + self._drop(self.attention(self.attention_norm(hidden), packed, angles))
        return hidden + self._drop(self.feed_forward(self.feed_forward_norm(hidden)))

    def _drop(self, part: Tensor) -> Tensor:
        # F.dropout with p = 0 still draws and multiplies on a CPU
        return F.dropout(part, self.dropout) if self.training and self.dropout > 0.0 else part
