"""Scoring whole splits with an engine, during training and at its end, and writing a prediction for every protein.

Every protein counts once over all workers. During pretraining the contact probe is fitted anew at each validation, on
the same few proteins, by the first worker alone. Predictions of a finetuned model are
`<run>/predictions/<split>.parquet`, a row for each protein in split order: row, id, sequence, length and the task's
labels as they stand in its shards; the per-protein columns that the metrics are computed from ("prediction", "correct",
...); and the task's outputs as lists over residues or pairs.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from torch import Tensor
from torch import distributed as dist

from proteinlm.models.alphabet import get_alphabet
from proteinlm.platform.batches.stream import validation_batches
from proteinlm.platform.data.manifest import read_manifest
from proteinlm.platform.labelled.task_data import read_split
from proteinlm.platform.settings.sections import ProbeSection
from proteinlm.platform.storage.atomic import staged_file
from proteinlm.platform.storage.phases import phase
from proteinlm.platform.storage.run_directory import PREDICTIONS_FOLDER
from proteinlm.platform.training.device_feed import DeviceFeed
from proteinlm.platform.training.engine import Engine
from proteinlm.platform.training.job import Run
from proteinlm.tasks.contact_prediction import precision_metrics
from proteinlm.tasks.contact_probe import fit_contact_probe
from proteinlm.tasks.task import Batch, Columns, Output


@dataclass(frozen=True)
class Scores:
    """The scores of a split, its proteins in the order of their rows."""

    columns: Columns
    """Per-protein columns [B] of the task."""
    rows: tuple[int, ...]
    """[B] row numbers in the split, ascending."""
    outputs: dict[str, list[NDArray[np.generic]]] = field(default_factory=dict)
    """The task's outputs by name: for each protein an array over its residues or pairs of residues."""


def _as_it_is(batch: Batch, split: str) -> Batch:
    return batch


class Validation:
    """The splits that are scored during training and at its end, and what the last scoring gave."""

    def __init__(self, run: Run, engine: Engine, completed: Callable[[Batch, str], Batch] = _as_it_is) -> None:
        """`completed` adds what was computed before for the proteins of a split's micro batch (embedding_cache.py)."""
        self._run, self._engine, self._completed = run, engine, completed
        self._feed = DeviceFeed.of(run)
        self._batches: dict[str, tuple[list[Batch], int]] = {}
        self._scores: dict[str, Scores] = {}

    @phase("validation")
    def validate(self) -> dict[str, float]:
        """Score the validation splits; returns `<split>/<metric>` for every metric of the task."""
        metrics: dict[str, float] = {}
        for split in self._run.task.valid_splits:
            scores = self._score(split, self._run.job.training.validation_residues)
            self._scores[split] = scores
            metrics |= {f"{split}/{m.name}": m.compute(scores.columns) for m in self._run.task.metrics}
        return metrics

    @phase("final scoring")
    def final_scores(self) -> dict[str, Scores]:
        """Return the scores of the validation splits as last scored, and of the whole test splits."""
        if not self._scores:  # resumed after the last step: nothing was scored in this process
            self.validate()
        return self._scores | {split: self._score(split, None) for split in self._run.task.test_splits}

    def _score(self, split: str, max_residues: int | None) -> Scores:
        job, worker = self._run.job, self._run.worker
        if split not in self._batches:
            whole = self._run.manifest.split(split)
            self._batches[split] = validation_batches(
                job.reading(whole, seed=whole.mask_seed, is_training=split == self._run.task.train_split),
                micro_batch_residues=job.batches.micro_batch_residues,
                max_residues=max_residues,
                rank=worker.rank,
                world_size=worker.world_size,
            )
        batches, counted = self._batches[split]
        completed = (self._completed(batch, split) for batch in batches)
        fed = self._feed.holding(batches).batches(completed)
        return score_split(self._engine, fed, counted, self._run.task.outputs)


def score_split(
    engine: Engine,
    batches: Iterable[Batch],
    num_counted: int,
    outputs: Sequence[Output] = (),
) -> Scores:
    """Score a whole split and gather the scores from all workers, which all call it.

    `batches` are this worker's, of which the first `num_counted` count (the rest fill up, so that every worker has
    equally many). `outputs` are kept for each protein. Columns stay on the device until the last micro batch is on its
    way, so that it never waits for the host; outputs, which may be large, do not.
    """
    rows: list[tuple[int, ...]] = []
    columns: list[dict[str, Tensor]] = []
    kept: list[dict[str, list[NDArray[np.generic]]]] = []
    for number, batch in enumerate(batches):
        scored = engine.eval_step(batch)
        if number >= num_counted:
            continue
        kept.append({output.name: _of_each_protein(output, scored.pop(output.name), batch) for output in outputs})
        columns.append(scored)
        rows.append(batch.rows)
    on_host = [{name: column.double().cpu().numpy() for name, column in scored.items()} for scored in columns]
    return _gathered([_Part(*part) for part in zip(rows, on_host, kept, strict=True)])


@dataclass(frozen=True)
class _Part:
    """Row numbers, columns and outputs of one micro batch."""

    rows: tuple[int, ...]
    columns: dict[str, NDArray[np.float64]]
    outputs: dict[str, list[NDArray[np.generic]]]


def _of_each_protein(output: Output, values: Tensor, batch: Batch) -> list[NDArray[np.generic]]:
    """An output of a micro batch cut into one array for each protein, special tokens left out."""
    packed = batch.packed.without_filling()
    is_residue = packed.is_residue.cpu().numpy()
    protein = packed.protein_index.cpu().numpy()[is_residue]
    residues = np.bincount(protein, minlength=packed.num_proteins)
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
        outputs[name] = [arrays[index] for index in order]
    return Scores(columns, tuple(rows[order].tolist()), outputs)


class ContactValidation:
    """Fits and scores the contact probe on an encoder in training, which is never told of contacts."""

    def __init__(self, section: ProbeSection, engine: Engine, seed: int, is_first_worker: bool) -> None:
        """`section.data` is a directory of shards of contact prediction."""
        manifest = read_manifest(section.data)
        self._train = read_split(section.data, manifest, "train")
        self._valid = read_split(section.data, manifest, "valid").slice(0, section.max_scored)
        self._section, self._engine, self._seed, self._is_first = section, engine, seed, is_first_worker

    @classmethod
    def of(cls, run: Run, engine: Engine) -> "ContactValidation | None":
        """Make the one that the run's job asks for; None where it asks for none."""
        job = run.job
        return None if job.probe is None else cls(job.probe, engine, job.seed, run.worker.is_first)

    def validate(self) -> dict[str, float]:
        """Return `contact_probe/<metric>` for the main precisions, {} on all workers but the first; all call it."""
        with self._engine.module() as model:  # ZeRO-3 gathers the weights on all workers
            if not self._is_first:
                return {}
            encoder = model.encoder.eval()
            alphabet = get_alphabet(encoder.config.alphabet)
            probe = fit_contact_probe(encoder, self._train, alphabet, self._section.num_proteins, self._seed)
            columns = probe.score(encoder, self._valid)
        return {f"contact_probe/{m.name}": m.compute(columns) for m in precision_metrics() if m.is_main}


def write_predictions(run: Run, split: str, scores: Scores) -> None:
    """Write the predictions of a split, in place of older ones."""
    rows = pa.array(scores.rows, pa.int64())
    table = read_split(run.job.data, run.manifest, split).take(rows)
    table = table.add_column(0, "row", rows)
    for name, values in scores.columns.items():
        table = table.append_column(name, pa.array(values, pa.float64()))
    for output in run.task.outputs:
        values_type = pa.list_(pa.from_numpy_dtype(output.dtype))
        table = table.append_column(output.name, pa.array(scores.outputs[output.name], values_type))
    folder = run.job.directory / PREDICTIONS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with staged_file(folder / f"{split}.parquet") as staging:
        pq.write_table(table, staging, compression="zstd")
