"""Fluorescence: the log10 brightness of mutants of green fluorescent protein (Sarkisyan et al. 2016).

Train and valid have up to three mutations, test has four to fifteen. Brightness has two modes, bright and dark, and
telling them apart alone already gives a high rank correlation: it is measured inside each of them too.
"""

import math

from proteinlm.tasks.heads import HeadName, PoolName
from proteinlm.tasks.records import protein_count
from proteinlm.tasks.regression import Mode, Target, regression
from proteinlm.tasks.task import Task

NAME = "fluorescence"
MUTATIONS_COLUMN = "num_mutations"
BRIGHT_ABOVE = 2.5
"""log10 fluorescence between the two modes."""
TARGET = Target(
    column="log_fluorescence",
    description="log10 fluorescence",
    typical_mean=3.18,
    typical_deviation=0.84,  # both of the 21,446 training proteins
    modes=(
        Mode("bright", BRIGHT_ABOVE, math.inf, f"whose log10 fluorescence is above {BRIGHT_ABOVE}"),
        Mode("dark", -math.inf, BRIGHT_ABOVE, f"whose log10 fluorescence is {BRIGHT_ABOVE} or below"),
    ),
)


def fluorescence(head: HeadName = "paper", pool: PoolName = "cls") -> Task:
    """The task "fluorescence"; its records may also hold `num_mutations`, which a baseline reads."""
    further_fields = (protein_count(MUTATIONS_COLUMN, is_required=False),)
    return regression(NAME, TARGET, head=head, pool=pool, further_fields=further_fields)
