"""Baselines for contacts: what is reached by how far two residues are apart in sequence, and by which two they are.

Both are counts of the training proteins' scored pairs, and give the same per-protein columns as `Task.score`.

Shapes: R residues of all proteins, L residues of one protein, P its scored pairs, B proteins, S separations, A letters.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from proteinlm.models.alphabet import STANDARD_AMINO_ACIDS, amino_acid_numbers, joined_letters
from proteinlm.tasks.contact_prediction import coordinates_of_each, precision_counts, scored_pairs, stacked
from proteinlm.tasks.task import Baseline, Columns, Task

NUM_LETTERS = len(STANDARD_AMINO_ACIDS) + 1
"""A: the 20 amino acids, and one for any other letter."""
MOST_TRAIN_PROTEINS = 2000
"""Fitted at most: they have some 60 million pairs, more than the counts need."""
LONGEST_SEPARATION = 1023
"""S - 1: pairs farther apart count as this far."""
PSEUDO_PAIRS = 1000.0
"""Pairs of the average kind that every separation and every pair of letters starts with."""
SMOOTHED = 0.1
"""The rate of a separation s is taken from separations s (1 - 0.1) to s (1 + 0.1): single ones are rare far out."""


@dataclass(frozen=True)
class ScoredPairs:
    """The scored pairs i < j of one protein, row by row."""

    first: NDArray[np.int64]
    """[P] i, from 0."""
    second: NDArray[np.int64]
    """[P] j."""
    is_contact: NDArray[np.bool_]
    """[P]"""
    letters: NDArray[np.int64]
    """[L] letter of each residue, 0 to A - 1."""

    @property
    def separation(self) -> NDArray[np.int64]:
        """[P] j - i, at most LONGEST_SEPARATION."""
        return np.asarray(np.minimum(self.second - self.first, LONGEST_SEPARATION))

    @property
    def letter_pair(self) -> NDArray[np.int64]:
        """[P] number of the unordered pair of letters: A times the smaller plus the larger."""
        one, other = self.letters[self.first], self.letters[self.second]
        return np.asarray(np.minimum(one, other) * NUM_LETTERS + np.maximum(one, other))


def fit_contact_baselines(task: Task, train: pa.Table, valid: pa.Table, seed: int = 0) -> tuple[Baseline, ...]:
    """The baselines of contact prediction, fitted on tables of its shards.

    Deterministic by `seed`; nothing is chosen on `valid`. Raises ValueError where train has no contact.
    """
    drawn = train
    if len(train) > MOST_TRAIN_PROTEINS:
        rows = np.random.default_rng(seed).choice(len(train), MOST_TRAIN_PROTEINS, replace=False)
        drawn = train.take(np.sort(rows))
    prior, propensity, num_pairs, num_contacts = _fit(drawn)
    fitted = (
        f"fitted on the {num_contacts:,} contacts among {num_pairs:,} pairs of {len(drawn):,} of {len(train):,} "
        "training proteins"
    )
    return (
        _baseline("separation prior", f"share of contacts at a pair's separation j - i, {fitted}", prior),
        _baseline(
            "amino-acid pairs",
            "naive Bayes: log odds of contact at a pair's separation j - i plus how much likelier its two amino acids "
            f"are among contacts, {fitted}",
            prior,
            propensity,
        ),
    )


def pairs_of_each(table: pa.Table) -> Iterator[ScoredPairs]:
    """The scored pairs of each protein of `table`."""
    for sequence, coordinates in zip(table.column("sequence").to_pylist(), coordinates_of_each(table), strict=True):
        letters, _ = joined_letters([sequence])
        yield ScoredPairs(*scored_pairs(coordinates), amino_acid_numbers(letters, NUM_LETTERS - 1))


def _fit(train: pa.Table) -> tuple[NDArray[np.float64], NDArray[np.float64], int, int]:
    """Log odds of contact for each separation [S]; what a pair of letters adds [A * A]; pairs and contacts counted."""
    by_separation = np.zeros((2, LONGEST_SEPARATION + 1))  # row 0: all pairs, row 1: contacts
    by_letters = np.zeros((2, NUM_LETTERS**2))
    for pairs in pairs_of_each(train):
        for counts, values in ((by_separation, pairs.separation), (by_letters, pairs.letter_pair)):
            counts[0] += np.bincount(values, minlength=counts.shape[1])
            counts[1] += np.bincount(values[pairs.is_contact], minlength=counts.shape[1])
    num_pairs, num_contacts = by_letters.sum(axis=1)
    if num_contacts in (0, num_pairs):
        raise ValueError(
            f"contact baselines need pairs in contact and others in train; found {num_contacts:.0f} contacts among "
            f"{num_pairs:.0f} pairs"
        )
    rate = num_contacts / num_pairs
    near, all_near = _neighbourhood(by_separation[1]), _neighbourhood(by_separation[0])
    share = (near + PSEUDO_PAIRS * rate) / (all_near + PSEUDO_PAIRS)
    seen = by_letters[0] > 0
    contacts = by_letters[1, seen] + PSEUDO_PAIRS * rate
    others = (by_letters[0] - by_letters[1])[seen] + PSEUDO_PAIRS * (1 - rate)
    propensity = np.zeros(NUM_LETTERS**2)  # a pair that train does not have says nothing
    propensity[seen] = np.log(contacts / contacts.sum()) - np.log(others / others.sum())
    return np.log(share) - np.log1p(-share), propensity, int(num_pairs), int(num_contacts)


def _neighbourhood(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Counts [S] summed over the separations near each."""
    separations = np.arange(len(counts))
    reach = (SMOOTHED * separations).astype(np.int64)
    before = np.concatenate([[0.0], np.cumsum(counts)])
    above = np.minimum(separations + reach + 1, len(counts))
    return np.asarray(before[above] - before[separations - reach])


def _baseline(
    name: str, description: str, prior: NDArray[np.float64], propensity: NDArray[np.float64] | None = None
) -> Baseline:
    def log_odds(pairs: ScoredPairs) -> NDArray[np.float64]:
        alone = prior[pairs.separation]
        return alone if propensity is None else alone + propensity[pairs.letter_pair]

    def score(table: pa.Table) -> Columns:
        return _columns(table, log_odds)

    return Baseline(name, description, score)


def _columns(table: pa.Table, log_odds: Callable[[ScoredPairs], NDArray[np.float64]]) -> Columns:
    """Per-protein columns [B] from what gives the log odds [P] of a protein's scored pairs."""
    losses, scored, counts = [], [], []
    for pairs in pairs_of_each(table):
        found = log_odds(pairs)
        losses.append(float(np.logaddexp(0.0, np.where(pairs.is_contact, -found, found)).sum()))
        scored.append(float(len(found)))
        separations = pairs.second - pairs.first
        counts.append(precision_counts(found, pairs.is_contact, separations, len(pairs.letters)))
    return {"loss": np.array(losses), "scored": np.array(scored), **stacked(counts)}
