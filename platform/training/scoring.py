"""Scoring whole splits with an engine, during training and at its end: every protein counts once over all workers."""

from collections.abc import Sequence

import numpy as np
from torch import distributed as dist

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.config import ModelConfig
from proteinlm.platform.data.manifest import Manifest
from proteinlm.platform.data.stream import validation_batches
from proteinlm.platform.data.windows import Reading
from proteinlm.platform.training.engine import Engine
from proteinlm.platform.training.job import Place, TrainingJob
from proteinlm.tasks.task import Batch, Columns, Task


def make_reading(manifest: Manifest, task: Task, job: TrainingJob, split: str, seed: int) -> Reading:
    """How the rows of one split are read: cropped in training, in scoring whole as far as the model allows."""
    is_training = split == task.train_split
    others = is_training and job.training_mask_fraction is not None
    return Reading(
        directory=str(job.data),
        split=manifest.split(split),
        alphabet=job.model.alphabet,
        task=job.task,
        task_options=job.task_options | ({"mask_fraction": job.training_mask_fraction} if others else {}),
        seed=seed,
        max_length=job.batches.max_length if is_training else longest_scored(job.model),
        crop=job.batches.crop,
    )


def longest_scored(model: ModelConfig) -> int:
    """Residues of a protein that a model can score: all with rotary positions, else what its position table holds."""
    if model.position == "rotary":
        return 2**30
    return model.max_positions - get_alphabet(model.alphabet).specials_per_protein


class Watched:
    """The splits that are scored during training and at its end, and what the last scoring gave."""

    def __init__(self, engine: Engine, task: Task, manifest: Manifest, job: TrainingJob, place: Place) -> None:
        self._engine, self._task, self._manifest, self._job, self._place = engine, task, manifest, job, place
        self._batches: dict[str, tuple[list[Batch], int]] = {}
        self._columns: dict[str, Columns] = {}

    def validate(self) -> dict[str, float]:
        """Score the watched splits; `<split>/<metric>` for every metric of the task."""
        figures: dict[str, float] = {}
        for split in self._task.valid_splits:
            self._columns[split] = self._score(split, self._job.training.validation_residues)
            figures |= {f"{split}/{m.name}": m.compute(self._columns[split]) for m in self._task.metrics}
        return figures

    def final_scores(self) -> dict[str, Columns]:
        """Columns of the watched splits as last scored, and of the whole test splits."""
        if not self._columns:  # resumed after the last step: nothing was scored in this process
            self.validate()
        return self._columns | {split: self._score(split, None) for split in self._task.test_splits}

    def _score(self, split: str, max_residues: int | None) -> Columns:
        if split not in self._batches:
            reading = make_reading(self._manifest, self._task, self._job, split, self._manifest.split(split).mask_seed)
            self._batches[split] = validation_batches(
                reading,
                micro_batch_residues=self._job.batches.micro_batch_residues,
                max_residues=max_residues,
                rank=self._place.rank,
                world_size=self._place.world_size,
            )
        batches, counted = self._batches[split]
        return score_split(self._engine, batches, counted)[0]


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
