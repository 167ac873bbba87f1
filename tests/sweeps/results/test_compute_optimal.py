"""The joint law: exponents and the best size come back with honest intervals, and no advice without grounds."""

import math

import numpy as np
import pytest
from scipy.optimize import nnls

from proteinlm.sweeps.results.compute_optimal import fit_joint_law, measured_flops
from proteinlm.sweeps.results.least_squares import Surface

FLOOR, ALPHA, BETA = 1.8, 0.35, 0.3
SIZE_SCALE, RESIDUE_SCALE = 0.5 * 1e6**ALPHA, 0.6 * 1e8**BETA
SIZES, RESIDUES = (values.ravel() for values in np.meshgrid(np.geomspace(1e6, 1e8, 5), np.geomspace(1e8, 1e10, 5)))
BUDGET = 1e18


def law(sizes: np.ndarray, residues: np.ndarray) -> np.ndarray:
    return FLOOR + SIZE_SCALE * sizes**-ALPHA + RESIDUE_SCALE * residues**-BETA


def noisy(generator: np.random.Generator, noise: float = 0.003) -> np.ndarray:
    return law(SIZES, RESIDUES) * (1 + noise * generator.normal(size=len(SIZES)))


def best_size(budget: float) -> float:
    """By trying a million sizes."""
    sizes = np.geomspace(1e5, 1e9, 1_000_001)
    return float(sizes[np.argmin(law(sizes, budget / 6 / sizes))])


def test_a_law_without_noise_comes_back_with_its_best_size() -> None:
    found = fit_joint_law(SIZES, RESIDUES, law(SIZES, RESIDUES))
    assert (found.floor, found.size_exponent, found.residue_exponent) == pytest.approx((FLOOR, ALPHA, BETA), rel=1e-3)
    assert (found.size_scale, found.residue_scale) == pytest.approx((SIZE_SCALE, RESIDUE_SCALE), rel=0.02)
    advice = found.best(BUDGET)
    assert advice.parameters == pytest.approx(best_size(BUDGET), rel=1e-3)
    assert 6 * advice.parameters * advice.residues == pytest.approx(BUDGET)
    assert advice.loss == pytest.approx(float(law(np.array(advice.parameters), np.array(advice.residues))), rel=1e-6)
    assert advice.warnings == ()


def test_the_surface_is_that_of_non_negative_least_squares() -> None:
    generator = np.random.default_rng(0)
    first, second = np.log(SIZES / SIZES.min()), np.log(RESIDUES / RESIDUES.min())
    powers = np.log([[0.001, 0.1, 0.4, 3], [0.01, 0.2, 0.5, 8]])
    empty = set()
    for noise in (0.01, 1.0, 1.0, 1.0):
        losses = np.abs(law(SIZES, RESIDUES) * (1 + noise * generator.normal(size=len(SIZES))))
        floor, scale, other, misfit = Surface(first, second, losses).fit(*powers)
        for i, k in np.ndindex(4, 4):
            terms = (np.exp(-np.exp(powers[0, i]) * first), np.exp(-np.exp(powers[1, k]) * second))
            expected, left = nnls(np.stack([np.ones(len(first)), *terms], axis=1), losses)
            assert misfit[i, k] == pytest.approx(left**2, rel=1e-6)
            assert (floor[i, k], scale[i, k], other[i, k]) == pytest.approx(tuple(expected), abs=1e-5)
            empty.add(tuple(expected > 0))
    assert len(empty) >= 4  # coefficients of 0 in several places


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    generator = np.random.default_rng(1)
    repeats, truth = 40, best_size(BUDGET)
    covered = dict.fromkeys(("parameters' exponent", "residues' exponent", "best size", "best residues"), 0)
    for _ in range(repeats):
        found = fit_joint_law(SIZES, RESIDUES, noisy(generator))
        advice = found.best(BUDGET)
        for name, (low, high), value in (
            ("parameters' exponent", found.size_exponent_interval, ALPHA),
            ("residues' exponent", found.residue_exponent_interval, BETA),
            ("best size", advice.parameters_interval, truth),
            ("best residues", advice.residues_interval, BUDGET / 6 / truth),
        ):
            covered[name] += low <= value <= high
    for name, count in covered.items():
        assert count / repeats >= 0.85, (name, count)
    assert min(covered.values()) < repeats  # 95 % and not all: an interval without end covers everything


def test_advice_is_for_the_flops_that_runs_took() -> None:
    found = fit_joint_law(SIZES, RESIDUES, law(SIZES, RESIDUES), flops_per_parameter_and_residue=12)
    assert found.best(2 * BUDGET).parameters == pytest.approx(best_size(BUDGET), rel=1e-3)


def test_measured_flops_are_a_geometric_mean() -> None:
    assert measured_flops([2, 2], [3, 3], [6, 6 * 16]) == pytest.approx(4)


def test_what_lies_outside_of_the_sweep_is_said() -> None:
    found = fit_joint_law(SIZES, RESIDUES, noisy(np.random.default_rng(0)))
    advice = found.best(1e21)
    assert len(advice.warnings) == 2
    factor = advice.parameters / 1e8
    assert (
        f"parameters are extrapolated by a factor of {factor:.2g}: the sweep covered 1 million to 100 million"
        in (advice.warnings[0])
    )
    assert "residues are extrapolated by a factor of" in advice.warnings[1]
    assert "the sweep covered 100 million to 10 billion" in advice.warnings[1]
    small = found.best(1e13).warnings
    assert [warning.split(" are ")[0].split()[-1] for warning in small] == ["parameters", "residues"]


def test_the_text_has_two_digits_and_words() -> None:
    text = fit_joint_law(SIZES, RESIDUES, noisy(np.random.default_rng(0))).best(1e18).as_text()
    assert text == (
        "1e+18 training FLOPs are best spent on 32 million parameters (28 million to 37 million) and 5.2 billion "
        "residues (4.6 billion to 5.9 billion), 95 % intervals; the loss is then predicted as 2.13."
    )


def test_a_term_that_plays_no_part_allows_no_advice() -> None:
    generator = np.random.default_rng(0)
    noise = 1 + 0.003 * generator.normal(size=len(SIZES))
    for losses, name in (
        (FLOOR + RESIDUE_SCALE * RESIDUES**-BETA, "parameters"),
        (FLOOR + SIZE_SCALE * SIZES**-ALPHA, "residues"),
    ):
        found = fit_joint_law(SIZES, RESIDUES, losses * noise)
        message = f"no advice for 1e.18 training FLOPs: a law in which {name} play no part fits the 25 points as well"
        with pytest.raises(ValueError, match=message):
            found.best(BUDGET)


def test_an_exponent_without_bound_allows_no_advice() -> None:
    sizes, residues = (v.ravel() for v in np.meshgrid([1e6, 1e7], np.geomspace(1e8, 1e10, 5)))
    noise = 1 + 0.001 * np.random.default_rng(0).normal(size=len(sizes))
    found = fit_joint_law(sizes, residues, law(sizes, residues) * noise)
    assert found.size_exponent_interval[1] == math.inf
    message = r"the 10 points do not bound the exponent of parameters: all above 0\.\d+ fit as well"
    with pytest.raises(ValueError, match=message):
        found.best(BUDGET)


SIX = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
OTHERS = [3.0, 9.0, 1.0, 27.0, 2.0, 5.0]
LOSSES = [6.0, 5.0, 4.5, 4.0, 3.5, 3.0]


@pytest.mark.parametrize(
    ("sizes", "residues", "loss", "message"),
    [
        (SIX[:5], OTHERS[:5], LOSSES[:5], "loss: found 5 values, accepted are at least 6 for a law of 5 parameters"),
        ([2e6] * 6, OTHERS, LOSSES, "parameters: found 2 million in all 6 runs, accepted are runs that differ in them"),
        (SIX, [3e9] * 6, LOSSES, "residues: found 3 billion in all 6 runs, accepted are runs that differ in them"),
        (SIX, [20 * size for size in SIX], LOSSES, r"parameters and residues: found a correlation .* of 1\.000 over 6"),
        (SIX, [64 / size for size in SIX], LOSSES, r"parameters and residues: found a correlation .* of -1\.000"),
        (SIX, OTHERS[:5], LOSSES, "residues: found 5 values, accepted are as many as losses, 6"),
        (SIX[:5], OTHERS, LOSSES, "parameters: found 5 values, accepted are as many as losses, 6"),
        ([*SIX[:5], -1], OTHERS, LOSSES, r"parameters\[5\]: found -1, accepted are finite numbers above 0"),
        (SIX, [*OTHERS[:5], 0], LOSSES, r"residues\[5\]: found 0, accepted are finite numbers above 0"),
        (SIX, OTHERS, [*LOSSES[:5], math.nan], r"loss\[5\]: found nan, accepted are finite numbers above 0"),
    ],
)
def test_bad_points_are_refused_by_name(
    sizes: list[float], residues: list[float], loss: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit_joint_law(sizes, residues, loss)


def test_bad_flops_are_refused_by_name() -> None:
    losses = law(SIZES, RESIDUES)
    with pytest.raises(ValueError, match=r"flops_per_parameter_and_residue\[0\]: found 0, accepted are finite numbers"):
        fit_joint_law(SIZES, RESIDUES, losses, flops_per_parameter_and_residue=0)
    with pytest.raises(ValueError, match=r"training_flops\[0\]: found -1, accepted are finite numbers above 0"):
        fit_joint_law(SIZES, RESIDUES, losses).best(-1)
    with pytest.raises(ValueError, match="residues: found 1 values, accepted are at least 1, and as many as training"):
        measured_flops([1, 2], [1], [1, 2])
    with pytest.raises(ValueError, match="parameters: found 0 values, accepted are at least 1"):
        measured_flops([], [], [])
    with pytest.raises(ValueError, match=r"training_flops\[0\]: found nan"):
        measured_flops([1], [1], [math.nan])
