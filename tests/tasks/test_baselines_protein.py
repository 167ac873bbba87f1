"""Baselines of whole proteins: against scikit-learn, by hand, and on real proteins by a computation written apart."""

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse import csr_matrix
from scipy.stats import spearmanr
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from proteinlm.tasks.baselines import fit_baselines
from proteinlm.tasks.baselines_protein import (
    ALPHAS,
    fit_mean,
    fit_mutations,
    fit_nearest_kmers,
    fit_one_hot_ridge,
    one_hot_positions,
)
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.fluorescence_stability import FLUORESCENCE, STABILITY, Target
from proteinlm.tasks.metrics import evaluate
from proteinlm.tasks.records import check_record
from proteinlm.tasks.task import Task

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"


def make_numbers(seed: int, num_proteins: int, target: Target = STABILITY) -> pa.Table:
    """Proteins of 8 to 12 residues whose number is a sum over positions, with noise."""
    effects = np.random.default_rng(99).normal(size=(12, 20))
    generator = np.random.default_rng(seed)
    residues = [generator.integers(0, 20, length) for length in generator.integers(8, 13, num_proteins)]
    numbers = [effects[np.arange(len(r)), r].sum() + generator.normal() for r in residues]
    sequences = ["".join(AMINO_ACIDS[i] for i in r) for r in residues]
    return pa.table({"sequence": sequences, target.column: numbers, "num_mutations": [len(r) for r in residues]})


def make_folds(seed: int, num_proteins: int, changed_share: float = 0.25) -> pa.Table:
    """Proteins of ten folds, each with a core of its own of which `changed_share` of the residues is replaced."""
    cores = np.random.default_rng(7).integers(0, 20, (10, 40))
    generator = np.random.default_rng(seed)
    folds = generator.integers(0, 10, num_proteins)
    changed = generator.random((num_proteins, 40)) < changed_share
    residues = np.where(changed, generator.integers(0, 20, changed.shape), cores[folds])
    sequences = ["".join(AMINO_ACIDS[i] for i in row) for row in residues]
    return pa.table({"sequence": sequences, "fold_label": pa.array(folds * 100, pa.int32())})


def test_one_hot_features_by_hand():
    dense = one_hot_positions(pa.table({"sequence": ["AC", "XDY"]}), 2).toarray()
    assert dense.shape == (2, 40)
    assert [np.flatnonzero(row).tolist() for row in dense] == [[0, 21], [22]]


def test_the_ridge_is_scikit_learns_and_its_alpha_is_valids():
    train, valid, test = (make_numbers(seed, 400) for seed in range(3))
    baseline = fit_one_hot_ridge(train, valid, STABILITY)
    by_alpha = {}
    for alpha in ALPHAS:
        features = [one_hot_positions(table, 12).toarray() for table in (train, valid, test)]
        model = Ridge(alpha=alpha).fit(features[0], train["stability_score"].to_numpy())
        figure = spearmanr(model.predict(features[1]), valid["stability_score"].to_numpy()).statistic
        by_alpha[alpha] = figure, model.predict(features[2])
    best = max(ALPHAS, key=lambda alpha: by_alpha[alpha][0])
    assert f"alpha = {best:g} of" in baseline.description
    assert baseline.score(test)["prediction"] == pytest.approx(by_alpha[best][1], abs=1e-5)
    assert spearmanr(*(baseline.score(test)[name] for name in ("prediction", "target"))).statistic > 0.6


def test_the_mean_has_no_rank_correlation_and_the_variance_as_error():
    train = make_numbers(0, 50)
    columns = fit_mean(train, STABILITY).score(train)
    assert columns["squared_error"].mean() == pytest.approx(train["stability_score"].to_numpy().var(), rel=1e-5)
    task = build_task("stability")
    assert math.isnan(evaluate(task.metrics[0], columns).value)


def test_more_mutations_are_darker_by_a_line_that_goes_on_beyond_train():
    counts = [0, 1, 2, 3, 3]
    table = pa.table({"num_mutations": counts, "log_fluorescence": [4 - 0.3 * n for n in counts]})
    test = pa.table({"num_mutations": [4, 10], "log_fluorescence": [3.0, 1.0]})
    columns = fit_mutations(table, FLUORESCENCE).score(test)
    assert columns["prediction"] == pytest.approx([2.8, 1.0])
    assert evaluate(build_task("fluorescence").metrics[0], columns).value == 1.0
    same = fit_mutations(table.slice(3), FLUORESCENCE).score(test)
    assert same["prediction"] == pytest.approx([3.1, 3.1])


def test_the_nearest_fold_is_that_of_the_nearest_protein_by_scikit_learns_cosine():
    train, valid, test = (make_folds(seed, 60, changed_share=0.8) for seed in range(3))
    columns = fit_nearest_kmers(train, valid, [2]).score(test)
    kmers = TfidfVectorizer(analyzer="char", ngram_range=(2, 2), lowercase=False)
    fitted = kmers.fit_transform(train["sequence"].to_pylist())
    cosines = (kmers.transform(test["sequence"].to_pylist()) @ fitted.T).toarray()
    expected = train["fold_label"].to_numpy()[cosines.argmax(1)]
    assert np.array_equal(columns["predicted"], expected)
    five = []
    for row, fold in zip(cosines, test["fold_label"].to_pylist(), strict=True):
        ranked = list(dict.fromkeys(train["fold_label"].to_numpy()[np.argsort(-row)].tolist()))
        five.append(float(fold in ranked[:5]))
    assert columns["correct_top5"].tolist() == five
    assert 0 < columns["correct"].mean() < columns["correct_top5"].mean() < 1


def test_kmers_beat_the_majority_and_both_have_finite_losses():
    majority, nearest = fit_baselines(build_task("remote_homology"), make_folds(0, 80), make_folds(1, 40))
    test = make_folds(2, 60)
    assert nearest.score(test)["correct"].mean() > majority.score(test)["correct"].mean() + 0.4
    assert nearest.score(test)["loss"].mean() < majority.score(test)["loss"].mean()
    absent = test.set_column(1, "fold_label", pa.array([1194] * 60, pa.int32()))
    for baseline in (majority, nearest):
        assert np.isfinite(baseline.score(absent)["loss"]).all()
        assert not baseline.score(absent)["correct"].any()


def read_records(folder: Path, task: Task, split: str) -> list[dict[str, object]]:
    with gzip.open(folder / task.name / f"{task.name}_{split}.jsonl.gz", "rt") as lines:
        return [json.loads(line) for line in lines]


def plain_one_hot(sequences: list[str], width: int) -> csr_matrix:
    places = [
        (row, place * 20 + AMINO_ACIDS.index(letter))
        for row, sequence in enumerate(sequences)
        for place, letter in enumerate(sequence)
    ]
    rows, columns = np.array(places).T
    return csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(sequences), width * 20))


@pytest.mark.parametrize(
    ("name", "target", "measured"), [("fluorescence", FLUORESCENCE, 0.6796), ("stability", STABILITY, 0.4927)]
)
def test_the_ridge_on_real_proteins_is_that_of_a_computation_written_apart(real_data, name, target, measured):
    """`measured` is what both give here. Issue 4 expects 0.679 +- 0.003, which holds, and for stability 0.47 +- 0.01,
    which does not: valid is flat below alpha = 10 (0.5777 to 0.5772), where test goes from 0.494 to 0.471.
    """
    task = build_task(name)
    records = {split: read_records(real_data, task, split) for split in ("train", "valid", "test")}
    rows = {split: [check_record(task.records, record, split) for record in found] for split, found in records.items()}
    train, valid, test = (pa.Table.from_pylist(rows[split], task.records.arrow_schema()) for split in rows)
    columns = fit_one_hot_ridge(train, valid, target).score(test)
    ours = float(task.metrics[0].compute(columns))

    sequences = {split: [str(record["primary"]) for record in found] for split, found in records.items()}
    numbers = {split: np.array([record[target.column][0] for record in found]) for split, found in records.items()}
    features = {split: plain_one_hot(found, max(map(len, sequences["train"]))) for split, found in sequences.items()}
    models = [Ridge(alpha=a, solver="sparse_cg", tol=1e-6).fit(features["train"], numbers["train"]) for a in ALPHAS]
    figures = [spearmanr(model.predict(features["valid"]), numbers["valid"]).statistic for model in models]
    best = models[int(np.argmax(figures))]
    theirs = float(spearmanr(best.predict(features["test"]), numbers["test"]).statistic)
    assert ours == pytest.approx(theirs, abs=5e-4)
    assert ours == pytest.approx(measured, abs=5e-4)
