"""Spearman's rho against scipy's, alone and on resamples, and where it is not defined."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from proteinlm.tasks.metrics import Spearman, evaluate, resample
from proteinlm.tasks.task import Metric

RHO = Spearman("prediction", "target")


def columns(prediction, target, scored=None) -> dict[str, np.ndarray]:
    ones = np.ones(len(prediction))
    return {"prediction": np.asarray(prediction, float), "target": np.asarray(target, float), "scored": scored or ones}


@given(st.lists(st.tuples(st.integers(-4, 4), st.floats(-2, 2, width=16)), min_size=2, max_size=40))
def test_equals_scipy_with_and_without_ties(pairs):
    first, second = np.array(pairs, float).T
    ours = RHO(columns(first, second))
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert math.isnan(ours)
    else:
        assert ours == pytest.approx(spearmanr(first, second).statistic, abs=1e-12)


def test_equals_scipy_on_many_proteins():
    generator = np.random.default_rng(0)
    for decimals in (0, 1, 9):
        first = generator.normal(size=3000).round(decimals)
        second = (first + generator.normal(size=3000)).round(decimals)
        assert RHO(columns(first, second)) == pytest.approx(spearmanr(first, second).statistic, abs=1e-12)


def test_resamples_are_those_of_scipy_one_after_the_other():
    generator = np.random.default_rng(1)
    data = columns(generator.integers(0, 9, 50), generator.normal(size=50))
    data["scored"] = (generator.random(50) > 0.3).astype(float)

    def plain(used):
        kept = used["scored"] > 0
        return float(spearmanr(used["prediction"][kept], used["target"][kept]).statistic)

    expected = resample(plain, data, 50, seed=3, num_resamples=80)
    assert resample(RHO, data, 50, seed=3, num_resamples=80) == pytest.approx(expected, abs=1e-12)
    assert len(set(expected)) > 70


def test_counts_only_the_proteins_of_its_column():
    data = columns([1, 2, 3, 99], [1, 2, 3, -99], [1.0, 1.0, 1.0, 0.0])
    assert RHO(data) == 1.0
    metric = Metric("spearman", "rho", RHO, "scored", "proteins")
    figure = evaluate(metric, data)
    assert (figure.value, figure.num_proteins) == (1.0, 3)


def test_is_not_a_number_where_it_is_not_defined():
    assert math.isnan(RHO(columns([1, 1, 1], [1, 2, 3])))
    assert math.isnan(RHO(columns([1, math.nan, 2], [1, 2, 3])))
    assert math.isnan(RHO(columns([1], [1])))
    assert math.isnan(RHO(columns([], [])))
