"""Baselines for labels on whole proteins: one number (mean, one-hot ridge, mutations) or a fold (majority, k-mers).

Shapes: B proteins, T training proteins, P one-hot features, C folds.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from proteinlm.models.alphabet import STANDARD_AMINO_ACIDS, amino_acid_numbers, joined_letters
from proteinlm.tasks.fluorescence_stability import FLUORESCENCE, MUTATIONS_COLUMN, STABILITY, Target, regression_columns
from proteinlm.tasks.metrics import Spearman
from proteinlm.tasks.remote_homology import BEST, LABEL_COLUMN, NUM_FOLDS
from proteinlm.tasks.task import Baseline, Columns, Task

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

ALPHAS = (0.1, 1.0, 10.0, 100.0, 1000.0)
"""Penalties of the ridge: the one with the highest Spearman on valid is kept. scikit-learn's own grid, and beyond."""
MOST_POSITIONS = 256
"""Residues from the start that the ridge sees: its normal equations have up to 20 columns for each."""
KMER_LENGTHS = (2, 3, 4)
SHARPNESSES = (1.0, 2.0, 5.0, 10.0, 20.0)
"""How strongly similarity counts in the k-mer baseline's probabilities: the one with the lowest valid loss is kept."""
PROTEINS_AT_ONCE = 512


def fit_fluorescence_baselines(task: Task, train: pa.Table, valid: pa.Table, seed: int) -> tuple[Baseline, ...]:
    """Mean, one-hot ridge, and number of mutations where the records tell it. `seed` changes nothing."""
    always = (fit_mean(train, FLUORESCENCE), fit_one_hot_ridge(train, valid, FLUORESCENCE))
    is_told = train.column(MUTATIONS_COLUMN).null_count == 0
    return (*always, fit_mutations(train, FLUORESCENCE)) if is_told else always


def fit_stability_baselines(task: Task, train: pa.Table, valid: pa.Table, seed: int) -> tuple[Baseline, ...]:
    """Mean and one-hot ridge. Nothing is drawn: `seed` changes nothing."""
    return fit_mean(train, STABILITY), fit_one_hot_ridge(train, valid, STABILITY)


def fit_homology_baselines(task: Task, train: pa.Table, valid: pa.Table, seed: int) -> tuple[Baseline, ...]:
    """Majority fold and nearest protein by k-mers. Nothing is drawn: `seed` changes nothing."""
    return fit_majority_fold(train), fit_nearest_kmers(train, valid)


def fit_mean(train: pa.Table, target: Target) -> Baseline:
    """Always the mean of the training proteins: its rank correlation is not defined."""
    mean = float(_targets(train, target).mean())

    def score(table: pa.Table) -> Columns:
        return regression_columns(np.full(len(table), mean), _targets(table, target), target)

    return Baseline("mean", f"always {mean:.4g}, the mean of the {len(train):,} training proteins", score)


def fit_mutations(train: pa.Table, target: Target) -> Baseline:
    """A straight line in the number of mutations: the tests have counts that train lacks, so no mean for each count."""
    counts, targets = _mutations(train), _targets(train, target)
    spread = counts - counts.mean()
    slope = float(spread @ targets / max(spread @ spread, 1e-12))
    intercept = float(targets.mean() - slope * counts.mean())

    def score(table: pa.Table) -> Columns:
        return regression_columns(intercept + slope * _mutations(table), _targets(table, target), target)

    description = (
        f"{intercept:.4g} {slope:+.4g} x the number of mutations, least squares on the {len(train):,} training proteins"
    )
    return Baseline("number of mutations", description, score)


def fit_one_hot_ridge(train: pa.Table, valid: pa.Table, target: Target, alphas: Sequence[float] = ALPHAS) -> Baseline:
    """Ridge regression on which residue stands at which position, alpha chosen on valid by Spearman.

    Positions count from the first residue; what is beyond a protein's end has no feature. The intercept is not
    penalised. The first of equally good alphas is kept.
    """
    width = min(MOST_POSITIONS, max(map(len, train.column("sequence").to_pylist())))
    features, targets = one_hot_positions(train, width), _targets(train, target)
    valid_features, valid_targets = one_hot_positions(valid, width), _targets(valid, target)
    solutions = _solve_ridge(features, targets, alphas)
    correlations = [
        Spearman("prediction", "target")(
            regression_columns(valid_features @ weights + intercept, valid_targets, target)
        )
        for weights, intercept in solutions
    ]
    best = int(np.argmax(np.nan_to_num(correlations, nan=-np.inf)))
    weights, intercept = solutions[best]

    def score(table: pa.Table) -> Columns:
        prediction = np.asarray(one_hot_positions(table, width) @ weights + intercept)
        return regression_columns(prediction, _targets(table, target), target)

    grid = ", ".join(f"{alpha:g}" for alpha in alphas)
    description = (
        f"ridge regression on the one-hot residues of {width} positions, fitted on the {len(train):,} training "
        f"proteins, alpha = {alphas[best]:g} of {grid} chosen on valid by Spearman"
    )
    return Baseline("one-hot ridge", description, score)


def one_hot_positions(table: pa.Table, width: int) -> "csr_matrix":
    """One-hot residues [B, width * 20] of the first `width` positions; letters beyond the 20 have no feature."""
    from scipy.sparse import csr_matrix

    letters, lengths = joined_letters(table.column("sequence").to_pylist())
    numbers = amino_acid_numbers(letters, -1)
    position = np.arange(len(letters)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    kept = (numbers >= 0) & (position < width)
    protein = np.repeat(np.arange(len(lengths)), lengths)[kept]
    column = position[kept] * len(STANDARD_AMINO_ACIDS) + numbers[kept]
    shape = (len(lengths), width * len(STANDARD_AMINO_ACIDS))
    return csr_matrix((np.ones(len(column)), (protein, column)), shape=shape)


def _solve_ridge(
    features: "csr_matrix", targets: NDArray[np.float64], alphas: Sequence[float]
) -> list[tuple[NDArray[np.float64], float]]:
    """Weights [P] and intercept for each alpha, by the normal equations; a feature that train lacks has weight 0.

    Not scikit-learn's Ridge: on sparse features it solves iteratively, so that predictions depend on a tolerance; its
    exact solver needs dense features.
    """
    from scipy.linalg import solve

    seen = np.flatnonzero(np.asarray(features.sum(axis=0)).ravel())
    present = features[:, seen]
    means, mean = np.asarray(present.mean(axis=0)).ravel(), float(targets.mean())
    covariance = (present.T @ present).toarray() - len(targets) * np.outer(means, means)
    projection = present.T @ (targets - mean)
    solutions = []
    for alpha in alphas:
        weights = np.zeros(features.shape[1])
        weights[seen] = solve(covariance + alpha * np.eye(len(seen)), projection, assume_a="pos")
        solutions.append((weights, float(mean - means @ weights[seen])))
    return solutions


def fit_majority_fold(train: pa.Table) -> Baseline:
    """Always the most frequent folds of train, with the folds' frequencies as probabilities."""
    counts = np.bincount(_folds(train), minlength=NUM_FOLDS)
    log_frequency = _log_frequency(counts)

    def score(table: pa.Table) -> Columns:
        scores = np.tile(log_frequency, (len(table), 1))
        return _fold_columns(scores, scores, _folds(table))

    description = f"always the most frequent fold of the {len(train):,} training proteins (fold {counts.argmax()})"
    return Baseline("majority class", description, score)


def fit_nearest_kmers(train: pa.Table, valid: pa.Table, kmer_lengths: Sequence[int] = KMER_LENGTHS) -> Baseline:
    """The fold of the training protein with the most similar k-mers: cosine of TF-IDF vectors, k chosen on valid.

    The next folds are those of the next nearest proteins of other folds. For the loss, a fold's probability is its
    frequency in train x exp(sharpness x similarity of its nearest protein), the sharpness chosen on valid.
    """
    log_frequency = _log_frequency(np.bincount(_folds(train), minlength=NUM_FOLDS))
    valid_folds = _folds(valid)
    candidates = [_NearestFold(train, length) for length in kmer_lengths]
    similarities = [candidate.similarities(valid) for candidate in candidates]
    accuracies = [float((found.argmax(axis=1) == valid_folds).mean()) for found in similarities]
    best = int(np.argmax(accuracies))
    nearest, near_valid = candidates[best], similarities[best]

    def probabilities(near: NDArray[np.float64], sharpness: float) -> NDArray[np.float64]:
        logits = log_frequency + sharpness * near
        return np.asarray(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))

    rows = np.arange(len(valid_folds))
    losses = [-probabilities(near_valid, sharpness)[rows, valid_folds].mean() for sharpness in SHARPNESSES]
    sharpness = SHARPNESSES[int(np.argmin(losses))]

    def score(table: pa.Table) -> Columns:
        near = nearest.similarities(table)
        return _fold_columns(near, probabilities(near, sharpness), _folds(table))

    lengths = ", ".join(map(str, kmer_lengths))
    description = (
        f"fold of the nearest of the {len(train):,} training proteins by cosine of TF-IDF weighted "
        f"{nearest.length}-mers (k of {lengths} and sharpness {sharpness:g} of the loss chosen on valid)"
    )
    return Baseline("k-mer nearest neighbour", description, score)


class _NearestFold:
    """Training proteins by their k-mers, sorted by fold."""

    def __init__(self, train: pa.Table, length: int) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.length = length
        order = np.argsort(_folds(train), kind="stable")
        self._folds, self._starts = np.unique(_folds(train)[order], return_index=True)
        self._kmers = TfidfVectorizer(analyzer="char", ngram_range=(length, length), lowercase=False)
        sequences = np.array(train.column("sequence").to_pylist(), dtype=object)
        self._train = self._kmers.fit_transform(sequences[order]).T.tocsc()

    def similarities(self, table: pa.Table) -> NDArray[np.float64]:
        """Cosine [B, C] to the nearest training protein of each fold; -1 for a fold that train lacks."""
        nearest = np.full((len(table), NUM_FOLDS), -1.0)
        vectors = self._kmers.transform(table.column("sequence").to_pylist())
        for start in range(0, len(table), PROTEINS_AT_ONCE):
            rows = slice(start, start + PROTEINS_AT_ONCE)
            cosines = (vectors[rows] @ self._train).toarray()
            nearest[rows, self._folds] = np.maximum.reduceat(cosines, self._starts, axis=1)
        return nearest


def _fold_columns(
    scores: NDArray[np.float64], log_probabilities: NDArray[np.float64], folds: NDArray[np.int64]
) -> Columns:
    """Per-protein columns [B] of folds ranked by `scores` [B, C]; the lower number first where they are equal."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :BEST]
    is_right = best == folds[:, None]
    return {
        "loss": -log_probabilities[np.arange(len(folds)), folds],
        "scored": np.ones(len(folds)),
        "correct": is_right[:, 0].astype(np.float64),
        "correct_top5": is_right.any(axis=1).astype(np.float64),
        "predicted": best[:, 0].astype(np.float64),
    }


def _log_frequency(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(np.log((counts + 1) / (counts.sum() + len(counts))))  # one more of each: none is impossible


def _folds(table: pa.Table) -> NDArray[np.int64]:
    return np.asarray(table.column(LABEL_COLUMN).to_numpy().astype(np.int64))


def _targets(table: pa.Table, target: Target) -> NDArray[np.float64]:
    """Targets [B] as precise as a model sees them, so that the same values are equal."""
    return np.asarray(table.column(target.column).to_numpy().astype(np.float32).astype(np.float64))


def _mutations(table: pa.Table) -> NDArray[np.float64]:
    return np.asarray(table.column(MUTATIONS_COLUMN).to_numpy().astype(np.float64))
