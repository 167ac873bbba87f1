"""A micro batch without padding: its proteins one after the other, in one stream of N tokens.

Proteins differ in length. The usual batch is a rectangle [B, L] filled up with padding, which is computed for nothing.
Embedding, LayerNorm and MLP treat each token alone, so they need no rectangle: here they run on the N real tokens,
[N, D]. Three proteins of 3, 4 and 3 tokens:

    tokens              c A e c B B e c C e     (c <cls>, e <eos>)
    positions           0 1 2 0 1 2 3 0 1 2     each protein begins at 0 again
    protein_index       0 0 0 1 1 1 1 2 2 2
    cumulative_lengths  0     3       7     10  where each protein begins, and N

Attention alone looks from token to token, and only within a protein. On GPUs with variable-length flash attention the
cumulative lengths are all it needs (attention.py). Elsewhere it needs rectangles after all, but small ones: proteins
are sorted by length and cut into *groups* whose longest is at most a tenth (or four tokens) longer than the shortest.
The groups lie one after the other in a second, padded stream of P slots. `source` says which token a slot holds,
`slot` in which slot a token lies: one gather leads into the rectangles and one out of them. Where the proteins already
lie group by group and are equally long inside each, both streams are the same and nothing is gathered.

Where no groups are needed, the stream can be *filled* up to a fixed number of tokens, so that all micro batches have
one shape. What fills it lies behind the proteins, in sequences of its own: nobody attends to it, nothing is scored.

Shapes: N tokens of the micro batch (special tokens included), B proteins, P slots of the padded stream (P >= N),
b proteins of one group, L tokens of its longest, S sequences: the proteins, what fills the stream, and empty ones.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proteinlm.models.alphabet import Alphabet

NOT_SCORED = -100
"""Label of a token that the loss does not count (torch's own ignore index)."""
LENGTH_RATIO = 1.1
"""Longest over shortest protein of a group: at most a tenth of its attention is padding."""

LENGTH_SLACK = 4
"""Tokens by which lengths may always differ, so that short proteins do not fall into many groups."""

FILLING_LENGTH = 128
"""Tokens of a sequence that fills the stream, where there are sequences enough: a block of flash attention."""

FILLING_SEQUENCES = 8
"""Sequences beyond the proteins' that a filled stream always has: enough to keep attention within the filling cheap."""


@dataclass(frozen=True)
class AttentionGroup:
    """Proteins that attend in one padded call: slots [start, start + num_proteins * length) of the padded stream."""

    start: int
    """The group's first slot."""
    num_proteins: int
    """b."""
    length: int
    """L, tokens of the longest protein."""
    key_mask: Tensor | None
    """[b, 1, 1, L] true where a slot holds a token; None where all proteins have length L."""


@dataclass(frozen=True)
class Packed:
    """Proteins one after the other, each attending to itself alone, positions starting at 0."""

    tokens: Tensor
    """[N] int64 alphabet ids."""
    positions: Tensor
    """[N] int64, 0 at each protein's first token and in what fills the stream."""
    protein_index: Tensor
    """[N] int64, which protein of the micro batch a token belongs to; B and more in what fills the stream."""
    lengths: tuple[int, ...]
    """[B] tokens of each protein, special tokens included; sum is N without what fills the stream."""
    cumulative_lengths: Tensor
    """[S + 1] int32: the token where each sequence begins, and N. S is B where the stream is not filled."""
    longest: int
    """Tokens of the longest sequence."""
    groups: tuple[AttentionGroup, ...]
    """Empty in a micro batch that attends by cumulative lengths alone (`without_groups`)."""
    source: Tensor | None
    """[P] int64, token that a slot of the padded stream holds (padding: 0). None where the streams are the same."""
    slot: Tensor | None
    """[N] int64, slot of the padded stream where a token lies. None where the streams are the same."""
    is_residue: Tensor
    """[N] bool, true for the tokens between a protein's special ones: residues, hidden ones too."""
    is_mask: Tensor
    """[N] bool, true for <mask>: residues that the model does not see. Token dropout counts them (encoder.py)."""

    @property
    def num_tokens(self) -> int:
        """N, special tokens included, and what fills the stream."""
        return self.tokens.shape[0]

    @property
    def num_filling(self) -> int:
        """Tokens that fill the stream; 0 for a micro batch of proteins alone."""
        return self.num_tokens - sum(self.lengths)

    @property
    def num_proteins(self) -> int:
        """B."""
        return len(self.lengths)

    def without_groups(self) -> "Packed":
        """The same micro batch for variable-length attention alone: less to move to a GPU."""
        return replace(self, groups=(), source=None, slot=None)

    def filled(self, num_tokens: int, num_proteins: int) -> "Packed":
        """The same proteins in a stream of `num_tokens`, for variable-length attention.

        All micro batches that are filled alike have tensors of the same shapes: `num_tokens` tokens, and cumulative
        lengths [num_proteins + FILLING_SEQUENCES + 1]. What fills the stream is token 0, neither residue nor mask.
        Raises ValueError where the micro batch has more tokens or more proteins.
        """
        real = self.without_filling()
        if real.num_tokens > num_tokens or real.num_proteins > num_proteins:
            raise ValueError(
                f"a micro batch of {real.num_tokens} tokens and {real.num_proteins} proteins cannot be filled up to "
                f"{num_tokens} tokens and {num_proteins} proteins"
            )
        missing, num_sequences = num_tokens - real.num_tokens, num_proteins - real.num_proteins + FILLING_SEQUENCES
        length = max(FILLING_LENGTH, -(-missing // num_sequences))
        device = real.tokens.device
        ends = (torch.arange(1, num_sequences + 1, dtype=torch.int32, device=device) * length).clamp(max=missing)
        sequence = torch.arange(missing, device=device) // length

        def with_tail(tensor: Tensor, tail: Tensor | None = None) -> Tensor:
            return torch.cat([tensor, tensor.new_zeros(missing) if tail is None else tail])

        return replace(
            real.without_groups(),
            tokens=with_tail(real.tokens),
            positions=with_tail(real.positions),
            protein_index=with_tail(real.protein_index, real.num_proteins + sequence),
            cumulative_lengths=with_tail(real.cumulative_lengths, real.num_tokens + ends),
            longest=max(real.longest, min(length, missing)),
            is_residue=with_tail(real.is_residue),
            is_mask=with_tail(real.is_mask),
        )

    def without_filling(self) -> "Packed":
        """The proteins alone: the same tensors, as far as these reach."""
        size = sum(self.lengths)
        if len(self.cumulative_lengths) == self.num_proteins + 1 and size == self.num_tokens:
            return self
        return replace(
            self,
            tokens=self.tokens[:size],
            positions=self.positions[:size],
            protein_index=self.protein_index[:size],
            cumulative_lengths=self.cumulative_lengths[: self.num_proteins + 1],
            longest=max(self.lengths),
            is_residue=self.is_residue[:size],
            is_mask=self.is_mask[:size],
        )

    def to(self, device: torch.device | str) -> "Packed":
        """The same micro batch on `device`."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        groups = tuple(AttentionGroup(g.start, g.num_proteins, g.length, moved(g.key_mask)) for g in self.groups)
        return Packed(
            tokens=self.tokens.to(device, non_blocking=True),
            positions=self.positions.to(device, non_blocking=True),
            protein_index=self.protein_index.to(device, non_blocking=True),
            lengths=self.lengths,
            cumulative_lengths=self.cumulative_lengths.to(device, non_blocking=True),
            longest=self.longest,
            groups=groups,
            source=moved(self.source),
            slot=moved(self.slot),
            is_residue=self.is_residue.to(device, non_blocking=True),
            is_mask=self.is_mask.to(device, non_blocking=True),
        )


def pack(tokens: NDArray[np.integer[Any]], lengths: NDArray[np.integer[Any]], alphabet: Alphabet) -> Packed:
    """The micro batch of proteins whose `tokens` [N] of `alphabet` lie one after the other, `lengths` [B] tokens each.

    A protein begins with <cls> and ends with the alphabet's end token, if it has one, as `Alphabet.encode` makes them;
    residues may have been replaced by <mask> since.

    Raises ValueError where there is no protein, one without tokens, or lengths that do not add up to N.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if sizes.size == 0 or int(sizes.min()) < 1:
        raise ValueError("a micro batch needs at least one protein, each of at least one token")
    if int(sizes.sum()) != tokens.shape[0]:
        raise ValueError(f"lengths add up to {int(sizes.sum())}, but there are {tokens.shape[0]} tokens")
    borders = np.concatenate([[0], np.cumsum(sizes)])
    starts = borders[:-1]
    positions = np.arange(tokens.shape[0], dtype=np.int64) - np.repeat(starts, sizes)
    num_trailing = alphabet.specials_per_protein - 1
    is_residue = (positions > 0) & (positions < np.repeat(sizes - num_trailing, sizes))
    groups, first_slot, num_slots = _grouped(sizes)
    source: NDArray[np.int64] | None = None
    slot = np.repeat(first_slot, sizes) + positions
    if not np.array_equal(first_slot, starts):
        source = np.zeros(num_slots, dtype=np.int64)  # padding reads token 0: finite, and masked as a key
        source[slot] = np.arange(tokens.shape[0])
    return Packed(
        tokens=torch.from_numpy(tokens.astype(np.int64)),
        positions=torch.from_numpy(positions),
        protein_index=torch.from_numpy(np.repeat(np.arange(sizes.size, dtype=np.int64), sizes)),
        lengths=tuple(sizes.tolist()),
        cumulative_lengths=torch.from_numpy(borders.astype(np.int32)),
        longest=int(sizes.max()),
        groups=groups,
        source=None if source is None else torch.from_numpy(source),
        slot=None if source is None else torch.from_numpy(slot),
        is_residue=torch.from_numpy(is_residue),
        is_mask=torch.from_numpy(tokens == alphabet.mask_id),
    )


def _grouped(sizes: NDArray[np.int64]) -> tuple[tuple[AttentionGroup, ...], NDArray[np.int64], int]:
    """Groups by length, the first slot of each protein [B], and P."""
    order = np.argsort(sizes, kind="stable")
    ascending = sizes[order]
    first_slot = np.empty_like(sizes)
    groups: list[AttentionGroup] = []
    begin, num_slots = 0, 0
    while begin < sizes.size:
        shortest = int(ascending[begin])
        limit = max(int(shortest * LENGTH_RATIO), shortest + LENGTH_SLACK)
        end = int(np.searchsorted(ascending, limit, side="right"))
        members, length = order[begin:end], int(ascending[end - 1])
        first_slot[members] = num_slots + length * np.arange(end - begin)
        groups.append(AttentionGroup(num_slots, end - begin, length, _key_mask(ascending[begin:end], length)))
        num_slots += length * (end - begin)
        begin = end
    return tuple(groups), first_slot, num_slots


def _key_mask(sizes: NDArray[np.int64], length: int) -> Tensor | None:
    if bool((sizes == length).all()):
        return None
    return torch.from_numpy(np.arange(length) < sizes[:, None])[:, None, None, :]
