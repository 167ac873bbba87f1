"""What runs on every Ray Train worker, in pretraining and finetuning alike: the one door to `ray.train`'s worker side.

    job -> model -> engine -> newest checkpoint, if any -> loop over the stream -> final scores, rows, pretrained model

A report is a barrier that waits for the controller, so it is made at checkpoint cadence only; step figures go to files.
"""

import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from proteinlm.models.encoder import ProteinEncoder
from proteinlm.models.pretrained import load_pretrained
from proteinlm.platform.data.manifest import Manifest, Split, read_manifest
from proteinlm.platform.data.plan import BatchPlan, micro_batches_per_step
from proteinlm.platform.data.stream import training_steps
from proteinlm.platform.training.checkpoint import (
    Cursor,
    loadable,
    needs_conversion,
    read_cursor,
    save_checkpoint,
)
from proteinlm.platform.training.engine import Engine, make_engine
from proteinlm.platform.training.finish import finish, mark_stopped
from proteinlm.platform.training.guards import explained_out_of_memory
from proteinlm.platform.training.interrupts import Interrupts
from proteinlm.platform.training.job import Place, TrainingJob
from proteinlm.platform.training.loop import Outcome, Schedule, train
from proteinlm.platform.training.precision import with_precision
from proteinlm.platform.training.scoring import Watched, make_reading
from proteinlm.platform.training.telemetry import Meter, batch_flops, matmul_peak
from proteinlm.platform.training.tracking import Tracker
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.task import Task, TaskModel


def train_worker(settings: dict[Any, Any]) -> None:
    """Run one training job on this worker, from its newest checkpoint where there is one."""
    import ray.train
    import ray.train.torch

    job = TrainingJob.model_validate(settings)
    context = ray.train.get_context()
    place = Place(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    _prepare_process(job, place.device, context.get_local_world_size())
    if context.get_local_rank() == 0:
        _forget_unsent_checkpoints(job)
    job = job.model_copy(update={"training": with_precision(job.training, place.device)})

    manifest = read_manifest(job.data)
    task = build_task(job.task, **job.task_options).on_splits(manifest.splits)
    engine, cursor = make_or_restore(job, task, place, ray.train.get_checkpoint())
    watched = Watched(engine, task, manifest, job, place)
    with explained_out_of_memory(job.batches):
        outcome = _train(job, manifest, task, engine, cursor, watched, place)
        if outcome.stopped is None:
            scores = watched.final_scores()
    if outcome.stopped is not None:
        if place.is_first:
            mark_stopped(job.directory, outcome.step, outcome.stopped)
        return
    with engine.module() as whole:
        if place.is_first:
            finish(job, task, manifest, whole, scores, residues=outcome.residues)


def make_or_restore(job: TrainingJob, task: Task, place: Place, checkpoint: Any) -> tuple[Engine, Cursor]:
    """The engine as new, or as in Ray's `checkpoint`, whatever number of workers wrote it; and where to go on."""
    micro_batches = micro_batches_per_step(job.batches.lanes, place.world_size)
    model = make_model(job, task)
    engine = partial(make_engine, model, job.training, job.optimizer, device=place.device, micro_batches=micro_batches)
    if checkpoint is None:
        return engine(), Cursor(0, 0, place.world_size, {})
    with checkpoint.as_directory() as folder:
        cursor = read_cursor(Path(folder))
        is_foreign = needs_conversion(cursor, job.training, place.world_size)
        made = engine(loads_universal=is_foreign)
        with loadable(Path(folder), is_foreign, job.directory, place.is_first) as state:
            made.load(state)
    return made, cursor


def _train(
    job: TrainingJob,
    manifest: Manifest,
    task: Task,
    engine: Engine,
    cursor: Cursor,
    watched: Watched,
    place: Place,
) -> Outcome:
    import ray.train

    def save(step: int, *, residues: int, skipped_steps: int, figures: Mapping[str, float], wait: bool) -> None:
        here = Cursor(step, residues, place.world_size, figures, skipped_steps)
        aside = tempfile.mkdtemp(prefix=_unsent_prefix(job))  # one for each worker; Ray Train merges and deletes them
        save_checkpoint(Path(aside), engine, here, place.is_first)
        mode = ray.train.CheckpointUploadMode
        ray.train.report(
            {"step": step, "residues": residues, **figures},
            checkpoint=ray.train.Checkpoint.from_directory(aside),
            checkpoint_dir_name=here.checkpoint_name(),
            checkpoint_upload_mode=mode.SYNC if wait else mode.ASYNC,
            delete_local_checkpoint_after_upload=True,
        )

    steps = training_steps(
        make_reading(manifest, task, job, task.train_split, job.seed),
        make_plan(manifest.split(task.train_split), job),
        rank=place.rank,
        world_size=place.world_size,
        first_step=cursor.step,
        last_step=job.total_steps,
    )
    schedule = Schedule(cursor.step, job.total_steps, job.seed, job.training, job.optimizer, cursor.skipped_steps)
    meter = _meter(job, cursor, place.device)
    minutes = job.training.checkpoint_minutes
    interrupts = Interrupts(job.directory, minutes, place.is_first, preemption_notice=_preemption_notice)
    with Tracker(job.directory, cursor.step, active=place.is_first) as tracker:
        return train(
            engine,
            steps,
            schedule,
            validate=watched.validate,
            save=save,
            tracker=tracker,
            meter=meter,
            interrupts=interrupts,
        )


def _meter(job: TrainingJob, cursor: Cursor, device: torch.device) -> Meter:
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[job.training.precision]
    flops = partial(batch_flops, job.model, is_language_model=job.kind == "pretrain", is_frozen=job.mode == "frozen")
    return Meter(cursor.residues, flops=flops, peak=matmul_peak(device, dtype), device=device)


def _preemption_notice() -> str | None:
    """Which nodes are about to be taken away, as one name; Ray gives all workers the same answer."""
    import ray.train

    notice = ray.train.get_preemption_info()
    return f"{notice.deadline_ms} {notice.preempted_node_ids}" if notice else None


def _unsent_prefix(job: TrainingJob) -> str:
    return f"proteinlm-checkpoint-{blake2b(str(job.directory).encode(), digest_size=8).hexdigest()}-"


def _forget_unsent_checkpoints(job: TrainingJob) -> None:
    """Delete what an earlier, killed worker of this run had written on this node and not yet sent to storage."""
    for folder in Path(tempfile.gettempdir()).glob(_unsent_prefix(job) + "*"):
        shutil.rmtree(folder, ignore_errors=True)


def make_plan(split: Split, job: TrainingJob) -> BatchPlan:
    """The order of global batches of a job."""
    return BatchPlan(split, job.seed, job.batches.lanes, job.batches.micro_batch_residues)


def make_model(job: TrainingJob, task: Task) -> TaskModel:
    """Encoder and head, equal on all workers: what is random comes from the job's seed."""
    torch.manual_seed(job.seed)
    encoder = load_pretrained(job.pretrained).encoder if job.pretrained else ProteinEncoder(job.model)
    return TaskModel(task, encoder, frozen=job.mode == "frozen")


def _prepare_process(job: TrainingJob, device: torch.device, workers_on_node: int) -> None:
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed would look for an accelerator of its own
        # Micro batches differ in size, and oneDNN would keep kernels for the last 1024 sizes: gigabytes.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
        torch.set_num_threads(job.threads_per_worker or max(1, (os.cpu_count() or 1) // workers_on_node))
    # DeepSpeed 0.19.8 uses two collectives under names that torch 2.13 calls old.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"deepspeed|torch\.distributed")
