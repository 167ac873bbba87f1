"""How long a sweep will take, and its plan as a table, before it runs.

Time is model FLOPs over the FLOP/s of a worker. That rate is a setting (`estimate.flops_per_worker`) or a share of what
a matrix product reaches on this machine now. Work beside matrix products is covered by that share and by a few seconds
for each trial (settings `estimate`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from proteinlm.cluster.connect import usable_cores
from proteinlm.platform.results.formatting import amount, duration, scientific
from proteinlm.platform.settings.config import FinetuneConfig, PretrainConfig
from proteinlm.sweeps.planning.config import EstimateSection, SweepConfig
from proteinlm.sweeps.planning.cost import Cost, finetuning_flops
from proteinlm.sweeps.planning.plan import Plan
from proteinlm.sweeps.planning.trial import Trial


@dataclass(frozen=True)
class Forecast:
    """Estimated times of a sweep."""

    seconds: dict[str, float]
    """Of each trial, by name."""
    wall: float
    """Seconds from start to table."""
    workers_at_once: float
    flops_per_worker: float
    """Model FLOP/s."""


def forecast(sweep: SweepConfig, plan: Plan, costs: Mapping[str, Cost]) -> Forecast:
    """Estimate how long the plan takes on a machine like this one; `costs` are those of its pretraining trials."""
    cores = usable_cores()
    workers_at_once = float(sweep.max_concurrent * sweep.workers_per_trial) if sweep.max_concurrent else float(cores)
    rate = sweep.estimate.flops_per_worker or measured_rate(sweep.estimate, plan, workers_at_once)
    models = {trial.name: trial.config.model for trial in plan.trials if isinstance(trial.config, PretrainConfig)}
    seconds = {}
    for trial in plan.trials:
        if trial.name in costs:
            flops = costs[trial.name].training_flops
        else:
            assert isinstance(trial.config, FinetuneConfig)
            flops = finetuning_flops(trial.config, models.get(trial.needs or ""))
        seconds[trial.name] = flops / (rate * trial.config.cluster.most_workers) + sweep.estimate.seconds_per_trial
    return Forecast(seconds, _wall(plan.trials, seconds, workers_at_once), workers_at_once, rate)


def measured_rate(estimate: EstimateSection, plan: Plan, workers_at_once: float) -> float:
    """Return model FLOP/s of a worker: a share of this machine's matmul peak, on CPU divided among the workers."""
    import torch

    from proteinlm.platform.training.telemetry import matmul_peak

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    is_fp32 = all(trial.config.training.precision == "fp32" for trial in plan.trials)
    peak = matmul_peak(device, torch.float32 if is_fp32 else torch.bfloat16)
    return estimate.share_of_peak * (peak if device.type == "cuda" else peak / max(1.0, workers_at_once))


def _wall(trials: list[Trial], seconds: Mapping[str, float], workers_at_once: float) -> float:
    """Seconds from start to table: all work shared by the workers, but no less than the longest chain of trials."""
    work = sum(seconds[trial.name] * trial.config.cluster.most_workers for trial in trials) / workers_at_once
    chains = [seconds[trial.name] + (seconds[trial.needs] if trial.needs else 0.0) for trial in trials]
    return max([work, *chains])


def show_plan(sweep: SweepConfig, plan: Plan, costs: Mapping[str, Cost], console: Console) -> None:
    """Print the plan: a line for each pretraining trial, and the totals.

    Columns: size in parameters, GB of a worker in 10^9 bytes, about: estimated time, tasks: number of finetuning trials
    on the model and their time.
    """
    times = forecast(sweep, plan, costs)
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    table.add_column(f"sweep {sweep.name}", overflow="fold")  # long names wrap: no figure is cut off for them
    for head in ("size", "steps", "residues", "FLOPs", "GB", "about", "tasks"):
        table.add_column(head, justify="right", no_wrap=True)
    for trial in plan.trials:
        if trial.name in costs:
            table.add_row(*_line(trial, costs[trial.name], plan, times))
    if costs:
        console.print(table)
    for why in plan.left_out:
        console.print(f"left out: {why}", soft_wrap=True)
    own = [trial for trial in plan.trials if trial.name not in costs and trial.needs is None]
    if own:
        about = duration(sum(times.seconds[trial.name] for trial in own))
        console.print(f"{len(own)} trials on no model of this sweep (baselines and such), about {about}")
    flops = sum(cost.training_flops for cost in costs.values())
    console.print(
        f"{len(plan.trials)} trials, {scientific(flops)} training FLOPs; {times.workers_at_once:g} workers at once of "
        f"about {scientific(times.flops_per_worker)} FLOP/s each: about {duration(times.wall)} (a rough estimate)"
    )


def _line(trial: Trial, cost: Cost, plan: Plan, times: Forecast) -> list[str]:
    finetuned = [other for other in plan.trials if other.needs == trial.name]
    after = duration(sum(times.seconds[other.name] for other in finetuned)) if finetuned else ""
    return [
        trial.label,
        amount(cost.parameters),
        f"{cost.steps:,}",
        amount(cost.residues),
        scientific(cost.training_flops),
        f"{cost.memory / 1e9:.2g}",
        duration(times.seconds[trial.name]),
        f"{len(finetuned)}, {after}" if finetuned else "0",
    ]
