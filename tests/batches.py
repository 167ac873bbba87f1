"""The same masked proteins as our packed micro batches and as the padded rectangles that transformers' models take.

Shapes: N tokens of a batch, B proteins, L tokens of its longest protein.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.objectives import NOT_SCORED, mask_tokens
from proteinlm.models.packed import pack
from proteinlm.platform.data.plan import BANDS, cut_evenly
from proteinlm.tasks.task import Batch

SPECIALS = get_alphabet("esm").specials_per_protein
"""Special tokens of every protein."""

Padded = dict[str, Tensor]
"""What EsmForMaskedLM is given: input_ids, attention_mask and labels, [B, L] each."""


def masked(sequences: Sequence[str], rows: Sequence[int]) -> tuple[Tensor, Tensor, NDArray[np.integer[Any]]]:
    """Tokens [N] and labels [N] of the proteins `rows`, masked alike whatever batch they are in, and lengths [B]."""
    alphabet = get_alphabet("esm")
    tokens, lengths = alphabet.encode([sequences[row] for row in rows])
    shown, labels = mask_tokens(tokens, lengths, np.array(rows), alphabet=alphabet, seed=0, epoch=0)
    return torch.from_numpy(shown.astype(np.int64)), torch.from_numpy(labels.astype(np.int64)), lengths


def packed_batches(sequences: Sequence[str], budget: int) -> list[Batch]:
    """The window cut as in training, in random order."""
    lengths = np.array([len(sequence) + SPECIALS for sequence in sequences])
    made = []
    for rows in cut_evenly(lengths, max(1, round(lengths.sum() / budget)), BANDS):
        tokens, labels, sizes = masked(sequences, rows.tolist())
        residues = sum(len(sequences[row]) for row in rows)
        made.append(Batch(pack(tokens.numpy(), sizes), labels, tuple(rows.tolist()), residues))
    return [made[i] for i in np.random.default_rng(0).permutation(len(made))]


def padded_batches(sequences: Sequence[str], size: int) -> list[Padded]:
    """Shuffled batches of `size` proteins, padded to their longest, as transformers' collator does."""
    order = np.random.default_rng(0).permutation(len(sequences))
    made = []
    for start in range(0, len(order) - size + 1, size):
        tokens, labels, sizes = masked(sequences, order[start : start + size].tolist())
        is_token = torch.arange(int(sizes.max())) < torch.from_numpy(sizes)[:, None]
        batch = {"input_ids": torch.full(is_token.shape, get_alphabet("esm").pad_id), "attention_mask": is_token.long()}
        batch["labels"] = torch.full(is_token.shape, NOT_SCORED)
        batch["input_ids"][is_token], batch["labels"][is_token] = tokens, labels
        made.append(batch)
    return made
