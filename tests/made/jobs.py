"""A training job that a test changes one value of."""

from typing import Any

from proteinlm.models.config import ModelConfig
from proteinlm.platform.settings.sections import BatchSection, OptimizerSection, TrainingSection
from proteinlm.platform.training.job import TrainingJob

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
