"""Run trials in parallel under Ray Tune, each one a run of `pretrain` or `finetune` in its own run directory.

Run again, the same trials are resumed: finished ones are left alone, interrupted ones continue from their checkpoints.
A trial's result is what its verb leaves in the run directory; what Tune stores is deleted at the end.

Tune gives an actor for each trial, placed on the cluster by a placement group and used again for the next trial (torch
and Ray are loaded once), notice of actors that died, and callbacks for the display. What it offers beyond that is not
used, each with its reason in CONTRIBUTING.md: restored experiments, retries, schedulers such as ASHA, reports, and its
count of resources.
"""

import math
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from proteinlm.cluster.connect import ClusterSize, connected
from proteinlm.cluster.launch import DATA_CPUS, away_from_signals, check_fits
from proteinlm.platform.finetune import check_finetune, finetune
from proteinlm.platform.places.places import is_remote
from proteinlm.platform.pretrain import check_pretrain, pretrain
from proteinlm.platform.settings.config import FinetuneConfig, PretrainConfig
from proteinlm.platform.storage.lock import LEFT_OVER_AFTER
from proteinlm.platform.storage.run_directory import (
    Failure,
    Stopped,
    check_writable,
    forget_outcome,
    is_finished,
    mark_failed,
    mark_halted,
    request_stop,
)
from proteinlm.platform.training.driver import check_same_run, hold_directory, hold_run
from proteinlm.platform.training.progress import tell_where_to_watch
from proteinlm.platform.training.stopping import AskedError, PausedError, StoppedError, on_signals
from proteinlm.platform.training.tracking import last_logged_step, read_metrics
from proteinlm.sweeps.planning.trial import Trial
from proteinlm.sweeps.trials.halving import Halving
from proteinlm.sweeps.trials.placement import devices_of, group_of, taken_by, with_share
from proteinlm.sweeps.trials.trial_state import attempt

if TYPE_CHECKING:
    from ray.tune import PlacementGroupFactory, Tuner

    from proteinlm.sweeps.trials.scheduler import TrialQueue
    from proteinlm.sweeps.trials.watch import Expected, SweepWatch

HEAD = {"node:__internal_head__": 0.001}
"""What a trial's own process reserves where its workers are a group of their own: nothing that they need. With Tune's
default of one CPU for each trial, trials can take all CPUs and then wait for their workers for ever."""
PATIENCE = LEFT_OVER_AFTER + 60.0
"""Seconds to wait for the process of a killed sweep to end: it may outlive it, and two writers would mix steps; and for
the lock of a process that went with its node, which is taken over after a while."""


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
    trials: list[Trial],
    directory: Path,
    use: ClusterUse,
    console: Console | None,
    halving: Halving | None = None,
    expected: "Expected | None" = None,
) -> list[str]:
    """Run the checked `trials` that are not finished, each in `directory`/<its name>; `expected` forecasts them.

    Returns the names of those that did not come to their end; a trial that halving stopped, or whose model it stopped,
    is not one of them. ValueError where the cluster can never place a trial.
    """
    with hold_directory(directory, f"the folder of trials {directory}"):
        finished = {trial.name for trial in trials if is_finished(directory / trial.name)}
        if console:
            console.print(f"{len(trials)} trials, {len(finished)} of them finished")
        if len(finished) < len(trials):
            with connected(use.address) as size:
                tell_where_to_watch(directory, console)
                trials = [with_share(trial, size, use.max_concurrent, autoscaling=use.autoscaling) for trial in trials]
                if not use.autoscaling:
                    check_all_fit(trials, size)
                _run(trials, finished, use, size, directory, console, halving, expected)
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


def check_all_fit(trials: list[Trial], size: ClusterSize) -> None:
    """Raise ValueError, with every fault, for trials that this cluster can never place."""
    _check_each(trials, lambda trial: check_fits(group_of(trial, size), size))


def check_trials(trials: list[Trial]) -> None:
    """Raise ValueError, with every fault, for inputs of trials that are missing or do not fit each other; OSError for a
    store that cannot be written.
    """
    for storage in dict.fromkeys(trial.config.storage for trial in trials if is_remote(trial.config.storage)):
        check_writable(storage)
    _check_each(trials, _check_inputs)


def _check_inputs(trial: Trial) -> None:
    if isinstance(trial.config, PretrainConfig):
        check_pretrain(trial.config)
    elif trial.needs and is_remote(trial.config.storage):  # else each model that is there would be copied to this node
        check_finetune(trial.config.model_copy(update={"pretrained": None}), is_planned=True)
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
    expected: "Expected | None",
) -> None:
    from ray import tune

    from proteinlm.sweeps.trials.scheduler import Resources, TrialQueue, quiet_tune
    from proteinlm.sweeps.trials.watch import SweepWatch

    most = float(use.max_concurrent or math.inf)
    there_is = (math.inf, math.inf) if use.autoscaling else (size.cpus - DATA_CPUS, size.gpus)
    takes = {trial.name: Resources(*taken_by(group_of(trial, size))) for trial in trials}
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
    names = [trial.name for trial in trials]

    ask_to_end = partial(_ask_to_end, queue, directory)
    with (
        quiet_tune(directory) as state,
        on_signals(ask_to_end, "running trials save a checkpoint and end", console) as signals,
        SweepWatch(names, directory, finished, console, expected) as watch,
    ):
        tuner = _tuner(queue, reserved, state, watch)
        # Asked again each second: a trial that is just starting withdraws what was asked of an earlier launch.
        away_from_signals(tuner.fit, lambda: ask_to_end() if signals.is_asked else None)
    if signals.is_asked:
        _raise_unless_all_ended(trials, directory, signals.is_interrupted)


def _tuner(
    queue: "TrialQueue",
    reserved: Callable[[dict[str, Any]], "PlacementGroupFactory"],
    state: Path,
    watch: "SweepWatch",
) -> "Tuner":
    """Tune, set to run the trials of `queue`, each with what `reserved` says, to tell `watch` of them, and to keep its
    state in the folder `state`.
    """
    from ray import tune
    from ray.tune.logger import JsonLoggerCallback

    log = JsonLoggerCallback()  # type: ignore[no-untyped-call]  # Tune reads its own log when it ends
    return tune.Tuner(
        tune.with_resources(run_trial, reserved),
        tune_config=tune.TuneConfig(
            search_alg=queue,
            num_samples=-1,  # until the queue says that it is over
            trial_dirname_creator=lambda trial: trial.trial_id,
            reuse_actors=True,  # the next trial finds a process that has torch and Ray loaded
        ),
        run_config=tune.RunConfig(
            name=state.name,
            storage_path=str(state.parent),
            callbacks=[watch.callback(), log],
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )


def _ask_to_end(queue: "TrialQueue", directory: Path) -> None:
    queue.end()
    for name in queue.running():
        with suppress(FileNotFoundError):  # its directory is not there yet
            request_stop(directory / name)


def _raise_unless_all_ended(trials: list[Trial], directory: Path, is_interrupted: bool) -> None:
    """KeyboardInterrupt or RuntimeError that says how many trials are finished, unless all are."""
    ended = sum(is_finished(directory / trial.name) for trial in trials)
    if ended < len(trials):
        why = f"{ended} of {len(trials)} trials are finished; the same command goes on with the others"
        raise KeyboardInterrupt(why) if is_interrupted else RuntimeError(f"stopped, as asked: {why}")


def _note_deaths(directory: Path, name: str, times: int) -> None:
    why = f"its process died {times} times: killed, perhaps for want of memory, or with its node"
    mark_failed(directory / name, Failure(why, last_logged_step(directory / name)))


def run_trial(told: dict[str, Any]) -> dict[str, Any]:
    """Run one trial and return its outcome: `done` (True), `paused` or `stopped` as asked (the step) or `failed` (why).
    Never raises.

    `told` is what `TrialQueue.suggest` returns: trial, verb, values (the settings), scheduled (a time). So what Tune
    takes for an error is a process that died: killed, or with its node.
    """
    make = PretrainConfig if told["verb"] == "pretrain" else FinetuneConfig
    config = make.model_validate(told["values"])
    outcome: dict[str, Any] = {"trial": told["trial"]}
    try:
        with hold_run(config, PATIENCE), attempt(config.directory, *devices_of(config), told["scheduled"]):
            forget_outcome(config.directory)
            pretrain(config) if isinstance(config, PretrainConfig) else finetune(config)
    except PausedError as pause:
        return outcome | {"paused": pause.step}
    except AskedError as stop:
        return outcome | {"stopped": stop.step}
    except Exception as error:
        why = _in_one_line(error)
        step = error.step if isinstance(error, StoppedError) else last_logged_step(config.directory)
        mark_failed(config.directory, Failure(why, step, traceback.format_exc()))
        return outcome | {"failed": why}
    return outcome | {"done": True}


def _in_one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines) or type(error).__name__
