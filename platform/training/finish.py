"""The end of a training run: result rows, the pretrained directory, and last the mark that says it is finished."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from proteinlm.models.config import ModelConfig
from proteinlm.models.objectives import LanguageModelHead
from proteinlm.models.pretrained import save_pretrained
from proteinlm.platform.atomic import write_atomically
from proteinlm.platform.data.manifest import Manifest
from proteinlm.platform.results.measure import Measured, language_model_floors, measure
from proteinlm.platform.results.store import append_rows
from proteinlm.platform.training.job import CNN, TrainingJob
from proteinlm.platform.training.loop import Outcome
from proteinlm.platform.training.predictions import write_predictions
from proteinlm.platform.training.scoring import Scores
from proteinlm.platform.training.selection import Chosen
from proteinlm.platform.training.tracking import log_result
from proteinlm.tasks.task import Task, TaskModel

FINISHED_FILE = "finished.json"
STOPPED_FILE = "stopped.json"
MODEL_DIRECTORY = "model"
CNN_NAME = "convolution"
"""What tables call the model of mode cnn."""


def is_finished(run_directory: Path) -> bool:
    """Whether the run in this directory ended with all its results written."""
    return (run_directory / FINISHED_FILE).is_file()


def mark_finished(run_directory: Path, steps: int) -> None:
    """Write the mark; everything else must be in place."""
    write_atomically(run_directory / FINISHED_FILE, json.dumps({"steps": steps}) + "\n")


def mark_stopped(run_directory: Path, step: int, why: str) -> None:
    """Leave word for the driver that the run ended after `step`, before its last one, and why."""
    write_atomically(run_directory / STOPPED_FILE, json.dumps({"step": step, "why": why}) + "\n")


def take_stopped(run_directory: Path) -> tuple[int, str] | None:
    """What `mark_stopped` left, if anything: (step, why). It is taken away, so that the run may go on."""
    path = run_directory / STOPPED_FILE
    if not path.is_file():
        return None
    word = json.loads(path.read_text())
    path.unlink()
    return word["step"], word["why"]


def shape_name(config: ModelConfig) -> str:
    """The paper's name of an architecture (Table 7)."""
    return f"hidden-{config.hidden_size}-layer-{config.num_hidden_layers}-head-{config.num_attention_heads}"


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
    """Write rows for `scores`, predictions (finetuning), the pretrained directory (pretraining) and the mark, in order.

    `chosen` is the step whose weights were scored, where that is a choice; None: the last one's.
    """
    who = Measured(
        run=job.name,
        kind=job.kind,
        model=CNN_NAME if job.mode == CNN else shape_name(job.model),
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
    if is_pretraining:
        about = {"steps": outcome.step, "residues": outcome.residues}
        extra = {"run": job.name, "data_hash": manifest.content_hash, **about}
        assert isinstance(model.head, LanguageModelHead)
        save_pretrained(job.directory / MODEL_DIRECTORY, model.encoder, model.head, extra)
    mark_finished(job.directory, outcome.step)
