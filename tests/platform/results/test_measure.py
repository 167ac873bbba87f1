"""Result rows say what was cut off before it was scored."""

from typing import Any

import numpy as np

from proteinlm.platform.data.manifest import Manifest, Shard, Split
from proteinlm.platform.results.measure import Measured, measure
from proteinlm.platform.results.rows import ResultRow
from proteinlm.tasks.catalog import build_task

ONES = np.ones(3)


def first_row(longest_scored: int | None, **settings: Any) -> ResultRow:
    """Of a split of three proteins, whose longest has 100 residues."""
    shard = Shard(file="valid/a.parquet", rows=3, residues=200, digest="d")
    split = Split(shards=(shard,), residue_counts={"A": 200}, longest=100)
    manifest = Manifest(kind="secondary_structure", splits={"valid": split}, settings=settings, counts={})
    who = Measured("run", "finetune", "model", "full", 0, "1", longest_scored=longest_scored)
    columns = {"correct": ONES, "scored": ONES, "loss": ONES}
    return measure(who, build_task("secondary_structure_q3"), manifest, {"valid": columns})[0]


def test_a_model_that_saw_the_first_residues_alone_is_measured_by_a_definition_of_its_own() -> None:
    whole = first_row(None)
    assert first_row(100).definition == whole.definition
    cut = first_row(99).definition
    assert cut.startswith(whole.definition)
    assert "of every protein the first 99 residues alone" in cut.removeprefix(whole.definition)
    assert (whole.num_proteins, whole.num_scored, whole.value) == (3, 3, 1.0)
