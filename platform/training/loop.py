"""The loop: steps, validation, checkpoints. It knows neither Ray nor DeepSpeed; both come in as arguments."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import distributed as dist

from proteinlm.platform.config import OptimizerSection, TrainingSection
from proteinlm.platform.training.engine import Engine
from proteinlm.platform.training.optim import learning_rate
from proteinlm.tasks.task import Batch, Columns


class StepLog(Protocol):
    """Where figures of a step go."""

    def log(self, step: int, figures: Mapping[str, float]) -> None: ...  # noqa: D102


@dataclass(frozen=True)
class Schedule:
    """Everything about a run's length and cadence that the loop needs."""

    first_step: int
    first_residues: int
    """Residues seen before `first_step`, over all workers."""
    total_steps: int
    seed: int
    training: TrainingSection
    optimizer: OptimizerSection


def train(
    engine: Engine,
    steps: Iterable[Sequence[Batch]],
    schedule: Schedule,
    *,
    validate: Callable[[], Mapping[str, float]],
    save: Callable[[int, int, Mapping[str, float]], None],
    tracker: StepLog,
) -> int:
    """Train from `first_step` to `total_steps`; validate and save at their cadences, and both at the end.

    Returns the residues seen since the run began, over all workers.

    `save(step, residues, figures)` gets the residues seen and the newest validation figures. A step is counted when it
    is done: after the first one `step` is 1, and a run that resumes from there continues with batch number `step`.
    """
    figures: dict[str, float] = {}
    meter = ResidueMeter(schedule.first_residues)
    section = schedule.training
    for step, batches in enumerate(steps, start=schedule.first_step + 1):
        rate = learning_rate(schedule.optimizer, step - 1, schedule.total_steps)
        report = engine.train_step(batches, rate, seed=schedule.seed * 1_000_000_007 + step)
        meter.add(batches)
        is_last = step == schedule.total_steps
        if step % section.log_every == 0 or is_last or step == schedule.first_step + 1:
            row = {"loss": report.loss, "learning_rate": rate, "gradient_norm": report.gradient_norm}
            tracker.log(step, row | meter.read())
        if step % section.validate_every == 0 or is_last:
            with meter.paused():
                figures = dict(validate())
            tracker.log(step, figures)
        if step % section.checkpoint_every == 0 or is_last:
            with meter.paused():
                save(step, meter.total(), figures)
    return meter.total()


class ResidueMeter:
    """Real residues per second over all workers (special tokens and padding are not residues), pauses left out."""

    def __init__(self, residues: int) -> None:
        self._unread = 0
        self._total = residues
        self._seconds_since = time.perf_counter()

    def add(self, batches: Sequence[Batch]) -> None:
        """Count the residues of this worker's micro batches."""
        self._unread += sum(batch.num_residues for batch in batches)

    def total(self) -> int:
        """Residues seen since the run began, over all workers; all workers call it."""
        return self._total + self._everywhere(self._unread)

    def read(self) -> dict[str, float]:
        """`residues_per_s` since the last reading and `residues` in all; all workers call it."""
        new = self._everywhere(self._unread)
        seconds = time.perf_counter() - self._seconds_since
        self._total += new
        self._unread, self._seconds_since = 0, time.perf_counter()
        return {"residues_per_s": new / max(seconds, 1e-9), "residues": float(self._total)}

    @staticmethod
    def _everywhere(count: int) -> int:
        value = torch.tensor(count, dtype=torch.int64)
        if dist.is_initialized():
            dist.all_reduce(value)
        return int(value)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A with-block whose time is not counted."""
        start = time.perf_counter()
        yield
        self._seconds_since += time.perf_counter() - start


def score_split(engine: Engine, batches: Sequence[Batch], num_counted: int) -> tuple[Columns, tuple[int, ...]]:
    """Per-protein columns of a whole split, gathered from all workers, and the row number of each protein, ascending.

    `batches` are this worker's, of which the first `num_counted` count; every worker has equally many.
    """
    parts: list[_Part] = []
    for number, batch in enumerate(batches):
        columns = engine.eval_step(batch)
        if number < num_counted:
            parts.append((batch.rows, {name: column.double().cpu().tolist() for name, column in columns.items()}))
    return _gather(parts)


_Part = tuple[tuple[int, ...], dict[str, list[float]]]
"""Row numbers and columns of one micro batch."""


def _gather(parts: list[_Part]) -> tuple[Columns, tuple[int, ...]]:
    everyone: list[list[_Part]] = [parts]
    if dist.is_initialized() and dist.get_world_size() > 1:
        everyone = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(everyone, parts)
    flat = [part for worker in everyone for part in worker]
    rows = np.array([row for part_rows, _ in flat for row in part_rows], dtype=np.int64)
    order = np.argsort(rows, kind="stable")
    names = list(flat[0][1]) if flat else []
    columns = {name: np.array([v for _, part in flat for v in part[name]], dtype=np.float64)[order] for name in names}
    return columns, tuple(rows[order].tolist())
