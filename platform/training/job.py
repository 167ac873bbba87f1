"""What a training worker is told: one plain value that travels, made by a verb and read by the worker."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from proteinlm.models.config import ModelConfig
from proteinlm.platform.settings.sections import (
    BatchSection,
    LoraSection,
    OptimizerSection,
    ProbeSection,
    Section,
    TrainingSection,
)

CNN = "cnn"
"""The mode in which a small convolutional encoder takes the place of the transformer, from scratch."""


class TrainingJob(Section):
    """Everything that determines a training run's result, and where it goes."""

    kind: Literal["pretrain", "finetune"]
    name: str
    configuration: str | None = None
    """Name that runs share which differ in their seed alone; None: the run's own."""
    directory: Path
    """Run directory, as every node sees it."""
    task: str
    task_options: dict[str, Any]
    data: Path
    """Directory of shards with a manifest."""
    model: ModelConfig
    pretrained: Path | None
    """Where the encoder's weights come from; None: random ones."""
    mode: str
    """pretrain, or FinetuneConfig.mode."""
    lora: LoraSection | None = None
    """Adapters that are trained in place of the encoder's own weights."""
    keep_model: bool = True
    """Whether a finetuned model is saved in the run directory; a pretrained one always is."""
    probe: ProbeSection | None = None
    """What is probed at each validation of a pretraining; its `data` are shards."""
    seed: int
    batches: BatchSection
    optimizer: OptimizerSection
    training: TrainingSection
    total_steps: int
    threads_per_worker: int | None
    """PyTorch threads; None: the node's cores shared by its workers."""
    code_version: str


@dataclass(frozen=True)
class Place:
    """Which of a run's workers this is, and what it computes on."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this worker writes what is written once."""
        return self.rank == 0
