"""What trials take, learnt from those that are finished: the constants, and factors of groups."""

import math

import numpy as np
import pytest

from proteinlm.models.work import Speed, Work
from proteinlm.sweeps.planning.pace import Pace, factors, learned

PRIOR = Pace(5.0, Speed(1e10, 1e8))


def works(count: int) -> list[Work]:
    """Of 1 to 100 s at the prior, of both kinds in all proportions."""
    generator = np.random.default_rng(0)
    sizes = generator.uniform(1, 100, (count, 2)) * (generator.uniform(size=(count, 2)) > 0.3)
    return [Work(float(flops) * 1e10, float(weights) * 1e8) for flops, weights in sizes]


def test_nothing_is_learnt_from_nothing() -> None:
    assert learned(PRIOR, [], []) == PRIOR


@pytest.mark.parametrize("factor", [0.2, 3.0])
def test_one_trial_says_how_fast_the_machine_is(factor: float) -> None:
    work, other = Work(8e11, 1e9), Work(1e10, 4e9)
    pace = learned(PRIOR, [work], [factor * PRIOR.seconds(work)])
    assert pace.seconds(work) == pytest.approx(factor * PRIOR.seconds(work), rel=0.01)
    assert pace.seconds(other) == pytest.approx(factor * PRIOR.seconds(other), rel=0.01)


def test_many_trials_say_what_is_dear() -> None:
    real = Pace(2.0, Speed(3e10, 0.2e8))
    noise = np.random.default_rng(1).normal(1, 0.05, 60)
    seen = works(60)
    took = [real.seconds(work) * float(error) for work, error in zip(seen, noise, strict=True)]
    pace = learned(PRIOR, seen, took)
    assert pace.speed.flops == pytest.approx(3e10, rel=0.1)
    assert pace.speed.weights == pytest.approx(0.2e8, rel=0.1)
    assert pace.start == pytest.approx(2.0, abs=1.0)


def test_no_constant_falls_to_nothing() -> None:
    """Trials whose FLOPs took no time at all, by what was measured: they are still not for nothing."""
    seen = works(200)
    pace = learned(PRIOR, seen, [1.0 + work.weights / PRIOR.speed.weights for work in seen])
    assert PRIOR.speed.flops < pace.speed.flops < math.inf
    assert 0 < pace.speed.weights < math.inf
    assert pace.start > 0


def test_where_weights_cost_nothing_they_go_on_costing_nothing() -> None:
    prior = Pace(5.0, Speed(1e10))
    pace = learned(prior, [Work(1e12, 1e10)], [210.0])
    assert pace.speed.weights == math.inf
    assert pace.seconds(Work(1e12, 0.0)) == pytest.approx(210.0, rel=0.01)


def test_what_one_task_takes_beyond_what_is_counted_is_not_charged_to_all() -> None:
    large, of_task = Work(8e11, 1e9), [Work(2e10, 1e8)] * 2
    took = [PRIOR.seconds(large), *(4 * PRIOR.seconds(work) for work in of_task)]
    alone = learned(PRIOR, [large, *of_task], took)
    grouped = learned(PRIOR, [large, *of_task], took, [None, "contacts", "contacts"])
    assert alone.start > 2 * PRIOR.start
    assert grouped.start < 1.5 * PRIOR.start


def test_the_factor_of_a_group_is_believed_the_more_the_more_of_it_is_finished() -> None:
    groups = {"a": "contacts", "b": "contacts", "c": "contacts", "d": "stability", "e": "other"}
    expected = dict.fromkeys("abcdef", 10.0)
    found = factors(groups, expected, {"a": 30.0, "d": 5.0, "f": 99.0})
    assert found == pytest.approx({"contacts": (30 + 5) / (10 + 5), "stability": (5 + 5) / (10 + 5)})
    more = factors(groups, expected, {"a": 30.0, "b": 30.0, "c": 30.0})
    assert found["contacts"] < more["contacts"] < 3.0
