"""What every worker of a training job does, in pretraining and finetuning alike; independent of Ray.

    job -> model -> engine -> newest checkpoint, if any -> loop over the stream -> weights of the best step on valid
    (finetuning) -> final scores, predictions, rows, pretrained model, and last the mark `finished.json`

The caller decides where checkpoints go: Ray Train's workers (worker.py), or one process alone (driver.py).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from proteinlm.models.config import CNN_NAME, shape_name
from proteinlm.models.encoder import LanguageModelHead
from proteinlm.models.pretrained import content_hash_of, load_pretrained, save_pretrained
from proteinlm.platform.batches.order import micro_batches_per_step
from proteinlm.platform.batches.stream import training_steps
from proteinlm.platform.data.manifest import read_manifest
from proteinlm.platform.places.places import is_remote, written
from proteinlm.platform.results.measure import Measured, language_model_floors, measure
from proteinlm.platform.results.rows import append_rows
from proteinlm.platform.settings.sections import OptimizerSection, TrainingSection
from proteinlm.platform.storage.copies import kept_copy
from proteinlm.platform.storage.phases import first_steps, phase
from proteinlm.platform.storage.run_directory import MODEL_DIRECTORY, Stopped, mark_finished, mark_stopped
from proteinlm.platform.training.checkpoint import (
    Checkpoints,
    CheckpointWriter,
    Cursor,
    loadable,
    loading,
    needs_conversion,
    read_cursor,
)
from proteinlm.platform.training.deepspeed_engine import DeepSpeedEngine
from proteinlm.platform.training.device import (
    TORCH_DTYPES,
    compile_mode,
    explained_out_of_memory,
    prepare_process,
    with_precision,
)
from proteinlm.platform.training.device_feed import DeviceFeed
from proteinlm.platform.training.embedding_cache import EmbeddingStore, embeddings_of
from proteinlm.platform.training.engine import Engine, PlainEngine
from proteinlm.platform.training.evaluation import ContactValidation, Scores, Validation, write_predictions
from proteinlm.platform.training.float8 import use_float8
from proteinlm.platform.training.job import Run, TrainingJob, Worker, batch_plan, longest_scored
from proteinlm.platform.training.loop import Hooks, Interrupts, Outcome, Schedule, train
from proteinlm.platform.training.selection import Chosen, Selection
from proteinlm.platform.training.telemetry import Meter, batch_flops, matmul_peak
from proteinlm.platform.training.tracking import Tracker, log_result
from proteinlm.tasks.finetuned import Adapters, Finetuned, make_task_model, save_finetuned
from proteinlm.tasks.task import Batch, Task, TaskModel


def run_job(job: TrainingJob, worker: Worker, checkpoints: Checkpoints, workers_on_node: int) -> None:
    """Run one training job on this worker, from its newest checkpoint where there is one."""
    prepare_process(job, worker.device, workers_on_node)
    job = job.model_copy(update={"training": with_precision(job.training, worker.device)})
    manifest = read_manifest(job.data)
    run = Run(job, manifest, job.build_task(manifest), worker)
    engine, cursor = make_or_restore(run, checkpoints)
    store = embeddings_of(run, engine) if job.mode == "frozen" and worker.world_size == 1 else None
    validation = Validation(run, engine, *([store.complete] if store else []))
    selection = Selection.of(run, engine, cursor.step)
    with explained_out_of_memory(job.batches):
        hooks = _hooks(run, engine, cursor, checkpoints, validation, selection, is_encoder_run=store is None)
        with hooks.tracker, phase("training"):
            outcome = train(engine, first_steps(_steps(run, cursor, store)), _schedule(job, cursor), hooks)
        if outcome.stopped is None:
            if selection and selection.load_best():
                validation.validate()
            scores = validation.final_scores()
    if outcome.stopped is not None:
        if worker.is_first:
            mark_stopped(job.directory, Stopped(outcome.step, outcome.stopped))
        return
    with engine.module() as whole:
        if worker.is_first:
            finish(run, whole, scores, outcome=outcome, chosen=selection.chosen(outcome.step) if selection else None)


@phase("model, engine and checkpoint")
def make_or_restore(run: Run, checkpoints: Checkpoints) -> tuple[Engine, Cursor]:
    """Make the engine, new or as in the newest checkpoint, whatever number of workers wrote it; and where to resume."""
    job, worker = run.job, run.worker
    micro_batches = micro_batches_per_step(job.batches.lanes, worker.world_size)
    model = make_model(job, run.task)
    if job.training.float8:
        use_float8(model.encoder, job.training, worker.device)
    mode = compile_mode(job, worker.device)
    if mode is not None:
        model.encoder.compile_layers(mode, worker.device)
    engine = partial(make_engine, model, job.training, job.optimizer, device=worker.device, micro_batches=micro_batches)
    with checkpoints.newest() as folder:
        if folder is None:
            return engine(), Cursor(0, 0, worker.world_size, {})
        cursor = read_cursor(folder)
        is_foreign = needs_conversion(cursor, job.training, worker.world_size)
        made = engine(loads_universal=is_foreign)
        with loading(folder), ExitStack() as until:
            # of a run in a store each worker converts for itself: there is no directory that all nodes see
            alone = is_remote(job.directory)
            scratch = Path(until.enter_context(TemporaryDirectory())) if alone else job.directory
            made.load(until.enter_context(loadable(folder, is_foreign, scratch, worker.is_first or alone)))
    return made, cursor


@phase("tracker, matmul peak")
def _hooks(
    run: Run,
    engine: Engine,
    cursor: Cursor,
    checkpoints: Checkpoints,
    validation: Validation,
    selection: Selection | None,
    *,
    is_encoder_run: bool,
) -> Hooks:
    """What the loop calls; `is_encoder_run`: each step runs the encoder, which reads no stored embeddings."""
    job, worker = run.job, run.worker
    contacts = ContactValidation.of(run, engine)
    minutes = job.training.checkpoint_minutes
    tracker = Tracker(job.directory, cursor.step, worker.is_first, job.hyperparameters())
    return Hooks(
        validate=lambda: validation.validate() | (contacts.validate() if contacts else {}),
        writer=CheckpointWriter(engine, worker, checkpoints, tracker.put_up),
        tracker=tracker,
        meter=_meter(job, cursor, worker.device, is_encoder_run=is_encoder_run),
        interrupts=Interrupts(job.directory, minutes, worker.is_first, preemption_notice=checkpoints.notice),
        selection=selection,
    )


def _schedule(job: TrainingJob, cursor: Cursor) -> Schedule:
    return Schedule(cursor.step, job.total_steps, job.seed, job.training, job.optimizer, cursor.skipped_steps)


def _steps(run: Run, cursor: Cursor, store: EmbeddingStore | None) -> Iterator[Sequence[Batch]]:
    """Micro batches of this worker on its device, step by step from the cursor on; with embeddings of the `store`."""
    job, split = run.job, run.task.train_split
    steps = training_steps(
        job.reading(run.manifest.split(split), seed=job.seed, is_training=True),
        batch_plan(job, run.manifest.split(split)),
        rank=run.worker.rank,
        world_size=run.worker.world_size,
        first_step=cursor.step,
        last_step=job.total_steps,
    )
    completed = ([store.complete(batch, split) for batch in batches] if store else batches for batches in steps)
    return DeviceFeed.of(run).steps(completed)


def _meter(job: TrainingJob, cursor: Cursor, device: torch.device, *, is_encoder_run: bool) -> Meter:
    if not is_encoder_run or job.is_cnn:  # what is computed then is not the model that batch_flops counts
        return Meter(cursor.residues, device=device)
    dtype = TORCH_DTYPES[job.training.precision]
    flops = partial(batch_flops, job.model, is_language_model=job.verb == "pretrain", is_frozen=job.mode == "frozen")
    return Meter(cursor.residues, flops=flops, peak=matmul_peak(device, dtype), device=device)


def make_model(job: TrainingJob, task: Task) -> TaskModel:
    """Make encoder and head, equal on all workers: everything random is drawn from the job's seed."""
    torch.manual_seed(job.seed)
    if job.pretrained is None or job.is_cnn:
        return make_task_model(task, _finetuned(job))
    start = load_pretrained(kept_copy(job.pretrained))
    model = make_task_model(task, _finetuned(job), start.encoder)
    if job.verb == "pretrain" and start.head is not None:  # the token table is the encoder's own
        model.head.load_state_dict(start.head.state_dict())
    return model


def _finetuned(job: TrainingJob, **extra: object) -> Finetuned:
    adapters = Adapters(**job.lora.model_dump()) if job.lora else None
    return Finetuned(job.task, job.task_options, job.mode, job.model, adapters, extra)


@phase("results")
def finish(
    run: Run, model: TaskModel, scores: Mapping[str, Scores], *, outcome: Outcome, chosen: Chosen | None
) -> None:
    """Write predictions (finetuning), result rows, the model's directory and last the mark `finished.json`.

    `chosen` is the step whose weights were scored; None: the last one.
    """
    job, task, manifest = run.job, run.task, run.manifest
    who = Measured(
        run=job.name,
        configuration=job.configuration,
        kind=job.verb,
        model=CNN_NAME if job.is_cnn else shape_name(job.model),
        architecture=None if job.is_cnn else job.model,
        mode=job.mode,
        seed=job.seed,
        code_version=job.code_version,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        steps=chosen.step if chosen else outcome.step,
        residues=outcome.residues,
        settings=_extras(job, chosen),
        longest_scored=longest_scored(job.model),
    )
    is_pretraining = job.verb == "pretrain"
    columns = {split: scored.columns for split, scored in scores.items()}
    floors = {split: language_model_floors(manifest, split, job.task_options) for split in scores if is_pretraining}
    if not is_pretraining:
        for split, scored in scores.items():
            write_predictions(run, split, scored)
    with phase("bootstrap intervals"):
        rows = measure(who, task, manifest, columns, floors)
    append_rows(job.directory, rows)
    log_result(job.directory, outcome.step, {f"{row.split}/{row.metric}": row.value for row in rows if row.is_main})
    extra = {"run": job.name, "data_hash": manifest.content_hash, "steps": who.steps, "residues": outcome.residues}
    if is_pretraining:
        assert isinstance(model.head, LanguageModelHead)
        with written(job.directory / MODEL_DIRECTORY) as directory:
            save_pretrained(directory, model.encoder, model.head, extra)
    elif job.keep_model:
        with written(job.directory / MODEL_DIRECTORY) as directory:
            save_finetuned(directory, model, _finetuned(job, **extra))
    mark_finished(job.directory, outcome.step)


def _extras(job: TrainingJob, chosen: Chosen | None) -> dict[str, object] | None:
    """What rows say beside the figures: the chosen step, and which weights a pretraining started from."""
    said: dict[str, object] = {"chosen": asdict(chosen)} if chosen else {}
    if job.verb == "pretrain" and job.pretrained:
        said["pretrained"] = content_hash_of(kept_copy(job.pretrained))
    return said or None


def make_engine(
    model: TaskModel,
    training: TrainingSection,
    optimizer: OptimizerSection,
    *,
    device: torch.device,
    micro_batches: int,
    loads_universal: bool = False,
) -> Engine:
    """Make the engine that `training.engine` names, for `micro_batches` per worker and step.

    `loads_universal`: it will load a checkpoint converted from another number of workers (`convert_to_universal`).
    """
    if training.engine == "plain":
        return PlainEngine(model, training, optimizer, device)
    return DeepSpeedEngine(model, training, optimizer, device, micro_batches, loads_universal)
