"""`proteinlm finetune`: a task on a pretrained encoder, on one from scratch, or its baselines.

`mode=baseline` and `mode=probe` train no network: their rows of the same table come from methods without a language
model, and from the attention maps of one.
"""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.config import ModelConfig, shape_name
from proteinlm.models.pretrained import check_pretrained, content_hash_of, load_pretrained
from proteinlm.platform.data.manifest import Manifest, read_manifest
from proteinlm.platform.labelled.split_files import SplitOptions
from proteinlm.platform.labelled.task_data import notices_of, read_split, shared_task_shards
from proteinlm.platform.places.places import reach
from proteinlm.platform.results.measure import Measured, measure
from proteinlm.platform.results.rows import append_rows
from proteinlm.platform.settings.config import MODES, FinetuneConfig
from proteinlm.platform.settings.loading import flat, set_dotted, validate
from proteinlm.platform.storage.copies import kept_copy
from proteinlm.platform.storage.run_directory import code_version, is_finished, mark_finished
from proteinlm.platform.training.driver import describe_run, hold_run, is_to_run, run_training
from proteinlm.platform.training.job import TrainingJob, check_crop, check_length, crop_notice, scored_notices
from proteinlm.tasks.baselines import fit_baselines
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.contact_prediction import NAME as CONTACTS
from proteinlm.tasks.contact_probe import fit_contact_probe

BASELINE_PATIENCE = 3600.0
"""Seconds to wait for another process that fits the same baselines."""


def finetune(config: FinetuneConfig, console: Console | None = None) -> list[Path]:
    """Finetune as `config` says, or resume the run of its directory.

    Returns the run directories whose rows belong into one table: this run's, and that of the task's baselines. Raises
    ValueError or OSError for wrong input before any worker starts, StoppedError where training ends early.
    """
    config = for_task(config, config.task)
    model = check_finetune(config)
    runs = [config.directory]
    if config.with_baselines and config.mode != "baseline":
        runs.append(_run_baselines(config, console))
    data = task_data(config)
    manifest = read_manifest(data)
    inputs = {"data": manifest.content_hash}
    if config.pretrained and MODES[config.mode].is_pretrained:
        inputs["pretrained"] = content_hash_of(kept_copy(config.pretrained))
    # Runs of a storage share their baselines: who comes second waits for them.
    with hold_run(config, BASELINE_PATIENCE if config.mode == "baseline" else 0.0):
        if is_to_run(config, inputs, console):
            _run(config, model, data, manifest, inputs, console)
    return runs


def _run(
    config: FinetuneConfig,
    model: ModelConfig | None,
    data: Path,
    manifest: Manifest,
    inputs: Mapping[str, str],
    console: Console | None,
) -> None:
    """Fit what the mode fits without training, or train `model`, on the shards in `data`."""
    if console:
        for said in notices_of(data):
            console.print(said, markup=False, highlight=False, soft_wrap=True)
    if model is None or not MODES[config.mode].is_trained:
        version = code_version()
        describe_run(config, manifest, inputs, task=config.task, total_steps=0, code_version=version)
        fit = run_baseline if model is None else run_probe
        fit(config, data, manifest, version)
        return
    check_crop(config.batches, manifest.split("train"))
    job = TrainingJob.of_finetuning(config, manifest, data, model)
    if console:
        task = job.build_task(manifest)
        console.print(
            f"{config.task}, {config.mode}: {manifest.split('train').rows:,} training proteins, "
            f"{job.total_steps:,} optimizer steps"
        )
        if cropped := crop_notice(config.batches, manifest.split("train")):
            console.print(cropped)
        for notice in scored_notices(model, manifest, (*task.valid_splits, *task.test_splits)):
            console.print(notice)
    run_training(config, job, manifest, inputs, console)


def for_task(config: FinetuneConfig, task: str, **changes: object) -> FinetuneConfig:
    """Return `config` for one `task`: with `changes`, and over them what `per_task` says for the task."""
    values = config.model_dump(mode="json", exclude_unset=True) | {"task": task, "per_task": {}} | changes
    values = set_dotted(values, flat(config.per_task.get(task, {})), f"task {task}")
    return validate(FinetuneConfig, values, f"task {task}")


def _run_baselines(config: FinetuneConfig, console: Console | None) -> Path:
    """Fit the baselines of the run's task on its records, once for each storage; returns their run directory."""
    name = f"baseline-{task_data(config).name}"
    changes = {"name": name, "configuration": None, "mode": "baseline", "pretrained": None, "with_baselines": False}
    alone = config.model_copy(update=changes)
    if console and not is_finished(alone.directory):
        console.print(f"fitting the baselines of {config.task}")
    finetune(alone)
    return alone.directory


def check_finetune(config: FinetuneConfig, is_planned: bool = False) -> ModelConfig | None:
    """Check all inputs and return the architecture to train, None for a baseline.

    `is_planned`: the pretrained directory may still be missing; another trial makes it. Raises ValueError or
    FileNotFoundError for what is missing or does not fit.
    """
    if not build_task(config.task, **config.options).records:
        raise ValueError(f"task: {config.task} needs no labels; pretrain with `proteinlm pretrain`")
    for setting, path in (("data", config.data), ("pretrained", config.pretrained), ("storage", config.storage)):
        reach(setting, path)
    if not config.data.is_dir():
        raise FileNotFoundError(f"data: no directory {config.data}; it must hold the task's records")
    if config.mode == "probe" and config.task != CONTACTS:
        raise ValueError(f"mode: probe reads contacts off attention maps; accepted: task={CONTACTS}")
    if config.mode == "baseline":
        return None
    if config.pretrained is None or (is_planned and not config.pretrained.exists()):
        model = config.model
    else:
        model = check_pretrained(kept_copy(config.pretrained))
        if config.model is not None and config.model != model:
            raise ValueError(f"model: differs from {config.pretrained}; leave it out, or leave out pretrained")
    if model is not None:
        check_length(model, config.batches)
    return model


def task_data(config: FinetuneConfig) -> Path:
    """Return the directory of the task's shards, made if needed; runs of a storage with the same records share it."""
    return shared_task_shards(config.task, config.data, config.storage, split_options(config))


def split_options(config: FinetuneConfig) -> SplitOptions:
    """Which of the task's records become which split."""
    return SplitOptions(
        seed=config.seed,
        max_train_examples=config.max_train_examples,
        max_test_examples=config.max_test_examples,
        files=config.files,
        valid_fraction=config.valid_fraction,
        accept_non_protein=config.accept_non_protein,
    )


def run_baseline(config: FinetuneConfig, data: Path, manifest: Manifest, code_version: str) -> None:
    """Fit the task's baselines on the shards in `data`, score valid and test splits, write result rows."""
    task = build_task(config.task, **config.options).on_splits(manifest.splits)
    train, valid = (read_split(data, manifest, split) for split in (task.train_split, task.valid_splits[0]))
    splits = {split: read_split(data, manifest, split) for split in (*task.valid_splits, *task.test_splits)}
    for baseline in fit_baselines(task, train, valid, config.seed):
        scores = {split: baseline.score(table) for split, table in splits.items()}
        who = Measured(
            run=config.name,
            configuration=config.configuration,
            kind="baseline",
            model=baseline.name,
            mode="-",
            seed=config.seed,
            code_version=code_version,
            settings={"description": baseline.description},
        )
        append_rows(config.directory, measure(who, task, manifest, scores))
    mark_finished(config.directory, steps=0)


def run_probe(config: FinetuneConfig, data: Path, manifest: Manifest, code_version: str) -> None:
    """Fit the contact probe on the pretrained encoder's attention maps, score valid and test splits, write rows."""
    assert config.pretrained is not None
    task = build_task(config.task, **config.options).on_splits(manifest.splits)
    encoder = load_pretrained(kept_copy(config.pretrained)).encoder.eval()
    train, alphabet = read_split(data, manifest, task.train_split), get_alphabet(encoder.config.alphabet)
    probe = fit_contact_probe(encoder, train, alphabet, seed=config.seed)
    splits = (*task.valid_splits, *task.test_splits)
    scores = {split: probe.score(encoder, read_split(data, manifest, split)) for split in splits}
    who = Measured(
        run=config.name,
        configuration=config.configuration,
        kind="finetune",
        model=shape_name(encoder.config),
        architecture=encoder.config,
        mode=config.mode,
        seed=config.seed,
        code_version=code_version,
        settings={"description": probe.description},
    )
    append_rows(config.directory, measure(who, task, manifest, scores))
    mark_finished(config.directory, steps=0)
