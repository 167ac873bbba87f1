"""The driver's side of a training run: check, write the run directory, launch workers, show progress, wait.

Small finetuning jobs run in the driver's own process, without Ray Train: they start at once, and nothing restarts them
when they die; the same command resumes them.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console

from proteinlm.cluster.connect import ClusterSize, connected
from proteinlm.cluster.launch import check_fits, launch, waits_of, worker_group
from proteinlm.models.config import renamed
from proteinlm.platform.data.manifest import Manifest
from proteinlm.platform.settings.config import FinetuneConfig, PretrainConfig, RunConfig
from proteinlm.platform.settings.sections import of_result, settings_of_result
from proteinlm.platform.storage.lock import held
from proteinlm.platform.storage.phases import begin, entered, phase
from proteinlm.platform.storage.run_directory import (
    LOCK_FILE,
    MODEL_DIRECTORY,
    check_writable,
    is_finished,
    read_run_file,
    take_stopped,
    withdraw_stop,
    write_run_file,
)
from proteinlm.platform.training.checkpoint import checkpoints_in, newest_whole
from proteinlm.platform.training.device import give_back_memory, settle
from proteinlm.platform.training.job import TrainingJob, Worker
from proteinlm.platform.training.progress import progress_shown, tell_where_to_watch
from proteinlm.platform.training.remote_checkpoints import checkpoints_alone
from proteinlm.platform.training.run_job import run_job
from proteinlm.platform.training.stopping import asking_on_signals, raise_if_stopped

OF_BASELINES = {"task", "options", "seed"}
"""Settings that baselines depend on, beside the records, whose content is compared."""


@contextmanager
def hold_run(config: RunConfig, patience: float = 0.0) -> Iterator[None]:
    """Inside the body the run's directory is there and this process alone works in it.

    OSError where it cannot be written, or where another process works there for more than `patience` seconds.
    """
    with hold_directory(config.directory, f"the run {config.directory}", patience):
        yield


@contextmanager
def hold_directory(directory: Path, what: str, patience: float = 0.0) -> Iterator[None]:
    """Inside the body `directory`, of a run or of many, is there and is this process's alone; as `hold_run`."""
    check_writable(directory)
    with held(directory / LOCK_FILE, what, patience):
        yield


def is_to_run(config: RunConfig, inputs: Mapping[str, str], console: Console | None) -> bool:
    """Whether the run, which is held, has anything left to do; ValueError where it is of other settings or inputs.

    `inputs`: setting -> content hash of what it names now.
    """
    check_same_run(config, inputs)
    finished = is_finished(config.directory)
    if finished and console:
        console.print(f"{config.directory} is finished; nothing to do")
    return not finished


def describe_run(
    config: RunConfig, manifest: Manifest, inputs: Mapping[str, str], *, task: str, total_steps: int, code_version: str
) -> None:
    """Write run.json: the settings of the run, and what its `inputs` (as in `is_to_run`) and data set are."""
    write_run_file(
        config.directory,
        config.model_dump(mode="json"),
        task=task,
        total_steps=total_steps,
        code_version=code_version,
        data_hash=manifest.content_hash,
        inputs=inputs,
    )


def run_training(
    config: RunConfig, job: TrainingJob, manifest: Manifest, inputs: Mapping[str, str], console: Console | None
) -> None:
    """Run `job` to its end, from scratch or from its newest checkpoint; StoppedError where it ends before that,
    KeyboardInterrupt where Ctrl-C asked for it.
    """
    begin(job.directory)
    with entered(
        connected(config.cluster.address, has_dashboard=config.cluster.dashboard), "Ray's start", "Ray's end"
    ) as size:
        tell_where_to_watch(job.directory, console)
        describe_run(
            config, manifest, inputs, task=job.task, total_steps=job.total_steps, code_version=job.code_version
        )
        take_stopped(job.directory)
        withdraw_stop(job.directory)
        _tell_damaged(job.directory, console)
        with (
            asking_on_signals(job.directory, console) as signals,
            progress_shown(job.directory, job.total_steps, console),
        ):
            if config.runs_in_process:
                run_in_process(job, config.cluster.use_gpu)
            else:
                _train_on_workers(config, job, size)
    raise_if_stopped(job.directory, signals.is_interrupted)


def _tell_damaged(run_directory: Path, console: Console | None) -> None:
    """Say which checkpoints are damaged and where the run goes on; ValueError where none is whole."""
    chosen, faults = newest_whole(checkpoints_in(run_directory))
    if console and chosen and faults:
        console.print(f"{'; '.join(faults)}: going on from {chosen.name}", markup=False, soft_wrap=True)


@phase("workers, from launch to end")
def _train_on_workers(config: RunConfig, job: TrainingJob, size: ClusterSize) -> None:
    cluster = config.cluster
    group = worker_group(size, cluster.fewest_workers, cluster.most_workers, cluster.cpus_per_worker, cluster.use_gpu)
    if not group.use_gpu:
        settle(config.training.precision, None, has_cpu_bf16=True)
    if not cluster.autoscaling:
        check_fits(group, size)
    from proteinlm.platform.training.worker import train_worker

    launch(
        train_worker,
        job.model_dump(mode="json"),
        group,
        name=config.name,
        storage=config.storage,
        keep_checkpoints=config.training.keep_checkpoints,
        max_failures=cluster.max_failures,
        waits=waits_of(cluster.resize_minutes, cluster.node_minutes if cluster.autoscaling else None),
    )


def check_same_run(config: RunConfig, inputs: Mapping[str, str]) -> None:
    """ValueError where the run directory holds a run of other settings or of other inputs, finished or not.

    Resuming would mix two experiments, and a finished run's results would be taken for those of the new inputs.
    `inputs`: setting -> content hash of what it names now; what is not in it is not compared.
    """
    described = read_run_file(config.directory)
    if described is None:
        return
    then = described.inputs or {"corpus": described.data_hash}  # an earlier version wrote no others
    for name in inputs.keys() & then.keys():
        if inputs[name] != then[name]:
            raise ValueError(
                f"{name}: its content is another than when the run in {config.directory} was started (content hash "
                f"{inputs[name][:16]}, then {then[name][:16]}); choose another name, or bring the earlier content back"
            )
    settings = described.settings
    if isinstance(settings.get("model"), dict):  # a run of an earlier version may call a value by its earlier name
        settings = {**settings, "model": renamed(settings["model"])}
    before, now = of_result(type(config), settings), settings_of_result(config)
    names = before.keys() | now.keys()
    if isinstance(config, FinetuneConfig) and config.mode == "baseline":  # runs of other models share it
        names = {name for name in names if name.partition(".")[0] in OF_BASELINES}
    changed = [
        f"{name}: was {before.get(name)!r}, is {now.get(name)!r}"
        for name in sorted(names)
        if before.get(name) != now.get(name)
    ]
    if changed:
        faults = "\n  ".join(changed)
        further = ""
        if isinstance(config, PretrainConfig) and is_finished(config.directory):
            further = f"\nTo train its model further: pretrained={config.directory / MODEL_DIRECTORY} and another name"
        raise ValueError(
            f"name: {config.directory} holds a run of other settings; choose another name, or the settings it was "
            f"started with:\n  {faults}{further}"
        )


def run_in_process(job: TrainingJob, use_gpu: bool | None) -> None:
    """Run `job` on the only worker there is, this process; `use_gpu` None: where there is one."""
    use_gpu = torch.cuda.is_available() if use_gpu is None else use_gpu
    device = torch.device("cuda" if use_gpu else "cpu")
    try:
        run_job(job, Worker(0, 1, device), checkpoints_alone(job.directory, job.training.keep_checkpoints), 1)
    finally:
        give_back_memory()
