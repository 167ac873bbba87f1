"""Micro batches and an engine that computes nothing, for tests of what is done with steps and scores."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.packed import pack
from proteinlm.platform.training.engine import StepFigures, StepReport
from proteinlm.platform.training.loop import Decision
from proteinlm.tasks.task import Batch, TaskModel


def batch(*rows: int) -> Batch:
    """A micro batch of proteins of two residues each."""
    tokens = np.full(4 * len(rows), 5, np.uint8)
    return Batch(
        pack(tokens, np.full(len(rows), 4), get_alphabet("esm")),
        torch.zeros(len(tokens)),
        rows,
        num_residues=2 * len(rows),
    )


@dataclass(frozen=True)
class CountedReport(StepReport):
    """A report that remembers how often it was read."""

    reads: list[StepFigures] = field(default_factory=list)

    def read(self) -> StepFigures:
        self.reads.append(super().read())
        return self.reads[-1]


class StubEngine:
    """An engine and a step log that compute nothing and remember what they were asked.

    A protein's loss is its row number; the steps in `not_finite`, counted from 1, are skipped.
    """

    def __init__(self, not_finite: Sequence[int] = ()) -> None:
        self.rates: list[float] = []
        self.seeds: list[int] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.reports: list[CountedReport] = []
        self._not_finite = not_finite

    def train_step(self, batches: Sequence[Batch], learning_rate: float, seed: int) -> StepReport:
        self.rates.append(learning_rate)
        self.seeds.append(seed)
        one, is_skipped = torch.ones(()), torch.tensor(len(self.rates) in self._not_finite)
        self.reports.append(
            CountedReport(loss=one, scored=one, gradient_norm=one, is_skipped=is_skipped, loss_scale=one)
        )
        return self.reports[-1]

    def eval_step(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": torch.tensor([float(row) for row in batch.rows])}

    def save(self, directory: Path) -> None: ...

    def load(self, directory: Path) -> None: ...

    @contextmanager
    def module(self, writes: bool = False) -> Iterator[TaskModel]:
        raise NotImplementedError
        yield

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self.logged.append((step, dict(figures)))


class StubWriter:
    """A checkpoint writer that remembers what it was to save."""

    def __init__(self) -> None:
        self.saved: list[dict[str, Any]] = []

    def save(self, step: int, **rest: Any) -> None:
        self.saved.append({"step": step, **rest})


class Decided:
    """Interrupts that were decided beforehand, by step."""

    def __init__(self, decisions: Mapping[int, Decision], first_step: int = 0) -> None:
        self._decisions, self._step, self.num_saved = decisions, first_step, 0

    def decide(self) -> Decision:
        self._step += 1
        return self._decisions.get(self._step, Decision(save=False, stop=False))

    def saved(self) -> None:
        self.num_saved += 1
