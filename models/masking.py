"""Masked language modelling: which residues are hidden, what predicts them, and what a model without context reaches.

Shapes: N tokens (special tokens included), B proteins, M scored tokens, D hidden, V alphabet.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from proteinlm.models.alphabet import STANDARD_AMINO_ACIDS, Alphabet
from proteinlm.models.packed import NOT_SCORED


@dataclass(frozen=True)
class Masking:
    """Which share of the residues is scored, and what the model is shown in their place (Devlin et al. 2018, 3.1).

    Raises ValueError unless some residues are scored, no share is negative and those of the scored ones fit into 1.
    """

    mask_fraction: float = 0.15
    """Share of the residues that are scored."""
    keep_fraction: float = 0.1
    """Share of the scored ones that stay visible as they are."""
    random_fraction: float = 0.1
    """Share of the scored ones that are replaced by a random amino acid. The rest becomes <mask>."""

    def __post_init__(self) -> None:
        if not 0 < self.mask_fraction <= 1:
            raise ValueError(f"mask_fraction is {self.mask_fraction}; accepted: above 0, up to 1")
        if self.keep_fraction < 0 or self.random_fraction < 0 or self.keep_fraction + self.random_fraction > 1:
            raise ValueError(
                f"keep_fraction is {self.keep_fraction} and random_fraction {self.random_fraction}; "
                "accepted: 0 or more each, together up to 1"
            )


DEFAULT_MASKING = Masking()


def mask_tokens(
    tokens: NDArray[np.uint8],
    lengths: NDArray[np.int32] | NDArray[np.int64],
    rows: NDArray[np.int64],
    masking: Masking,
    *,
    alphabet: Alphabet,
    seed: int,
    epoch: int,
) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
    """Hide residues of proteins `tokens` [N], `lengths` [B], `rows` [B] (row numbers in their split).

    Each residue is scored with probability `mask_fraction`; of the scored ones `keep_fraction` stay visible,
    `random_fraction` become one of the 20 amino acids (possibly the true one), the rest become the mask token.
    Every draw is a function of (seed, epoch, row, position in the protein) alone, whatever the batch.

    Returns masked tokens [N] and labels [N], -100 where not scored.
    """
    keep_fraction, random_fraction = masking.keep_fraction, masking.random_fraction
    draws = _draws(row_keys(rows, seed=seed, epoch=epoch), np.asarray(lengths, dtype=np.int64))
    scored_below = round(masking.mask_fraction * 2**32)
    scored = np.flatnonzero(draws < scored_below)
    scored = scored[alphabet.is_residue[tokens[scored]]]
    truth = tokens[scored]
    labels = np.full(tokens.shape[0], NOT_SCORED, dtype=np.int8)
    labels[scored] = truth.view(np.int8)  # ids are below 128

    # Given that a draw selects its token (draw < bound), draw / bound is uniform again: it decides what is shown.
    fate = draws[scored] / scored_below
    is_kept, is_random = fate < keep_fraction, (fate >= keep_fraction) & (fate < keep_fraction + random_fraction)
    amino_acids = alphabet.amino_acid_ids.astype(np.uint8)
    letter = ((fate[is_random] - keep_fraction) / random_fraction * len(amino_acids)).astype(np.int64)
    shown = np.full(scored.shape[0], alphabet.mask_id, dtype=np.uint8)
    shown[is_kept] = truth[is_kept]
    shown[is_random] = amino_acids[np.minimum(letter, len(amino_acids) - 1)]
    masked = tokens.copy()
    masked[scored] = shown
    return masked, labels


def row_keys(rows: NDArray[np.int64], *, seed: int, epoch: int) -> NDArray[np.uint64]:
    """64 random bits for each of `rows` [B], a function of (seed, epoch, row) alone."""
    epoch_key = _hash(_hash(np.array([seed % 2**64], dtype=np.uint64)) + np.uint64(epoch))
    return _hash(epoch_key + rows.astype(np.uint64))


def _draws(keys: NDArray[np.uint64], sizes: NDArray[np.int64]) -> NDArray[np.uint32]:
    """[N] 32 random bits for each token, a function of its protein's key [B] and its position; `sizes` [B] tokens each.

    MurmurHash3's finaliser (Appleby 2011) of the key's lower half plus a multiple of the position; the upper half comes
    in between the two multiplications, so that no two proteins share a sequence of draws. 32 bits, and in place: what
    costs here is going through memory.
    """
    step = np.uint32(0x9E3779B9)  # odd and far from round: 2**32 over the golden ratio
    starts = (np.cumsum(sizes) - sizes).astype(np.uint32)
    draws = np.arange(sizes.sum(), dtype=np.uint32)
    draws *= step
    draws += np.repeat(keys.astype(np.uint32) - starts * step, sizes)
    shifted = draws >> np.uint32(16)
    draws ^= shifted
    draws *= np.uint32(0x85EBCA6B)
    draws ^= np.right_shift(draws, np.uint32(13), out=shifted)
    draws ^= np.repeat((keys >> np.uint64(32)).astype(np.uint32), sizes)
    draws *= np.uint32(0xC2B2AE35)
    draws ^= np.right_shift(draws, np.uint32(16), out=shifted)
    return draws


def _hash(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One step of splitmix64 (Steele, Lea and Flood 2014) from each key: 64 well mixed bits."""
    mixed = keys + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


@dataclass(frozen=True)
class Floor:
    """The loss of the best predictor that sees no context, in nats per scored residue."""

    training_mix: float
    """Over all scored residues, as the training loss counts them."""
    masked: float
    """Over residues behind the mask token alone: the entropy of the letters' frequencies."""


def context_free_floor(residue_counts: Mapping[str, int], masking: Masking = DEFAULT_MASKING) -> Floor:
    """What "learned no context" costs on a split whose residues have `residue_counts`.

    Behind a mask token such a predictor can only answer with the letters' frequencies p. Where a scored residue stayed
    visible or was replaced it still sees the token v, and P(true = t, seen = v) is p(t) (keep [t = v] + random / 20 [v
    standard]): the entropy of t given v counts there. How many residues are scored does not matter: the floor is per
    scored residue. Raises ValueError without residues.
    """
    keep_fraction, random_fraction = masking.keep_fraction, masking.random_fraction
    letters = [letter for letter, count in residue_counts.items() if count > 0]
    if not letters:
        raise ValueError("a context-free floor needs the counts of at least one residue, found none")
    total = sum(residue_counts[letter] for letter in letters)
    frequency = {letter: residue_counts[letter] / total for letter in letters}
    unigram = -sum(p * math.log(p) for p in frequency.values())
    seen = 0.0
    for visible in {*letters, *STANDARD_AMINO_ACIDS}:
        drawn = random_fraction / len(STANDARD_AMINO_ACIDS) if visible in STANDARD_AMINO_ACIDS else 0.0
        joint = [p * (drawn + (keep_fraction if letter == visible else 0.0)) for letter, p in frequency.items()]
        evidence = sum(joint)
        seen -= sum(share * math.log(share / evidence) for share in joint if share > 0.0)
    return Floor(training_mix=(1.0 - keep_fraction - random_fraction) * unigram + seen, masked=unigram)
