"""`proteinlm sweep`, and `proteinlm finetune` of several tasks, seeds or modes: from a plan to trials to results."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from proteinlm.platform.finetune import split_options, task_data
from proteinlm.platform.labelled.task_data import notices_of
from proteinlm.platform.settings.config import FinetuneConfig, PretrainConfig
from proteinlm.platform.storage.run_directory import is_finished
from proteinlm.sweeps.planning.config import HalvingSection
from proteinlm.sweeps.planning.cost import Cost, pretraining_cost
from proteinlm.sweeps.planning.forecast import forecast, forecast_of_sweep, show_plan
from proteinlm.sweeps.planning.plan import Plan, plan_finetuning
from proteinlm.sweeps.planning.trial import Trial
from proteinlm.sweeps.results.report import FINDINGS, FORMS, ONE_BY_ONE, PAGE, write_report
from proteinlm.sweeps.trials.halving import Halving
from proteinlm.sweeps.trials.trials import ClusterUse, check_trials, run_trials, validation_losses


def sweep(plan: Plan, console: Console | None = None, *, dry_run: bool = False) -> list[str]:
    """Run every trial of the plan that is not finished, then write the results into `<storage>/<name>/results`.

    Returns the names of trials that did not come to an end; with `dry_run` it prints the plan and returns none. Raises
    ValueError or OSError, before Ray starts, for anything that is wrong with the inputs of any trial.
    """
    config = plan.sweep
    check_trials(plan.trials)
    costs = costs_of(plan)
    rungs = rung_steps(config.halving, costs) if config.halving else {}
    shares = {name: [step / costs[name].steps for step in steps] for name, steps in rungs.items()}
    times = forecast_of_sweep(plan, costs, shares)
    if console:
        show_plan(plan, costs, times, console)
    if dry_run:
        return []
    # Most expensive first, so that at the end no core waits for one long trial.
    trials = sorted(plan.trials, key=lambda trial: -costs[trial.name].training_flops if trial.name in costs else 0.0)
    halving = halving_of(config.halving, rungs, config.directory) if config.halving else None
    use = ClusterUse(config.address, config.max_concurrent, config.autoscaling, config.max_failures)
    unfinished = run_trials(trials, config.directory, use, console, halving, times.seconds)
    folder = write_report(config, plan, costs)
    if console:
        show_notices(trials, console)
        show_report(folder, console)
    return unfinished


def show_notices(trials: Iterable[Trial], console: Console) -> None:
    """Print what a user should know of the records that the trials were trained and scored on, each sentence once."""
    configs = [trial.config for trial in trials if isinstance(trial.config, FinetuneConfig)]
    read = {(config.task, config.data, repr(split_options(config))): config for config in configs}
    said: list[str] = []
    for config in read.values():
        with suppress(ValueError, OSError):  # of records that cannot be read the failed trials tell
            said += notices_of(task_data(config))
    for notice in dict.fromkeys(said):
        console.print(notice, markup=False, highlight=False, soft_wrap=True)


def show_report(folder: Path, console: Console) -> None:
    """Print what the sweep says, and where its table and plots lie."""
    for text in (folder / FINDINGS).read_text().partition(ONE_BY_ONE)[0].strip().split("\n\n"):
        console.print(text)
    console.print(f"table and plots: {folder / PAGE}, {', '.join(FORMS)}; metric by metric: {FINDINGS}", soft_wrap=True)


def finetune_many(config: FinetuneConfig, console: Console | None = None) -> list[str]:
    """Run `config` for each of its tasks, seeds and modes in parallel; returns the names of unfinished trials.

    Raises ValueError or OSError, before Ray starts, for anything that is wrong with any of them.
    """
    trials = plan_finetuning(config)
    check_trials(trials)
    use = ClusterUse(config.cluster.address, autoscaling=config.cluster.autoscaling)
    unfinished = run_trials(trials, config.directory, use, console, expected=forecast(trials, {}).seconds)
    if console:
        show_notices(trials, console)
    return unfinished


def costs_of(plan: Plan) -> dict[str, Cost]:
    """Return the cost of each pretraining trial of the plan, by its name."""
    return {
        trial.name: pretraining_cost(trial.config) for trial in plan.trials if isinstance(trial.config, PretrainConfig)
    }


def rung_steps(section: HalvingSection, costs: Mapping[str, Cost]) -> dict[str, list[int]]:
    """Return for each trial of `costs` the optimizer steps at which halving compares it.

    A rung is at equal training FLOPs for all trials: at a share of what the cheapest one spends.
    """
    smallest = min(cost.training_flops for cost in costs.values())
    return {
        name: [max(1, round(cost.steps * share * smallest / cost.training_flops)) for share in section.rungs]
        for name, cost in costs.items()
    }


def halving_of(section: HalvingSection, steps: Mapping[str, list[int]], directory: Path) -> Halving:
    """Make the halving of the trials that are compared at `steps`, with the losses that earlier launches left."""
    halving = Halving(steps, section.keep, section.asynchronous)
    for name, at in steps.items():
        losses = validation_losses(directory / name)
        halving.restore(name, [losses.get(step) for step in at], is_finished(directory / name))
    return halving
