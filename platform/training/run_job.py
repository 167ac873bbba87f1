"""What every worker of a training job does, in pretraining and finetuning alike; it knows neither Ray nor DeepSpeed.

    job -> model -> engine -> newest checkpoint, if any -> loop over the stream -> the best step's weights, where an
    epoch is chosen on valid -> final scores, predictions, rows, pretrained model, and last the mark `finished.json`

Where checkpoints go is decided by the caller: Ray Train's workers (worker.py), or one process alone (driver.py).
"""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from proteinlm.models.config import CNN_NAME, shape_name
from proteinlm.models.encoder import LanguageModelHead
from proteinlm.models.pretrained import load_pretrained, save_pretrained
from proteinlm.platform.batches.order import BatchPlan, micro_batches_per_step
from proteinlm.platform.batches.stream import training_steps
from proteinlm.platform.data.manifest import Manifest, Split, read_manifest
from proteinlm.platform.results.measure import Measured, language_model_floors, measure
from proteinlm.platform.results.rows import append_rows
from proteinlm.platform.settings.loading import flat
from proteinlm.platform.settings.sections import OptimizerSection, TrainingSection
from proteinlm.platform.storage.run_directory import MODEL_DIRECTORY, Stopped, mark_finished, mark_stopped
from proteinlm.platform.training.checkpoint import (
    Checkpoints,
    Cursor,
    loadable,
    needs_conversion,
    read_cursor,
    save_checkpoint,
)
from proteinlm.platform.training.deepspeed_engine import DeepSpeedEngine
from proteinlm.platform.training.device import explained_out_of_memory, prepare_process, with_precision
from proteinlm.platform.training.embedding_cache import EmbeddingStore, embeddings_of
from proteinlm.platform.training.engine import Engine, PlainEngine
from proteinlm.platform.training.evaluation import ContactThermometer, Scores, Watched, make_reading, write_predictions
from proteinlm.platform.training.interrupts import Interrupts
from proteinlm.platform.training.job import CNN, Place, TrainingJob
from proteinlm.platform.training.loop import Outcome, Schedule, train
from proteinlm.platform.training.selection import Chosen, Selection
from proteinlm.platform.training.telemetry import Meter, batch_flops, matmul_peak
from proteinlm.platform.training.tracking import Tracker, log_result
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.finetuned import Adapters, Finetuned, make_task_model, save_finetuned
from proteinlm.tasks.task import Task, TaskModel


def run_job(job: TrainingJob, place: Place, checkpoints: Checkpoints, workers_on_node: int) -> None:
    """Run one training job on this worker, from its newest checkpoint where there is one."""
    prepare_process(job, place.device, workers_on_node)
    job = job.model_copy(update={"training": with_precision(job.training, place.device)})
    manifest = read_manifest(job.data)
    task = build_task(job.task, **job.task_options).on_splits(manifest.splits)
    engine, cursor = make_or_restore(job, task, place, checkpoints)
    is_kept = job.mode == "frozen" and place.world_size == 1
    store = embeddings_of(job, task, manifest, engine) if is_kept else None
    watched = Watched(engine, task, manifest, job, place, *([store.complete] if store else []))
    selection = Selection.of(job, task, engine, place, cursor.step) if job.kind == "finetune" else None
    with explained_out_of_memory(job.batches):
        outcome = _train(job, manifest, task, engine, cursor, watched, place, checkpoints, selection, store)
        if outcome.stopped is None:
            if selection and selection.load_best():
                watched.validate()
            scores = watched.final_scores()
    if outcome.stopped is not None:
        if place.is_first:
            mark_stopped(job.directory, Stopped(outcome.step, outcome.stopped))
        return
    with engine.module() as whole:
        if place.is_first:
            chosen = selection.chosen(outcome.step) if selection else None
            finish(job, task, manifest, whole, scores, outcome=outcome, chosen=chosen)


def make_or_restore(job: TrainingJob, task: Task, place: Place, checkpoints: Checkpoints) -> tuple[Engine, Cursor]:
    """The engine as new, or as in the newest checkpoint, whatever number of workers wrote it; and where to go on."""
    micro_batches = micro_batches_per_step(job.batches.lanes, place.world_size)
    model = make_model(job, task)
    engine = partial(make_engine, model, job.training, job.optimizer, device=place.device, micro_batches=micro_batches)
    with checkpoints.newest() as folder:
        if folder is None:
            return engine(), Cursor(0, 0, place.world_size, {})
        cursor = read_cursor(folder)
        is_foreign = needs_conversion(cursor, job.training, place.world_size)
        made = engine(loads_universal=is_foreign)
        with loadable(folder, is_foreign, job.directory, place.is_first) as state:
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
    checkpoints: Checkpoints,
    selection: Selection | None,
    store: EmbeddingStore | None,
) -> Outcome:
    def save(step: int, *, residues: int, skipped_steps: int, figures: Mapping[str, float], wait: bool) -> None:
        here = Cursor(step, residues, place.world_size, figures, skipped_steps)
        aside = checkpoints.aside()
        save_checkpoint(aside, engine, here, place.is_first)
        checkpoints.take(aside, here.checkpoint_name(), {"step": step, "residues": residues, **figures}, wait=wait)

    steps = training_steps(
        make_reading(manifest, task, job, task.train_split, job.seed),
        make_plan(manifest.split(task.train_split), job),
        rank=place.rank,
        world_size=place.world_size,
        first_step=cursor.step,
        last_step=job.total_steps,
    )
    if store:
        steps = ([store.complete(batch, task.train_split) for batch in batches] for batches in steps)
    schedule = Schedule(cursor.step, job.total_steps, job.seed, job.training, job.optimizer, cursor.skipped_steps)
    meter = _meter(job, cursor, place.device, is_encoder_run=store is None)
    minutes = job.training.checkpoint_minutes
    interrupts = Interrupts(job.directory, minutes, place.is_first, preemption_notice=checkpoints.notice)
    with Tracker(job.directory, cursor.step, place.is_first, hyperparameters(job)) as tracker:
        return train(
            engine,
            steps,
            schedule,
            validate=partial(_validate, watched, ContactThermometer.of(job, engine, place)),
            save=save,
            tracker=tracker,
            meter=meter,
            interrupts=interrupts,
            selection=selection,
        )


def hyperparameters(job: TrainingJob) -> dict[str, Any]:
    """What determines a job's result beside its data, by dotted name."""
    run = {"task", "task_options", "mode", "seed", "total_steps"}
    sections = {"model", "batches", "optimizer", "training", "lora"}
    values = job.model_dump(mode="json", include=run | sections, exclude={"training": {"pause_at"}})
    return flat(values)


def _validate(watched: Watched, thermometer: ContactThermometer | None) -> dict[str, float]:
    return watched.validate() | (thermometer.read() if thermometer else {})


def _meter(job: TrainingJob, cursor: Cursor, device: torch.device, *, is_encoder_run: bool) -> Meter:
    if not is_encoder_run or job.mode == CNN:  # what is computed then is not the model that batch_flops counts
        return Meter(cursor.residues, device=device)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[job.training.precision]
    flops = partial(batch_flops, job.model, is_language_model=job.kind == "pretrain", is_frozen=job.mode == "frozen")
    return Meter(cursor.residues, flops=flops, peak=matmul_peak(device, dtype), device=device)


def make_plan(split: Split, job: TrainingJob) -> BatchPlan:
    """The order of global batches of a job."""
    return BatchPlan(split, job.seed, job.batches.lanes, job.batches.micro_batch_residues)


def make_model(job: TrainingJob, task: Task) -> TaskModel:
    """Encoder and head, equal on all workers: what is random comes from the job's seed."""
    torch.manual_seed(job.seed)
    encoder = load_pretrained(job.pretrained).encoder if job.pretrained and job.mode != CNN else None
    return make_task_model(task, _finetuned(job), encoder)


def _finetuned(job: TrainingJob, **extra: object) -> Finetuned:
    adapters = Adapters(**job.lora.model_dump()) if job.lora else None
    return Finetuned(job.task, job.task_options, job.mode, job.model, adapters, extra)


def finish(
    job: TrainingJob,
    task: Task,
    manifest: Manifest,
    model: TaskModel,
    scores: Mapping[str, Scores],
    *,
    outcome: Outcome,
    chosen: Chosen | None,
) -> None:
    """Write rows for `scores`, predictions (finetuning), the model's directory and the mark, in this order.

    `chosen` is the step whose weights were scored, where that is a choice; None: the last one's.
    """
    who = Measured(
        run=job.name,
        configuration=job.configuration,
        kind=job.kind,
        model=CNN_NAME if job.mode == CNN else shape_name(job.model),
        architecture=None if job.mode == CNN else job.model,
        mode=job.mode,
        seed=job.seed,
        code_version=job.code_version,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        steps=chosen.step if chosen else outcome.step,
        residues=outcome.residues,
        settings={"chosen": asdict(chosen)} if chosen else None,
    )
    is_pretraining = job.kind == "pretrain"
    columns = {split: found.columns for split, found in scores.items()}
    floors = {split: language_model_floors(manifest, split, job.task_options) for split in scores if is_pretraining}
    if not is_pretraining:
        for split, found in scores.items():
            write_predictions(job.directory, job.data, manifest, task, split, found)
    rows = measure(who, task, manifest, columns, floors)
    append_rows(job.directory, rows)
    log_result(job.directory, outcome.step, {f"{row.split}/{row.metric}": row.value for row in rows if row.is_main})
    extra = {"run": job.name, "data_hash": manifest.content_hash, "steps": who.steps, "residues": outcome.residues}
    if is_pretraining:
        assert isinstance(model.head, LanguageModelHead)
        save_pretrained(job.directory / MODEL_DIRECTORY, model.encoder, model.head, extra)
    elif job.keep_model:
        save_finetuned(job.directory / MODEL_DIRECTORY, model, _finetuned(job, **extra))
    mark_finished(job.directory, outcome.step)


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
