"""How long trials take: a start, and their computing at a speed; learnt anew from each trial that is finished.

    Pace, what trials compute, seconds of those that are finished -> learned -> Pace -> seconds of the others

The constants of a pace are fitted by least squares: start, seconds for a FLOP, seconds for an attention weight
(models/work.py). What is not known yet is taken from the pace of before: all of it slower or faster by one factor, and
each constant within half of that. So one or two trials say how fast the machine is, and more of them say what is dear
on it. Finetuning of a task takes a factor more or less than what is counted, for its head and its records are not; so
the constants are believed to the trials of a task together, not to each, and then the factor is learnt.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from proteinlm.models.work import Speed, Work

NOISE, SECOND = 0.1, 1.0
"""Deviation of a trial's time: share of it, and seconds."""
SPREAD = 0.5
"""Deviation of a constant from the factor that is common to all, as a share of it."""
GROUP_SPREAD = 0.4
"""Deviation of the factor of a group of trials."""


@dataclass(frozen=True)
class Pace:
    """What a trial takes."""

    start: float
    """Seconds beside its computing."""
    speed: Speed

    def seconds(self, work: Work) -> float:
        """Of a trial that computes `work`."""
        return self.start + self.speed.seconds(work)


def learned(
    prior: Pace, works: Sequence[Work], seconds: Sequence[float], groups: Sequence[str | None] | None = None
) -> Pace:
    """The pace of trials that computed `works` and took `seconds` [n each]; `prior` where there is none.

    `groups`: those of trials for which not all is counted; None: it is.
    """
    if not works:
        return prior
    from scipy.optimize import nnls

    parts, took = np.array([_parts(prior, work) for work in works]), np.array(seconds)
    groups = groups or [None] * len(works)
    together = Counter(group for group in groups if group)
    spread = np.array([GROUP_SPREAD * math.sqrt(together[group]) if group else 0.0 for group in groups])
    deviation = np.hypot(NOISE, spread) * took + SECOND
    factor = (took / deviation).sum() / (parts.sum(axis=1) / deviation).sum()
    # Unknown: a factor for each constant, and the one that they scatter around.
    measured = np.column_stack([parts / deviation[:, None], np.zeros(len(took))])
    scatter = np.column_stack([np.eye(3), -np.ones(3)]) / (SPREAD * factor)
    found, _ = nnls(np.vstack([measured, scatter]), np.concatenate([took / deviation, np.zeros(3)]))
    start, flops, weights = (max(1e-3 * factor, float(one)) for one in found[:3])
    speed = Speed(prior.speed.flops / flops, prior.speed.weights / weights)
    return Pace(prior.start * start, speed)


def _parts(pace: Pace, work: Work) -> tuple[float, float, float]:
    """Seconds of the start, of FLOPs and of attention weights."""
    return pace.start, work.flops / pace.speed.flops, work.weights / pace.speed.weights


def factors(groups: Mapping[str, str], expected: Mapping[str, float], took: Mapping[str, float]) -> dict[str, float]:
    """Group -> what its finished trials took over what was expected; half a trial more, which took that, counts too.

    `groups` is the group of each trial, `expected` its seconds, `took` those of the finished ones.
    """
    sums: dict[str, tuple[float, float, int]] = {}
    for name in took.keys() & groups.keys():
        was, of, count = sums.get(groups[name], (0.0, 0.0, 0))
        sums[groups[name]] = (was + took[name], of + expected[name], count + 1)
    return {group: (was + of / count / 2) / (of + of / count / 2) for group, (was, of, count) in sums.items()}
