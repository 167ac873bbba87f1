"""What a finetuned model said of every protein, as `<run>/predictions/<split>.parquet`: a row for each, in split order.

Columns: row, id, sequence, length and the task's labels as they stand in its shards; the per-protein columns that the
metrics are computed from ("prediction", "correct", ...); and the task's outputs as lists over residues or pairs.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from proteinlm.platform.data.manifest import Manifest
from proteinlm.platform.data.task_shards import read_split
from proteinlm.platform.training.scoring import Scores
from proteinlm.tasks.task import Task

FOLDER = "predictions"


def write_predictions(
    run_directory: Path, data: Path, manifest: Manifest, task: Task, split: str, scores: Scores
) -> None:
    """Write the predictions of a split, in place of older ones."""
    rows = pa.array(scores.rows, pa.int64())
    table = read_split(data, manifest, split).take(rows)
    table = table.add_column(0, "row", rows)
    for name, values in scores.columns.items():
        table = table.append_column(name, pa.array(values, pa.float64()))
    for output in task.outputs:
        values_type = pa.list_(pa.from_numpy_dtype(output.dtype))
        table = table.append_column(output.name, pa.array(scores.outputs[output.name], values_type))
    folder = run_directory / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{split}.parquet.writing"
    pq.write_table(table, aside, compression="zstd")
    aside.rename(folder / f"{split}.parquet")
