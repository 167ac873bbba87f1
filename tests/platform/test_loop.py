"""The loop alone, with an engine that computes nothing: cadences, counts, and the order of what is scored."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from proteinlm.models.packed import pack
from proteinlm.platform.config import OptimizerSection, TrainingSection
from proteinlm.platform.training.engine import StepReport
from proteinlm.platform.training.loop import Schedule, score_split, train
from proteinlm.tasks.task import Batch, TaskModel


def batch(*rows: int) -> Batch:
    tokens = np.full(4 * len(rows), 5, np.uint8)
    return Batch(pack(tokens, np.full(len(rows), 4)), torch.zeros(len(tokens)), rows, num_residues=2 * len(rows))


class Recorded:
    """An engine and a step log that remember what they were asked."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.logged: list[tuple[int, set[str]]] = []

    def train_step(self, batches: Sequence[Batch], learning_rate: float, seed: int) -> StepReport:
        self.rates.append(learning_rate)
        return StepReport(loss=1.0, scored=1, gradient_norm=1.0)

    def eval_step(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": torch.tensor([float(row) for row in batch.rows])}

    def save(self, directory: Path) -> None: ...

    def load(self, directory: Path) -> None: ...

    @contextmanager
    def module(self) -> Iterator[TaskModel]:
        raise NotImplementedError
        yield

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self.logged.append((step, set(figures)))


def test_steps_are_counted_from_the_checkpoint_and_cadences_kept() -> None:
    engine, saved = Recorded(), []
    section = TrainingSection(steps=10, validate_every=4, checkpoint_every=3, log_every=5)
    schedule = Schedule(2, 100, 10, 0, section, OptimizerSection(learning_rate=1.0, warmup_steps=10))
    residues = train(
        engine,
        [[batch(0, 1)]] * 8,
        schedule,
        validate=lambda: {"valid/loss": 1.0},
        save=lambda step, residues, figures: saved.append((step, residues, dict(figures))),
        tracker=engine,
    )
    assert [step for step, names in engine.logged if "loss" in names] == [3, 5, 10]
    assert [step for step, names in engine.logged if "valid/loss" in names] == [4, 8, 10]
    assert [step for step, _, _ in saved] == [3, 6, 9, 10]
    assert saved[0] == (3, 104, {}), "nothing was validated yet"
    assert saved[-1] == (10, 132, {"valid/loss": 1.0})
    assert residues == 132
    assert engine.rates == pytest.approx([0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])


def test_columns_come_in_the_order_of_rows_and_filling_does_not_count() -> None:
    columns, rows = score_split(Recorded(), [batch(4, 1), batch(3), batch(7)], num_counted=2)
    assert rows == (1, 3, 4)
    assert columns["loss"].tolist() == [1.0, 3.0, 4.0]
