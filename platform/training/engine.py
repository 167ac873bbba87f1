"""The engine: forward, backward, optimizer step, state, behind five methods. DeepSpeed ZeRO 0 to 3, or plain PyTorch.

    train_step   one optimizer step over this worker's micro batches of a global batch
    eval_step    per-protein columns of one micro batch, without gradient
    save, load   everything that the next step depends on, into and out of a directory
    module       the whole model, gathered on every worker (ZeRO-3 keeps it in pieces)

Loss = sum of losses over the global batch / number of scored labels in the global batch, whoever holds them: the
gradient does not depend on workers, micro batches or ZeRO stage. A step whose gradient is not finite on any worker is
skipped on all: weights and optimizer state stay as they were.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from proteinlm.platform.sections import OptimizerSection, TrainingSection
from proteinlm.platform.training.deepspeed_engine import DeepSpeedEngine
from proteinlm.platform.training.plain_engine import PlainEngine
from proteinlm.platform.training.step import StepReport
from proteinlm.tasks.task import Batch, TaskModel


class Engine(Protocol):
    """What the loop needs; see the module's docstring."""

    def train_step(self, batches: Sequence[Batch], learning_rate: float, seed: int) -> StepReport:
        """One optimizer step over this worker's micro batches; `seed` is that of dropout's draws."""

    def eval_step(self, batch: Batch) -> dict[str, Tensor]:
        """Per-protein columns [B] of one micro batch, without gradient and without dropout."""

    def save(self, directory: Path) -> None:
        """Write everything that the next step depends on into `directory`; every worker calls it."""

    def load(self, directory: Path) -> None:
        """Go on from what `save` wrote into `directory`; every worker calls it."""

    @contextmanager
    def module(self, writes: bool = False) -> Iterator[TaskModel]:
        """The whole model on every worker while the context is open; with `writes`, the first one's changes stay."""


def make_engine(
    model: TaskModel,
    training: TrainingSection,
    optimizer: OptimizerSection,
    *,
    device: torch.device,
    micro_batches: int,
    loads_universal: bool = False,
) -> Engine:
    """The engine that `training.engine` names; `micro_batches` per worker and step.

    `loads_universal`: what it will load was converted from another number of workers (universal.py).
    """
    if training.engine == "plain":
        return PlainEngine(model, training, optimizer, device)
    return DeepSpeedEngine(model, training, optimizer, device, micro_batches, loads_universal)
