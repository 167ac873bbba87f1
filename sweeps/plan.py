"""What a sweep is: a YAML file becomes a list of trials, each one a run of a verb, checked whole before Ray starts.

    pretrain:        settings that all pretraining trials share (as for `proteinlm pretrain`)
    configurations:  one pretraining trial each: dotted overrides of `pretrain`, as an explicit list, or
    grid:            the product of lists of values, by dotted name
    finetune:        settings that all finetuning trials share (as for `proteinlm finetune`)
    tasks:           dotted overrides of `finetune`: a trial on every pretrained model (mode baseline: once)

A trial is a run directory `<storage>/<sweep>/<trial>`: finished ones are never run again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, model_validator

from proteinlm.platform.config import FinetuneConfig, PretrainConfig
from proteinlm.platform.sections import RunName, Section
from proteinlm.platform.settings import as_assignments, merge, override, validate
from proteinlm.platform.training.finish import MODEL_DIRECTORY, shape_name

Config = TypeVar("Config", PretrainConfig, FinetuneConfig)


class SweepConfig(Section):
    """`proteinlm sweep`: see the module's docstring."""

    name: RunName
    storage: Path = Path("runs")
    address: str | None = None
    """Ray address; empty: RAY_ADDRESS, else an embedded Ray on this machine."""
    seed: int = Field(0, ge=0)
    workers_per_trial: int = Field(1, ge=1)
    cpus_per_worker: float = Field(0.5, gt=0)
    threads_per_worker: int | None = Field(None, ge=1)
    """PyTorch threads; empty: the machine's cores shared by the trials that run at once."""
    max_concurrent: int | None = Field(None, ge=1)
    """Trials at once; empty: as many as fit the cluster beside one CPU for reading data."""
    pretrain: dict[str, Any]
    configurations: tuple[dict[str, Any], ...] = ()
    grid: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    finetune: dict[str, Any] = Field(default_factory=dict)
    tasks: tuple[dict[str, Any], ...] = ()

    @model_validator(mode="after")
    def _has_trials(self) -> Self:
        if bool(self.configurations) == bool(self.grid):
            raise ValueError("give either configurations (a list) or grid (lists of values by dotted name)")
        empty = [name for name, values in self.grid.items() if not values]
        if empty:
            raise ValueError(f"grid.{empty[0]}: has no values")
        return self

    @property
    def directory(self) -> Path:
        """Where the trials' run directories lie."""
        return self.storage / self.name


@dataclass(frozen=True)
class Trial:
    """One run of a verb, and the trial whose model it needs."""

    name: str
    verb: Literal["pretrain", "finetune"]
    config: PretrainConfig | FinetuneConfig
    needs: str | None


def plan_trials(sweep: SweepConfig) -> list[Trial]:
    """All trials of the sweep, pretraining first; ValueError with every fault of every trial in one message."""
    trials: list[Trial] = []
    faults: list[str] = []
    for number, changes in enumerate(_configurations(sweep)):
        source = f"configurations[{number}]" if sweep.configurations else f"grid point {dict(changes)}"
        try:
            trials.append(_pretraining(sweep, changes, source))
        except ValueError as error:
            faults.append(str(error))
    pretrained = list(trials)
    for number, changes in enumerate(sweep.tasks):
        on: list[Trial | None] = [None] if changes.get("mode") == "baseline" else [*pretrained]
        for model in on:
            try:
                trials.append(_finetuning(sweep, changes, model, f"tasks[{number}]"))
            except ValueError as error:
                faults.append(str(error))
                break  # the same fault on every model is one fault
    faults += _name_clashes(trials)
    if faults:
        raise ValueError("\n".join(faults))
    return trials


def _configurations(sweep: SweepConfig) -> list[Mapping[str, Any]]:
    if sweep.configurations:
        return list(sweep.configurations)
    return [dict(zip(sweep.grid, point, strict=True)) for point in product(*sweep.grid.values())]


def _shared(sweep: SweepConfig, name: str) -> dict[str, Any]:
    cluster = {"num_workers": sweep.workers_per_trial, "cpus_per_worker": sweep.cpus_per_worker}
    return {"name": name, "storage": str(sweep.directory.resolve()), "cluster": cluster}


def with_absolute_paths(config: Config) -> Config:
    """`config` for Tune, which runs every trial in a working directory of its own."""
    paths = {key: getattr(config, key, None) for key in ("corpus", "data", "pretrained")}
    return config.model_copy(update={key: path.resolve() for key, path in paths.items() if path is not None})


def _named(config: Config, name: str) -> Config:
    """`config` under the trial's name, in the trial's own process where nothing needs a worker group."""
    if config.training.engine == "plain" and config.cluster.in_process is None:
        config = config.model_copy(update={"cluster": config.cluster.model_copy(update={"in_process": True})})
    return with_absolute_paths(config).model_copy(update={"name": name})


def _pretraining(sweep: SweepConfig, changes: Mapping[str, Any], source: str) -> Trial:
    values = override(merge({"seed": sweep.seed}, sweep.pretrain), as_assignments(changes))
    config = validate(PretrainConfig, merge(values, _shared(sweep, "unnamed")), source)
    shape = [] if config.seed == sweep.seed else [f"seed-{config.seed}"]
    others = {key.split(".")[-1]: value for key, value in changes.items() if not key.startswith("model.")}
    extra = [f"{key}-{value}" for key, value in others.items() if key != "seed"]
    name = "-".join([shape_name(config.model), *extra, *shape]).replace("/", "_")
    return Trial(name, "pretrain", _named(config, name), None)


def _finetuning(sweep: SweepConfig, changes: Mapping[str, Any], model: Trial | None, source: str) -> Trial:
    values = override(merge({"seed": sweep.seed}, sweep.finetune), as_assignments(changes))
    where: dict[str, Any] = {"with_baselines": False}
    where |= {"pretrained": str(sweep.directory / model.name / MODEL_DIRECTORY)} if model else {}
    config = validate(FinetuneConfig, merge(values, _shared(sweep, "unnamed") | where), source)
    parts = [model.name] if model else []
    name = "-".join([*parts, config.task, config.mode] + ([f"seed-{config.seed}"] if config.seed != sweep.seed else []))
    return Trial(name, "finetune", _named(config, name), model.name if model else None)


def _name_clashes(trials: list[Trial]) -> list[str]:
    names = [trial.name for trial in trials]
    twice = sorted({name for name in names if names.count(name) > 1})
    return [f"trial {name} stands twice in the sweep; two trials must differ in something" for name in twice]
