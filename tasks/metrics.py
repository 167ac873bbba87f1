"""Metrics from per-protein columns, with an interval: a percentile bootstrap over proteins.

Proteins are the sampling unit because residues of one protein are not independent. Spearman's rank correlation is
computed on all resamples in linear time: a resample only repeats and leaves out proteins, so values are sorted once,
and the ranks of every resample follow from how often each of the known values occurs in it.

Shapes: B proteins, S resamples, K distinct values.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from proteinlm.tasks.task import Columns, Metric

INTERVAL = 0.95
"""Coverage of the bootstrap interval."""
DRAWS_AT_ONCE = 4_000_000
"""Proteins drawn in one block of resamples: bounds the memory (32 MB of indices) on large splits."""


@runtime_checkable
class Resampled(Protocol):
    """A metric's `compute` that can compute all resamples at once, faster than one after the other."""

    def of_draws(self, columns: Columns, draws: NDArray[np.int64]) -> NDArray[np.float64]:
        """The metric [S] of the proteins `draws` [S, B], numbers of rows that may repeat."""


@dataclass(frozen=True)
class PooledRatio:
    """A metric that is a ratio of sums over proteins, so that all resamples are computed at once.

    `pooled="things"`: sum of `numerator` / sum of `denominator`: every residue weighs the same.
    `pooled="proteins"`: mean over proteins of numerator / denominator: every protein weighs the same.
    """

    numerator: str
    denominator: str
    pooled: Literal["things", "proteins"] = "things"
    exponential: bool = False
    """exp of the ratio, as perplexity is."""

    def __call__(self, columns: Columns) -> float:
        """The value for these proteins; NaN where the denominator sums to 0."""
        over, under = self.terms(columns)
        return float(self.ratio(over.sum(keepdims=True), under.sum(keepdims=True))[0])

    def of_draws(self, columns: Columns, draws: NDArray[np.int64]) -> NDArray[np.float64]:
        """The values [S] for the proteins `draws` [S, B]."""
        over, under = self.terms(columns)
        return self.ratio(over[draws].sum(axis=1), under[draws].sum(axis=1))

    def terms(self, columns: Columns) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What is summed over proteins, above [B] and below [B] the line."""
        over = np.asarray(columns[self.numerator], np.float64)
        under = np.asarray(columns[self.denominator], np.float64)
        if self.pooled == "proteins":
            counts = under > 0
            return np.where(counts, over / np.where(counts, under, 1.0), 0.0), counts.astype(np.float64)
        return over, under

    def ratio(self, over: NDArray[np.float64], under: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values [S] from sums [S]; NaN where nothing was counted."""
        value = np.full(over.shape, np.nan)
        np.divide(over, under, out=value, where=under > 0)
        if not self.exponential:
            return value
        with np.errstate(over="ignore"):  # a diverged loss has an infinite perplexity, and that is the answer
            return np.asarray(np.exp(value))


@dataclass(frozen=True)
class MetricValue:
    """A metric's value on a split with its interval and the counts behind it."""

    value: float
    low: float
    """Lower end of the 95 % bootstrap interval; NaN where one protein (or none) allows no interval."""
    high: float
    num_proteins: int
    """Proteins with at least one thing counted."""
    num_scored: int
    """Sum of the metric's `counted` column."""


def evaluate(metric: Metric, columns: Columns, seed: int = 0, num_resamples: int = 1000) -> MetricValue:
    """`metric` over per-protein `columns` [B], with a percentile bootstrap over proteins that have something counted.

    Deterministic by `seed`. Raises ValueError where the column that the metric counts is missing.
    """
    if metric.counted not in columns:
        raise ValueError(f"metric {metric.name!r} counts {metric.counted!r}; found {', '.join(sorted(columns))}")
    counted = np.asarray(columns[metric.counted], np.float64)
    kept = counted > 0
    used = {name: np.asarray(values, np.float64)[kept] for name, values in columns.items()}
    num_proteins, num_scored = int(kept.sum()), round(float(counted[kept].sum()))
    if num_proteins == 0:
        return MetricValue(math.nan, math.nan, math.nan, 0, 0)
    value = float(metric.compute(used))
    if num_proteins == 1:  # resampling one protein gives that protein: an interval of width 0 would say too much
        return MetricValue(value, math.nan, math.nan, num_proteins, num_scored)
    low, high = _interval(resample(metric.compute, used, num_proteins, seed, num_resamples))
    return MetricValue(value, low, high, num_proteins, num_scored)


def resample(
    compute: Callable[[Columns], float], columns: Columns, num_proteins: int, seed: int, num_resamples: int
) -> NDArray[np.float64]:
    """The metric [S] of `num_resamples` draws of `num_proteins` proteins with replacement."""
    found: list[NDArray[np.float64]] = []
    for draws in _draws(num_proteins, seed, num_resamples):
        if isinstance(compute, Resampled):
            found.append(compute.of_draws(columns, draws))
        else:
            rows = ({name: values[draw] for name, values in columns.items()} for draw in draws)
            found.append(np.fromiter((compute(row) for row in rows), np.float64, len(draws)))
    return np.concatenate(found)


def _draws(num_proteins: int, seed: int, num_resamples: int) -> Iterator[NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    at_once = max(1, DRAWS_AT_ONCE // num_proteins)
    for start in range(0, num_resamples, at_once):
        yield generator.integers(0, num_proteins, (min(at_once, num_resamples - start), num_proteins))


def _interval(resampled: NDArray[np.float64]) -> tuple[float, float]:
    known = resampled[~np.isnan(resampled)]  # a metric may be undefined on a resample (a correlation of equal values)
    if known.size == 0:
        return math.nan, math.nan
    low, high = np.quantile(known, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Spearman:
    """Spearman's rho of the columns `first` and `second`, equal values sharing the mean of their ranks.

    Equal to scipy.stats.spearmanr; NaN where either column is constant or a value is NaN.
    """

    first: str
    second: str
    among: str = "scored"
    """Only proteins with more than 0 in this column count."""

    def __call__(self, columns: Columns) -> float:
        """Rho of these proteins; NaN for fewer than two of them."""
        num_proteins = len(columns[self.among])
        return float(self.of_draws(columns, np.arange(num_proteins)[None])[0])

    def of_draws(self, columns: Columns, draws: NDArray[np.int64]) -> NDArray[np.float64]:
        """Rho [S] of the proteins `draws` [S, B], numbers of rows that may repeat."""
        counts = np.asarray(columns[self.among], np.float64) > 0
        first, second = (np.asarray(columns[name], np.float64)[counts] for name in (self.first, self.second))
        if np.isnan(first).any() or np.isnan(second).any():
            return np.full(len(draws), np.nan)
        order = np.argsort(first, kind="stable")  # codes then rise, and their ranks are looked up in one sweep
        codes, others = _codes(first[order]), _codes(second[order])
        rows = np.flatnonzero(counts)[order]
        times = (np.bincount(draw, minlength=len(counts))[rows].astype(np.float64) for draw in draws)
        return np.fromiter((_correlation(codes, others, weights) for weights in times), np.float64, len(draws))


def _codes(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Which of the distinct values, in rising order, each of `values` [B] is."""
    return np.asarray(np.unique(values, return_inverse=True)[1], np.int64)


def _correlation(first: NDArray[np.int64], second: NDArray[np.int64], times: NDArray[np.float64]) -> float:
    """Rho of values given as codes [B] in rising order, each occurring `times` [B] times."""
    total = times.sum()
    if total < 2:
        return math.nan
    middle = (total + 1) / 2  # the mean of all ranks
    x, y = (_ranks(codes, times) - middle for codes in (first, second))
    weighted = times * x
    # Sums rather than dot products: on busy cores the linear algebra's threads wait longer for each other than they add
    spread = float((weighted * x).sum()) * float((times * y * y).sum())
    return float((weighted * y).sum()) / math.sqrt(spread) if spread > 0 else math.nan


def _ranks(codes: NDArray[np.int64], times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean rank [B] of each code, from 1, where it occurs `times` [B] times."""
    if not codes.size:
        return np.zeros(0)
    occurrences = np.bincount(codes, times)
    return np.asarray((np.cumsum(occurrences) - (occurrences - 1) / 2)[codes])
