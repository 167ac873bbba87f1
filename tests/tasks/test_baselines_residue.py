"""Baselines: features by hand, columns against scikit-learn, determinism, and the margin on proteins with signal."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss

from proteinlm.tasks.baselines import fit_baselines
from proteinlm.tasks.baselines_residue import NUM_LETTERS, fit_majority_class, fit_one_hot_window, one_hot_windows
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.metrics import evaluate
from proteinlm.tasks.secondary_structure import residue_labels

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"


def make_table(seed: int, num_proteins: int = 60, column: str = "ss3", num_classes: int = 3) -> pa.Table:
    """Proteins whose class is that of the residue before, in four of five residues; one in ten is masked."""
    generator = np.random.default_rng(seed)
    sequences, labels, masks = [], [], []
    for length in generator.integers(5, 60, num_proteins):
        residues = generator.integers(0, 20, length)
        truth = np.roll(residues, 1) % num_classes
        labels.append(np.where(generator.random(length) < 0.8, truth, generator.integers(0, num_classes, length)))
        masks.append((generator.random(length) > 0.1).tolist())
        sequences.append("".join(AMINO_ACIDS[residue] for residue in residues))
    classes = pa.array([part.tolist() for part in labels], pa.list_(pa.int8()))
    return pa.table({"sequence": sequences, column: classes, "valid_mask": masks})


def test_windows_do_not_reach_into_the_next_protein():
    table = pa.table({"sequence": ["AC", "XD"]})
    windows = one_hot_windows(table, 3, np.arange(4)).toarray().reshape(4, 3, NUM_LETTERS)
    other = NUM_LETTERS - 1
    assert windows.argmax(2).tolist() == [[other, 0, 1], [0, 1, other], [other, other, 2], [other, 2, other]]
    assert (windows.sum(2) == 1).all()
    with pytest.raises(ValueError, match="window is 4; it must be odd"):
        one_hot_windows(table, 4, np.arange(1))


@pytest.mark.parametrize("num_labels", [3, 8])
def test_the_window_beats_the_majority_by_a_margin_and_both_repeat(num_labels):
    task = build_task(f"secondary_structure_q{num_labels}")
    train, valid, test = (make_table(seed, 200, task.columns[0], num_labels) for seed in range(3))
    majority, window = fit_baselines(task, train, valid)
    accuracy = [evaluate(task.metrics[0], baseline.score(test)).value for baseline in (majority, window)]
    assert accuracy[1] > accuracy[0] + 0.3
    assert "C = " in window.description
    again = fit_baselines(task, train, valid)[1]
    assert again.description == window.description
    assert all(np.array_equal(again.score(test)[name], values) for name, values in window.score(test).items())


def test_columns_are_those_of_scikit_learns_own_prediction():
    train, test = make_table(0), make_table(1)
    columns = fit_one_hot_window(
        train, test, column="ss3", num_classes=3, window=5, inverse_regularisations=[0.1]
    ).score(test)
    (x, y), (x_test, y_test) = (
        (one_hot_windows(t, 5, np.flatnonzero(k >= 0)), k[k >= 0]) for t, k in map(scored, (train, test))
    )
    model = LogisticRegression(C=0.1, max_iter=300, tol=1e-3).fit(x, y)
    assert columns["correct"].sum() / columns["scored"].sum() == pytest.approx(
        accuracy_score(y_test, model.predict(x_test))
    )
    assert columns["loss"].sum() / columns["scored"].sum() == pytest.approx(
        log_loss(y_test, model.predict_proba(x_test))
    )
    per_protein = [int(sum(mask)) for mask in test.column("valid_mask").to_pylist()]
    assert columns["scored"].tolist() == per_protein


def scored(table: pa.Table):
    return table, residue_labels(table, "ss3")[0]


def test_the_majority_class_is_train_s_and_its_loss_the_cross_entropy():
    train = pa.table({"sequence": ["AAAA"], "ss3": [[2, 2, 2, 0]], "valid_mask": [[True] * 4]})
    columns = fit_majority_class(train, column="ss3", num_classes=3).score(train)
    assert columns["correct"].tolist() == [3]
    assert columns["loss"][0] == pytest.approx(-3 * np.log(4 / 7) - np.log(2 / 7))


def test_a_class_that_train_lacks_is_never_predicted_and_costs_a_finite_loss():
    train = make_table(0, num_classes=2)
    baseline = fit_one_hot_window(train, train, column="ss3", num_classes=3, window=3, inverse_regularisations=[1.0])
    test = make_table(1)
    assert np.isfinite(baseline.score(test)["loss"]).all()
    absent = pa.table({"sequence": ["ACD"], "ss3": [[2, 2, 2]], "valid_mask": [[True] * 3]})
    assert baseline.score(absent)["correct"].tolist() == [0]
    assert 45 < baseline.score(absent)["loss"][0] < 90
    two = make_table(2, num_classes=2)
    assert baseline.score(two)["correct"].sum() / baseline.score(two)["scored"].sum() > 0.7


def test_a_subsample_is_said_and_kept_to():
    train = make_table(0)
    baseline = fit_one_hot_window(train, train, column="ss3", num_classes=3, window=3, most_train_residues=100)
    assert "fitted on 100 of " in baseline.description
    again = fit_one_hot_window(train, train, column="ss3", num_classes=3, window=3, most_train_residues=100)
    assert np.array_equal(again.score(train)["loss"], baseline.score(train)["loss"])
    one = pa.table({"sequence": ["AA"], "ss3": [[1, 1]], "valid_mask": [[True, True]]})
    with pytest.raises(ValueError, match="needs two classes of 'ss3' in train, found 1"):
        fit_one_hot_window(one, one, column="ss3", num_classes=3)
