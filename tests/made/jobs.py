"""A training job that a test changes one value of, and one on files."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from proteinlm.models.config import ModelConfig
from proteinlm.platform.data.manifest import Manifest, split_of, write_manifest, write_shard
from proteinlm.platform.settings.sections import BatchSection, OptimizerSection, TrainingSection
from proteinlm.platform.training.job import TrainingJob
from tests.made.small_models import secondary_structure_table

SHAPE = ModelConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)


def job(**changes: Any) -> TrainingJob:
    values: dict[str, Any] = {
        "verb": "finetune",
        "name": "n",
        "directory": "d",
        "task": "secondary_structure_q3",
        "task_options": {},
        "data": "data",
        "model": SHAPE,
        "pretrained": None,
        "mode": "full",
        "seed": 0,
        "batches": BatchSection(),
        "optimizer": OptimizerSection(),
        "training": TrainingSection(steps=1),
        "total_steps": 1,
        "threads_per_worker": None,
        "code_version": "1",
    }
    return TrainingJob.model_validate(values | changes)


def job_on_files(folder: Path, *, steps: int, **training: Any) -> TrainingJob:
    """A finetuning of `steps` steps on three proteins; `training`: further settings of that section."""
    table = secondary_structure_table()
    table = table.append_column("id", pa.array([str(row) for row in range(len(table))]))
    lengths = [len(sequence) for sequence in table.column("sequence").to_pylist()]
    table = table.append_column("length", pa.array(lengths, pa.int32()))
    splits = {name: split_of([write_shard(folder / "data", name, 0, table)]) for name in ("train", "valid")}
    name = "secondary_structure_q3"
    write_manifest(folder / "data", Manifest(kind=name, splits=splits, settings={}, counts={}))
    values = {"steps": steps, "engine": "plain", "precision": "fp32", "log_every": 1} | training
    (folder / "run").mkdir(parents=True)
    places = {"data": folder / "data", "directory": folder / "run", "threads_per_worker": 1}
    return job(
        **places, mode="scratch", training=TrainingSection.model_validate(values), total_steps=steps, keep_model=False
    )
