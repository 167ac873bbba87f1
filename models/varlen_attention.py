"""Attention of every protein to itself alone by cumulative lengths, on GPUs that have variable-length flash attention.

    [N, 3 D] -> rotated queries, keys, values [N, H, d] -> attended -> [N, D]; nothing is regrouped or padded

What it reads are tensors and one whole number that takes few values, so that a layer around it is compiled once for all
micro batches; the kernel is one call that the compiler does not look into.

Shapes: N tokens of the micro batch, S sequences: its proteins, what fills the stream and empty ones (packed.py),
D hidden, H heads, d size of a head.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from proteinlm.models.attention import Rotation, ToHeads, rotation
from proteinlm.models.packed import AttentionGroup, Packed

FIRST_WITH_FLASH = (8, 0)
"""CUDA compute capability (sm_80, Ampere) from which torch has flash attention."""

SHORTEST_BOUND = 128
"""Least bound on the longest sequence: the rows that a block of the kernel takes."""

EMULATED: set[str] = set()
"""Device types whose kernel is emulated (emulated_attention.py): tests alone put one in."""


@dataclass(frozen=True)
class VarlenAttention:
    """Variable-length attention of one micro batch, the same for all layers."""

    cumulative_lengths: Tensor
    """[S + 1] int32: the token where each sequence begins, and N."""
    bound: int
    """No sequence has more tokens; a power of two."""
    angles: Rotation | None
    """Cosines and sines [N, d / 2] of each token, in the type of queries and keys; None: no rotation."""

    def attend(self, qkv: Tensor, num_heads: int) -> Tensor:
        """Queries, keys and values [N, 3 D] -> attended values [N, D]."""
        from torch.nn.attention.varlen import varlen_attn

        of_heads = _heads_to_be_compiled if torch.compiler.is_compiling() else _heads
        query, key, value = of_heads(qkv, self.angles, num_heads)
        borders, bound = self.cumulative_lengths, self.bound
        attended = varlen_attn(query, key, value, borders, borders, bound, bound)
        assert isinstance(attended, Tensor)  # more than one only where more is asked for
        return attended.flatten(1)


def varlen_attention(packed: Packed, rotary_size: int | None, dtype: torch.dtype) -> VarlenAttention:
    """Variable-length attention of `packed` for queries and keys of `dtype`.

    Rotary angles, for heads of `rotary_size`, are gathered here, once for all layers; None: positions are learned.
    """
    bound = max(SHORTEST_BOUND, 1 << (packed.longest - 1).bit_length())
    angles: Rotation | None = None
    if rotary_size is not None:
        cos, sin = rotation(bound, rotary_size, packed.tokens.device)
        angles = cos.to(dtype)[packed.positions], sin.to(dtype)[packed.positions]
    return VarlenAttention(packed.cumulative_lengths, bound, angles)


def takes_lengths(device: torch.device, dtype: torch.dtype, head_size: int, dropout: float) -> bool:
    """Whether attention in `dtype` on `device` goes by cumulative lengths: then micro batches need no groups.

    `dropout` is on the attention weights.
    """
    if device.type in EMULATED:
        return dropout == 0.0
    return has_flash(_capability(device), dtype, head_size, dropout)


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
def _cuda_capability(index: int | None) -> tuple[int, int] | None:
    return torch.cuda.get_device_capability(index) if torch.backends.cuda.is_flash_attention_available() else None


def _heads(qkv: Tensor, angles: Rotation | None, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated queries, keys and values [N, H, d], in one pass over qkv [N, 3 D]."""
    of_tokens = None if angles is None else (angles[0][:, None, None], angles[1][:, None, None])
    each_token = (AttentionGroup(0, len(qkv), 1, None),)  # one token long: [N, H, 1, d]
    query, key, value = ToHeads.apply(qkv, each_token, None, None, of_tokens, num_heads)  # type: ignore[no-untyped-call]
    return query.squeeze(2), key.squeeze(2), value.squeeze(2)


def _heads_to_be_compiled(qkv: Tensor, angles: Rotation | None, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """What `_heads` does, in plain formulas: the compiler makes one pass of them, and of their gradient."""
    query, key, value = qkv.view(qkv.shape[0], 3, num_heads, -1).unbind(1)
    if angles is None:
        return query, key, value
    return _turned(query, angles), _turned(key, angles), value


def _turned(states: Tensor, angles: Rotation) -> Tensor:
    """Queries or keys [N, H, d] rotated by the angles of their tokens; dimension i is paired with i + d / 2."""
    cos, sin = (part[:, None] for part in angles)
    first, second = states.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
