"""Run trials in parallel under Ray Tune, each one a verb's own run, into one table: `proteinlm sweep`, and `finetune`
of several tasks, seeds or modes.

Run again, the same command goes on: finished trials are left alone, interrupted ones resume from their checkpoints. So
nothing is restored from Tune's own (pickled) state.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from proteinlm.cluster.connect import ClusterSize, connected
from proteinlm.cluster.launch import DATA_CPUS, check_fits, worker_group
from proteinlm.platform.config import FinetuneConfig, PretrainConfig
from proteinlm.platform.finetune import check_finetune, finetune
from proteinlm.platform.pretrain import check_pretrain, pretrain
from proteinlm.platform.training.driver import check_writable
from proteinlm.platform.training.finish import is_finished
from proteinlm.sweeps.plan import SweepConfig, Trial, plan_trials
from proteinlm.sweeps.plan_finetuning import plan_finetuning

HEAD = {"node:__internal_head__": 0.001}
"""What a trial's own process reserves where its workers are a group of their own: nothing that they need. With Tune's
default of one CPU for each trial, trials can take all CPUs and then wait for their workers for ever."""


@dataclass(frozen=True)
class TrialResources:
    """What each trial gets of the cluster, and how many run at once."""

    workers: int = 1
    cpus_per_worker: float = 0.5
    threads_per_worker: int | None = None
    """PyTorch threads; None: the machine's cores shared by the trials that run at once."""
    max_concurrent: int | None = None
    """None: as many trials as fit the cluster beside one CPU for reading data."""


def sweep(config: SweepConfig, console: Console | None = None) -> list[str]:
    """Run every trial that is not finished; returns the names of those that failed.

    ValueError, before Ray starts, for anything that is wrong with any trial.
    """
    each = TrialResources(
        config.workers_per_trial, config.cpus_per_worker, config.threads_per_worker, config.max_concurrent
    )
    return run_trials(plan_trials(config), config.directory, each, config.address, console)


def finetune_many(config: FinetuneConfig, console: Console | None = None) -> list[str]:
    """Run `config` for each of its tasks, seeds and modes; returns the names of the trials that failed."""
    cluster = config.cluster
    workers = cluster.most_workers
    each = TrialResources(workers, cluster.cpus_per_worker or 0.5, cluster.threads_per_worker)
    return run_trials(plan_finetuning(config), config.directory, each, cluster.address, console)


def run_trials(
    trials: list[Trial], directory: Path, each: TrialResources, address: str | None, console: Console | None
) -> list[str]:
    """Run the `trials` not finished in `directory`, each in its run directory; returns the names of the failed."""
    check_trials(trials)
    check_writable(directory)
    finished = {trial.name for trial in trials if is_finished(directory / trial.name)}
    _tell(console, f"{len(trials)} trials, {len(finished)} of them finished")
    if len(finished) == len(trials):
        return []
    with connected(address) as size:
        group = worker_group(size, each.workers, each.workers, each.cpus_per_worker, use_gpu=None)
        check_fits(group, size)
        at_once = each.max_concurrent or num_concurrent(each, size)
        threads = each.threads_per_worker or max(1, (os.cpu_count() or 1) // (at_once * each.workers))
        _tell(console, f"{at_once} at once, {each.workers} workers each, {threads} threads a worker")
        resources = {"CPU": each.cpus_per_worker} | ({"GPU": 1} if group.use_gpu else {})
        return _run([_on_threads(trial, threads) for trial in trials], finished, at_once, resources, directory, console)


def num_concurrent(each: TrialResources, size: ClusterSize) -> int:
    """Trials that fit at once beside the CPUs left for reading data."""
    fitting = (size.cpus - DATA_CPUS) / (each.workers * each.cpus_per_worker)
    if size.gpus:
        fitting = min(fitting, size.gpus / each.workers)
    return max(1, int(fitting + 1e-9))


def check_trials(trials: list[Trial]) -> None:
    """ValueError, every fault in one message, for inputs of trials that are missing or do not fit."""
    faults = []
    for trial in trials:
        try:
            if isinstance(trial.config, PretrainConfig):
                check_pretrain(trial.config)
            else:
                check_finetune(trial.config, is_planned=True)
        except (ValueError, OSError) as error:
            faults.append(f"trial {trial.name}: {error}")
    if faults:
        raise ValueError("\n".join(faults))


def run_trial(values: dict[str, Any]) -> dict[str, Any]:
    """One trial, in Tune's process for it: the verb itself, whose workers are a Ray Train group of their own."""
    if values["verb"] == "pretrain":
        pretrain(PretrainConfig.model_validate(values["values"]))
    else:
        finetune(FinetuneConfig.model_validate(values["values"]))
    return {"trial": values["trial"], "done": True}


def _on_threads(trial: Trial, threads: int) -> Trial:
    cluster = trial.config.cluster.model_copy(update={"threads_per_worker": threads})
    return replace(trial, config=trial.config.model_copy(update={"cluster": cluster}))


def _run(
    trials: list[Trial],
    finished: set[str],
    at_once: int,
    resources: dict[str, float],
    directory: Path,
    console: Console | None,
) -> list[str]:
    from ray import tune

    from proteinlm.sweeps.search import RoadSearcher
    from proteinlm.sweeps.watch import TrialLines

    in_process = {trial.name for trial in trials if trial.config.runs_in_process}

    def reserved(suggested: dict[str, Any]) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory([resources if suggested["trial"] in in_process else HEAD])

    tuner = tune.Tuner(
        tune.with_resources(run_trial, reserved),
        tune_config=tune.TuneConfig(
            search_alg=RoadSearcher(trials, finished),
            num_samples=len(trials) - len(finished),
            max_concurrent_trials=at_once,
            reuse_actors=True,  # the next trial finds a process that has torch and Ray loaded
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(directory.resolve()),
            callbacks=[TrialLines(console)],
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )
    results = tuner.fit()
    for error in results.errors:
        _tell(console, str(error).strip().splitlines()[-1])
    done = {trial.name for trial in trials if is_finished(directory / trial.name)}
    return [trial.name for trial in trials if trial.name not in done]


def _tell(console: Console | None, text: str) -> None:
    if console:
        console.print(text)
