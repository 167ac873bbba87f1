"""Which size on how many residues: the law loss = E + A / N^alpha + B / D^beta through a sweep's runs, and its optimum.

Hoffmann et al. 2022, Training Compute-Optimal Large Language Models, arXiv 2203.15556, equation 2 and approach 3, but
by least squares on the loss. Given alpha and beta the law is linear in E, A and B, none of them negative, so that the
residual sum of squares is a surface over (alpha, beta); intervals are those of scaling.py, of the same region:
all laws that fit the points nearly as well as the best one does.

D counts residues seen. The law knows nothing of a corpus that is seen several times over.

Shapes: n points, G values of alpha, K values of beta, R laws of the 95 % region.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from proteinlm.platform.results.formatting import amount_in_words, range_in_words
from proteinlm.sweeps.results.least_squares import (
    Array,
    Interval,
    Surface,
    checked_points,
    checked_positive,
    rss_limit,
)

FLOPS_PER_PARAMETER_AND_RESIDUE = 6.0
"""Of training, without attention's own: 2 forward, 4 backward (arXiv 2203.15556, appendix F)."""
MAX_SHARED = 0.99
"""Of the variation of one logarithm, at most this much may follow from others for their effects to be told apart."""
_FEWEST_POINTS = 6  # one more than the law has parameters


@dataclass(frozen=True)
class Advice:
    """How to spend a budget, with 95 % intervals."""

    training_flops: float
    parameters: float
    parameters_interval: Interval
    residues: float
    residues_interval: Interval
    loss: float
    """Predicted there."""
    warnings: tuple[str, ...]
    """What lies outside of what the sweep covered."""

    def as_text(self) -> str:
        """One sentence, and one for each warning."""
        size = f"{amount_in_words(self.parameters)} parameters ({range_in_words(self.parameters_interval)})"
        residues = f"{amount_in_words(self.residues)} residues ({range_in_words(self.residues_interval)})"
        best = f"{self.training_flops:.2g} training FLOPs are best spent on {size} and {residues}, 95 % intervals; "
        return ". ".join([f"{best}the loss is then predicted as {self.loss:.3g}", *self.warnings]) + "."


@dataclass(frozen=True)
class JointLaw:
    """loss = floor + size_scale / parameters^size_exponent + residue_scale / residues^residue_exponent."""

    floor: float
    size_scale: float
    size_exponent: float
    residue_scale: float
    residue_exponent: float
    size_exponent_interval: Interval
    """At 95 %; (0, ...) or (..., inf) where it is open."""
    residue_exponent_interval: Interval
    deviation: float
    """Standard deviation of the points around the law."""
    num_points: int
    flops_per_parameter_and_residue: float
    parameters_covered: Interval
    residues_covered: Interval
    undetermined: str | None
    """Why the points allow no advice; None where they do."""
    region: Array = field(repr=False, compare=False)
    """[R, 4] (alpha, log A, beta, log B) of laws of the 95 % region, the best one last."""

    def best(self, training_flops: float) -> Advice:
        """The size and the residues of the least loss for `training_flops` = k * parameters * residues.

        Raises ValueError for a budget that is not above 0, and where the points do not determine the answer.
        """
        budget = float(checked_positive("training_flops", [training_flops])[0])
        if self.undetermined:
            raise ValueError(f"no advice for {budget:.2g} training FLOPs: {self.undetermined}")
        product = budget / self.flops_per_parameter_and_residue
        sizes = _best_size(self.region, product)
        parameters, low, high = (float(size) for size in (sizes[-1], sizes.min(), sizes.max()))
        residues = product / parameters
        loss = self.floor + self.size_scale * parameters**-self.size_exponent
        return Advice(
            training_flops=budget,
            parameters=parameters,
            parameters_interval=(low, high),
            residues=residues,
            residues_interval=(product / high, product / low),
            loss=loss + self.residue_scale * residues**-self.residue_exponent,
            warnings=_outside("parameters", parameters, self.parameters_covered)
            + _outside("residues", residues, self.residues_covered),
        )


def fit_joint_law(
    parameters: Sequence[float],
    residues: Sequence[float],
    loss: Sequence[float],
    flops_per_parameter_and_residue: float = FLOPS_PER_PARAMETER_AND_RESIDUE,
) -> JointLaw:
    """The law through `loss` [n] of runs of `parameters` [n] on `residues` [n] by least squares.

    Raises ValueError for lengths that differ, values that are not finite numbers above 0, fewer than 6 points, and
    runs that cannot tell the two effects apart: all of one size, all on as many residues, or both growing together.
    A law that the points leave open is returned, and refuses advice.
    """
    (sizes, seen), losses = checked_points({"parameters": parameters, "residues": residues}, loss)
    ratio = float(checked_positive("flops_per_parameter_and_residue", [flops_per_parameter_and_residue])[0])
    _check_design(sizes, seen)
    surface = Surface(np.log(sizes / sizes.min()), np.log(seen / seen.min()), losses)
    powers, least = surface.least()
    degrees = len(losses) - (_FEWEST_POINTS - 1)
    limit = rss_limit(least, degrees, losses)
    ends, region = surface.region(powers, limit)
    alpha, beta = np.exp(powers)
    with np.errstate(divide="ignore", over="ignore"):  # a law that the points leave open may have any scale, and 0
        floor, size_scale, residue_scale = surface.fit(powers[:1], powers[1:])[:3, 0, 0]
        region = np.vstack([region, [alpha, np.log(size_scale), beta, np.log(residue_scale)]])
        region[:, (1, 3)] += region[:, (0, 2)] * np.log([sizes.min(), seen.min()])  # they were of N and D over these
        scales = np.exp(region[-1, (1, 3)])
    return JointLaw(
        floor=float(floor),
        size_scale=float(scales[0]),
        size_exponent=float(alpha),
        residue_scale=float(scales[1]),
        residue_exponent=float(beta),
        size_exponent_interval=ends[0],
        residue_exponent_interval=ends[1],
        deviation=float(np.sqrt(least / degrees)),
        num_points=len(losses),
        flops_per_parameter_and_residue=ratio,
        parameters_covered=(float(sizes.min()), float(sizes.max())),
        residues_covered=(float(seen.min()), float(seen.max())),
        undetermined=_why_undetermined(surface.least_with_one(), ends, limit, len(losses)),
        region=region,
    )


def measured_flops(parameters: Sequence[float], residues: Sequence[float], training_flops: Sequence[float]) -> float:
    """FLOPs for each parameter and residue: the geometric mean over runs [n] of what they took.

    Raises ValueError for lengths that differ, no runs, and values that are not finite numbers above 0.
    """
    for name, values in (("parameters", parameters), ("residues", residues)):
        if len(values) != len(training_flops) or not len(values):
            accepted = f"at least 1, and as many as training_flops, {len(training_flops)}"
            raise ValueError(f"{name}: found {len(values)} values, accepted are {accepted}")
    columns = {"parameters": parameters, "residues": residues, "training_flops": training_flops}
    sizes, seen, flops = (np.log(checked_positive(name, values)) for name, values in columns.items())
    return float(np.exp(np.mean(flops - sizes - seen)))


def _check_design(sizes: Array, seen: Array) -> None:
    """ValueError where runs of `sizes` [n] on `seen` [n] residues cannot tell both effects apart, whatever the loss."""
    count = len(sizes)
    if count < _FEWEST_POINTS:
        accepted = f"at least {_FEWEST_POINTS} for a law of {_FEWEST_POINTS - 1} parameters"
        raise ValueError(f"loss: found {count} values, accepted are {accepted}")
    for name, values in (("parameters", sizes), ("residues", seen)):
        if values.min() == values.max():
            accepted = "runs that differ in them, else nothing is known of their effect"
            raise ValueError(f"{name}: found {amount_in_words(values[0])} in all {count} runs, accepted are {accepted}")
    correlation = float(np.corrcoef(np.log(sizes), np.log(seen))[0, 1])
    if correlation**2 > MAX_SHARED:
        found = f"a correlation of their logarithms of {correlation:.3f} over {count} runs"
        accepted = "runs in which one varies apart from the other, else their effects cannot be told apart"
        raise ValueError(f"parameters and residues: found {found}, accepted are {accepted}")


def _why_undetermined(with_one: Interval, ends: Sequence[Interval], limit: float, count: int) -> str | None:
    """Why a law allows no advice: a term that may be missing, or an exponent that has no bound."""
    for name, without in (("residues", with_one[0]), ("parameters", with_one[1])):
        if without <= limit:
            return f"a law in which {name} play no part fits the {count} points as well (95 %)"
    for name, (low, high) in zip(("parameters", "residues"), ends, strict=True):
        if low == 0 or not np.isfinite(high):
            others = f"below {high:.2g}" if low == 0 else f"above {low:.2g}"
            return f"the {count} points do not bound the exponent of {name}: all {others} fit as well (95 %)"
    return None


def _best_size(laws: Array, product: float) -> Array:
    """N* [R] of `laws` [R, 4] for parameters * residues = `product` (arXiv 2203.15556, equation 4)."""
    alpha, log_scale, beta, log_other = laws.T
    logs = np.log(alpha) + log_scale - np.log(beta) - log_other + beta * np.log(product)
    return np.asarray(np.exp(logs / (alpha + beta)))


def _outside(name: str, value: float, covered: Interval) -> tuple[str, ...]:
    factor = max(covered[0] / value, value / covered[1])
    if factor <= 1:
        return ()
    sweep = f"the sweep covered {range_in_words(covered)}"
    return (f"{amount_in_words(value)} {name} are extrapolated by a factor of {factor:.2g}: {sweep}",)
