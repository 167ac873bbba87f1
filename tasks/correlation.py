"""Spearman's rank correlation as a metric, and its value on all resamples of a bootstrap in linear time.

A resample only repeats and leaves out proteins: values are sorted once, and the ranks of every draw follow from how
often each of the known values occurs in it.

Shapes: B proteins, S resamples, K distinct values.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from proteinlm.tasks.task import Columns


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
