"""Micro batches and an engine for tests of what is done with scores; nothing is computed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from proteinlm.models.packed import pack
from proteinlm.platform.training.step import StepReport
from proteinlm.tasks.task import Batch, TaskModel


def batch(*rows: int) -> Batch:
    """A micro batch of proteins of two residues each."""
    tokens = np.full(4 * len(rows), 5, np.uint8)
    return Batch(pack(tokens, np.full(len(rows), 4)), torch.zeros(len(tokens)), rows, num_residues=2 * len(rows))


class Scored:
    """An engine whose loss for a protein is its row number."""

    def train_step(self, batches: Sequence[Batch], learning_rate: float, seed: int) -> StepReport:
        raise NotImplementedError

    def eval_step(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": torch.tensor([float(row) for row in batch.rows])}

    def save(self, directory: Path) -> None: ...

    def load(self, directory: Path) -> None: ...

    @contextmanager
    def module(self) -> Iterator[TaskModel]:
        raise NotImplementedError
        yield
