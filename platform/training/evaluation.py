"""Scoring whole splits with an engine, during training and at its end, and writing a prediction for every protein.

Every protein counts once over all workers. During pretraining the contact probe is fitted anew at each validation, on
the same few proteins, and scored by the first worker alone. Predictions of a finetuned model are
`<run>/predictions/<split>.parquet`, a row for each protein in split order: row, id, sequence, length and the task's
labels as they stand in its shards; the per-protein columns that the metrics are computed from ("prediction", "correct",
...); and the task's outputs as lists over residues or pairs.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from torch import Tensor
from torch import distributed as dist

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.config import ModelConfig
from proteinlm.platform.batches.stream import validation_batches
from proteinlm.platform.batches.windows import Reading
from proteinlm.platform.data.manifest import Manifest, read_manifest
from proteinlm.platform.labelled.task_data import read_split
from proteinlm.platform.settings.sections import ProbeSection
from proteinlm.platform.storage.atomic import staged_file
from proteinlm.platform.storage.run_directory import PREDICTIONS_FOLDER
from proteinlm.platform.training.engine import Engine
from proteinlm.platform.training.job import Place, TrainingJob
from proteinlm.tasks.contact_precision import precision_metrics
from proteinlm.tasks.contact_probe import fit_contact_probe
from proteinlm.tasks.task import Batch, Columns, Output, Task


@dataclass(frozen=True)
class Scores:
    """What a split was scored with; proteins in the order of their rows."""

    columns: Columns
    """Per-protein columns [B] of the task."""
    rows: tuple[int, ...]
    """[B] row numbers in the split, ascending."""
    outputs: dict[str, list[NDArray[np.generic]]] = field(default_factory=dict)
    """The task's outputs by name: for each protein an array over its residues or pairs of residues."""


def make_reading(manifest: Manifest, task: Task, job: TrainingJob, split: str, seed: int) -> Reading:
    """How the rows of one split are read: cropped in training, in scoring whole as far as the model allows."""
    is_training = split == task.train_split
    return Reading(
        directory=str(job.data),
        split=manifest.split(split),
        alphabet=job.model.alphabet,
        task=job.task,
        task_options=job.task_options,
        seed=seed,
        max_length=job.batches.max_length if is_training else longest_scored(job.model),
        # A frozen encoder's embeddings are computed once: a random crop would be another embedding in every epoch.
        crop="start" if job.mode == "frozen" and job.batches.crop == "random" else job.batches.crop,
    )


def longest_scored(model: ModelConfig) -> int:
    """Residues of a protein that a model can score: all with rotary positions, else what its position table holds."""
    if model.position == "rotary":
        return 2**30
    return model.max_positions - get_alphabet(model.alphabet).specials_per_protein


def _as_it_is(batch: Batch, split: str) -> Batch:
    return batch


class Watched:
    """The splits that are scored during training and at its end, and what the last scoring gave."""

    def __init__(
        self,
        engine: Engine,
        task: Task,
        manifest: Manifest,
        job: TrainingJob,
        place: Place,
        completed: Callable[[Batch, str], Batch] = _as_it_is,
    ) -> None:
        """`completed` adds to a micro batch of a split what was computed for its proteins before (embeddings.py)."""
        self._engine, self._task, self._manifest, self._job, self._place = engine, task, manifest, job, place
        self._completed = completed
        self._batches: dict[str, tuple[list[Batch], int]] = {}
        self._scores: dict[str, Scores] = {}

    def validate(self) -> dict[str, float]:
        """Score the watched splits; `<split>/<metric>` for every metric of the task."""
        figures: dict[str, float] = {}
        for split in self._task.valid_splits:
            scores = self._score(split, self._job.training.validation_residues)
            self._scores[split] = scores
            figures |= {f"{split}/{m.name}": m.compute(scores.columns) for m in self._task.metrics}
        return figures

    def final_scores(self) -> dict[str, Scores]:
        """The watched splits as last scored, and the whole test splits."""
        if not self._scores:  # resumed after the last step: nothing was scored in this process
            self.validate()
        return self._scores | {split: self._score(split, None) for split in self._task.test_splits}

    def _score(self, split: str, max_residues: int | None) -> Scores:
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
        completed = (self._completed(batch, split) for batch in batches)
        return score_split(self._engine, completed, counted, self._task.outputs)


def score_split(
    engine: Engine,
    batches: Iterable[Batch],
    num_counted: int,
    outputs: Sequence[Output] = (),
) -> Scores:
    """The scores of a whole split, gathered from all workers.

    `batches` are this worker's, of which the first `num_counted` count; every worker has equally many.
    """
    parts: list[_Part] = []
    for number, batch in enumerate(batches):
        found = engine.eval_step(batch)
        if number >= num_counted:
            continue
        kept = {output.name: _of_each_protein(output, found.pop(output.name), batch) for output in outputs}
        columns = {name: column.double().cpu().numpy() for name, column in found.items()}
        parts.append(_Part(batch.rows, columns, kept))
    return _gathered(parts)


@dataclass(frozen=True)
class _Part:
    """Row numbers, columns and outputs of one micro batch."""

    rows: tuple[int, ...]
    columns: dict[str, NDArray[np.float64]]
    outputs: dict[str, list[NDArray[np.generic]]]


def _of_each_protein(output: Output, values: Tensor, batch: Batch) -> list[NDArray[np.generic]]:
    """An output of a micro batch cut into one array for each protein, special tokens left out."""
    is_residue = batch.packed.is_residue.cpu().numpy()
    protein = batch.packed.protein_index.cpu().numpy()[is_residue]
    residues = np.bincount(protein, minlength=batch.packed.num_proteins)
    whole = values.float().cpu().numpy().astype(output.dtype)
    if output.level == "pair":
        return np.split(whole, np.cumsum(residues * (residues - 1) // 2)[:-1])
    return np.split(whole[is_residue], np.cumsum(residues)[:-1])


def _gathered(parts: list[_Part]) -> Scores:
    everyone: list[list[_Part]] = [parts]
    if dist.is_initialized() and dist.get_world_size() > 1:
        everyone = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(everyone, parts)
    flat = [part for worker in everyone for part in worker]
    if not flat:
        return Scores({}, ())
    rows = np.array([row for part in flat for row in part.rows], dtype=np.int64)
    order = np.argsort(rows, kind="stable")
    columns = {name: np.concatenate([part.columns[name] for part in flat])[order] for name in flat[0].columns}
    outputs = {}
    for name in flat[0].outputs:
        arrays = [array for part in flat for array in part.outputs[name]]
        outputs[name] = [arrays[place] for place in order]
    return Scores(columns, tuple(rows[order].tolist()), outputs)


class ContactThermometer:
    """Reads what an engine's encoder knows of contacts without having been told."""

    def __init__(self, section: ProbeSection, engine: Engine, seed: int, is_first_worker: bool) -> None:
        """`section.data` is a directory of shards of contact prediction."""
        manifest = read_manifest(section.data)
        self._train = read_split(section.data, manifest, "train")
        self._valid = read_split(section.data, manifest, "valid").slice(0, section.max_scored)
        self._section, self._engine, self._seed, self._is_first = section, engine, seed, is_first_worker

    @classmethod
    def of(cls, job: TrainingJob, engine: Engine, place: Place) -> "ContactThermometer | None":
        """The thermometer that the job asks for; None where it asks for none."""
        return None if job.probe is None else cls(job.probe, engine, job.seed, place.is_first)

    def read(self) -> dict[str, float]:
        """`contact_probe/<metric>` for the main precisions, on the first worker; all workers call it."""
        with self._engine.module() as model:  # ZeRO-3 gathers the weights on all workers
            if not self._is_first:
                return {}
            encoder = model.encoder.eval()
            alphabet = get_alphabet(encoder.config.alphabet)
            probe = fit_contact_probe(encoder, self._train, alphabet, self._section.num_proteins, self._seed)
            columns = probe.score(encoder, self._valid)
        return {f"contact_probe/{m.name}": m.compute(columns) for m in precision_metrics() if m.is_main}


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
    folder = run_directory / PREDICTIONS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with staged_file(folder / f"{split}.parquet") as staging:
        pq.write_table(table, staging, compression="zstd")
