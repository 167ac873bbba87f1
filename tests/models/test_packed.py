"""Grouping: every token in one slot, little padding, nothing gathered where nothing needs to be. Filling: the proteins
stay what they are, and all micro batches have one shape.
"""

from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from proteinlm.models.alphabet import ALPHABETS, Alphabet, get_alphabet
from proteinlm.models.config import ModelConfig
from proteinlm.models.emulated_attention import emulated_attention
from proteinlm.models.encoder import CnnEncoder, ProteinEncoder
from proteinlm.models.packed import FILLING_SEQUENCES, LENGTH_RATIO, LENGTH_SLACK, Packed, pack
from tests.made.small_models import random_packed


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


def test_without_groups_the_rest_is_the_same() -> None:
    packed = random_packed([4, 20, 9])
    bare = packed.without_groups()
    assert (bare.groups, bare.source, bare.slot) == ((), None, None)
    kept = {field.name for field in fields(Packed)} - {"groups", "source", "slot"}
    assert all(getattr(bare, name) is getattr(packed, name) for name in kept)


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    more_tokens=st.one_of(st.just(0), st.integers(1, 4000)),
    more_proteins=st.integers(0, 9),
)
def test_filling_is_of_sequences_of_its_own(lengths: list[int], more_tokens: int, more_proteins: int) -> None:
    packed = random_packed(lengths)
    num_tokens, num_proteins = packed.num_tokens + more_tokens, len(lengths) + more_proteins
    filled = packed.filled(num_tokens, num_proteins)
    assert (filled.lengths, filled.num_proteins, filled.num_filling) == (tuple(lengths), len(lengths), more_tokens)
    assert filled.groups == ()
    for name in ("tokens", "positions", "protein_index", "is_residue", "is_mask"):
        whole, part = getattr(filled, name), getattr(packed, name)
        assert whole.shape == (num_tokens,)
        assert whole.dtype == part.dtype
        assert torch.equal(whole[: packed.num_tokens], part)
    tail = slice(packed.num_tokens, None)
    assert not filled.is_residue[tail].any()
    assert not filled.is_mask[tail].any()
    borders = filled.cumulative_lengths
    assert borders.dtype == torch.int32
    assert borders.shape == (num_proteins + FILLING_SEQUENCES + 1,)
    assert torch.equal(borders[: len(lengths) + 1], packed.cumulative_lengths)
    assert int(borders[-1]) == num_tokens
    assert 0 <= int(borders.diff().min()) <= int(borders.diff().max()) == filled.longest
    sequence = torch.repeat_interleave(torch.arange(len(borders) - 1), borders.diff())
    assert torch.equal(filled.protein_index, sequence)
    again = filled.without_filling()
    for name in ("tokens", "positions", "protein_index", "cumulative_lengths", "is_residue", "is_mask"):
        assert torch.equal(getattr(again, name), getattr(packed, name))
    assert (again.longest, again.num_filling) == (packed.longest, 0)


def test_filling_what_is_full_or_filled() -> None:
    packed = random_packed([4, 5])
    assert packed.without_filling() is packed
    twice = packed.filled(50, 3).filled(40, 2)
    assert torch.equal(twice.tokens, packed.filled(40, 2).tokens)
    assert torch.equal(twice.cumulative_lengths, packed.filled(40, 2).cumulative_lengths)
    for num_tokens, num_proteins in ((8, 2), (9, 1)):
        with pytest.raises(ValueError, match=f"9 tokens and 2 proteins cannot be filled up to {num_tokens} tokens"):
            packed.filled(num_tokens, num_proteins)


@pytest.mark.parametrize("position", ["rotary", "learned"])
@pytest.mark.parametrize("num_tokens", [72, 3000])
def test_what_fills_a_stream_changes_no_protein_and_no_gradient(num_tokens: int, position: str) -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_positions": 40}
    config = ModelConfig.model_validate({**shape, "position": position, "token_dropout": True})
    encoder, packed = ProteinEncoder(config), random_packed([4, 40, 20, 7])
    weight, found = torch.randn(packed.num_tokens, 16), []
    with emulated_attention():
        for given_ in (packed, packed.filled(num_tokens, 5)):
            encoder.zero_grad()
            hidden = encoder(given_)
            (hidden * weight).sum().backward()
            found.append([hidden.detach(), *(parameter.grad for parameter in encoder.parameters())])
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-5)


def test_convolutions_see_no_filling() -> None:
    encoder, packed = (
        CnnEncoder(ModelConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)),
        random_packed([9, 5]),
    )
    assert torch.equal(encoder(packed.filled(40, 3)), encoder(packed))
