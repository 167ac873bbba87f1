"""What runs on every Ray Train worker, in pretraining and finetuning alike: the one door to `ray.train`'s worker side.

    job -> model -> engine -> newest checkpoint, if any -> loop over the stream -> final scores, rows, pretrained model

A report is a barrier that waits for the controller, so it is made at checkpoint cadence only; step figures go to files.
"""

import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import ProteinEncoder
from proteinlm.models.pretrained import load_pretrained
from proteinlm.platform.data.manifest import Manifest, Split, read_manifest
from proteinlm.platform.data.plan import BatchPlan
from proteinlm.platform.data.stream import Reading, training_steps, validation_batches
from proteinlm.platform.training.checkpoint import Cursor, checkpoint_name, load_checkpoint, save_checkpoint
from proteinlm.platform.training.engine import Engine, make_engine
from proteinlm.platform.training.finish import finish
from proteinlm.platform.training.job import TrainingJob
from proteinlm.platform.training.loop import Schedule, score_split, train
from proteinlm.platform.training.tracking import Tracker
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.task import Batch, Columns, Task, TaskModel


def train_worker(settings: dict[Any, Any]) -> None:
    """Run one training job on this worker, from its newest checkpoint where there is one."""
    import ray.train
    import ray.train.torch

    job = TrainingJob.model_validate(settings)
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    _prepare_process(job, device, context.get_local_world_size())

    manifest = read_manifest(job.data)
    task = build_task(job.task, **job.task_options).on_splits(manifest.splits)
    plan = make_plan(manifest.split(task.train_split), job)
    model = make_model(job, task)
    micro_batches = job.batches.lanes // world_size
    engine = make_engine(model, job.training, job.optimizer, device=device, micro_batches=micro_batches)
    cursor = Cursor(0, 0, world_size, {})
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as directory:
            cursor = load_checkpoint(Path(directory), engine, world_size)
    watched = Watched(engine, task, manifest, job, rank, world_size)

    def save(step: int, residues: int, figures: Mapping[str, float]) -> None:
        with tempfile.TemporaryDirectory() as aside:  # one for each worker; Ray Train merges them in the run directory
            save_checkpoint(Path(aside), engine, Cursor(step, residues, world_size, figures), rank == 0)
            ray.train.report(
                {"step": step, "residues": residues, **figures},
                checkpoint=ray.train.Checkpoint.from_directory(aside),
                checkpoint_dir_name=checkpoint_name(step),
            )

    steps = training_steps(
        make_reading(manifest, task, job, task.train_split, job.seed),
        plan,
        rank=rank,
        world_size=world_size,
        first_step=cursor.step,
        last_step=job.total_steps,
    )
    schedule = Schedule(cursor.step, cursor.residues, job.total_steps, job.seed, job.training, job.optimizer)
    with Tracker(job.directory, cursor.step, active=rank == 0) as tracker:
        residues = train(engine, steps, schedule, validate=watched.validate, save=save, tracker=tracker)
    scores = watched.final_scores()
    with engine.module() as whole:
        if rank == 0:
            finish(job, task, manifest, whole, scores, residues=residues)


def make_plan(split: Split, job: TrainingJob) -> BatchPlan:
    """The order of global batches of a job."""
    return BatchPlan(split, job.seed, job.batches.lanes, job.batches.micro_batch_residues)


def make_model(job: TrainingJob, task: Task) -> TaskModel:
    """Encoder and head, equal on all workers: what is random comes from the job's seed."""
    torch.manual_seed(job.seed)
    encoder = load_pretrained(job.pretrained).encoder if job.pretrained else ProteinEncoder(job.model)
    return TaskModel(task, encoder, frozen=job.mode == "frozen")


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
    )


def longest_scored(model: ModelConfig) -> int:
    """Residues of a protein that a model can score: all with rotary positions, else what its position table holds."""
    if model.position == "rotary":
        return 2**30
    return model.max_positions - get_alphabet(model.alphabet).specials_per_protein


class Watched:
    """The splits that are scored during training and at its end, and what the last scoring gave."""

    def __init__(
        self, engine: Engine, task: Task, manifest: Manifest, job: TrainingJob, rank: int, world_size: int
    ) -> None:
        self._engine, self._task, self._manifest, self._job = engine, task, manifest, job
        self._place = {"rank": rank, "world_size": world_size}
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
                **self._place,
            )
        batches, counted = self._batches[split]
        return score_split(self._engine, batches, counted)[0]


def _prepare_process(job: TrainingJob, device: torch.device, workers_on_node: int) -> None:
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed would look for an accelerator of its own
        # Micro batches differ in size, and oneDNN would keep kernels for the last 1024 sizes: gigabytes.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
        torch.set_num_threads(job.threads_per_worker or max(1, (os.cpu_count() or 1) // workers_on_node))
    # DeepSpeed 0.19.8 uses two collectives under names that torch 2.13 calls old.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"deepspeed|torch\.distributed")
