"""Grouping: every token in one slot, little padding, nothing gathered where nothing needs to be."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from proteinlm.models.alphabet import ALPHABETS, Alphabet, get_alphabet
from proteinlm.models.packed import LENGTH_RATIO, LENGTH_SLACK, pack


@given(st.lists(st.integers(1, 90), min_size=1, max_size=25))
def test_every_token_has_its_slot_and_groups_are_even(lengths: list[int]) -> None:
    sizes = np.array(lengths)
    packed = pack(np.arange(sizes.sum()) % 33, sizes, get_alphabet("esm"))
    slots = packed.slot.numpy() if packed.slot is not None else np.arange(packed.num_tokens)
    real = np.concatenate(
        [
            np.ones(g.num_proteins * g.length, bool)
            if g.key_mask is None
            else np.repeat(g.key_mask.numpy()[:, 0], 1, axis=1).reshape(-1)
            for g in packed.groups
        ]
    )
    assert sorted(slots) == np.flatnonzero(real).tolist()
    if packed.source is not None:
        assert np.array_equal(packed.source.numpy()[slots], np.arange(packed.num_tokens))
    ends = np.cumsum(sizes)
    for start, end in zip(ends - sizes, ends, strict=True):  # one protein lies in consecutive slots
        assert np.array_equal(np.diff(slots[start:end]), np.ones(end - start - 1))
    assert sum(g.num_proteins for g in packed.groups) == len(lengths)
    for group in packed.groups:
        shortest = group.length if group.key_mask is None else int(group.key_mask.sum(-1).min())
        assert group.length <= max(shortest * LENGTH_RATIO, shortest + LENGTH_SLACK)


def test_fields_of_a_small_micro_batch() -> None:
    packed = pack(
        np.array([0, 5, 2, 0, 6, 7, 2], dtype=np.uint8), np.array([3, 4], dtype=np.int32), get_alphabet("esm")
    )
    assert packed.tokens.tolist() == [0, 5, 2, 0, 6, 7, 2]
    assert packed.positions.tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert packed.protein_index.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert (packed.lengths, packed.num_tokens, packed.num_proteins) == ((3, 4), 7, 2)
    assert packed.cumulative_lengths.tolist() == [0, 3, 7]
    assert packed.cumulative_lengths.dtype == torch.int32
    assert packed.longest == 4
    for field in ("tokens", "cumulative_lengths"):
        assert torch.equal(getattr(packed.to("cpu"), field), getattr(packed, field))


def test_equal_lengths_are_not_gathered() -> None:
    packed = pack(np.zeros(40, dtype=np.uint8), np.array([10] * 4), get_alphabet("esm"))
    assert packed.source is None
    assert packed.slot is None
    assert [(g.num_proteins, g.length, g.key_mask) for g in packed.groups] == [(4, 10, None)]


def test_runs_of_equal_lengths_are_not_gathered() -> None:
    packed = pack(np.zeros(80, dtype=np.uint8), np.array([10, 10, 30, 30]), get_alphabet("esm"))
    assert packed.source is None
    assert [(g.start, g.num_proteins, g.length) for g in packed.groups] == [(0, 2, 10), (20, 2, 30)]


def test_wrong_micro_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one protein"):
        pack(np.zeros(0, dtype=np.uint8), np.zeros(0, dtype=np.int32), get_alphabet("esm"))
    with pytest.raises(ValueError, match="add up to 4, but there are 3"):
        pack(np.zeros(3, dtype=np.uint8), np.array([4]), get_alphabet("esm"))


@pytest.mark.parametrize("alphabet", ALPHABETS.values(), ids=lambda alphabet: alphabet.name)
def test_residues_are_the_tokens_between_the_special_ones_hidden_ones_too(alphabet: Alphabet) -> None:
    tokens, lengths = alphabet.encode(["MKTAYI", "", "GAV"])
    packed = pack(tokens, lengths, alphabet)
    assert packed.is_residue.tolist() == alphabet.is_residue[tokens].tolist()
    assert not packed.is_mask.any()
    hidden = np.flatnonzero(alphabet.is_residue[tokens])[1::2]
    masked = tokens.copy()
    masked[hidden] = alphabet.mask_id
    shown = pack(masked, lengths, alphabet)
    assert torch.equal(shown.is_residue, packed.is_residue)
    assert torch.nonzero(shown.is_mask).squeeze(1).tolist() == hidden.tolist()
    assert torch.equal(shown.to("cpu").is_residue, packed.is_residue)
