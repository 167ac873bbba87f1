"""P@L against an independent one, and the paper's double counting: what it reads where ours reads 0.65."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proteinlm.tasks.contact_prediction import (
    CUTS,
    MIN_SEPARATION,
    RANGES,
    precision_counts,
    precision_metrics,
    stacked,
)
from proteinlm.tasks.metrics import evaluate

METRICS = {metric.name: metric for metric in precision_metrics()}


def precision_columns(scores, contacts, known):
    """`precision_counts` of a protein from matrices: scores [L, L] (above the diagonal), contacts [L, L], known [L]."""
    first, second = np.nonzero(np.triu(known[:, None] & known, MIN_SEPARATION))
    return precision_counts(scores[first, second], contacts[first, second], second - first, len(known))


def precision_at(scores, contacts, known, nearest, farthest, divisor):
    """P@L of one protein, pair by pair; None where the range has no pair."""
    length = len(known)
    pairs = []
    for i in range(length):
        for j in range(i + nearest, min(length, i + farthest + 1)):
            if known[i] and known[j]:
                pairs.append((-scores[i, j], i, j))
    top = sorted(pairs)[: max(1, length // divisor)]
    return sum(contacts[i, j] for _, i, j in top) / len(top) if top else None


def paper_precision(proteins, divisor):
    """ProteinLM's compute_precision_at_l5: top cells of the masked symmetric matrix, all proteins together."""
    hits = cells = 0
    for scores, contacts, known in proteins:
        length = len(known)
        apart = np.abs(np.arange(length)[:, None] - np.arange(length)) >= 6
        masked = np.where(apart & known & known[:, None], scores, -np.inf).ravel()
        top = np.argsort(-masked, kind="stable")[: length // divisor]
        hits += (contacts.ravel()[top] & np.isfinite(masked[top])).sum()
        cells += length // divisor
    return hits / cells


def draw_protein(generator, length, known_share, num_ties=None):
    scores = generator.random((length, length))
    if num_ties:
        scores = np.floor(scores * num_ties)
    scores, contacts = np.triu(scores, 1), np.triu(generator.random((length, length)) < 0.3, 1)
    return scores + scores.T, contacts | contacts.T, generator.random(length) < known_share


@given(st.lists(st.integers(1, 70), min_size=1, max_size=5), st.sampled_from([0.0, 0.6, 1.0]), st.integers(0, 10**6))
def test_precision_is_that_of_an_independent_one(lengths, known_share, seed):
    generator = np.random.default_rng(seed)
    proteins = [draw_protein(generator, n, known_share, num_ties=generator.choice([3, 0])) for n in lengths]
    columns = stacked([precision_columns(*protein) for protein in proteins])
    for name, (nearest, farthest) in RANGES.items():
        for cut, divisor in CUTS.items():
            each = [precision_at(*protein, nearest, farthest or 70, divisor) for protein in proteins]
            counted = [precision for precision in each if precision is not None]
            figure = evaluate(METRICS[f"precision_{cut}_{name}"], columns, num_resamples=2)
            assert figure.num_proteins == len(counted)
            assert figure.value == pytest.approx(np.mean(counted) if counted else np.nan, nan_ok=True)


@given(st.lists(st.integers(5, 60), min_size=1, max_size=5), st.sampled_from([0.3, 1.0]), st.integers(0, 10**6))
def test_the_papers_precision_is_that_of_its_matrix(lengths, known_share, seed):
    generator = np.random.default_rng(seed)
    proteins = [draw_protein(generator, n, known_share) for n in lengths]
    columns = stacked([precision_columns(*protein) for protein in proteins])
    for cut, divisor in CUTS.items():
        found = METRICS[f"paper_precision_{cut}"].compute(columns)
        # Where the last cell is half a pair, both cells are the same pair: no tie is broken.
        assert found == pytest.approx(paper_precision(proteins, divisor))


def test_counting_every_pair_twice_reads_065_as_074():
    """A ranking that is right in 83 % of its first places and ever less after: half as many pairs look better."""
    generator = np.random.default_rng(0)
    proteins = []
    for length in generator.integers(150, 400, 300):
        first, second = np.triu_indices(length, 6)
        rank = generator.permutation(len(first))
        chance = np.maximum(0.83 - 0.36 * rank / (length / 5), 0.02)
        scores, contacts = np.zeros((length, length)), np.zeros((length, length), bool)
        scores[first, second] = -rank
        contacts[first, second] = generator.random(len(first)) < chance
        proteins.append((scores + scores.T, contacts | contacts.T, np.ones(length, bool)))
    columns = stacked([precision_columns(*protein) for protein in proteins])
    assert METRICS["precision_l5_sep6"].compute(columns) == pytest.approx(0.65, abs=0.01)
    assert METRICS["paper_precision_l5"].compute(columns) == pytest.approx(0.74, abs=0.01)


def test_equal_scores_rank_in_the_order_of_the_pairs_and_nan_last():
    contacts, known = np.zeros((12, 12), bool), np.ones(12, bool)
    contacts[0, 6] = contacts[0, 7] = True
    counts = precision_columns(np.zeros((12, 12)), contacts, known)
    assert (counts["hits_l5_sep6"], counts["picked_l5_sep6"]) == (2, 2)
    scores = np.zeros((12, 12))
    scores[0, 6] = np.nan
    assert precision_columns(scores, contacts, known)["hits_l5_sep6"] == 1


def test_short_proteins_pick_one_pair_and_proteins_without_a_pair_are_left_out():
    four, seven = (np.ones((n, n), bool) for n in (4, 7))
    columns = stacked([precision_columns(m.astype(float), m, m[0]) for m in (four, seven)])
    assert columns["picked_l5_sep6"].tolist() == [0, 1]
    assert columns["paper_picked_l5"].tolist() == [0, 1]
    figure = evaluate(METRICS["precision_l5_sep6"], columns)
    assert (figure.value, figure.num_proteins, figure.num_scored) == (1.0, 1, 1)
    assert stacked([])["hits_l_sep24"].size == 0


def test_the_first_metric_is_the_fields_and_each_says_how_it_is_counted():
    assert next(iter(METRICS)) == "precision_l5_sep6"
    main = [metric.name for metric in METRICS.values() if metric.is_main]
    assert main == [
        "precision_l5_sep6",
        "precision_l5_sep12",
        "precision_l5_sep24",
        "precision_l_sep24",
        "paper_precision_l5",
    ]
    assert len(METRICS) == len(RANGES) * len(CUTS) + len(CUTS)
    assert "i < j" in METRICS["precision_l5_sep12_23"].definition
    assert "of 12 to 23" in METRICS["precision_l5_sep12_23"].definition
    assert "NOT comparable" in METRICS["paper_precision_l5"].definition
