"""Masking statistics, its independence of batching, and the floor that a model without context cannot pass."""

import gzip
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from proteinlm.models.alphabet import STANDARD_AMINO_ACIDS, get_alphabet
from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import LanguageModelHead, ProteinEncoder
from proteinlm.models.masking import Masking, _draws, _hash, context_free_floor, mask_tokens

ESM = get_alphabet("esm")


def random_proteins(count: int, length: int, seed: int = 0) -> list[str]:
    letters = np.random.default_rng(seed).choice(list(STANDARD_AMINO_ACIDS + "XB"), size=(count, length))
    return ["".join(row) for row in letters]


def masked(sequences: list[str], rows: np.ndarray, seed: int = 1, epoch: int = 0, **fractions: float):
    tokens, lengths = ESM.encode(sequences)
    return (
        tokens,
        lengths,
        *mask_tokens(tokens, lengths, rows, Masking(**fractions), alphabet=ESM, seed=seed, epoch=epoch),
    )


def test_fractions_are_those_asked_for() -> None:
    tokens, _, hidden, labels = masked(random_proteins(2000, 200), np.arange(2000))
    scored = labels != -100
    residues = ESM.is_residue[tokens]
    # five standard deviations of a binomial with these counts
    assert scored.sum() / residues.sum() == pytest.approx(0.15, abs=5 * math.sqrt(0.15 * 0.85 / residues.sum()))
    spread = 5 * math.sqrt(0.8 * 0.2 / scored.sum())
    assert (hidden[scored] == ESM.mask_id).mean() == pytest.approx(0.8, abs=spread)
    replaced = scored & (hidden != ESM.mask_id) & (hidden != tokens)
    standard = np.isin(tokens[scored], ESM.amino_acid_ids).mean()
    assert replaced.sum() / scored.sum() == pytest.approx(0.1 * (1 - standard / 20), abs=spread)
    assert set(hidden[replaced]) == set(ESM.amino_acid_ids)
    counts = np.bincount(hidden[replaced], minlength=33)[ESM.amino_acid_ids]
    assert counts.std() / counts.mean() < 0.15


def test_specials_are_never_masked_and_labels_are_the_truth() -> None:
    tokens, _, hidden, labels = masked(["A-.J*MK"] * 500, np.arange(500), mask_fraction=1.0)
    specials = ~ESM.is_residue[tokens]
    assert np.array_equal(hidden[specials], tokens[specials])
    assert (labels[specials] == -100).all()
    assert np.array_equal(labels[~specials], tokens[~specials])
    assert (hidden.dtype, labels.dtype) == (np.uint8, np.int8)


@given(st.permutations(range(12)), st.integers(1, 11), st.integers(0, 2**40), st.integers(0, 5))
def test_masks_do_not_know_the_batch(order: list[int], cut: int, seed: int, epoch: int) -> None:
    sequences = [s[: 3 * i] for i, s in enumerate(random_proteins(12, 40))]
    rows = np.arange(12) * 1000
    _, lengths, hidden, labels = masked(sequences, rows, seed, epoch)
    borders = np.cumsum(lengths)[:-1]
    expected = list(zip(np.split(hidden, borders), np.split(labels, borders), strict=True))
    for members in (order[:cut], order[cut:]):
        _, lengths, hidden, labels = masked([sequences[i] for i in members], rows[members], seed, epoch)
        borders = np.cumsum(lengths)[:-1]
        for i, part, truth in zip(members, np.split(hidden, borders), np.split(labels, borders), strict=True):
            assert np.array_equal(part, expected[i][0])
            assert np.array_equal(truth, expected[i][1])


@pytest.mark.parametrize("other", [{"epoch": 1}, {"seed": 2}])
def test_each_epoch_and_seed_masks_anew(other: dict[str, int]) -> None:
    sequences, rows = random_proteins(100, 200), np.arange(100)
    first = masked(sequences, rows)[3] != -100
    second = masked(sequences, rows, **other)[3] != -100
    assert (first & second).sum() / first.sum() == pytest.approx(0.15, abs=0.04)


def test_each_row_masks_its_own_way() -> None:
    labels = masked(["A" * 5000] * 2, np.array([7, 8]))[3].reshape(2, -1) != -100
    assert labels.all(axis=0).sum() / labels[0].sum() == pytest.approx(0.15, abs=0.07)


def test_masks_stay_what_they_were() -> None:
    """A resumed run and a validation figure of last year rely on this very sequence of draws."""
    _, _, hidden, labels = masked(["A" * 60], np.array([3]), seed=5, epoch=2)
    assert np.flatnonzero(labels != -100).tolist() == [4, 17, 18, 21, 24, 29, 39, 40, 41, 42, 50, 58, 59]
    assert hidden[labels != -100].tolist() == [14, 8, 32, 32, 5, 32, 32, 32, 32, 5, 17, 32, 32]


def test_hash_is_splitmix64() -> None:
    # first outputs of the published generator (Vigna's splitmix64.c) from states 0 and 1234567
    found = _hash(np.array([0, 1234567], dtype=np.uint64))
    assert found.tolist() == [0xE220A8397B1DCDAF, 6457827717110365317]


def test_neighbours_are_scored_independently_of_each_other() -> None:
    """Of residues, of neighbouring rows and of neighbouring epochs: pairs are scored as often as chance has it."""
    rows, positions = 3000, 300
    scored = masked(["A" * positions] * rows, np.arange(rows))[3].reshape(rows, -1)[:, 1:-1] != -100
    other = masked(["A" * positions] * rows, np.arange(rows), epoch=1)[3].reshape(rows, -1)[:, 1:-1] != -100
    pairs = [(scored[:, gap:], scored[:, :-gap]) for gap in (1, 2, 3, 7, 64)]
    pairs += [(scored[gap:], scored[:-gap]) for gap in (1, 2, 16, 1024)] + [(scored, other)]
    for first, second in pairs:
        spread = 5 * math.sqrt(0.15**2 * (1 - 0.15**2) / first.size)
        assert (first & second).mean() == pytest.approx(0.15**2, abs=spread)
    for counts in (scored.sum(axis=0), scored.sum(axis=1)):  # of each position, and of each protein
        expected = counts.mean() * (1 - 0.15)
        assert counts.var() == pytest.approx(expected, rel=5 * math.sqrt(2 / len(counts)))


def test_no_two_proteins_share_a_sequence_of_draws() -> None:
    keys = np.array(
        [5, 5 + (7 << 32), 5 + 0x9E3779B9], dtype=np.uint64
    )  # equal lower halves; lower halves one step apart
    draws = _draws(keys, np.array([1000, 1000, 1000])).reshape(3, 1000)
    assert (draws[0] == draws[1]).sum() == 0
    upper = keys[2:] + np.uint64(9 << 32)
    shifted = _draws(np.concatenate([keys[:1], upper]), np.array([1001, 1000]))
    assert (shifted[1:1001] == shifted[1001:]).sum() == 0


@pytest.mark.parametrize(
    "fractions",
    [
        {"mask_fraction": 0.0},
        {"mask_fraction": 1.5},
        {"keep_fraction": -0.1},
        {"random_fraction": -0.1},
        {"keep_fraction": 0.6, "random_fraction": 0.6},
    ],
)
def test_impossible_fractions_are_refused(fractions: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(fractions))}( is)? {next(iter(fractions.values()))}.*accepted"):
        masked(["MKV"], np.array([0]), **fractions)
    with pytest.raises(ValueError, match="accepted"):
        context_free_floor({"A": 1}, Masking(**fractions))


@pytest.mark.parametrize(("keep", "random"), [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.5, 0.5)])
def test_fates_at_the_ends_of_their_range(keep: float, random: float) -> None:
    tokens, _, hidden, labels = masked(
        ["A" * 4000], np.array([1]), mask_fraction=1.0, keep_fraction=keep, random_fraction=random
    )
    scored = labels != -100
    assert scored.sum() == 4000
    assert (hidden[scored] == ESM.mask_id).mean() == pytest.approx(1 - keep - random, abs=0.001)
    assert (hidden[scored] == tokens[scored]).mean() == pytest.approx(keep + random / 20, abs=0.04)


def test_floor_of_two_letters_by_hand() -> None:
    # A and C are equally frequent; the 20 letters are seen with 0.1 / 20 each by replacement
    floor = context_free_floor({"A": 50, "C": 50})
    assert floor.masked == pytest.approx(math.log(2))
    # seeing A: A with weight 0.5 (0.1 + 0.005), C with 0.5 x 0.005; the same for C; else a coin over 18 x 0.005
    right, wrong = 0.0525, 0.0025
    seen = -2 * (right * math.log(right / (right + wrong)) + wrong * math.log(wrong / (right + wrong)))
    assert floor.training_mix == pytest.approx(0.8 * math.log(2) + seen + 18 * 0.005 * math.log(2))


def test_floor_of_a_letter_that_is_never_drawn() -> None:
    assert context_free_floor({"X": 3}).training_mix == 0.0
    assert context_free_floor(
        {"A": 1, "C": 1}, Masking(keep_fraction=0, random_fraction=0)
    ).training_mix == pytest.approx(math.log(2))
    with pytest.raises(ValueError, match="found none"):
        context_free_floor({})


def test_floor_is_what_the_best_context_free_predictor_reaches() -> None:
    """Counts of (truth, seen) under mask_tokens make that predictor; its cross-entropy is the formula's value."""
    letters = np.random.default_rng(2).choice(list("AACDEFGGHIKLLLMNPQRSTVWYX"), size=(4000, 500))
    tokens, _, hidden, labels = masked(["".join(row) for row in letters], np.arange(4000))
    scored = labels != -100
    joint = np.zeros((33, 33))
    np.add.at(joint, (labels[scored], hidden[scored]), 1)
    given_seen = joint / np.maximum(joint.sum(axis=0), 1)
    cross_entropy = -(joint[joint > 0] * np.log(given_seen[joint > 0])).sum() / joint.sum()
    floor = context_free_floor(Counter("".join(ESM.tokens[t] for t in tokens[ESM.is_residue[tokens]])))
    assert cross_entropy == pytest.approx(floor.training_mix, abs=0.005)
    behind_mask = joint[:, ESM.mask_id] / joint[:, ESM.mask_id].sum()
    entropy = -(behind_mask[behind_mask > 0] * np.log(behind_mask[behind_mask > 0])).sum()
    assert entropy == pytest.approx(floor.masked, abs=0.005)


def test_floor_of_real_domains(real_data: Path) -> None:
    counts: Counter[str] = Counter()
    for file in sorted((real_data / "pfam").glob("pfam_train*")):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for line, _ in zip(lines, range(20_000), strict=False):
                counts.update(json.loads(line)["primary"])
    floor = context_free_floor(counts)
    assert floor.training_mix == pytest.approx(2.70, abs=0.01)
    assert floor.masked == pytest.approx(2.873, abs=0.01)


def test_head_is_dense_gelu_norm_and_the_token_table() -> None:
    config = ModelConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_multiple=64)
    encoder = ProteinEncoder(config)
    head = LanguageModelHead(config, encoder.token_embedding)
    assert head.decoder_weight is encoder.token_embedding.weight
    hidden = torch.randn(5, 16)
    gelu = torch.nn.functional.gelu(head.dense(hidden))
    expected = torch.nn.functional.layer_norm(gelu, (16,), eps=1e-5) @ encoder.token_embedding.weight.T
    assert head(hidden).shape == (5, 33)
    torch.testing.assert_close(head(hidden), expected[:, :33])
