"""The driver's side of a training run: check, write the run directory, launch workers, show progress, wait.

Small finetuning jobs run in the driver's own process, without Ray Train: they start at once, and nothing restarts them
when they die; the same command resumes them.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from proteinlm.cluster.connect import ClusterSize, connected, dashboard_address
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
from proteinlm.platform.training.checkpoint import LocalCheckpoints, checkpoints_in, newest_whole
from proteinlm.platform.training.device import clear_build_locks, give_back_memory, settle
from proteinlm.platform.training.job import TrainingJob, Worker
from proteinlm.platform.training.run_job import run_job
from proteinlm.platform.training.stopping import asking_on_signals, raise_if_stopped
from proteinlm.platform.training.tracking import MetricsTail

POLL_SECONDS = 0.5
"""How often the progress bar reads metrics.jsonl in the run directory, wherever the workers are."""
SPEED_SECONDS = 3600.0
"""The time left is estimated from the rows (at most 1000) of so many seconds before now: steps may take minutes."""
OF_BASELINES = {"task", "options", "seed"}
"""Settings that baselines depend on, beside the records, whose content is compared."""
NOTABLE = 0.01
"""Stalls and skipped steps are shown from this share of the time or of the steps on."""


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
        if console and (address := dashboard_address()):
            console.print(f"Ray's dashboard: {address}")
        describe_run(
            config, manifest, inputs, task=job.task, total_steps=job.total_steps, code_version=job.code_version
        )
        take_stopped(job.directory)
        withdraw_stop(job.directory)
        _tell_damaged(job.directory, console)
        if job.training.engine == "deepspeed":
            for said in clear_build_locks():
                if console:
                    console.print(said, markup=False, soft_wrap=True)
        with (
            asking_on_signals(job.directory, console) as signals,
            progress_bar(job.directory, job.total_steps, console),
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
        run_job(job, Worker(0, 1, device), LocalCheckpoints(job.directory, job.training.keep_checkpoints), 1)
    finally:
        give_back_memory()


@contextmanager
def progress_bar(run_directory: Path, total_steps: int, console: Console | None) -> Iterator[None]:
    """Show the progress of the run in `run_directory` while the body waits for it; no console: show nothing."""
    if console is None:
        yield
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[metrics]}", markup=False),
        TimeRemainingColumn(),
    )
    done = threading.Event()
    with Progress(*columns, console=console, speed_estimate_period=SPEED_SECONDS) as bar:
        follower = Follower(bar, run_directory, total_steps)

        def follow() -> None:
            while not done.is_set():
                follower.show()
                done.wait(POLL_SECONDS)

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            follower.show()


class Follower:
    """Updates one task of a progress bar from what a run logs."""

    def __init__(self, bar: Progress, run_directory: Path, total_steps: int) -> None:
        self._bar = bar
        self._tail = MetricsTail(run_directory)
        self._last: dict[str, Any] = {}
        self._task = bar.add_task(run_directory.name, total=total_steps, metrics=describe(self._last))

    def show(self) -> None:
        """Read what was logged since the last call and show it."""
        rows, is_new_file = self._tail.read()
        if is_new_file:
            self._last = {}
        for row in rows:  # only a training row says how far the run is
            self._last |= row if "loss" in row else {name: row[name] for name in row.keys() - {"step"}}
        step, metrics = self._last.get("step", 0), describe(self._last)
        if is_new_file:  # a launch begins: steps of earlier ones say nothing about its speed
            self._bar.reset(self._task, completed=step, metrics=metrics)
        elif rows:
            self._bar.update(self._task, completed=step, metrics=metrics)


def describe(metrics: Mapping[str, Any]) -> str:
    """Return the newest metrics as one line of text; small stalls and missing ones are left out."""
    if "loss" not in metrics:
        return "starting workers"
    parts = [f"loss {metrics['loss']:.4f}", f"{metrics['residues_per_s']:,.0f} residues/s"]
    if "peak_share" in metrics:
        parts.append(f"{metrics['peak_share']:.0%} of peak")
    if "valid/loss" in metrics:
        parts.append(f"valid {metrics['valid/loss']:.4f}")
    for name, words in (("data_stall_share", "data stall"), ("checkpoint_stall_share", "checkpoint stall")):
        if metrics.get(name, 0.0) > NOTABLE:
            parts.append(f"{words} {metrics[name]:.0%}")
    if metrics.get("skipped_steps", 0) > NOTABLE * metrics["step"]:
        parts.append(f"{metrics['skipped_steps']:.0f} steps skipped")
    return "  ".join(parts)
