"""Predictions of each protein as Parquet: in the order of the split, with labels, columns and outputs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from proteinlm.platform.labelled.split_files import SplitOptions
from proteinlm.platform.labelled.task_data import build_task_shards, read_split
from proteinlm.platform.training.evaluation import Scores, write_predictions
from proteinlm.platform.training.job import Run, Worker
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.task import Output
from tests.made.jobs import job
from tests.made.tape_records import tape_record, write_as_tape


def test_predictions_stand_beside_the_labels_of_their_protein(tmp_path: Path) -> None:
    for place, split in enumerate(("train", "valid", "test")):
        records = [tape_record("stability", 10 * place + number) for number in range(6)]
        write_as_tape(tmp_path / f"stability_{split}.lmdb", records)
    manifest = build_task_shards("stability", tmp_path, tmp_path / "shards", SplitOptions(seed=0), shard_rows=2)
    task = replace(build_task("stability"), outputs=(Output("said", "token", "int8"),))
    # A prefix of the split, as validation scores it.
    said = [np.arange(number, dtype=np.int8) for number in range(4)]
    scores = Scores({"prediction": np.arange(4) / 2}, (0, 1, 2, 3), {"said": said})
    told = job(task="stability", directory=tmp_path / "run", data=tmp_path / "shards")
    run = Run(told, manifest, task, Worker(0, 1, torch.device("cpu")))
    for _ in range(2):  # a run that was killed at its end writes them again
        write_predictions(run, "test", scores)
    (file,) = (tmp_path / "run" / "predictions").iterdir()
    table, stored = pq.read_table(file), read_split(tmp_path / "shards", manifest, "test").slice(0, 4)
    assert table.column("row").to_pylist() == [0, 1, 2, 3]
    assert table.select(stored.column_names).equals(stored)
    assert table.column("prediction").to_pylist() == [0.0, 0.5, 1.0, 1.5]
    assert table.column("said").to_pylist() == [values.tolist() for values in said]
    assert table.schema.field("said").type == pa.list_(pa.int8())
