"""Least squares for the laws of scaling.py and compute_optimal.py, linear in all but exponents: variable projection.

A law is a floor E and one or two falling terms, E + A x^-a + B y^-b, none of E, A and B negative. Given the exponents
it is solved at once for whole grids of them; non-negative coefficients are those of the best of all subsets of terms
(Lawson and Hanson 1995, Solving Least Squares Problems, chapter 23, whose problem this is).

Shapes: n points, G and K exponents of the two terms, T angles.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Interval = tuple[float, float]
_NUM_EXPONENTS = 500
_NUM_NODES = 41  # along each side of the box around a region
_NUM_ANGLES = 32
_MOST_BOXES = 60
_EQUAL_COLUMNS = 1e-9  # a determinant below this, over that of orthogonal columns, is rounding


def checked_positive(name: str, values: ArrayLike) -> Array:
    """`values` as an array; ValueError naming the first that is not a finite number above 0."""
    array = np.asarray(values, np.float64)
    wrong = np.flatnonzero(~(np.isfinite(array) & (array > 0)))
    if len(wrong):
        raise ValueError(f"{name}[{wrong[0]}]: found {array[wrong[0]]:g}, accepted are finite numbers above 0")
    return array


def checked_points(places: dict[str, Sequence[float]], loss: Sequence[float]) -> tuple[list[Array], Array]:
    """`places` and `loss` as arrays [n] of equal length, above 0; ValueError by name."""
    for name, values in places.items():
        if len(values) != len(loss):
            raise ValueError(f"{name}: found {len(values)} values, accepted are as many as losses, {len(loss)}")
    return [checked_positive(name, values) for name, values in places.items()], checked_positive("loss", loss)


def rss_limit(least: float, degrees: int, loss: Array) -> float:
    """The largest residual sum of squares of the 95 % region around a fit with `least` and n - p = `degrees`."""
    from scipy.special import stdtrit

    quantile = float(stdtrit(degrees, 0.975)) ** 2  # F with 1 and n - p degrees of freedom is the square of t
    return max(least * (1 + quantile / degrees), _rounding(loss))


def _rounding(loss: Array) -> float:
    """A residual sum of squares that no measured loss stays below."""
    return float(1e-12 * np.sum((loss - loss.mean()) ** 2) + 1e-28 * np.sum(loss**2))


def exponents_to_try(offsets: Array, count: int = _NUM_EXPONENTS) -> Array:
    """Exponents [G] from "x changes nothing" to "only the smallest x differs from the others", in equal ratios.

    `offsets` [n]: log of x over the smallest x.
    """
    return np.geomspace(1e-5 / offsets.max(), 40 / offsets[offsets > 0].min(), count)


def profile(exponents: Array, offsets: Array, loss: Array, floor: float | None = None) -> tuple[Array, Array, Array]:
    """E [G], A * smallest^-a [G] and the residual sum of squares [G] of the best law of each exponent, E and A >= 0."""
    basis = np.exp(-exponents[:, None] * offsets)  # [G, n]
    through = (basis @ (loss - (floor or 0.0))) / np.sum(basis**2, axis=1)  # the scale where E is fixed
    if floor is None:
        centred = basis - basis.mean(axis=1, keepdims=True)
        scale = np.maximum((centred @ loss) / np.sum(centred**2, axis=1), 0)
        low = loss.mean() - scale * basis.mean(axis=1)
        scale = np.where(low < 0, through, scale)
        low = np.maximum(low, 0)
    else:
        scale, low = np.maximum(through, 0), np.full(len(exponents), floor)
    return low, scale, np.sum((loss - low[:, None] - scale[:, None] * basis) ** 2, axis=1)


@dataclass(frozen=True)
class _Terms:
    """Both terms at all pairs of exponents: columns [G, n], [K, n] and losses [n], all centred where E is fitted."""

    first: Array
    second: Array
    loss: Array

    def solve(self) -> tuple[Array, Array, Array]:
        """A, B and the residual sum of squares [G, K], of whatever sign; NaN where the columns are all but equal."""
        first, second, both = self._products()
        to_first, to_second = (self.first @ self.loss)[:, None], self.second @ self.loss
        determinant = first * second - both**2
        determinant = np.where(determinant > _EQUAL_COLUMNS * first * second, determinant, np.nan)
        scale = (second * to_first - both * to_second) / determinant
        other = (first * to_second - both * to_first) / determinant
        left = self.loss - scale[..., None] * self.first[:, None] - other[..., None] * self.second
        return scale, other, np.asarray(np.einsum("gkn,gkn->gk", left, left))

    def around(self, limit: float) -> tuple[Array, Array]:
        """A and B [T, G, K] of misfit `limit`, an ellipse at each pair of exponents; NaN where misfits are larger."""
        scale, other, misfit = self.solve()
        first, second, both = self._products()
        angle = np.linspace(0, 2 * np.pi, _NUM_ANGLES, endpoint=False)[:, None, None]
        reach = np.sqrt(np.where(misfit <= limit, limit - misfit, np.nan))
        apart = np.where(np.isfinite(misfit), second - both**2 / first, np.nan)
        to_other = reach * np.sin(angle) / np.sqrt(apart)
        return scale + reach * np.cos(angle) / np.sqrt(first) - to_other * both / first, other + to_other

    def _products(self) -> tuple[Array, Array, Array]:
        """Of the columns: first with first [G, 1], second with second [K], both [G, K]."""
        return np.sum(self.first**2, axis=1)[:, None], np.sum(self.second**2, axis=1), self.first @ self.second.T


class Surface:
    """The law with two terms: its residual sum of squares over the logarithms of both exponents.

    `first`, `second` [n]: log of x and of y over the smallest of each; A and B are those of x and y so divided.
    """

    def __init__(self, first: Array, second: Array, loss: Array) -> None:
        self._offsets, self._loss = (first, second), loss
        self._tried = tuple(np.log(exponents_to_try(offsets, 120)) for offsets in self._offsets)

    def fit(self, first: Array, second: Array) -> Array:
        """E, A, B and the residual sum of squares [4, G, K] at the log exponents `first` [G] and `second` [K]."""
        bases = self._bases(first, second)
        scale, other, misfit = self._terms(bases, has_floor=True).solve()
        floor = self._floor(bases, scale, other)
        zero = np.zeros_like(floor)
        alone = [self._alone(powers, place) for place, powers in enumerate((first, second))]
        only_first = [values[:, None] + zero for values in alone[0]]
        only_second = [values + zero for values in alone[1]]
        subsets = np.stack(
            [
                np.stack([floor, scale, other, misfit]),
                np.stack([zero, *self._terms(bases, has_floor=False).solve()]),
                np.stack([only_first[0], only_first[1], zero, only_first[2]]),
                np.stack([only_second[0], zero, only_second[1], only_second[2]]),
            ]
        )
        misfits = np.where((subsets[:, :3] >= 0).all(axis=1), subsets[:, 3], np.inf)
        return np.asarray(np.take_along_axis(subsets, np.argmin(misfits, axis=0)[None, None], axis=0)[0])

    def least(self) -> tuple[Array, float]:
        """The log exponents [2] of the best law, and its residual sum of squares: the best of a grid, refined."""
        from scipy.optimize import minimize

        misfits = self.fit(*self._tried)[3]
        places = np.unravel_index(np.argmin(misfits), misfits.shape)
        start = np.array([tried[place] for tried, place in zip(self._tried, places, strict=True)])
        found = minimize(
            lambda powers: self.fit(powers[:1], powers[1:])[3].item(),
            start,
            method="Nelder-Mead",
            bounds=[(tried[0], tried[-1]) for tried in self._tried],
            options={"xatol": 1e-5, "fatol": _rounding(self._loss)},
        )
        return np.asarray(found.x), float(found.fun)

    def least_with_one(self) -> tuple[float, float]:
        """The least residual sum of squares with the first term alone, and with the second alone."""
        first, second = (float(self._alone(tried, place)[2].min()) for place, tried in enumerate(self._tried))
        return first, second

    def region(self, best: Array, limit: float) -> tuple[tuple[Interval, Interval], Array]:
        """Intervals of both exponents in the region of misfits up to `limit`, and its laws [R, 4] (a, log A, b, log B).

        A box around `best` grows where the region reaches its side and shrinks where it does not.
        """
        floors, ceilings = (np.array([tried[end] for tried in self._tried]) for end in (0, -1))
        low, high = np.maximum(best - 0.05, floors), np.minimum(best + 0.05, ceilings)
        for _ in range(_MOST_BOXES):
            sides = zip(low, high, best, strict=True)
            nodes = [np.sort([*np.linspace(start, end, _NUM_NODES), middle]) for start, end, middle in sides]
            misfits = self.fit(*nodes)[3]
            hull = [_extent(powers, misfits.min(axis=1 - axis), limit) for axis, powers in enumerate(nodes)]
            reach = np.array(hull).T
            margin = (high - low) / _NUM_NODES
            new_low = np.where(reach[0] == -np.inf, low - (high - low), reach[0] - margin)
            new_high = np.where(reach[1] == np.inf, high + (high - low), reach[1] + margin)
            new_low, new_high = np.maximum(new_low, floors), np.minimum(new_high, ceilings)
            is_settled = (new_low >= low) & (new_high <= high) & (new_high - new_low > 0.8 * (high - low))
            if is_settled.all():
                break
            low, high = new_low, new_high
        first, second = ((float(np.exp(a)), float(np.exp(b))) for a, b in hull)
        return (first, second), self._laws(nodes, limit)

    def _laws(self, nodes: Sequence[Array], limit: float) -> Array:
        """The laws [R, 4] that lie farthest to all sides of (A, B) within `limit`, at each pair of the `nodes`."""
        bases = self._bases(*nodes)
        found = []
        for has_floor in (True, False):
            scale, other = self._terms(bases, has_floor=has_floor).around(limit)
            kept = (scale > 0) & (other > 0)
            if has_floor:
                kept &= self._floor(bases, scale, other) >= 0
            first = np.broadcast_to(np.exp(nodes[0])[:, None], scale.shape)[kept]
            second = np.broadcast_to(np.exp(nodes[1]), scale.shape)[kept]
            found.append(np.stack([first, np.log(scale[kept]), second, np.log(other[kept])], axis=1))
        return np.vstack(found)

    def _alone(self, powers: Array, place: int) -> tuple[Array, Array, Array]:
        return profile(np.exp(powers), self._offsets[place], self._loss)

    def _bases(self, first: Array, second: Array) -> list[Array]:
        """The columns of both terms, [G, n] and [K, n]."""
        return [np.exp(-np.exp(p)[:, None] * o) for p, o in zip((first, second), self._offsets, strict=True)]

    def _floor(self, bases: Sequence[Array], scale: Array, other: Array) -> Array:
        """E of the best law with these A and B."""
        first, second = (basis.mean(axis=1) for basis in bases)
        return np.asarray(self._loss.mean() - scale * first[:, None] - other * second)

    def _terms(self, bases: Sequence[Array], *, has_floor: bool) -> _Terms:
        columns = (*bases, self._loss)
        return _Terms(*(each - each.mean(axis=-1, keepdims=True) if has_floor else each for each in columns))


def _extent(powers: Array, misfits: Array, limit: float) -> Interval:
    """The outermost of `powers` within `limit`, between nodes by a straight line; infinite where the last is inside."""
    inside = np.flatnonzero(misfits <= limit)
    ends = []
    for place, beyond, infinite in ((inside[0], inside[0] - 1, -np.inf), (inside[-1], inside[-1] + 1, np.inf)):
        if not 0 <= beyond < len(powers):
            ends.append(infinite)
            continue
        share = (limit - misfits[place]) / (misfits[beyond] - misfits[place])
        ends.append(float(powers[place] + share * (powers[beyond] - powers[place])))
    return ends[0], ends[1]
