"""`proteinlm finetune`: a task on a pretrained encoder, on one from scratch, or its baselines."""

from pathlib import Path

from rich.console import Console

from proteinlm.models.config import ModelConfig
from proteinlm.models.pretrained import read_config
from proteinlm.platform.baseline import run_baseline, run_probe
from proteinlm.platform.config import PRETRAINED_MODES, FinetuneConfig
from proteinlm.platform.data.manifest import read_manifest
from proteinlm.platform.data.shared_shards import shared_task_shards
from proteinlm.platform.pretrain import check_crop, check_length, crop_notice
from proteinlm.platform.settings import as_assignments, flat, override, validate
from proteinlm.platform.training.driver import as_job, code_version, is_to_run, run_training
from proteinlm.platform.training.finish import is_finished
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.contacts import NAME as CONTACTS


def finetune(config: FinetuneConfig, console: Console | None = None) -> list[Path]:
    """Finetune as `config` says, or go on where the run stopped; ValueError or OSError before any worker starts.

    Returns the run directories whose rows belong into one table: this run's, and that of the task's baselines.
    """
    config = for_task(config, config.task)
    model = check_finetune(config)
    runs = [config.directory]
    if config.with_baselines and config.mode != "baseline":
        runs.append(_run_baselines(config, console))
    if not is_to_run(config, console):
        return runs
    data = task_data(config)
    manifest = read_manifest(data)
    if model is None:
        run_baseline(config, data, manifest, code_version())
        return runs
    if config.mode == "probe":
        run_probe(config, data, manifest, code_version())
        return runs
    check_crop(config.batches, manifest.split("train"))
    job = as_job(
        config,
        manifest,
        kind="finetune",
        mode=config.mode,
        task=config.task,
        task_options=config.options,
        data=data.resolve(),
        model=model,
        pretrained=config.pretrained.resolve() if config.pretrained and config.mode in PRETRAINED_MODES else None,
        lora=config.lora if config.mode == "lora" else None,
    )
    if console:
        console.print(
            f"{config.task}, {config.mode}: {manifest.split('train').rows:,} training proteins, "
            f"{job.total_steps:,} optimizer steps"
        )
        if notice := crop_notice(config.batches, manifest.split("train")):
            console.print(notice)
    run_training(config, job, manifest, console)
    return runs


def for_task(config: FinetuneConfig, task: str, **changes: object) -> FinetuneConfig:
    """`config` for the one `task`: with `changes`, and what `per_task` says for it laid over that."""
    values = config.model_dump(mode="json", exclude_unset=True) | {"task": task, "per_task": {}} | changes
    values = override(values, as_assignments(flat(config.per_task.get(task, {}))))
    return validate(FinetuneConfig, values, f"task {task}")


def _run_baselines(config: FinetuneConfig, console: Console | None) -> Path:
    """Fit the baselines of the run's task on its records, once for a storage; gives their run directory."""
    name = f"baseline-{task_data(config).name}"
    alone = config.model_copy(update={"name": name, "mode": "baseline", "pretrained": None, "with_baselines": False})
    if not is_finished(alone.directory):
        if console:
            console.print(f"fitting the baselines of {config.task}")
        finetune(alone)
    return alone.directory


def check_finetune(config: FinetuneConfig, is_planned: bool = False) -> ModelConfig | None:
    """The architecture to train (None: a baseline); ValueError or FileNotFoundError for what is missing or unfit.

    `is_planned`: the pretrained directory will only be there when the trial starts.
    """
    if not build_task(config.task, **config.options).records:
        raise ValueError(f"task: {config.task} needs no labels; pretrain with `proteinlm pretrain`")
    if not config.data.is_dir():
        raise FileNotFoundError(f"data: no directory {config.data}; it must hold the task's records")
    if config.mode == "probe" and config.task != CONTACTS:
        raise ValueError(f"mode: probe reads contacts off attention maps; accepted: task={CONTACTS}")
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
    """The task's records as shards, shared by all runs of a storage that read the same ones."""
    return shared_task_shards(
        config.task,
        config.data,
        config.storage,
        seed=config.seed,
        max_train_examples=config.max_train_examples,
        max_test_examples=config.max_test_examples,
        files=config.files,
        valid_fraction=config.valid_fraction,
    )
