"""The results of a sweep as values, and the runs that they come from.

    trials -> Run (a trial and its files) -> Group (the runs of one line) -> gather.py -> ConfigurationResult (a line)
    SweepResults (all lines) -> table, plots, effects, scaling laws

A group has one configuration and one finetuning mode; its runs differ only in task and seed. Finetuning trials that
differ in another setting, such as the learning rate, belong to different groups, whose names state the setting.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from proteinlm.models.config import ModelConfig, shape_name
from proteinlm.models.pretrained import read_config
from proteinlm.platform.results.rows import ResultRow, gather_rows
from proteinlm.platform.results.tables import Cell, Column, best_value
from proteinlm.platform.settings.config import MODES, PretrainConfig
from proteinlm.platform.settings.sections import settings_of_result
from proteinlm.sweeps.planning.trial import Trial
from proteinlm.sweeps.trials.trial_state import TrialState, device_seconds, read_state

OF_EACH_TRIAL = ("seed", "mode", "per_task", "task", "pretrained")
"""Settings that change a result, but in which the trials of one group may differ, or that its name states already."""


Device = Literal["core", "gpu"]
State = Literal["finished", "incomplete", "stopped", "failed"]
"""incomplete: not all trials have ended, or a finetuning trial failed; the remarks say which."""


@dataclass(frozen=True)
class ConfigurationResult:
    """One line of the table: what a configuration is, what it cost, and its metrics."""

    name: str
    """Shape and `extras`, such as hidden-512-layer-32-head-8-learning_rate-0.01; or the name of a baseline."""
    mode: str
    """How it was finetuned; "-" without finetuning."""
    like: str | None
    """Name of the paper's configuration that it stands for."""
    hidden_size: int
    """0 for a baseline or a convolutional network; likewise the next three."""
    num_hidden_layers: int
    num_attention_heads: int
    parameters: int
    """Of encoder and language model head; 0 also where it is not known."""
    training_flops: float | None
    """Model FLOPs of the pretraining so far; mean over seeds."""
    residues: int | None
    """Residues seen in pretraining; mean over seeds."""
    device_hours: float | None
    """Hours times devices of pretraining and finetuning; sum over seeds."""
    values: dict[Column, Cell] = field(default_factory=dict)
    """Column -> its value over seeds; columns without a value are missing."""
    remarks: tuple[str, ...] = ()
    """What is missing and why: trials that failed, were stopped, or have not run."""
    state: State = "finished"
    pretraining: str = ""
    """Configuration of the pretraining trials, equal in lines that finetune the same model; "" where nothing was
    pretrained in this sweep."""
    is_baseline: bool = False
    extras: str = ""
    """What the name states beside the shape, such as "-learning_rate-0.01"."""


@dataclass(frozen=True)
class SweepResults:
    """All results of a sweep, and the notes that must be read with them."""

    name: str
    lines: tuple[ConfigurationResult, ...]
    """Configurations in the order of the plan, then baselines."""
    paper: tuple[ConfigurationResult, ...]
    """Lines of the paper's Table 7 for the configurations that ours stand for; never ranked."""
    columns: tuple[Column, ...]
    """Those with a value, or for which a trial was planned."""
    unranked: tuple[Column, ...]
    """Columns whose values were not all measured alike, so that none is the best."""
    device: Device
    """What `device_hours` count."""
    notes: tuple[str, ...]
    """How the values were measured."""
    paper_notes: tuple[str, ...]
    """How the paper's definitions differ from ours; empty without lines of the paper."""
    is_simulated: bool = False

    def best(self, column: Column) -> frozenset[int]:
        """Indices into `lines` of the best value of `column` (several in a tie); empty where fewer than two compete.

        Lines that share their pretraining are one competitor in a metric of pretraining.
        """
        if column in self.unranked:
            return frozenset()
        values = {index: line.values[column].value for index, line in enumerate(self.lines) if column in line.values}
        rivals = {index if column.is_downstream else self.lines[index].pretraining: values[index] for index in values}
        top = best_value(rivals.values(), larger_is_better=column.larger_is_better)
        return frozenset(
            index for index, value in values.items() if top is not None and math.isclose(value, top, rel_tol=1e-9)
        )


@dataclass(frozen=True)
class Run:
    """A trial and what its run directory holds."""

    trial: Trial
    rows: list[ResultRow]
    state: TrialState
    seconds: dict[str, float]
    """Kind of device ("core" or "gpu") -> seconds, each device counted."""

    @property
    def mode(self) -> str:
        """The mode of finetuning; "-" for pretraining."""
        return "-" if isinstance(self.trial.config, PretrainConfig) else self.trial.config.mode

    @property
    def task(self) -> str:
        """The task of finetuning; "pretraining" for pretraining."""
        return "pretraining" if isinstance(self.trial.config, PretrainConfig) else self.trial.config.task

    @property
    def model(self) -> ModelConfig | None:
        """The architecture by the settings; None where they name a pretrained directory that does not exist yet."""
        config = self.trial.config
        if isinstance(config, PretrainConfig) or config.model is not None:
            return config.model
        try:
            return read_config(config.pretrained) if config.pretrained else None
        except (OSError, ValueError):
            return None


@dataclass(frozen=True)
class Group:
    """The runs of one line: one configuration and mode, all tasks and seeds."""

    name: str
    mode: str
    pretraining: list[Run]
    finetuning: list[Run]
    extras: str = ""
    """What the name states beside the shape."""

    @property
    def used_pretraining(self) -> list[Run]:
        """The pretraining runs whose weights were used."""
        return self.pretraining if self.mode not in MODES or MODES[self.mode].is_pretrained else []

    @property
    def runs(self) -> list[Run]:
        """All runs that count for the values and costs of the line."""
        return [*self.used_pretraining, *self.finetuning]


def read_run(trial: Trial, run_directory: Path) -> Run:
    """The run of `trial` from its directory, which need not exist. Raises ValueError for a file that cannot be read."""
    rows = gather_rows([run_directory]) if run_directory.is_dir() else []
    return Run(trial, rows, read_state(run_directory), device_seconds(run_directory))


def make_groups(runs: Sequence[Run]) -> list[Group]:
    """Groups of `runs`: configurations in the order of their pretraining, each with its modes; then other models."""
    pretraining: dict[str, list[Run]] = {}
    finetuning: dict[tuple[str, str, str], list[Run]] = {}
    varied = _varied_settings(runs)
    configurations = {run.trial.name: run.trial.configuration for run in runs}
    for run in runs:
        if run.trial.verb == "pretrain":
            pretraining.setdefault(run.trial.configuration, []).append(run)
        else:
            needed = run.trial.needs
            owner = configurations.get(needed, needed) if needed else _name_from_elsewhere(run, runs)
            finetuning.setdefault((owner, run.mode, _variant(run, varied)), []).append(run)
    groups = []
    for owner, before in pretraining.items():
        name, extras = before[0].trial.label or owner, before[0].trial.extras
        keys = [key for key in finetuning if key[0] == owner]
        groups += [Group(name + key[2], key[1], before, finetuning.pop(key), extras + key[2]) for key in keys]
        groups += [] if keys else [Group(name, "-", before, [], extras)]
    for (owner, mode, variant), after in finetuning.items():
        groups.append(Group(owner + variant, mode, [], after, variant))
    return groups


def state_of(group: Group) -> State:
    """State of the line of `group`: if no pretraining came to its end, that of the pretraining."""
    before = {run.state.kind for run in group.used_pretraining}
    kinds = {run.state.kind for run in group.runs}
    if kinds <= {"finished"}:
        return "finished"
    if before == {"stopped"}:
        return "stopped"
    return "failed" if kinds == {"failed"} or (before and before <= {"failed", "stopped"}) else "incomplete"


def remarks_of(group: Group, runs: Mapping[str, Run]) -> tuple[str, ...]:
    """A sentence for each reason why runs of `group` did not come to their end; `runs`: all runs by trial name."""
    said: dict[str, list[str]] = {}
    for run in group.runs:
        if run.state.words:
            among = group.pretraining if run.trial.verb == "pretrain" else group.finetuning
            seeds = {other.trial.config.seed for other in among}
            label = run.task if len(seeds) == 1 else f"{run.task} (seed {run.trial.config.seed})"
            said.setdefault(_words(run, runs), []).append(label)
    return tuple(f"{', '.join(labels)} {words}" for words, labels in said.items())


def _words(run: Run, runs: Mapping[str, Run]) -> str:
    needed = runs.get(run.trial.needs or "")
    if run.state.kind != "not run" or needed is None or needed.state.kind not in ("failed", "stopped"):
        return run.state.words
    return f"not run, because pretraining {'failed' if needed.state.kind == 'failed' else 'was stopped'}"


def _name_from_elsewhere(run: Run, runs: Sequence[Run]) -> str:
    """Name of the model that `run` finetunes, which was not pretrained in this sweep: its shape.

    With its directory where another one of `runs` has the same shape, and the directory alone where the shape is not
    known: models of different directories are never one line.
    """
    directory = _directory(run)
    if run.model is None:
        return directory or "-"
    shapes = {_directory(other) for other in runs if not other.trial.needs and _shape(other) == _shape(run)}
    return shape_name(run.model) + (f" of {directory}" if directory and len(shapes - {None}) > 1 else "")


def _shape(run: Run) -> str | None:
    return shape_name(run.model) if run.model else None


def _directory(run: Run) -> str | None:
    """Where the pretrained weights lie that `run` finetunes; None where it uses none."""
    config = run.trial.config
    if isinstance(config, PretrainConfig) or not config.pretrained or not MODES[run.mode].is_pretrained:
        return None
    return str(config.pretrained)


def _settings(run: Run) -> Iterator[tuple[str, object]]:
    """(dotted name, value) of the settings that change a finetuning result, except task, model and seed."""
    for name, value in settings_of_result(run.trial.config).items():
        if name not in OF_EACH_TRIAL:
            yield name, value


def _varied_settings(runs: Sequence[Run]) -> list[str]:
    """Dotted names of settings in which finetuning trials of the same task and mode differ."""
    found: dict[tuple[str, str, str], set[str]] = {}
    for run in runs:
        if run.trial.verb == "finetune":
            for name, value in _settings(run):
                found.setdefault((run.task, run.mode, name), set()).add(repr(value))
    return list(dict.fromkeys(name for (_, _, name), values in found.items() if len(values) > 1))


def _variant(run: Run, varied: Sequence[str]) -> str:
    """End of a line's name: ", learning_rate 0.001"; "" where no setting varies."""
    settings = dict(_settings(run))
    return "".join(f", {name.split('.')[-1]} {settings[name]}" for name in varied if name in settings)
