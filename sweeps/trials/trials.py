"""Run trials in parallel under Ray Tune, each one a run of `pretrain` or `finetune` in its own run directory.

Run again, the same trials are resumed: finished ones are left alone, interrupted ones continue from their checkpoints.
A trial's result is what its verb leaves in the run directory; what Tune stores is deleted at the end.

Why Tune, and how much of it. Tune gives an actor for each trial, placed on the cluster by a placement group and used
again for the next trial (torch and Ray are loaded once), notice of actors that died, and callbacks for the display.
Refused, each with its reason in CONTRIBUTING.md: restoring an experiment (pickles, and one that was killed early
restores to an empty trial), retries (they repeat a diverging run), schedulers such as ASHA (their rungs are in memory
alone), reports (a trial's metrics are files), and counting resources of trials with worker groups of their own (Tune
counts the trial's process and not its workers: a silent deadlock). The plain alternative is a loop of `ray.remote` and
`ray.wait` over the same queue: about 120 lines in place of scheduler.py's interface to Tune and of `_run`, with its own
reuse of processes and its own placement. Tune stays because this project is asked to run its sweeps on Ray Tune.
"""

import math
import os
import shutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from proteinlm.cluster.connect import ClusterSize, connected
from proteinlm.cluster.launch import DATA_CPUS, WorkerGroup, check_fits, worker_group
from proteinlm.platform.finetune import check_finetune, finetune
from proteinlm.platform.pretrain import check_pretrain, pretrain
from proteinlm.platform.settings.config import MODES, FinetuneConfig, PretrainConfig
from proteinlm.platform.storage.run_directory import (
    Failure,
    Stopped,
    forget_outcome,
    is_finished,
    mark_failed,
    mark_halted,
)
from proteinlm.platform.training.driver import check_same_run, hold_directory, hold_run
from proteinlm.platform.training.stopping import PausedError, StoppedError
from proteinlm.platform.training.tracking import last_logged_step, read_metrics
from proteinlm.sweeps.planning.trial import Trial
from proteinlm.sweeps.trials.halving import Halving
from proteinlm.sweeps.trials.trial_state import attempt

HEAD = {"node:__internal_head__": 0.001}
"""What a trial's own process reserves where its workers are a group of their own: nothing that they need. With Tune's
default of one CPU for each trial, trials can take all CPUs and then wait for their workers for ever."""
PATIENCE = 60.0
"""Seconds to wait for the process of a killed sweep to end: it may outlive it, and two writers would mix steps."""
TUNE_FOLDER = "tune"
TUNE_SWITCHES = {"RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}


@dataclass(frozen=True)
class ClusterUse:
    """Which cluster trials run on, and how many at once; what one trial takes of it stands in its own settings."""

    address: str | None = None
    """Ray address; None: RAY_ADDRESS, else an embedded Ray on this machine."""
    max_concurrent: int | None = None
    """Trials at once; None: as many as fit."""
    autoscaling: bool = False
    """Hold no trial back for want of resources: nodes are added."""
    max_failures: int = 3
    """How often a trial whose process died is resumed from its checkpoint before it is given up."""


def run_trials(
    trials: list[Trial], directory: Path, use: ClusterUse, console: Console | None, halving: Halving | None = None
) -> list[str]:
    """Run the checked `trials` that are not finished, each in `directory`/<its name>.

    Returns the names of those that did not come to their end; a trial that halving stopped, or whose model it stopped,
    is not one of them. ValueError where the cluster can never place a trial.
    """
    with hold_directory(directory, f"the folder of trials {directory}"):
        finished = {trial.name for trial in trials if is_finished(directory / trial.name)}
        if console:
            console.print(f"{len(trials)} trials, {len(finished)} of them finished")
        if len(finished) < len(trials):
            with connected(use.address) as size:
                trials = [with_share(trial, size, use.max_concurrent) for trial in trials]
                if not use.autoscaling:
                    check_all_fit(trials, size)
                _run(trials, finished, use, size, directory, console, halving)
    stopped = _mark_stopped(halving, directory) if halving else set()
    ended = {trial.name for trial in trials if is_finished(directory / trial.name)} | stopped
    return [trial.name for trial in trials if trial.name not in ended and trial.needs not in stopped]


def _mark_stopped(halving: Halving, directory: Path) -> set[str]:
    """Names of the trials that halving stopped; why and when is written into their run directories."""
    paused = halving.paused()
    for name, standing in paused.items():
        step = halving.next_pause(name)
        assert step is not None  # a rung that it has not passed
        mark_halted(directory / name, Stopped(step, standing))
    return set(paused)


def cpu_share(size: ClusterSize) -> float:
    """Return CPUs for a worker such that as many workers as there are CPUs fit beside the one for reading data."""
    return max(0.1, math.floor(100 * (size.cpus - DATA_CPUS) / size.cpus) / 100)


def with_share(trial: Trial, size: ClusterSize, max_concurrent: int | None = None) -> Trial:
    """Return the trial with what its `cluster` section leaves open decided for this cluster.

    CPUs of a worker: such that as many workers as there are CPUs fit. Threads: the cores shared by the workers that run
    at once, at most `max_concurrent` trials. GPUs: where there are some and a network is trained.
    """
    section = trial.config.cluster
    trains = isinstance(trial.config, PretrainConfig) or MODES[trial.config.mode].is_trained
    cpus = section.cpus_per_worker or cpu_share(size)
    workers_at_once = min((size.cpus - DATA_CPUS) / cpus, section.most_workers * (max_concurrent or math.inf))
    threads = max(1, round(size.cpus / max(1.0, workers_at_once)))
    settled = {
        "cpus_per_worker": cpus,
        "threads_per_worker": section.threads_per_worker or threads,
        "use_gpu": (trains and size.gpus > 0) if section.use_gpu is None else section.use_gpu,
    }
    return replace(trial, config=trial.config.model_copy(update={"cluster": section.model_copy(update=settled)}))


def check_all_fit(trials: list[Trial], size: ClusterSize) -> None:
    """Raise ValueError, with every fault, for trials that this cluster can never place."""
    _check_each(trials, lambda trial: check_fits(_group(trial, size), size))


def check_trials(trials: list[Trial]) -> None:
    """Raise ValueError, with every fault, for inputs of trials that are missing or do not fit each other."""
    _check_each(trials, _check_inputs)


def _check_inputs(trial: Trial) -> None:
    if isinstance(trial.config, PretrainConfig):
        check_pretrain(trial.config)
    else:
        check_finetune(trial.config, is_planned=True)
    check_same_run(trial.config, {})  # the name of a trial is known by the content of its inputs


def _check_each(trials: list[Trial], check: Callable[[Trial], None]) -> None:
    """Raise ValueError with every fault that `check` raises; a fault of many trials is said of the first."""
    faults: dict[str, str] = {}
    for trial in trials:
        try:
            check(trial)
        except (ValueError, OSError) as error:
            faults.setdefault(str(error), trial.name)
    if faults:
        raise ValueError("\n".join(f"trial {name}: {fault}" for fault, name in faults.items()))


def _group(trial: Trial, size: ClusterSize) -> WorkerGroup:
    """The trial's workers, what was left open filled in."""
    cluster = trial.config.cluster
    return worker_group(size, cluster.fewest_workers, cluster.most_workers, cluster.cpus_per_worker, cluster.use_gpu)


def validation_losses(run_directory: Path) -> dict[int, float]:
    """Return the run's validation loss by optimizer step, as far as it was measured."""
    rows = read_metrics(run_directory)
    return {int(row["step"]): float(row["valid/loss"]) for row in rows if "valid/loss" in row}


def _run(
    trials: list[Trial],
    finished: set[str],
    use: ClusterUse,
    size: ClusterSize,
    directory: Path,
    console: Console | None,
    halving: Halving | None,
) -> None:
    from ray import tune
    from ray.tune.logger import JsonLoggerCallback

    from proteinlm.sweeps.trials.scheduler import Resources, TrialQueue
    from proteinlm.sweeps.trials.watch import SweepWatch

    most = float(use.max_concurrent or math.inf)
    there_is = (math.inf, math.inf) if use.autoscaling else (size.cpus - DATA_CPUS, size.gpus)
    takes = {trial.name: Resources(*_takes(_group(trial, size))) for trial in trials}
    in_process = {trial.name for trial in trials if trial.config.runs_in_process}

    def reserved(suggested: dict[str, Any]) -> tune.PlacementGroupFactory:
        taken = takes[suggested["trial"]]
        own = {"CPU": taken.cpus} | ({"GPU": taken.gpus} if taken.gpus else {})
        return tune.PlacementGroupFactory([own if suggested["trial"] in in_process else HEAD])

    queue = TrialQueue(
        trials,
        finished,
        Resources(*there_is, most),
        takes,
        halving=halving,
        loss_after=lambda name, step: validation_losses(directory / name).get(step, math.nan),
        max_failures=use.max_failures,
        give_up=partial(_note_deaths, directory),
    )
    log = JsonLoggerCallback()  # type: ignore[no-untyped-call]  # Tune reads its own log when it ends
    verbs = {trial.name: trial.verb for trial in trials}
    with _quiet_tune(directory), SweepWatch(verbs, directory, finished, console) as watch:
        tune.Tuner(
            tune.with_resources(run_trial, reserved),
            tune_config=tune.TuneConfig(
                search_alg=queue,
                num_samples=-1,  # until the queue says that it is over
                trial_dirname_creator=lambda trial: trial.trial_id,
                reuse_actors=True,  # the next trial finds a process that has torch and Ray loaded
            ),
            run_config=tune.RunConfig(
                name=TUNE_FOLDER,
                storage_path=str(directory.resolve()),
                callbacks=[watch.callback(), log],
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=0),
            ),
        ).fit()


@contextmanager
def _quiet_tune(directory: Path) -> Iterator[None]:
    """Keep Tune from printing tables and writing event files while the body runs; delete its state at the end.

    A sweep is resumed from its run directories alone.
    """
    before = {name: os.environ.get(name) for name in TUNE_SWITCHES}
    os.environ.update(TUNE_SWITCHES)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        shutil.rmtree(directory / TUNE_FOLDER, ignore_errors=True)


def _takes(group: WorkerGroup) -> tuple[float, float]:
    """CPUs and GPUs of the trial's smallest worker group."""
    return group.fewest * group.cpus_per_worker, float(group.fewest) if group.use_gpu else 0.0


def _note_deaths(directory: Path, name: str, times: int) -> None:
    why = f"its process died {times} times: killed, perhaps for want of memory, or with its node"
    mark_failed(directory / name, Failure(why, last_logged_step(directory / name)))


def run_trial(told: dict[str, Any]) -> dict[str, Any]:
    """Run one trial and return its outcome: `done` (True), `paused` (the step) or `failed` (why). Never raises.

    `told` is what `TrialQueue.suggest` returns: trial, verb, values (the settings), scheduled (a time). So what Tune
    takes for an error is a process that died: killed, or with its node.
    """
    make = PretrainConfig if told["verb"] == "pretrain" else FinetuneConfig
    config = make.model_validate(told["values"])
    outcome: dict[str, Any] = {"trial": told["trial"]}
    try:
        with hold_run(config, PATIENCE), attempt(config.directory, *_devices(config), told["scheduled"]):
            forget_outcome(config.directory)
            pretrain(config) if isinstance(config, PretrainConfig) else finetune(config)
    except PausedError as pause:
        return outcome | {"paused": pause.step}
    except Exception as error:
        why = _in_one_line(error)
        step = error.step if isinstance(error, StoppedError) else last_logged_step(config.directory)
        mark_failed(config.directory, Failure(why, step, traceback.format_exc()))
        return outcome | {"failed": why}
    return outcome | {"done": True}


def _devices(config: PretrainConfig | FinetuneConfig) -> tuple[float, str]:
    """Number and kind of the devices that the trial holds; `with_share` has decided both."""
    workers = config.cluster.most_workers
    return (workers, "gpu") if config.cluster.use_gpu else (workers * (config.cluster.threads_per_worker or 1), "core")


def _in_one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines) or type(error).__name__
