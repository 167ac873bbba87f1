"""Baselines for labels on residues: majority class and one-hot window (scikit-learn).

Both are fitted on tables of a task's shards (`sequence` and the label columns) and give the same per-protein columns as
`Task.score`, so that the same metrics and intervals apply.

Shapes: R residues, M scored residues, B proteins, W residues of a window, C classes.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from proteinlm.models.alphabet import STANDARD_AMINO_ACIDS, amino_acid_numbers
from proteinlm.models.packed import NOT_SCORED
from proteinlm.tasks.secondary_structure import LABEL_COLUMNS, residue_labels
from proteinlm.tasks.task import Baseline, Columns, Task

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

WINDOW = 17
"""Residues that the classifier sees, half before and half after the one it answers for."""
NUM_LETTERS = len(STANDARD_AMINO_ACIDS) + 1
"""The 20 amino acids, and one for anything else (another letter, or beyond the end)."""
INVERSE_REGULARISATIONS = (0.001, 0.01, 0.1)
"""scikit-learn's C: the one with the best accuracy on valid is kept."""
MOST_TRAIN_RESIDUES = 200_000
MOST_VALID_RESIDUES = 50_000


def fit_residue_baselines(task: Task, train: pa.Table, valid: pa.Table, seed: int) -> tuple[Baseline, ...]:
    """Majority class and one-hot window of a secondary structure task. Deterministic by `seed`."""
    num_classes = {column: count for count, column in LABEL_COLUMNS.items()}[task.columns[0]]
    column = task.columns[0]
    return (
        fit_majority_class(train, column=column, num_classes=num_classes),
        fit_one_hot_window(train, valid, column=column, num_classes=num_classes, seed=seed),
    )


def fit_majority_class(train: pa.Table, *, column: str, num_classes: int) -> Baseline:
    """Always the most frequent class of the training split, with the classes' frequencies as probabilities."""
    labels, _ = residue_labels(train, column)
    counts = np.bincount(labels[labels != NOT_SCORED], minlength=num_classes)
    log_frequency = np.log((counts + 1) / (counts.sum() + num_classes))  # one more of each: no class is impossible

    def score(table: pa.Table) -> Columns:
        labels, lengths = residue_labels(table, column)
        selected = np.flatnonzero(labels != NOT_SCORED)
        return _columns(np.tile(log_frequency, (len(selected), 1)), labels[selected], selected, lengths)

    description = f"always the most frequent class of the {counts.sum():,} training residues (class {counts.argmax()})"
    return Baseline("majority class", description, score)


def fit_one_hot_window(
    train: pa.Table,
    valid: pa.Table,
    *,
    column: str,
    num_classes: int,
    seed: int = 0,
    window: int = WINDOW,
    most_train_residues: int = MOST_TRAIN_RESIDUES,
    inverse_regularisations: Sequence[float] = INVERSE_REGULARISATIONS,
) -> Baseline:
    """Multinomial logistic regression on the one-hot residues of a window, C chosen on valid.

    At most `most_train_residues` residues, drawn at random, are fitted. Raises ValueError for fewer than two classes.
    """
    from scipy.special import log_softmax
    from sklearn.linear_model import LogisticRegression

    generator = np.random.default_rng(seed)
    features, targets, num_scored = _sample(train, column, window, most_train_residues, generator)
    valid_features, valid_targets, _ = _sample(valid, column, window, MOST_VALID_RESIDUES, generator)
    classes = np.unique(targets)
    if len(classes) < 2:
        raise ValueError(f"the one-hot window baseline needs two classes of {column!r} in train, found {len(classes)}")
    best: LogisticRegression | None = None
    best_accuracy = -1.0
    for inverse_regularisation in inverse_regularisations:
        # A converged optimum changes no digit that is printed: the tolerance is scikit-learn's times ten.
        model = LogisticRegression(C=inverse_regularisation, max_iter=300, tol=1e-3).fit(features, targets)
        accuracy = float((model.predict(valid_features) == valid_targets).mean()) if len(valid_targets) else 0.0
        if accuracy > best_accuracy:
            best, best_accuracy = model, accuracy
    assert best is not None
    weights, biases = _all_classes(best.coef_, best.intercept_, classes, num_classes)

    def score(table: pa.Table) -> Columns:
        labels, lengths = residue_labels(table, column)
        selected = np.flatnonzero(labels != NOT_SCORED)
        logits = np.asarray(one_hot_windows(table, window, selected) @ weights.T + biases)
        return _columns(np.asarray(log_softmax(logits, axis=1)), labels[selected], selected, lengths)

    description = (
        f"multinomial logistic regression on one-hot residues in a window of {window}, fitted on {len(targets):,} of "
        f"{num_scored:,} training residues drawn at random, C = {best.C:g} chosen on valid"
    )
    return Baseline("one-hot window", description, score)


def one_hot_windows(table: pa.Table, window: int, selected: NDArray[np.int64]) -> "csr_matrix":
    """One-hot windows [M, W * 21] around the residues `selected` [M], numbered through all proteins of `table`."""
    from scipy.sparse import csr_matrix

    if window < 1 or window % 2 == 0:
        raise ValueError(f"window is {window}; it must be odd, with the residue that is predicted in the middle")
    half = window // 2
    sequences = table.column("sequence").to_pylist()
    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    # Proteins are laid out with `half` fillers before each and after the last, so that no window sees a neighbour.
    filler = "-" * half
    letters = np.frombuffer((filler + "".join(sequence + filler for sequence in sequences)).encode("latin-1"), np.uint8)
    protein = np.repeat(np.arange(len(lengths)), lengths)[selected]
    around = (selected + half * (protein + 1))[:, None] + np.arange(-half, half + 1)
    index = amino_acid_numbers(letters, NUM_LETTERS - 1)[around] + NUM_LETTERS * np.arange(window)
    ones = np.ones(index.size, np.float32)
    starts = np.arange(0, index.size + 1, window)
    return csr_matrix((ones, index.ravel().astype(np.int32), starts), shape=(len(selected), window * NUM_LETTERS))


def _sample(
    table: pa.Table, column: str, window: int, most: int, generator: np.random.Generator
) -> tuple["csr_matrix", NDArray[np.int16], int]:
    """Features and labels of at most `most` scored residues, and how many there were."""
    labels, _ = residue_labels(table, column)
    selected = np.flatnonzero(labels != NOT_SCORED)
    num_scored = len(selected)
    if num_scored > most:
        selected = np.sort(generator.choice(selected, most, replace=False))
    return one_hot_windows(table, window, selected), labels[selected], num_scored


def _all_classes(
    weights: NDArray[np.float64], biases: NDArray[np.float64], classes: NDArray[np.int16], num_classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights [C, W * 21] and biases [C] for every class; one that train does not have gets a chance of about e^-20."""
    if len(classes) == 2:  # scikit-learn keeps one row for two classes
        weights, biases = np.vstack([-weights, weights]) / 2, np.concatenate([-biases, biases]) / 2
    all_weights, all_biases = np.zeros((num_classes, weights.shape[1])), np.full(num_classes, biases.min() - 20)
    all_weights[classes], all_biases[classes] = weights, biases
    return all_weights, all_biases


def _columns(
    log_probabilities: NDArray[np.float64],
    targets: NDArray[np.int16],
    selected: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> Columns:
    """Per-protein columns [B] from the log probabilities [M, C] of the residues `selected` [M]."""
    protein = np.repeat(np.arange(len(lengths)), lengths)[selected]
    loss = -log_probabilities[np.arange(len(targets)), targets]
    correct = (log_probabilities.argmax(axis=1) == targets).astype(np.float64)
    num_proteins = len(lengths)
    return {
        "loss": _sum(protein, loss, num_proteins),
        "scored": _sum(protein, np.ones(len(protein)), num_proteins),
        "correct": _sum(protein, correct, num_proteins),
    }


def _sum(protein: NDArray[np.int64], values: NDArray[np.float64], num_proteins: int) -> NDArray[np.float64]:
    return np.bincount(protein, values, num_proteins).astype(np.float64)
