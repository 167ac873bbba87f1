"""The settings of a sweep file, section by section, with units, bounds and defaults.

What to pretrain is a shared part (`pretrain`) and one of three ways to vary it: an explicit list (`configurations`), a
product of lists (`grid`) or random draws (`search`). Every entry of `tasks` is then run on every pretrained model.
Keys of a configuration are dotted names of settings, and two that are no settings: `like` names the configuration of
the paper that it stands for, and `training_flops` sets its steps such that it spends as much.
"""

from math import prod
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field, model_validator

from proteinlm.platform.settings.sections import MOST_PROCESSES, Processes, RunName, Section, Seed, UserPath

MOST_TRIALS = 10_000
"""Of a sweep that does not set `max_trials`."""
LIKE, TRAINING_FLOPS = "like", "training_flops"
SEED = "seed"

Range = tuple[float, float]


class Distribution(Section):
    """Where values are drawn from: one of choice, uniform, loguniform, randint."""

    choice: tuple[Any, ...] | None = Field(None, min_length=1)
    """Any of these values."""
    uniform: Range | None = None
    """Between two numbers."""
    loguniform: Range | None = None
    """Between two positive numbers, equally likely in each decade."""
    randint: tuple[int, int] | None = None
    """Whole numbers between two, both included."""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        given = self.model_dump(exclude_none=True)
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"found {found}; accepted: one of {', '.join(type(self).model_fields)}")
        low, high = (0.0, 1.0) if self.choice else next(iter(given.values()))
        if not low < high:
            raise ValueError(f"{next(iter(given))}: found [{low:g}, {high:g}]; accepted: [low, high] with low < high")
        if self.loguniform and low <= 0:
            raise ValueError(f"loguniform: found [{low:g}, {high:g}]; accepted: positive numbers")
        return self

    def draw(self, generator: np.random.Generator) -> Any:
        """One value; floats to 4 significant digits, so that names can be read."""
        if self.choice:
            return self.choice[int(generator.integers(len(self.choice)))]
        if self.randint:
            return int(generator.integers(*self.randint, endpoint=True))
        if self.uniform:
            return float(f"{generator.uniform(*self.uniform):.4g}")
        assert self.loguniform is not None
        return float(f"{np.exp(generator.uniform(*np.log(self.loguniform))):.4g}")


class SearchSection(Section):
    """Configurations drawn at random: draw number i depends on the seed and i alone, so more trials change no draw."""

    trials: int = Field(ge=1, le=10**7)
    """Configurations that keep the constraints."""
    seed: Seed = 0
    """Of the draws."""
    space: dict[str, Distribution] = Field(min_length=1)
    """Distribution by dotted name."""


class ConstraintSection(Section):
    """Configurations of a grid or a search that break one are left out; of an explicit list, refused."""

    heads_divide_width: bool = True
    """model.num_attention_heads divides model.hidden_size."""
    parameters: Range | None = None
    """Fewest and most parameters of encoder and language model head."""
    training_flops: float | None = Field(None, gt=0, le=1e30)
    """Model FLOPs of pretraining, the same for all: it sets training.steps."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.parameters and not self.parameters[0] <= self.parameters[1]:
            raise ValueError(
                f"parameters: found [{self.parameters[0]:g}, {self.parameters[1]:g}]; accepted: [fewest, most]"
            )
        return self


class HalvingSection(Section):
    """Successive halving of the pretraining trials (Jamieson and Talwalkar 2016, arXiv 1502.07943) by validation loss
    at equal compute; asynchronous: ASHA (Li et al. 2020, arXiv 1810.05934), whose outcome depends on who is fast.
    """

    rungs: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(min_length=1)
    """Where trials are compared: shares of the training FLOPs of the configuration that spends fewest."""
    keep: float = Field(1 / 3, gt=0, lt=1)
    """Share of a rung's trials that is trained further, rounded up."""
    asynchronous: bool = False
    """Train a good trial further before all have reached the rung."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if list(self.rungs) != sorted(set(self.rungs)):
            raise ValueError(f"rungs: found {list(self.rungs)}; accepted: rising shares, such as [0.1, 0.3]")
        return self


class EstimateSection(Section):
    """What the plan's times are computed with before the first trials are finished."""

    flops_per_worker: float | None = Field(None, gt=0, le=1e21)
    """Model FLOP/s that a worker reaches; empty: `share_of_peak` of this machine's matmul peak, measured."""
    share_of_peak: float | None = Field(None, gt=0, le=1)
    """Share of the matmul peak that matrix products of training are taken to reach; empty: 0.85 on a CPU, whose
    attention weights are counted beside, 0.35 on a GPU."""
    seconds_per_trial: float = Field(1.0, ge=0, le=1e6)
    """What a trial takes beside its computing."""


class SweepConfig(Section):
    """A sweep of pretraining configurations, each finetuned on tasks: the file that `proteinlm sweep` reads."""

    name: RunName
    """The sweep's name; its directory is `<storage>/<name>`."""
    storage: UserPath = Path("runs")
    """Directory that holds sweeps: one that every node sees, or a URI (s3://, gs://)."""
    address: str | None = None
    """Ray address; empty: RAY_ADDRESS, else an embedded Ray on this machine."""
    seed: Seed = 0
    """Of pretraining, and of finetuning where `seeds` names none."""
    workers_per_trial: Processes = 1
    """Of pretraining trials; finetuning with the plain engine takes one."""
    cpus_per_worker: float | None = Field(None, gt=0, le=MOST_PROCESSES)
    """Empty: such that as many workers as the cluster has CPUs fit beside the one CPU for reading data."""
    threads_per_worker: Processes | None = None
    """PyTorch threads; empty: the machine's cores shared by the trials that run at once."""
    max_concurrent: Processes | None = None
    """Trials at once; empty: as many as fit."""
    max_trials: int = Field(MOST_TRIALS, ge=1, le=10**7)
    """A sweep of more trials, points of a grid that are left out among them, is refused before it is planned."""
    autoscaling: bool = False
    """True: nodes may be added, so trials are not held back for want of resources; `max_concurrent` bounds them."""
    max_failures: int = Field(3, ge=0, le=10**12)
    """How often a trial whose process died is resumed from its checkpoint before it is given up."""
    pretrain: dict[str, Any] = Field(default_factory=dict)
    """Settings that all pretraining trials share, as for `proteinlm pretrain`."""
    configurations: tuple[dict[str, Any], ...] = ()
    """One pretraining trial each: changes of `pretrain` by dotted name."""
    grid: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Or a trial for each combination of these values: lists by dotted name."""
    search: SearchSection | None = None
    """Or trials drawn at random: distributions by dotted name."""
    constraints: ConstraintSection = ConstraintSection()
    """Which configurations are left out, and what all of them spend."""
    halving: HalvingSection | None = None
    """Successive halving: the worse pretraining trials are not trained to their end."""
    finetune: dict[str, Any] = Field(default_factory=dict)
    """Settings that all finetuning trials share, as for `proteinlm finetune`."""
    tasks: tuple[dict[str, Any], ...] = ()
    """Changes of `finetune` by dotted name, run on every pretrained model (mode baseline: once). `task: all` stands for
    the five of TAPE."""
    finetune_grid: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Every task is run with each combination of these values: lists by dotted name."""
    seeds: tuple[Seed, ...] = ()
    """Seeds of finetuning, where a task names none of its own; empty: `seed` alone."""
    estimate: EstimateSection = EstimateSection()
    budgets: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """Device-hours for which the results say which size to train on how many residues; empty: ten times the sweep's."""

    @model_validator(mode="after")
    def _has_trials(self) -> Self:
        given = [name for name in ("configurations", "grid", "search") if getattr(self, name)]
        if self.pretrain and len(given) != 1:
            raise ValueError(
                f"what to vary: found {' and '.join(given) or 'nothing'}; accepted: one of configurations (a list), "
                "grid (lists of values by dotted name), search (distributions by dotted name)"
            )
        if not self.pretrain and (given or self.halving):
            raise ValueError(f"pretrain: missing; {(*given, 'halving')[0]} needs it")
        if not self.pretrain and not self.tasks:
            raise ValueError("give pretrain and what to vary in it, or tasks, or both")
        if self.autoscaling and self.max_concurrent is None:
            raise ValueError("max_concurrent: missing; with autoscaling it bounds how many nodes are asked for")
        return self

    @model_validator(mode="after")
    def _few_enough(self) -> Self:
        """Counted, not listed: a grid of ten lists of ten values has 10^10 points."""
        points = len(self.configurations) or (self.search.trials if self.search else prod(map(len, self.grid.values())))
        models = points if self.pretrain else 0
        finetuned = prod(map(len, self.finetune_grid.values())) * max(1, len(self.seeds)) * len(self.tasks)
        for what, count in (("pretraining", models), ("finetuning", max(1, models) * finetuned)):
            if count > self.max_trials:
                raise ValueError(
                    f"max_trials is {self.max_trials:,}, and this sweep has {count:,} trials of {what}; make the lists "
                    "shorter, or set max_trials to as many as you want"
                )
        return self

    @model_validator(mode="after")
    def _lists_have_values(self) -> Self:
        for section in ("grid", "finetune_grid"):
            empty = [name for name, values in getattr(self, section).items() if not values]
            if empty:
                raise ValueError(f"{section}.{empty[0]}: has no values")
        return self

    @property
    def directory(self) -> Path:
        """Where the trials' run directories lie."""
        return self.storage / self.name
