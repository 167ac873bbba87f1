"""From settings to trials, checked as a whole before Ray starts.

    load_sweep(file, overrides) -> SweepConfig -> plan_sweep -> Plan         `proteinlm sweep`
    FinetuneConfig with several tasks, seeds or modes -> plan_finetuning     `proteinlm finetune`

Faults of all trials are collected as values; a fault that several configurations share is said once, with their names.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from proteinlm.models.config import shape_name
from proteinlm.platform.finetune import for_task
from proteinlm.platform.settings.config import ALL_TASKS, MODES, FinetuneConfig, Mode, PretrainConfig
from proteinlm.platform.settings.loading import (
    Fault,
    SettingsError,
    load_settings,
    merge,
    override,
    set_dotted,
    validate,
)
from proteinlm.platform.settings.sections import MOST_STEPS
from proteinlm.platform.settings.yaml_text import read_yaml
from proteinlm.platform.storage.run_directory import MODEL_DIRECTORY
from proteinlm.sweeps.planning.config import SEED, SweepConfig
from proteinlm.sweeps.planning.cost import steps_of_flops
from proteinlm.sweeps.planning.space import (
    Point,
    flops_of,
    grid_points,
    like_of,
    most_points,
    points,
    settings_of,
    shape_out_of_bounds,
    size_out_of_bounds,
)
from proteinlm.sweeps.planning.trial import Trial, extras, identity, named, seed_suffix, with_absolute_paths
from proteinlm.tasks.catalog import TAPE_TASKS, build_task
from proteinlm.tasks.contact_prediction import NAME as CONTACTS

UNNAMED = "unnamed"
ALL_TOGETHER = "all together"
"""Name of a fault that no single setting has."""
FINETUNING_SEEDS = (0, 1, 2)
"""Of `finetune` with all tasks, where the settings name no seeds."""
COMPARED: tuple[Mode, ...] = ("scratch", "cnn", "probe")
"""Modes that `finetune` with all tasks runs beside the one asked for."""


@dataclass(frozen=True)
class Plan:
    """A sweep and all its trials."""

    sweep: SweepConfig
    trials: list[Trial]
    """Pretraining first."""
    left_out: list[str]
    """Points of a grid or a search that are no trials, each with the reason."""


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> Plan:
    """Read the sweep file at `path` with dotted `key=value` overrides, and plan its trials.

    Raises FileNotFoundError for a missing file or corpus, and SettingsError with every fault of the file's sections and
    of all trials that can be planned in spite of them.
    """
    try:
        sweep = load_settings(SweepConfig, path, overrides)
    except SettingsError as error:
        raise SettingsError([*error.faults, *_faults_of_trials(path, overrides)]) from None
    return plan_sweep(sweep)


def _faults_of_trials(path: Path, overrides: Sequence[str]) -> Sequence[Fault]:
    """Faults of the trials of a file whose sections have faults of their own; those sections are left out."""
    try:
        values = override(read_yaml(path), overrides, SweepConfig)
    except SettingsError:
        return ()
    whole: dict[str, Any] = {"name": UNNAMED}
    for key, field in SweepConfig.model_fields.items():
        if key in values:
            with suppress(ValidationError):
                TypeAdapter[Any](field.rebuild_annotation()).validate_python(values[key])
                whole[key] = values[key]
    try:
        plan_sweep(SweepConfig.model_validate(whole))
    except ValidationError:
        return ()
    except (ValueError, OSError) as error:
        return _faults_in(error, str(path))
    return ()


def plan_sweep(sweep: SweepConfig) -> Plan:
    """Plan all trials of the sweep; SettingsError with every fault of every trial, FileNotFoundError for no corpus."""
    pretrained, left_out, faults = _plan_pretraining(sweep)
    trials = list(pretrained)
    for source, changes in _tasks(sweep):
        for model in _models(sweep, changes, pretrained):
            try:
                trials += _finetuning(sweep, changes, model, source)
            except ValueError as error:
                faults += _faults_in(error, source)
                break  # the same fault on every model is one fault
    names = Counter(trial.name for trial in trials)
    faults += [_twice(sweep.name, name) for name in sorted(name for name, count in names.items() if count > 1)]
    if faults:
        raise SettingsError(list(_each_once(faults)))
    return Plan(sweep, trials, left_out)


def _plan_pretraining(sweep: SweepConfig) -> tuple[list[Trial], list[str], list[Fault]]:
    """Trials, points left out, and faults."""
    wanted, looked_at = most_points(sweep)
    trials: dict[str, Trial] = {}
    left_out: list[str] = []
    faults: list[Fault] = []
    for number, point in enumerate(points(sweep) if sweep.pretrain else ()):
        if len(trials) == wanted or number == looked_at:
            break
        try:
            made = _pretraining(sweep, point)
        except ValueError as error:
            faults += _faults_in(error, point.source)
            if not point.is_explicit:
                break  # what is wrong with one point is wrong with all
            continue
        if isinstance(made, Trial):
            if point.is_explicit and made.name in trials:
                faults.append(_twice(point.source, made.name))
            trials[made.name] = made
        elif point.is_explicit:
            faults.append(Fault("model", point.source, made))
        else:
            left_out.append(f"{point.source}: {made}")
    if wanted and len(trials) < wanted and not faults:
        text = f"{len(trials)} of {wanted} configurations keep the constraints in {looked_at} draws"
        faults.append(Fault("search", sweep.name, text))
    if not trials and not faults and sweep.pretrain:
        faults.append(Fault("grid", sweep.name, "\n    ".join(["every point is left out:", *left_out])))
    return list(trials.values()), left_out, faults


def _pretraining(sweep: SweepConfig, point: Point) -> Trial | str:
    """The trial of a point, or why it is left out."""
    values = set_dotted(merge({SEED: sweep.seed}, sweep.pretrain), settings_of(point), point.source)
    flops = flops_of(point, sweep.constraints)
    if flops is not None:
        values = merge(values, {"training": {"steps": MOST_STEPS, "epochs": None}})  # those of the FLOPs follow
    if not point.is_explicit and (why := shape_out_of_bounds(values.get("model"), sweep.constraints)):
        return why
    config = validate(PretrainConfig, merge(_shared(sweep, sweep.workers_per_trial), values), point.source)
    if why := size_out_of_bounds(config, sweep.constraints):
        return why
    if flops is not None:
        steps = steps_of_flops(config, flops)
        config = config.model_copy(update={"training": config.training.model_copy(update={"steps": steps})})
    beside_shape = "".join(f"-{extra}" for extra in extras(point.changes))
    label = shape_name(config.model) + beside_shape
    configuration = f"{label}-{identity(config)}"
    config = named(config, configuration, configuration)
    return Trial(config.name, "pretrain", config, None, label, beside_shape, like_of(point))


def _tasks(sweep: SweepConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """What messages call each entry of `tasks`, and its settings; `all` becomes the tasks of TAPE."""
    for number, changes in enumerate(sweep.tasks):
        tasks = TAPE_TASKS if changes.get("task") == ALL_TASKS else (changes.get("task"),)
        yield from ((f"tasks[{number}]", {**changes, "task": task} if task else changes) for task in tasks)


def _models(sweep: SweepConfig, changes: Mapping[str, Any], pretrained: list[Trial]) -> list[Trial | None]:
    """The pretraining trials that a task is run on; None stands for what is not of this sweep."""
    is_of_this_sweep = changes.get("mode") != "baseline" and "pretrained" not in sweep.finetune and sweep.pretrain
    return [*(pretrained or [_any_model()])] if is_of_this_sweep else [None]


def _any_model() -> Trial:
    """A stand-in by which faults of tasks are found where all configurations have faults of their own."""
    values = {"name": UNNAMED, "corpus": UNNAMED, "model": {"preset": "cpu-tiny"}, "training": {"steps": 1}}
    return Trial(UNNAMED, "pretrain", PretrainConfig.model_validate(values), None)


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
        seeds = (config.seeds or sweep.seeds) if MODES[config.mode].is_trained else ()
        config = config.model_copy(update={"seeds": ()})
        parts = [config.task, config.mode, *extras({**changes, **point}), identity(config, model)]
        configuration = "-".join([model.label, *parts] if model else parts)
        of_this_model = "-".join([model.label + seed_suffix(model.seed), *parts] if model else parts)
        for seed in seeds or (config.seed,):
            seeded = named(config.model_copy(update={"seed": seed}), configuration, of_this_model)
            if model:
                yield Trial(seeded.name, "finetune", seeded, model.name, model.label, model.extras)
            else:
                yield Trial(seeded.name, "finetune", seeded, None)


def _of_known_task(config: FinetuneConfig, source: str) -> FinetuneConfig:
    try:
        build_task(config.task, **config.options)
    except ValueError as error:
        raise SettingsError([Fault("task", source, str(error))]) from None
    return config


def _shared(sweep: SweepConfig, workers: int) -> dict[str, Any]:
    """Settings that the sweep gives to all its runs; a run's own `cluster` section is laid over them."""
    cluster = {
        "num_workers": workers,
        "cpus_per_worker": sweep.cpus_per_worker,
        "threads_per_worker": sweep.threads_per_worker,
    }
    return {"name": UNNAMED, "storage": str(sweep.directory.resolve()), "cluster": cluster}


def plan_finetuning(config: FinetuneConfig) -> list[Trial]:
    """Plan the runs of a `finetune` command: each task, in each mode, with each seed, and the baselines.

    They are called <task>-<mode>-seed-<seed>. A baseline or probe is fitted once for each task; the probe reads
    contacts and is left out for other tasks. SettingsError with every fault of every run.
    """
    tasks = TAPE_TASKS if config.task == ALL_TASKS else (config.task,)
    trials: list[Trial] = []
    faults: list[Fault] = []
    strays = sorted(set(config.per_task) - set(tasks))
    if strays and config.task == ALL_TASKS:
        text = f"found {', '.join(strays)}; accepted: {', '.join(tasks)}"
        faults.append(Fault("per_task", config.name, text))
    for task in tasks:
        try:
            trials += [_of_command(config, task, mode, seed) for mode, seed in _modes_and_seeds(config, task)]
        except ValueError as error:
            faults += _faults_in(error, f"task {task}")
    if faults:
        raise SettingsError(faults)
    return trials


def _modes_and_seeds(config: FinetuneConfig, task: str) -> Iterator[tuple[Mode, int]]:
    """The modes in which `task` is run, with their seeds."""
    is_all = config.task == ALL_TASKS
    seeds = config.seeds or (FINETUNING_SEEDS if is_all else (config.seed,))
    modes = config.modes or (config.mode, *(COMPARED if is_all else ()))
    for mode in dict.fromkeys((*modes, "baseline")):
        if MODES[mode].is_trained:
            yield from ((mode, seed) for seed in seeds)
        elif mode != "probe" or task == CONTACTS:
            yield mode, seeds[0]


def _of_command(config: FinetuneConfig, task: str, mode: Mode, seed: int) -> Trial:
    configuration = f"{task}-{mode}"
    name = configuration + (f"-seed-{seed}" if MODES[mode].is_trained else "")
    alone = {"seeds": (), "modes": (), "with_baselines": False}
    place = {"name": name, "configuration": configuration, "storage": str(config.directory.resolve())}
    run = for_task(config, task, **alone, **place, mode=mode, seed=seed)
    return Trial(name, "finetune", with_absolute_paths(run), None)


def _faults_in(error: Exception, source: str) -> Sequence[Fault]:
    """The faults of an error that planning a trial raised."""
    return error.faults if isinstance(error, SettingsError) else (Fault(ALL_TOGETHER, source, str(error)),)


def _each_once(faults: Iterable[Fault]) -> Iterator[Fault]:
    """What is wrong with several configurations alike as one fault, with the names of three of them."""
    sources: dict[tuple[str, str], dict[str, None]] = {}
    for fault in faults:
        sources.setdefault((fault.name, fault.text), {})[fault.source] = None
    for (name, text), of_fault in sources.items():
        entries = list(of_fault)
        others = f" and {len(entries) - 3} others" * (len(entries) > 3)
        yield Fault(name, ", ".join(entries[:3]) + others, text)


def _twice(source: str, name: str) -> Fault:
    return Fault(ALL_TOGETHER, source, f"trial {name} stands twice; two trials must differ in something")
