"""Which task has which baselines."""

import pyarrow as pa

from proteinlm.tasks.baselines import FITS, fit_baselines
from proteinlm.tasks.catalog import TASKS, build_task


def test_pretraining_has_no_baseline_and_every_other_task_some():
    assert fit_baselines(build_task("masked_language_modeling"), pa.table({}), pa.table({})) == ()
    assert set(TASKS) - {"masked_language_modeling"} <= set(FITS)
