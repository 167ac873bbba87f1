"""`proteinlm sweep`, and `finetune` of several tasks, seeds or modes: from settings to trials to results."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from proteinlm.platform.settings.config import FinetuneConfig, PretrainConfig
from proteinlm.platform.storage.run_directory import is_finished
from proteinlm.sweeps.planning.config import HalvingSection, SweepConfig
from proteinlm.sweeps.planning.cost import Cost, pretraining_cost
from proteinlm.sweeps.planning.forecast import show_plan
from proteinlm.sweeps.planning.plan import Plan, plan_sweep
from proteinlm.sweeps.planning.plan_finetuning import plan_finetuning
from proteinlm.sweeps.results.report import FINDINGS, FORMS, ONE_BY_ONE, PAGE, write_report
from proteinlm.sweeps.trials.halving import Halving
from proteinlm.sweeps.trials.trials import TrialResources, check_trials, run_trials, validation_losses


def sweep(config: SweepConfig, console: Console | None = None, *, dry_run: bool = False) -> list[str]:
    """Run every trial that is not finished, then write the sweep's results into `<storage>/<name>/results`.

    Returns the names of trials that did not come to an end. ValueError or OSError, before Ray starts, for anything that
    is wrong with any trial; with `dry_run` nothing else happens but that the plan is printed.
    """
    plan = plan_sweep(config)
    check_trials(plan.trials)
    costs = costs_of(plan)
    if console:
        show_plan(config, plan, costs, console)
    if dry_run:
        return []
    # The dearest first, so that at the end no core waits for it.
    trials = sorted(plan.trials, key=lambda trial: -costs[trial.name].training_flops if trial.name in costs else 0.0)
    halving = halving_of(config.halving, costs, config.directory) if config.halving else None
    each = TrialResources(
        address=config.address,
        cpus_per_worker=config.cpus_per_worker,
        threads_per_worker=config.threads_per_worker,
        max_concurrent=config.max_concurrent,
        autoscaling=config.autoscaling,
        max_failures=config.max_failures,
    )
    unfinished = run_trials(trials, config.directory, each, console, halving)
    folder = write_report(config, plan, costs)
    if console:
        show_report(folder, console)
    return unfinished


def show_report(folder: Path, console: Console) -> None:
    """Print what the sweep says, and where its table and plots lie."""
    for text in (folder / FINDINGS).read_text().partition(ONE_BY_ONE)[0].strip().split("\n\n"):
        console.print(text)
    console.print(f"table and plots: {folder / PAGE}, {', '.join(FORMS)}; metric by metric: {FINDINGS}", soft_wrap=True)


def finetune_many(config: FinetuneConfig, console: Console | None = None) -> list[str]:
    """Run `config` for each of its tasks, seeds and modes; returns the names of the trials that failed."""
    cluster = config.cluster
    each = TrialResources(
        address=cluster.address,
        cpus_per_worker=cluster.cpus_per_worker,
        threads_per_worker=cluster.threads_per_worker,
        autoscaling=cluster.autoscaling,
    )
    trials = plan_finetuning(config)
    check_trials(trials)
    return run_trials(trials, config.directory, each, console)


def costs_of(plan: Plan) -> dict[str, Cost]:
    """What each pretraining trial of the plan costs, by its name."""
    return {
        trial.name: pretraining_cost(trial.config) for trial in plan.trials if isinstance(trial.config, PretrainConfig)
    }


def halving_of(section: HalvingSection, costs: Mapping[str, Cost], directory: Path) -> Halving:
    """Rungs at equal training FLOPs for all trials, and what earlier launches found there."""
    smallest = min(cost.training_flops for cost in costs.values())
    steps = {
        name: [max(1, round(cost.steps * share * smallest / cost.training_flops)) for share in section.rungs]
        for name, cost in costs.items()
    }
    halving = Halving(steps, section.keep, section.asynchronous)
    for name, at in steps.items():
        losses = validation_losses(directory / name)
        halving.restore(name, [losses.get(step) for step in at], is_finished(directory / name))
    return halving
