"""Which baselines a task has: what is reached without any language model, from a table of tasks to functions.

All are fitted on tables of a task's shards (`sequence` and the label columns) and give the same per-protein columns as
`Task.score`, so that the same metrics and intervals apply. The table is not in catalog.py because pretraining
reads the catalog and never needs a baseline.
"""

from collections.abc import Callable, Mapping

import pyarrow as pa

from proteinlm.tasks.baselines_contact import fit_contact_baselines
from proteinlm.tasks.baselines_protein import (
    fit_fluorescence_baselines,
    fit_homology_baselines,
    fit_stability_baselines,
)
from proteinlm.tasks.baselines_residue import fit_residue_baselines
from proteinlm.tasks.task import Baseline, Task

Fit = Callable[[Task, pa.Table, pa.Table, int], tuple[Baseline, ...]]
"""(task, train, valid, seed) -> baselines."""


def fit_baselines(task: Task, train: pa.Table, valid: pa.Table, seed: int = 0) -> tuple[Baseline, ...]:
    """The baselines of `task`, fitted on tables of its shards; () for a task that has none. Deterministic by `seed`."""
    fit = FITS.get(task.name)
    return () if fit is None else fit(task, train, valid, seed)


FITS: Mapping[str, Fit] = {
    "secondary_structure_q3": fit_residue_baselines,
    "secondary_structure_q8": fit_residue_baselines,
    "remote_homology": fit_homology_baselines,
    "fluorescence": fit_fluorescence_baselines,
    "stability": fit_stability_baselines,
    "contact_prediction": fit_contact_baselines,
}
