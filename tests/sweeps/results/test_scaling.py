"""The power law: known exponents come back, intervals cover them as often as they say, and open ends are told."""

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import curve_fit, nnls

from proteinlm.sweeps.results.least_squares import profile
from proteinlm.sweeps.results.scaling import fit_power_law

FLOOR, DROP, EXPONENT = 2.0, 1.2, 0.4
FLOPS = np.geomspace(1e16, 1e18, 10)


def law(x: np.ndarray) -> np.ndarray:
    return FLOOR + DROP * (x / FLOPS[0]) ** -EXPONENT


def noisy(generator: np.random.Generator, noise: float = 0.005) -> np.ndarray:
    return law(FLOPS) * (1 + noise * generator.normal(size=len(FLOPS)))


def test_a_law_without_noise_comes_back() -> None:
    found = fit_power_law(FLOPS, law(FLOPS))
    scale = DROP * FLOPS[0] ** EXPONENT
    assert (found.floor, found.scale, found.exponent) == pytest.approx((FLOOR, scale, EXPONENT), rel=1e-4)
    low, high = found.exponent_interval
    assert EXPONENT - 1e-4 < low <= found.exponent <= high < EXPONENT + 1e-4
    assert found.is_determined
    assert found.predict(FLOPS)[0] == pytest.approx(law(FLOPS), rel=1e-6)


@pytest.mark.parametrize("floor", [None, FLOOR])
def test_is_the_least_squares_fit(floor: float | None) -> None:
    losses = noisy(np.random.default_rng(3))
    found = fit_power_law(FLOPS, losses, floor)

    def free(x: np.ndarray, drop: float, exponent: float, low: float = FLOOR) -> np.ndarray:
        return low + drop * (x / FLOPS[0]) ** -exponent

    start = (DROP, EXPONENT) if floor else (DROP, EXPONENT, FLOOR)
    expected, covariance = curve_fit(free, FLOPS, losses, start)
    assert found.exponent == pytest.approx(expected[1], rel=1e-5)
    assert found.scale == pytest.approx(expected[0] * FLOPS[0] ** expected[1], rel=1e-3)
    assert found.floor == pytest.approx(floor or expected[2], rel=1e-5)
    # With so little noise the law is nearly linear, and the profile interval nearly that of the linearised one.
    half = {None: 2.365, FLOOR: 2.306}[floor] * math.sqrt(covariance[1, 1])
    low, high = found.exponent_interval
    assert (high - low) / 2 == pytest.approx(half, rel=0.05)


def test_the_linear_part_is_that_of_non_negative_least_squares() -> None:
    generator = np.random.default_rng(0)
    offsets, losses = np.log(FLOPS / FLOPS[0]), generator.uniform(0.1, 2, len(FLOPS))
    exponents = np.array([0.01, 0.3, 1, 5])
    floors, scales, misfits = profile(exponents, offsets, np.sort(losses)[::-1])
    floors_of_rising, scales_of_rising, _ = profile(exponents, offsets, np.sort(losses))
    for place, exponent in enumerate(exponents):
        columns = np.stack([np.ones(len(offsets)), np.exp(-exponent * offsets)], axis=1)
        expected, misfit = nnls(columns, np.sort(losses)[::-1])
        assert (floors[place], scales[place]) == pytest.approx(tuple(expected), abs=1e-9)
        assert misfits[place] == pytest.approx(misfit**2)
        expected, _ = nnls(columns, np.sort(losses))
        assert (floors_of_rising[place], scales_of_rising[place]) == pytest.approx(tuple(expected), abs=1e-9)
    assert floors[0] == 0 < floors[-1]  # a slow law ends below 0 unless it is held
    assert not scales_of_rising.any()


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    generator = np.random.default_rng(1)
    repeats, far = 200, 1e20
    covered = dict.fromkeys(("exponent", "floor", "scale", "predicted"), 0)
    for _ in range(repeats):
        found = fit_power_law(FLOPS, noisy(generator))
        _, low, high = found.predict(far)
        for name, (start, end), truth in (
            ("exponent", found.exponent_interval, EXPONENT),
            ("floor", found.floor_interval, FLOOR),
            ("scale", found.scale_interval, DROP * FLOPS[0] ** EXPONENT),
            ("predicted", (float(low), float(high)), float(law(np.array(far)))),
        ):
            covered[name] += start <= truth <= end
    for name, count in covered.items():
        assert 0.90 <= count / repeats <= 0.995, (name, count)


def test_a_given_floor_makes_the_exponent_surer() -> None:
    losses = noisy(np.random.default_rng(2))
    free, held = fit_power_law(FLOPS, losses), fit_power_law(FLOPS, losses, floor=FLOOR)
    assert held.floor_interval == (FLOOR, FLOOR)
    assert np.ptp(held.exponent_interval) < 0.5 * np.ptp(free.exponent_interval)
    assert held.exponent_interval[0] < EXPONENT < held.exponent_interval[1]
    assert held.scale_interval[0] < held.scale < held.scale_interval[1]


def test_the_band_is_narrow_among_the_points_and_wide_beyond() -> None:
    found = fit_power_law(FLOPS, noisy(np.random.default_rng(4)))
    value, low, high = found.predict([[1e14, 1e17], [1e20, 1e24]])
    assert value.shape == low.shape == high.shape == (2, 2)
    assert ((low < value) & (value < high)).all()
    width = (high - low).ravel()
    assert width[1] < width[2] < width[3] < width[0]
    assert (low[1, 1], high[1, 1]) == pytest.approx(found.floor_interval, rel=0.01)


def flat(x: np.ndarray) -> np.ndarray:
    return np.array([2.01, 1.99, 2.02, 1.98, 2.0, 2.01, 1.99, 2.02, 1.98, 2.0])


def step(x: np.ndarray) -> np.ndarray:
    return flat(x) + np.where(x == x.min(), 1.0, 0.0)


def rising(x: np.ndarray) -> np.ndarray:
    return 2 + 0.1 * np.log10(x / x[0])


@pytest.mark.parametrize(
    ("losses", "floor", "words"),
    [
        (
            flat,
            None,
            "the 10 points do not determine the exponent of the power law: a loss that does not change with C",
        ),
        (rising, None, "a loss that does not change with C fits as well"),
        (step, None, r"every exponent above [0-9.]+ fits as well \(95 %\)"),
        (flat, 0.5, r"every exponent below 0.00\d+ fits as well, and so does a loss that does not change with C"),
    ],
)
def test_points_that_leave_the_exponent_open(
    losses: Callable[[np.ndarray], np.ndarray], floor: float | None, words: str
) -> None:
    found = fit_power_law(FLOPS, losses(FLOPS), floor)
    assert not found.is_determined
    text = found.as_text("C")
    assert re.search(words, text), text
    low, high = found.exponent_interval
    assert (low > 0) == (losses is step)
    assert (high < np.inf) == (floor is not None)
    value, low, high = found.predict([1e10, 1e17, 1e30])
    assert (low <= value).all()
    assert (value <= high).all()


def test_a_loss_that_does_not_change_leaves_everything_open() -> None:
    found = fit_power_law(FLOPS, flat(FLOPS))
    assert found.exponent_interval == found.scale_interval == (0, math.inf)
    low, high = found.floor_interval
    assert low == 0
    assert 2.0 < high < 2.05


def test_the_text_says_law_and_interval() -> None:
    text = fit_power_law([1, 10, 100, 1000, 10000], [5.01, 3.5, 2.74, 2.38, 2.19]).as_text("N")
    assert text == "loss = 2.01 + 3 N^-0.31 (95 % interval of the exponent 0.29 to 0.32)"


@pytest.mark.parametrize(
    ("x", "loss", "floor", "message"),
    [
        ([1, 2, 3], [3, 2, 1, 1], None, "x: found 3 values, accepted are as many as losses, 4"),
        ([1, 2, 3, 3, 3], [5, 4, 3, 3, 3], None, "x: found 3 different values, accepted are at least 4"),
        ([1, 2, 2], [5, 4, 3], 1.0, "x: found 2 different values, accepted are at least 3"),
        ([1, 2, 0, 4], [4, 3, 2, 1], None, r"x\[2\]: found 0, accepted are finite numbers above 0"),
        ([1, 2, math.inf, 4], [4, 3, 2, 1], None, r"x\[2\]: found inf, accepted are finite numbers above 0"),
        ([1, 2, 3, 4], [4, 3, 2, math.nan], None, r"loss\[3\]: found nan, accepted are finite numbers above 0"),
        ([1, 2, 3, 4], [4, 3, 2, 1], 1.5, "floor: found 1.5, accepted is 0 or more, below the smallest loss 1"),
        ([1, 2, 3, 4], [4, 3, 2, 1], -0.1, "floor: found -0.1, accepted is 0 or more"),
        ([1, 2, 3, 4], [4, 3, 2, 1], math.nan, "floor: found nan, accepted is 0 or more"),
    ],
)
def test_bad_points_are_refused_by_name(x: list[float], loss: list[float], floor: float | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_power_law(x, loss, floor)


def test_a_prediction_needs_x_above_0() -> None:
    with pytest.raises(ValueError, match=r"x\[1\]: found -3, accepted are finite numbers above 0"):
        fit_power_law(FLOPS, law(FLOPS)).predict([1, -3])
