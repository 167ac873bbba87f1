"""`proteinlm finetune`: a task on a pretrained encoder (full, frozen), on one from scratch, or its baseline."""

import hashlib
import json
from pathlib import Path

from rich.console import Console

from proteinlm.models.config import ModelConfig
from proteinlm.models.pretrained import read_config
from proteinlm.platform.config import FinetuneConfig
from proteinlm.platform.data.manifest import read_manifest
from proteinlm.platform.data.task_shards import build_task_shards
from proteinlm.platform.pretrain import check_crop, check_length, crop_notice
from proteinlm.platform.training.driver import as_job, code_version, is_to_run, run_training
from proteinlm.tasks.catalog import build_task


def finetune(config: FinetuneConfig, console: Console | None = None) -> None:
    """Finetune as `config` says, or go on where the run stopped; ValueError or OSError before any worker starts."""
    model = check_finetune(config)
    if not is_to_run(config, console):
        return
    data = task_data(config)
    manifest = read_manifest(data)
    if model is None:
        from proteinlm.platform.baseline import run_baseline

        run_baseline(config, data, manifest, code_version())
        return
    check_crop(config.batches, manifest.split("train"))
    job = as_job(
        config,
        manifest,
        kind="finetune",
        mode=config.mode,
        task=config.task,
        task_options={},
        data=data.resolve(),
        model=model,
        pretrained=config.pretrained.resolve() if config.pretrained and config.mode != "scratch" else None,
    )
    if console:
        console.print(
            f"{config.task}, {config.mode}: {manifest.split('train').rows:,} training proteins, "
            f"{job.total_steps:,} optimizer steps"
        )
        if notice := crop_notice(config.batches, manifest.split("train")):
            console.print(notice)
    run_training(config, job, manifest, console)


def check_finetune(config: FinetuneConfig, is_planned: bool = False) -> ModelConfig | None:
    """The architecture to train (None: a baseline); ValueError or FileNotFoundError for what is missing or unfit.

    `is_planned`: the pretrained directory will only be there when the trial starts.
    """
    if not build_task(config.task).records:
        raise ValueError(f"task: {config.task} needs no labels; pretrain with `proteinlm pretrain`")
    if not config.data.is_dir():
        raise FileNotFoundError(f"data: no directory {config.data}; it must hold the task's records")
    if config.mode == "baseline":
        return None
    if config.pretrained is None or (is_planned and not config.pretrained.exists()):
        model = config.model
    else:
        model = read_config(config.pretrained)
        if config.model is not None and config.model != model:
            raise ValueError(f"model: differs from {config.pretrained}; leave it out, or leave out pretrained")
    if model is not None:
        check_length(model, config.batches)
    return model


def task_data(config: FinetuneConfig) -> Path:
    """The task's records as shards, built on first use and shared by all runs of a storage that read the same ones."""
    chosen = (config.task, str(config.data.resolve()), config.seed, config.max_train_examples, config.files)
    known_by = json.dumps([*chosen, config.valid_fraction], sort_keys=True)
    out = config.storage / "task-data" / f"{config.task}-{hashlib.sha256(known_by.encode()).hexdigest()[:12]}"
    build_task_shards(
        config.task,
        config.data,
        out,
        seed=config.seed,
        max_train_examples=config.max_train_examples,
        files=config.files,
        valid_fraction=config.valid_fraction,
    )
    return out
