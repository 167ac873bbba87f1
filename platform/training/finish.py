"""The end of a training run: result rows, the pretrained directory, and last the mark that says it is finished."""

import json
from collections.abc import Mapping
from pathlib import Path

from proteinlm.models.config import ModelConfig
from proteinlm.models.objectives import LanguageModelHead
from proteinlm.models.pretrained import save_pretrained
from proteinlm.platform.atomic import write_atomically
from proteinlm.platform.data.manifest import Manifest
from proteinlm.platform.results.measure import Measured, language_model_floors, measure
from proteinlm.platform.results.store import append_rows
from proteinlm.platform.training.job import TrainingJob
from proteinlm.tasks.task import Columns, Task, TaskModel

FINISHED_FILE = "finished.json"
STOPPED_FILE = "stopped.json"
MODEL_DIRECTORY = "model"


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
    job: TrainingJob, task: Task, manifest: Manifest, model: TaskModel, scores: Mapping[str, Columns], *, residues: int
) -> None:
    """Write rows for `scores`, the pretrained directory (pretraining only) and the mark, in this order."""
    who = Measured(
        run=job.name,
        kind=job.kind,
        model=shape_name(job.model),
        mode=job.mode,
        seed=job.seed,
        code_version=job.code_version,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        steps=job.total_steps,
        residues=residues,
    )
    is_pretraining = job.kind == "pretrain"
    floors = {split: language_model_floors(manifest, split, job.task_options) for split in scores if is_pretraining}
    append_rows(job.directory, measure(who, task, manifest, scores, floors))
    if is_pretraining:
        extra = {"run": job.name, "data_hash": manifest.content_hash, "steps": job.total_steps, "residues": residues}
        assert isinstance(model.head, LanguageModelHead)
        save_pretrained(job.directory / MODEL_DIRECTORY, model.encoder, model.head, extra)
    mark_finished(job.directory, job.total_steps)
