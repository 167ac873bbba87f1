"""How loss falls with compute or size: the power law loss = E + A * x^-a through a sweep's runs, with honest intervals.

Given the exponent a the law is linear in E and A (variable projection), so that the residual sum of squares is a
function of a alone, looked at over all decades at once: no start value, no local minimum that is taken for the best.
All intervals come from one region: the laws (E, A, a) that fit the points nearly as well as the best one does,
RSS <= RSS_min * (1 + F / (n - p)), F the 95 % point of the F distribution with 1 and n - p degrees of freedom. The
extent of this region along a parameter, or along a predicted loss, is its profile likelihood interval at 95 % (Bates
and Watts 1988, Nonlinear Regression Analysis and Its Applications, section 6.1; Seber and Wild 2003, Nonlinear
Regression, chapter 5). It may be open: then the points do not determine the exponent.

Noise is taken to be independent and equally large for all points.

Shapes: n points, p parameters, G exponents, R laws on the edge of the region.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from proteinlm.sweeps.results.least_squares import (
    Array,
    Interval,
    checked_points,
    checked_positive,
    exponents_to_try,
    profile,
    rss_limit,
)

_NUM_ANGLES = 64


@dataclass(frozen=True)
class PowerLaw:
    """loss = floor + scale * x^-exponent, each with its 95 % interval."""

    floor: float
    """E, the irreducible loss: what remains however large x is."""
    scale: float
    """A; inf where it is beyond what a number holds."""
    exponent: float
    floor_interval: Interval
    """Of one value where the floor was given."""
    scale_interval: Interval
    exponent_interval: Interval
    """(0, ...) or (..., inf) where it is open."""
    deviation: float
    """Standard deviation of the points around the law."""
    num_points: int
    smallest: float
    """Smallest x of the points."""
    region: Array = field(repr=False, compare=False)
    """[R, 3] (E, A * smallest^-a, a) of laws on the edge of the 95 % region, and of the best one."""

    @property
    def is_determined(self) -> bool:
        """Whether the points bound the exponent on both sides."""
        return self.exponent_interval[0] > 0 and bool(np.isfinite(self.exponent_interval[1]))

    def predict(self, x: ArrayLike) -> tuple[Array, Array, Array]:
        """Loss at `x` (any shape) with the ends of its 95 % interval, each shaped like `x`.

        The interval is of the law, without the noise of a single run. Raises ValueError unless all x are above 0.
        """
        where = np.asarray(x, np.float64)
        offsets = np.log(checked_positive("x", where.ravel()) / self.smallest)
        floor, scale, exponent = self.region.T[:, :, None]
        with np.errstate(over="ignore", invalid="ignore"):  # far below the points a steep law has no bound
            falling = np.where(scale > 0, scale * np.exp(-exponent * offsets), 0.0)
        losses = floor + falling  # [R, n]
        best, low, high = losses[-1], losses.min(axis=0), losses.max(axis=0)
        return best.reshape(where.shape), low.reshape(where.shape), high.reshape(where.shape)

    def as_text(self, x: str = "x") -> str:
        """The law as a person would write it, or that the points do not determine its exponent."""
        low, high = self.exponent_interval
        if self.is_determined:
            law = f"loss = {self.floor:.3g} + {self.scale:.2g} {x}^-{self.exponent:.2g}"
            return f"{law} (95 % interval of the exponent {low:.2g} to {high:.2g})"
        if low > 0:
            others = f"every exponent above {low:.2g} fits as well"
        elif np.isfinite(high):
            others = f"every exponent below {high:.2g} fits as well, and so does a loss that does not change with {x}"
        else:
            others = f"a loss that does not change with {x} fits as well"
        return f"the {self.num_points} points do not determine the exponent of the power law: {others} (95 %)"


def fit_power_law(x: Sequence[float], loss: Sequence[float], floor: float | None = None) -> PowerLaw:
    """The power law through `loss` [n] at `x` [n] (training FLOPs or parameters) by least squares, E and A >= 0.

    `floor`: the irreducible loss where it is known; fitted where not given. Raises ValueError for lengths that differ,
    for fewer than 4 different x (3 with `floor`), for x or loss that is not a finite number above 0, and for a floor
    that is negative or not below all losses.
    """
    places, losses = checked_points({"x": x}, loss)
    needed = 4 if floor is None else 3
    if len(np.unique(places[0])) < needed:
        found = len(np.unique(places[0]))
        raise ValueError(f"x: found {found} different values, accepted are at least {needed} for a power law")
    if floor is not None and not 0 <= floor < losses.min():
        raise ValueError(f"floor: found {floor:g}, accepted is 0 or more, below the smallest loss {losses.min():.4g}")
    offsets = np.log(places[0] / places[0].min())
    exponent, least = _best_exponent(offsets, losses, floor)
    degrees = len(losses) - (needed - 1)
    limit = rss_limit(least, degrees, losses)
    ends = _exponent_interval(exponent, limit, offsets, losses, floor)
    region = np.vstack([_edge(ends, limit, offsets, losses, floor), _law(exponent, offsets, losses, floor)])
    scale, scale_interval = _scale(region, ends, float(places[0].min()))
    return PowerLaw(
        floor=float(region[-1, 0]),
        scale=scale,
        exponent=exponent,
        floor_interval=(float(region[:, 0].min()), float(region[:, 0].max())),
        scale_interval=scale_interval,
        exponent_interval=ends,
        deviation=float(np.sqrt(least / degrees)),
        num_points=len(losses),
        smallest=float(places[0].min()),
        region=region,
    )


def _law(exponent: float, offsets: Array, loss: Array, floor: float | None) -> Array:
    low, scale, _ = profile(np.array([exponent]), offsets, loss, floor)
    return np.array([low[0], scale[0], exponent])


def _scale(region: Array, ends: Interval, smallest: float) -> tuple[float, Interval]:
    """A of the best law, the last of `region`, and its interval."""
    with np.errstate(over="ignore", divide="ignore"):
        scales = np.exp(np.log(region[:, 1]) + region[:, 2] * np.log(smallest))
    low, high = float(scales.min()), float(scales.max())
    if ends[1] == np.inf:  # then A goes where smallest^a goes
        low, high = (0.0 if smallest < 1 else low), (np.inf if smallest > 1 else high)
    return float(scales[-1]), (low, high)


def _best_exponent(offsets: Array, loss: Array, floor: float | None) -> tuple[float, float]:
    """The exponent of least squares, and its residual sum of squares: the best of a grid, refined beside it."""
    from scipy.optimize import minimize_scalar

    grid = np.log(exponents_to_try(offsets))
    place = int(np.argmin(profile(np.exp(grid), offsets, loss, floor)[2]))
    bounds = grid[max(place - 1, 0)], grid[min(place + 1, len(grid) - 1)]
    found = minimize_scalar(
        lambda power: profile(np.exp([power]), offsets, loss, floor)[2][0],
        bounds=bounds,
        method="bounded",
        options={"xatol": 1e-10},
    )
    return float(np.exp(found.x)), float(found.fun)


def _exponent_interval(best: float, limit: float, offsets: Array, loss: Array, floor: float | None) -> Interval:
    """The outermost exponents whose residual sum of squares is at most `limit`; 0 and inf where there is no end."""
    grid = np.log(np.sort([*exponents_to_try(offsets), best]))

    def inside(powers: Array) -> NDArray[np.bool_]:
        return np.asarray(profile(np.exp(powers), offsets, loss, floor)[2] <= limit)

    def end(within: float, beyond: float) -> float:
        for _ in range(4):  # each 32 times as fine as the one before
            powers = np.linspace(within, beyond, 33)
            last = int(np.argmin(inside(powers)[1:]))
            within, beyond = powers[last], powers[last + 1]
        return float(np.exp(within))

    places = np.flatnonzero(inside(grid))
    first, last = places[0], places[-1]
    low = 0.0 if first == 0 else end(grid[first], grid[first - 1])
    return low, np.inf if last == len(grid) - 1 else end(grid[last], grid[last + 1])


def _edge(ends: Interval, limit: float, offsets: Array, loss: Array, floor: float | None) -> Array:
    """Laws [R, 3] on the edge of the 95 % region: for each exponent of the interval an ellipse of (E, A), cut at 0."""
    grid = exponents_to_try(offsets)
    exponents = np.geomspace(max(ends[0], grid[0]), min(ends[1], grid[-1]), 200)
    basis = np.exp(-exponents[:, None] * offsets)
    laws = [_with_floor(floor or 0.0, exponents, basis, loss, limit)]
    if floor is None:
        laws += [_ellipses(exponents, basis, loss, limit), _without_scale(exponents, loss, limit)]
    return np.vstack(laws)


def _with_floor(floor: float, exponents: Array, basis: Array, loss: Array, limit: float) -> Array:
    """The smallest and the largest A of each exponent where E is `floor`."""
    squares = np.sum(basis**2, axis=1)
    scale = (basis @ (loss - floor)) / squares
    room = limit - np.sum((loss - floor - scale[:, None] * basis) ** 2, axis=1)
    reach = np.sqrt(np.maximum(room, 0) / squares)
    scales = np.maximum([scale - reach, scale + reach], 0)  # [2, G]
    return np.stack(np.broadcast_arrays(floor, scales, exponents), axis=-1)[:, room >= 0].reshape(-1, 3)


def _ellipses(exponents: Array, basis: Array, loss: Array, limit: float) -> Array:
    """Points on the ellipse of (E, A) of each exponent that have E and A >= 0."""
    middle = basis.mean(axis=1)
    centred = basis - middle[:, None]
    spread = np.sum(centred**2, axis=1)
    scale = (centred @ loss) / spread
    room = limit - np.sum((loss - loss.mean() - scale[:, None] * centred) ** 2, axis=1)
    reach, angle = np.sqrt(np.maximum(room, 0)), np.linspace(0, 2 * np.pi, _NUM_ANGLES, endpoint=False)[:, None]
    scales = scale + reach * np.cos(angle) / np.sqrt(spread)  # [angles, G]
    floors = loss.mean() + reach * np.sin(angle) / np.sqrt(len(loss)) - scales * middle
    laws = np.stack(np.broadcast_arrays(floors, scales, exponents), axis=-1)
    return np.asarray(laws[(room >= 0) & (floors >= 0) & (scales >= 0)])


def _without_scale(exponents: Array, loss: Array, limit: float) -> Array:
    """The smallest and the largest E where A is 0, a loss that does not change; no law if that misfits."""
    room = limit - float(np.sum((loss - loss.mean()) ** 2))
    if room < 0:
        return np.empty((0, 3))
    reach = np.sqrt(room / len(loss)) * np.array([[-1], [1]])
    floors = np.maximum(loss.mean() + reach, 0)
    return np.stack(np.broadcast_arrays(floors, 0.0, exponents), axis=-1).reshape(-1, 3)
