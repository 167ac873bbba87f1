"""Figures: ratio metrics against plain numpy and scikit-learn, the bootstrap against a plain one, and its edges."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss

from proteinlm.tasks import metrics
from proteinlm.tasks.metrics import PooledRatio, evaluate, resample
from proteinlm.tasks.task import Columns, Metric

ACCURACY = PooledRatio("correct", "scored")


def make_metric(compute=ACCURACY) -> Metric:
    return Metric("accuracy", "share", compute, "scored", "residues")


def columns(correct, scored) -> dict[str, np.ndarray]:
    return {"correct": np.asarray(correct, float), "scored": np.asarray(scored, float)}


def test_pools_over_residues_or_over_proteins():
    data = columns([9, 0, 0], [10, 2, 0])
    assert PooledRatio("correct", "scored")(data) == pytest.approx(9 / 12)
    assert PooledRatio("correct", "scored", pooled="proteins")(data) == pytest.approx(0.45)


def test_equals_scikit_learn_and_perplexity_is_exp_of_its_log_loss():
    generator = np.random.default_rng(3)
    protein, truth = generator.integers(0, 20, 900), generator.integers(0, 3, 900)
    probabilities = generator.dirichlet(np.ones(3), 900)
    guess = probabilities.argmax(1)
    data = {
        "scored": np.bincount(protein, minlength=20).astype(float),
        "correct": np.bincount(protein, guess == truth, 20),
        "loss": np.bincount(protein, -np.log(probabilities[np.arange(900), truth]), 20),
    }
    assert PooledRatio("correct", "scored")(data) == pytest.approx(accuracy_score(truth, guess))
    expected = math.exp(log_loss(truth, probabilities))
    assert PooledRatio("loss", "scored", exponential=True)(data) == pytest.approx(expected)


def test_the_vectorised_bootstrap_is_the_plain_one():
    generator = np.random.default_rng(0)
    scored = generator.integers(1, 50, 40).astype(float)
    data = columns(np.floor(scored * generator.random(40)), scored)
    for ratio in (PooledRatio("correct", "scored"), PooledRatio("correct", "scored", "proteins", exponential=True)):
        plain = resample(lambda used, ratio=ratio: ratio(used), data, 40, seed=5, num_resamples=60)
        assert resample(ratio, data, 40, seed=5, num_resamples=60) == pytest.approx(plain)


def test_drawing_in_blocks_changes_nothing(monkeypatch):
    data = columns(np.arange(30), np.full(30, 40))
    whole = evaluate(make_metric(), data)
    monkeypatch.setattr(metrics, "DRAWS_AT_ONCE", 100)
    assert evaluate(make_metric(), data) == whole


def test_the_interval_is_near_the_normal_one_and_depends_on_the_seed_alone():
    generator = np.random.default_rng(1)
    data = columns(generator.binomial(100, 0.7, 400), np.full(400, 100))
    figure = evaluate(make_metric(), data, seed=2)
    error = (data["correct"] / 100).std() / math.sqrt(400)
    assert figure.low == pytest.approx(figure.value - 1.96 * error, abs=0.2 * error)
    assert figure.high == pytest.approx(figure.value + 1.96 * error, abs=0.2 * error)
    assert (figure.num_proteins, figure.num_scored) == (400, 40_000)
    assert evaluate(make_metric(), data, seed=2) == figure != evaluate(make_metric(), data, seed=3)


def test_proteins_without_anything_scored_are_left_out():
    figure = evaluate(make_metric(), columns([1, 0, 2, 0], [2, 0, 3, 0]))
    assert figure == evaluate(make_metric(), columns([1, 2], [2, 3]))
    assert figure.num_proteins == 2


def test_one_protein_has_a_value_and_no_interval():
    figure = evaluate(make_metric(), columns([3], [4]))
    assert (figure.value, figure.num_proteins, figure.num_scored) == (0.75, 1, 4)
    assert math.isnan(figure.low)
    assert math.isnan(figure.high)


def test_nothing_scored_is_not_a_number():
    figure = evaluate(make_metric(), columns([0, 0], [0, 0]))
    assert math.isnan(figure.value)
    assert (figure.num_proteins, figure.num_scored) == (0, 0)


def test_a_metric_that_is_undefined_on_some_resamples_still_has_an_interval():
    def spread(used: Columns) -> float:
        return float(used["correct"].std()) or math.nan

    figure = evaluate(make_metric(spread), columns([1, 2, 3], [4, 4, 4]), num_resamples=50)
    assert figure.low > 0
    assert figure.high <= 1.0


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match="'accuracy' counts 'scored'; found correct"):
        evaluate(make_metric(), {"correct": np.ones(2)})


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=20))
def test_the_interval_holds_between_the_extremes_of_single_proteins(pairs):
    data = columns([min(pair) for pair in pairs], [max(pair) for pair in pairs])
    figure = evaluate(make_metric(), data, num_resamples=20)
    rates = [c / s for c, s in zip(data["correct"], data["scored"], strict=True) if s]
    if len(rates) > 1:
        assert min(rates) - 1e-12 <= figure.low <= figure.high <= max(rates) + 1e-12
    elif not rates:
        assert math.isnan(figure.value)
