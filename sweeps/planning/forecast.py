"""How long a sweep will take, and its plan as a table, before it runs and while it does.

A trial takes a start, and what it computes (planning/cost.py) at the pace of a worker (planning/pace.py). Before the
first trial is finished that is a guess: FLOP/s are a setting (`estimate.flops_per_worker`) or a share of what a matrix
product reaches on this machine now. With each finished trial, also of earlier launches, the pace is learnt.

With successive halving a trial counts as much as is expected of it: what all compute up to the first rung, the part of
them that goes on up to the second, and so on; finetuning by how many of its models will come to their end.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from rich.console import Console
from rich.table import Table

from proteinlm.cluster.connect import usable_cores
from proteinlm.models.work import Speed, Work
from proteinlm.platform.results.formatting import amount, duration, scientific
from proteinlm.platform.settings.config import PretrainConfig
from proteinlm.sweeps.planning.config import EstimateSection
from proteinlm.sweeps.planning.cost import Cost, finetuning_work, pretraining_work
from proteinlm.sweeps.planning.pace import Pace, factors, learned
from proteinlm.sweeps.planning.plan import Plan
from proteinlm.sweeps.planning.trial import Trial

SHARE_OF_PEAK = {"cpu": 0.85, "cuda": 0.35}
"""Of a matmul peak: measured with the shapes of models/work.py, and with 650 million parameters (devices.yaml)."""
WEIGHTS_PER_CORE = 3.7e8
"""Attention weights a second and core, as models/work.py counts them; measured there, on an AMD EPYC with AVX2."""


@dataclass(frozen=True)
class Forecast:
    """Estimated times of a sweep's trials; what the finished ones took makes them better."""

    trials: Sequence[Trial]
    works: Mapping[str, Work]
    """What each trial computes on one of its workers."""
    groups: Mapping[str, str]
    """Trial -> the task and mode that it finetunes; pretraining, of which all is counted, is in none."""
    pace: Pace
    """Before anything is known."""
    workers_at_once: float
    rungs: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """With halving: for each pretraining trial the shares of its work at which it is compared."""
    keep: float = 1.0
    """Share of a rung's trials that goes on."""

    def seconds(self, took: Mapping[str, float] | None = None) -> dict[str, float]:
        """Seconds of each trial, by name; `took`: those of the finished ones, which they are for these."""
        took = took or {}
        of_took = [self.groups.get(name) for name in took]
        pace = learned(self.pace, [self.works[name] for name in took], list(took.values()), of_took)
        expected = {name: pace.seconds(work) for name, work in self.works.items()}
        known, shares = factors(self.groups, expected, took), self._shares(took)
        return {
            name: took.get(name, seconds * known.get(self.groups.get(name, ""), 1.0) * shares.get(name, 1.0))
            for name, seconds in expected.items()
        }

    def wall(self, seconds: Mapping[str, float]) -> float:
        """Seconds from start to table, of trials that take `seconds`."""
        return wall_seconds(self.trials, seconds, self.workers_at_once)

    def _shares(self, took: Mapping[str, float]) -> dict[str, float]:
        """What part of each trial is expected to run, where that is not all of it."""
        count = len(self.rungs)
        alive = [count]
        for _ in next(iter(self.rungs.values()), ()):
            alive.append(math.ceil(self.keep * alive[-1] - 1e-9))
        ended = sum(name in took for name in self.rungs)
        survives = max(0, alive[-1] - ended) / max(1, count - ended)
        shares = {}
        for trial in self.trials:
            model = trial.needs or trial.name
            if model not in self.rungs or model in took:
                continue
            if trial.needs:
                shares[trial.name] = survives
            else:
                ends = [0.0, *self.rungs[model], 1.0]
                parts = zip(alive, ends, ends[1:], strict=False)
                shares[trial.name] = sum(number / count * (end - begin) for number, begin, end in parts)
        return shares


def wall_seconds(trials: Sequence[Trial], seconds: Mapping[str, float], workers_at_once: float) -> float:
    """Seconds from start to table: all work shared by the workers, but no less than the longest chain of trials."""
    work = sum(seconds[trial.name] * trial.config.cluster.most_workers for trial in trials)
    chains = [seconds[trial.name] + (seconds[trial.needs] if trial.needs else 0.0) for trial in trials]
    return max([work / workers_at_once, *chains])


def forecast_of_sweep(plan: Plan, costs: Mapping[str, Cost], rungs: Mapping[str, Sequence[float]]) -> Forecast:
    """Estimate how long the plan takes on a machine like this one; `costs` are those of its pretraining trials.

    `rungs`: with halving, for each of them the shares of its work at which it is compared.
    """
    sweep = plan.sweep
    at_once = sweep.max_concurrent * sweep.workers_per_trial if sweep.max_concurrent else None
    keep = sweep.halving.keep if sweep.halving else 1.0
    return replace(forecast(plan.trials, costs, sweep.estimate, at_once), rungs=rungs, keep=keep)


def forecast(
    trials: Sequence[Trial],
    costs: Mapping[str, Cost],
    estimate: EstimateSection | None = None,
    workers_at_once: float | None = None,
) -> Forecast:
    """Estimate how long `trials` take on a machine like this one; `workers_at_once` None: one for each core."""
    estimate, workers = estimate or EstimateSection(), workers_at_once or float(usable_cores())
    models = {trial.name: trial.config.model for trial in trials if isinstance(trial.config, PretrainConfig)}
    works, groups = {}, {}
    for trial in trials:
        if isinstance(trial.config, PretrainConfig):
            work = pretraining_work(trial.config, costs[trial.name])
        else:
            work = finetuning_work(trial.config, models.get(trial.needs or ""))
            groups[trial.name] = f"{trial.config.task}, {trial.config.mode}"
        works[trial.name] = work * (1 / trial.config.cluster.most_workers)
    return Forecast(
        trials, works, groups, Pace(estimate.seconds_per_trial, speed_of(estimate, trials, workers)), workers
    )


def speed_of(estimate: EstimateSection, trials: Sequence[Trial], workers_at_once: float) -> Speed:
    """What a worker is taken to reach: as set, or a share of this machine's matmul peak, on CPU divided among them."""
    if estimate.flops_per_worker:
        return Speed(estimate.flops_per_worker)
    import torch

    from proteinlm.platform.training.device import TORCH_DTYPES, with_precision
    from proteinlm.platform.training.telemetry import matmul_peak

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    section = trials[0].config.training
    if section.precision == "fp16":  # this may be a head without the GPUs that compute in it
        section = section.model_copy(update={"precision": "auto"})
    precision = with_precision(section, device).precision
    share = estimate.share_of_peak or SHARE_OF_PEAK[device.type]
    peak = share * matmul_peak(device, TORCH_DTYPES[precision])
    if device.type == "cuda":
        return Speed(peak)
    cores_of_worker = usable_cores() / max(1.0, workers_at_once)
    return Speed(peak / torch.get_num_threads() * cores_of_worker, WEIGHTS_PER_CORE * cores_of_worker)


def show_plan(plan: Plan, costs: Mapping[str, Cost], found: Forecast, console: Console) -> None:
    """Print the plan: a line for each pretraining trial, and the totals.

    Columns: size in parameters, GB of a worker in 10^9 bytes, about: estimated time, tasks: number of finetuning trials
    on the model and their time.
    """
    times = found.seconds()
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    table.add_column(f"sweep {plan.sweep.name}", overflow="fold")  # long names wrap: no figure is cut off for them
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
        about = duration(sum(times[trial.name] for trial in own))
        console.print(f"{len(own)} trials on no model of this sweep (baselines and such), about {about}")
    flops = sum(cost.training_flops for cost in costs.values())
    console.print(
        f"{len(plan.trials)} trials, {scientific(flops)} training FLOPs; {found.workers_at_once:g} workers at once of "
        f"about {scientific(found.pace.speed.flops)} FLOP/s each: about {duration(found.wall(times))} "
        "(a rough estimate; it is mended by each trial that ends)"
    )


def _line(trial: Trial, cost: Cost, plan: Plan, times: Mapping[str, float]) -> list[str]:
    finetuned = [other for other in plan.trials if other.needs == trial.name]
    after = duration(sum(times[other.name] for other in finetuned)) if finetuned else ""
    return [
        trial.label,
        amount(cost.parameters),
        f"{cost.steps:,}",
        amount(cost.residues),
        scientific(cost.training_flops),
        f"{cost.memory / 1e9:.2g}",
        duration(times[trial.name]),
        f"{len(finetuned)}, {after}" if finetuned else "0",
    ]
