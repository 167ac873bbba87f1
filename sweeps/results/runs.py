"""Trials with what their run directories hold, in groups that become lines, and the lines as values.

    trials -> runs -> groups (configuration, finetuning mode, what else differs); inside one only task and seed differ
    groups -> gather.py -> SweepResults -> table, plots, effects, laws

Two finetuning trials of a task that differ in a setting, such as the learning rate, are never pooled: the names of
their groups say it.
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
from proteinlm.platform.settings.config import PretrainConfig
from proteinlm.platform.settings.loading import flat
from proteinlm.platform.training.driver import changes_no_result
from proteinlm.sweeps.planning.trial import Trial
from proteinlm.sweeps.trials.trial_state import TrialState, device_seconds, read_state

UNPRETRAINED = ("scratch", "cnn")
"""Modes in which no pretrained weights are used."""
OF_EACH_TRIAL = ("name", "seed", "seeds", "modes", "mode", "per_task", "task", "pretrained")
"""Settings in which the trials of one line may differ."""


Device = Literal["core", "gpu"]
State = Literal["finished", "incomplete", "halted", "failed"]
"""incomplete: pretraining is done, and a finetuning trial failed; or trials have not ended. The remarks say which."""


@dataclass(frozen=True)
class ConfigurationResult:
    """One line: what a configuration is, what it cost, and what came of it."""

    name: str
    """Such as hidden-512-layer-32-head-8, with what else tells it from others (`extras`); of a baseline, its name."""
    mode: str
    """How it was finetuned; "-" where there was no finetuning."""
    like: str | None
    """The configuration of the paper that it stands for."""
    hidden_size: int
    """0 of a baseline or a convolutional network, as are the next three."""
    num_hidden_layers: int
    num_attention_heads: int
    parameters: int
    """Of encoder and language model head; 0 also where the paper does not say."""
    training_flops: float | None
    """Model FLOPs of the pretraining that was done; of several seeds, their mean."""
    residues: int | None
    """Residues seen in pretraining; of several seeds, their mean."""
    device_hours: float | None
    """Of pretraining and finetuning together, each device counted, over all seeds."""
    values: dict[Column, Cell] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    """Why something is missing: trials that failed, were halted, or have not run."""
    state: State = "finished"
    pretraining: str = ""
    """Configuration of the pretraining trials: lines of equal ones are the same model finetuned otherwise; "" where
    nothing was pretrained in this sweep."""
    is_baseline: bool = False
    extras: str = ""
    """What the name says beside the shape."""


@dataclass(frozen=True)
class SweepResults:
    """All that came of a sweep, and what must be read with it."""

    name: str
    lines: tuple[ConfigurationResult, ...]
    """In the plan's order, then baselines."""
    paper: tuple[ConfigurationResult, ...]
    """The paper's Table 7 for the configurations that lines stand for; never ranked."""
    columns: tuple[Column, ...]
    """Those that a line has, or that a trial was to fill."""
    unranked: tuple[Column, ...]
    """Those whose values were not all measured alike."""
    device: Device
    """What `device_hours` count."""
    notes: tuple[str, ...]
    paper_notes: tuple[str, ...]
    """How the paper's definitions differ; none without lines of the paper."""
    is_simulated: bool = False

    def best(self, column: Column) -> frozenset[int]:
        """Places in `lines` of the best values of `column`; none where fewer than two models compete."""
        if column in self.unranked:
            return frozenset()
        values = {place: line.values[column].value for place, line in enumerate(self.lines) if column in line.values}
        rivals = {place if column.is_downstream else self.lines[place].pretraining: values[place] for place in values}
        top = best_value(rivals.values(), larger_is_better=column.larger_is_better)
        return frozenset(
            place for place, value in values.items() if top is not None and math.isclose(value, top, rel_tol=1e-9)
        )


@dataclass(frozen=True)
class Run:
    """A trial and what its run directory holds."""

    trial: Trial
    rows: list[ResultRow]
    state: TrialState
    seconds: dict[str, float]
    """That each device was held."""

    @property
    def mode(self) -> str:
        """Of finetuning; "-" of pretraining."""
        return "-" if isinstance(self.trial.config, PretrainConfig) else self.trial.config.mode

    @property
    def task(self) -> str:
        """Of finetuning; "pretraining" of that."""
        return "pretraining" if isinstance(self.trial.config, PretrainConfig) else self.trial.config.task

    @property
    def model(self) -> ModelConfig | None:
        """The architecture as the settings give it; None where they point to a directory that is not there yet."""
        config = self.trial.config
        if isinstance(config, PretrainConfig) or config.model is not None:
            return config.model
        try:
            return read_config(config.pretrained) if config.pretrained else None
        except (OSError, ValueError):
            return None


@dataclass(frozen=True)
class Group:
    """The runs of one line."""

    name: str
    mode: str
    pretraining: list[Run]
    finetuning: list[Run]
    extras: str = ""
    """What the name says beside the shape."""

    @property
    def used_pretraining(self) -> list[Run]:
        """The pretraining that the line's values rest on."""
        return [] if self.mode in UNPRETRAINED else self.pretraining

    @property
    def runs(self) -> list[Run]:
        """All that its values and its cost are made of."""
        return [*self.used_pretraining, *self.finetuning]


def read_run(trial: Trial, run_directory: Path) -> Run:
    """The run of `trial`; ValueError for a file that cannot be read."""
    rows = gather_rows([run_directory]) if run_directory.is_dir() else []
    return Run(trial, rows, read_state(run_directory), device_seconds(run_directory))


def make_groups(runs: Sequence[Run]) -> list[Group]:
    """Configurations in the order of pretraining, each in its modes; then what is finetuned from elsewhere."""
    pretraining: dict[str, list[Run]] = {}
    finetuning: dict[tuple[str, str, str], list[Run]] = {}
    varied = _varied_settings(runs)
    configurations = {run.trial.name: run.trial.configuration for run in runs}
    for run in runs:
        if run.trial.verb == "pretrain":
            pretraining.setdefault(run.trial.configuration, []).append(run)
        else:
            needed = run.trial.needs
            owner = configurations.get(needed, needed) if needed else _shape(run)
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
    """How the line stands; where no pretraining came to its end, that says it."""
    before = {run.state.kind for run in group.used_pretraining}
    kinds = {run.state.kind for run in group.runs}
    if kinds <= {"finished"}:
        return "finished"
    if before == {"halted"}:
        return "halted"
    return "failed" if kinds == {"failed"} or (before and before <= {"failed", "halted"}) else "incomplete"


def remarks_of(group: Group, runs: Mapping[str, Run]) -> tuple[str, ...]:
    """A sentence for each way in which trials of the group (of all `runs` by name) did not come to their end."""
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
    if run.state.kind != "not run" or needed is None or needed.state.kind not in ("failed", "halted"):
        return run.state.words
    return f"not run, because pretraining {'failed' if needed.state.kind == 'failed' else 'was halted'}"


def _shape(run: Run) -> str:
    """What a line is called whose model was pretrained elsewhere."""
    config = run.trial.config
    if run.model is not None:
        return shape_name(run.model)
    return "-" if isinstance(config, PretrainConfig) or not config.pretrained else str(config.pretrained)


def _settings(run: Run) -> Iterator[tuple[str, object]]:
    """What determines a finetuning result beside task, model and seed, by dotted name."""
    for name, value in flat(run.trial.config.model_dump(mode="json")).items():
        if name not in OF_EACH_TRIAL and not changes_no_result(name):
            yield name, value


def _varied_settings(runs: Sequence[Run]) -> list[str]:
    """Settings in which finetuning trials of the same task and mode differ, over the whole sweep."""
    found: dict[tuple[str, str, str], set[str]] = {}
    for run in runs:
        if run.trial.verb == "finetune":
            for name, value in _settings(run):
                found.setdefault((run.task, run.mode, name), set()).add(repr(value))
    return list(dict.fromkeys(name for (_, _, name), values in found.items() if len(values) > 1))


def _variant(run: Run, varied: Sequence[str]) -> str:
    """What follows a line's name: ", learning_rate 0.001"; "" where nothing is varied."""
    settings = dict(_settings(run))
    return "".join(f", {name.split('.')[-1]} {settings[name]}" for name in varied if name in settings)
