"""A sweep's settings become trials, each one a run of a verb, checked whole before Ray starts.

A trial is a run directory `<storage>/<sweep>/<trial>`. Its name ends in a hash of all that determines its result, but
for the seed, which stands after it where it is not 0: what is finished is never run again, and what was changed is
another trial.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from proteinlm.models.config import TABLE_7_SHAPES, shape_name
from proteinlm.platform.data.manifest import MANIFEST_FILE, read_manifest
from proteinlm.platform.finetune import for_task
from proteinlm.platform.settings.config import ALL_TASKS, TRAINED_MODES, FinetuneConfig, PretrainConfig
from proteinlm.platform.settings.loading import flat, merge, set_dotted, validate
from proteinlm.platform.storage.run_directory import MODEL_DIRECTORY
from proteinlm.platform.training.driver import changes_no_result
from proteinlm.sweeps.planning.config import LIKE, SEED, TRAINING_FLOPS, SweepConfig
from proteinlm.sweeps.planning.cost import steps_of_flops
from proteinlm.sweeps.planning.space import (
    Point,
    grid_points,
    most_points,
    points,
    shape_out_of_bounds,
    size_out_of_bounds,
)
from proteinlm.tasks.catalog import TAPE_TASKS, build_task

Config = TypeVar("Config", PretrainConfig, FinetuneConfig)
IN_NO_NAME = {
    *(f"model.{name}" for name in ("preset", "hidden_size", "num_hidden_layers", "num_attention_heads")),
    *("task", "mode", SEED, "seeds", LIKE),
}
"""Keys that a trial's name says in another way, or not at all."""
UNNAMED = "unnamed"
SETTINGS_FAULT = " in the settings ("
"""Stands before the source in a message of `validate`."""


@dataclass(frozen=True)
class Trial:
    """One run of a verb, and the trial whose model it needs."""

    name: str
    verb: Literal["pretrain", "finetune"]
    config: PretrainConfig | FinetuneConfig
    needs: str | None
    label: str = ""
    """What people call the pretrained configuration (of finetuning: the one it starts from): its shape and `extras`."""
    extras: str = ""
    """What the label says beside the shape, such as "-learning_rate-0.01"."""
    like: str | None = None
    """The paper's configuration that a pretraining trial stands for."""

    @property
    def configuration(self) -> str:
        """Name that all seeds of the trial share, with the hash of what determines their results."""
        return self.config.configuration or self.name

    @property
    def seed(self) -> int:
        """Of the run; everything else that determines its result is the configuration."""
        return self.config.seed


_ANY = {"name": UNNAMED, "corpus": UNNAMED, "model": {"preset": "cpu-tiny"}, "training": {"steps": 1}}
STAND_IN = Trial(UNNAMED, "pretrain", PretrainConfig.model_validate(_ANY), None)
"""For faults of the tasks of a sweep whose configurations are all at fault."""


@dataclass(frozen=True)
class Plan:
    """All trials, pretraining first, and why points of a grid or a search are none."""

    trials: list[Trial]
    left_out: list[str]


def plan_sweep(sweep: SweepConfig) -> Plan:
    """All trials of the sweep; ValueError with every fault of every trial in one message."""
    pretrained, left_out, faults = _plan_pretraining(sweep)
    trials = list(pretrained)
    for number, changes in enumerate(_tasks(sweep)):
        for model in _models(sweep, changes, pretrained):
            try:
                trials += _finetuning(sweep, changes, model, f"tasks[{number}]")
            except ValueError as error:
                faults.append(str(error))
                break  # the same fault on every model is one fault
    faults += _name_clashes(trials)
    if faults:
        raise ValueError("\n".join(_each_once(faults)))
    return Plan(trials, left_out)


def _plan_pretraining(sweep: SweepConfig) -> tuple[list[Trial], list[str], list[str]]:
    """Trials, points left out, and faults."""
    wanted, looked_at = most_points(sweep)
    trials: dict[str, Trial] = {}
    left_out: list[str] = []
    faults: list[str] = []
    for number, point in enumerate(points(sweep) if sweep.pretrain else ()):
        if len(trials) == wanted or number == looked_at:
            break
        try:
            found = _pretraining(sweep, point)
        except ValueError as error:
            faults.append(str(error))
            if not point.is_explicit:
                break  # what is wrong with one point is wrong with all
            continue
        if isinstance(found, str):
            (faults if point.is_explicit else left_out).append(f"{point.source}: {found}")
        elif point.is_explicit and found.name in trials:
            faults.append(f"{point.source}: {_twice(found.name)}")
        else:
            trials[found.name] = found
    if wanted and len(trials) < wanted and not faults:
        faults.append(f"search: {len(trials)} of {wanted} configurations keep the constraints in {looked_at} draws")
    if not trials and not faults and sweep.pretrain:
        faults.append("\n  ".join(["grid: every point is left out:", *left_out]))
    return list(trials.values()), left_out, faults


def _pretraining(sweep: SweepConfig, point: Point) -> Trial | str:
    """The trial of a point, or why it is left out."""
    changes = {name: value for name, value in point.changes.items() if name not in (LIKE, TRAINING_FLOPS)}
    values = set_dotted(merge({SEED: sweep.seed}, sweep.pretrain), changes, point.source)
    flops = point.changes.get(TRAINING_FLOPS, sweep.constraints.training_flops)
    if flops is not None:
        values = merge(values, {"training": {"steps": 1, "epochs": None}})
    if not point.is_explicit and (why := shape_out_of_bounds(values.get("model"), sweep.constraints)):
        return why
    config = validate(PretrainConfig, merge(_shared(sweep, sweep.workers_per_trial), values), point.source)
    if why := size_out_of_bounds(config, sweep.constraints):
        return why
    if flops is not None:
        steps = steps_of_flops(config, _positive(flops, point.source))
        config = config.model_copy(update={"training": config.training.model_copy(update={"steps": steps})})
    extras = "".join(f"-{extra}" for extra in _extras(point.changes))
    label = shape_name(config.model) + extras
    configuration = f"{label}-{identity(config)}"
    config = _named(config, configuration, configuration)
    return Trial(config.name, "pretrain", config, None, label, extras, _like(point))


def _like(point: Point) -> str | None:
    like = point.changes.get(LIKE)
    if like is not None and like not in list(TABLE_7_SHAPES):
        raise ValueError(f"{point.source}: {LIKE}: found {like!r}; accepted: {', '.join(TABLE_7_SHAPES)}")
    return like


def _positive(flops: object, source: str) -> float:
    if isinstance(flops, bool) or not isinstance(flops, int | float) or flops <= 0:
        raise ValueError(f"{source}: {TRAINING_FLOPS}: found {flops!r}; accepted: a positive number of FLOPs")
    return float(flops)


def _tasks(sweep: SweepConfig) -> Iterator[dict[str, Any]]:
    for changes in sweep.tasks:
        named = TAPE_TASKS if changes.get("task") == ALL_TASKS else (changes.get("task"),)
        yield from ({**changes, "task": task} if task else changes for task in named)


def _models(sweep: SweepConfig, changes: Mapping[str, Any], pretrained: list[Trial]) -> list[Trial | None]:
    """The pretraining trials that a task is run on; None stands for what is not of this sweep."""
    is_of_this_sweep = changes.get("mode") != "baseline" and "pretrained" not in sweep.finetune and sweep.pretrain
    return [*(pretrained or [STAND_IN])] if is_of_this_sweep else [None]


def _finetuning(sweep: SweepConfig, changes: Mapping[str, Any], model: Trial | None, source: str) -> Iterator[Trial]:
    """The trials of a task on a model: with every point of the grid and every seed; a baseline once."""
    is_baseline = changes.get("mode") == "baseline"
    values = set_dotted(merge({SEED: sweep.seed}, sweep.finetune), changes, source)
    values["with_baselines"] = False
    if model:
        values["pretrained"] = str(sweep.directory.resolve() / model.name / MODEL_DIRECTORY)
    for point in grid_points({} if is_baseline else sweep.finetune_grid):
        config = validate(FinetuneConfig, merge(_shared(sweep, 1), set_dotted(values, point, source)), source)
        config = _of_known_task(for_task(config, config.task), source)
        seeds = (config.seeds or sweep.seeds) if config.mode in TRAINED_MODES else ()
        config = config.model_copy(update={"seeds": ()})
        parts = [config.task, config.mode, *_extras({**changes, **point}), identity(config, model)]
        configuration = "-".join([model.label, *parts] if model else parts)
        of_this_model = "-".join([model.label + _seed(model.seed), *parts] if model else parts)
        for seed in seeds or (config.seed,):
            seeded = _named(config.model_copy(update={"seed": seed}), configuration, of_this_model)
            if model:
                yield Trial(seeded.name, "finetune", seeded, model.name, model.label, model.extras)
            else:
                yield Trial(seeded.name, "finetune", seeded, None)


def _of_known_task(config: FinetuneConfig, source: str) -> FinetuneConfig:
    try:
        build_task(config.task, **config.options)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    return config


def _shared(sweep: SweepConfig, workers: int) -> dict[str, Any]:
    cluster = {"num_workers": workers, "cpus_per_worker": sweep.cpus_per_worker}
    return {"name": UNNAMED, "storage": str(sweep.directory.resolve()), "cluster": cluster}


def _extras(changes: Mapping[str, Any]) -> list[str]:
    """What tells a configuration from others, as parts of its name."""
    said = [(name.split(".")[-1], value) for name, value in changes.items() if name not in IN_NO_NAME]
    return [re.sub(r"[^A-Za-z0-9._-]+", "_", f"{name}-{_short(value)}") for name, value in said]


def _short(value: object) -> str:
    """1e13 for ten trillion; other values as they are."""
    return f"{value:g}".replace("e+", "e") if isinstance(value, float) and value >= 1e6 else str(value)


def _seed(seed: int) -> str:
    """The end of a trial's name."""
    return f"-seed-{seed}" if seed else ""


def identity(config: PretrainConfig | FinetuneConfig, model: Trial | None = None) -> str:
    """8 hex digits that stand for all that determines a run's result, but for its seed: settings and corpus.

    `model` is the trial of the same sweep whose model is finetuned: it is known by its configuration, wherever the
    sweep lies. A model from elsewhere is known by its path.
    """
    values = {
        name: value
        for name, value in flat(config.model_dump(mode="json")).items()
        if value is not None and name not in ("name", SEED) and not changes_no_result(name)
    }
    if isinstance(config, PretrainConfig) and (config.corpus / MANIFEST_FILE).is_file():
        values["corpus"] = read_manifest(config.corpus).content_hash
    if isinstance(config, FinetuneConfig) and config.pretrained:
        is_of_model = model is not None and config.pretrained == model.config.directory / MODEL_DIRECTORY
        values["pretrained"] = model.configuration if model and is_of_model else str(config.pretrained.resolve())
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def with_absolute_paths(config: Config) -> Config:
    """`config` for Tune, which runs every trial in a working directory of its own."""
    paths = {key: getattr(config, key, None) for key in ("corpus", "data", "pretrained")}
    return config.model_copy(update={key: path.resolve() for key, path in paths.items() if path is not None})


def _named(config: Config, configuration: str, name: str) -> Config:
    """`config` as a trial of a configuration, called `name` and its seed, in the trial's own process where nothing
    needs a worker group.
    """
    if config.training.engine == "plain" and config.cluster.in_process is None:
        config = config.model_copy(update={"cluster": config.cluster.model_copy(update={"in_process": True})})
    names = {"configuration": configuration, "name": name + _seed(config.seed)}
    return with_absolute_paths(config).model_copy(update=names)


def _name_clashes(trials: list[Trial]) -> list[str]:
    names = [trial.name for trial in trials]
    return [_twice(name) for name in sorted({name for name in names if names.count(name) > 1})]


def _each_once(faults: list[str]) -> Iterator[str]:
    """What is wrong with several configurations alike, said once with all their names."""
    sources: dict[str, list[str]] = {}
    for fault in faults:
        source, _, lines = fault.partition(SETTINGS_FAULT)[2].partition("):\n  ")
        for line in lines.split("\n  ") if lines else [fault]:
            sources.setdefault(line, []).append(source)
    for line, found in sources.items():
        others = f" and {len(found) - 3} others" * (len(found) > 3)
        yield ", ".join(found[:3]) + f"{others}: {line}" if found[0] else line


def _twice(name: str) -> str:
    return f"trial {name} stands twice in the sweep; two trials must differ in something"
