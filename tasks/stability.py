"""Stability: how well designed mini-proteins resist proteases, as a score (Rocklin et al. 2017).

The score is the log10 of the concentration at which half is cut, over that predicted for the unfolded state. Train and
valid are whole designs of several rounds, test the single mutants around 17 proteins.
"""

from proteinlm.tasks.heads import HeadName, PoolName
from proteinlm.tasks.regression import Target, regression
from proteinlm.tasks.task import Task

NAME = "stability"
TARGET = Target(
    column="stability_score",
    description="stability score",
    typical_mean=0.18,
    typical_deviation=0.57,  # both of 53,654 training proteins
)


def stability(head: HeadName = "paper", pool: PoolName = "cls") -> Task:
    """The task "stability"."""
    return regression(NAME, TARGET, head=head, pool=pool)
