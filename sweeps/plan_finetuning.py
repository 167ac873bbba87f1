"""Several finetuning runs out of one configuration: every task, in every mode, with every seed, and the baselines.

    task: all | one       seeds: [0, 1, 2]       modes: [full, scratch]       per_task: {fluorescence: ...}
      -> <task>-<mode>-seed-<seed> ..., <task>-baseline

Baselines and the probe are fitted once for each task; a mode that a task does not have is left out.
"""

from proteinlm.platform.config import ALL_TASKS, TRAINED_MODES, FinetuneConfig, Mode
from proteinlm.platform.settings import as_assignments, override, validate
from proteinlm.sweeps.plan import Trial, with_absolute_paths
from proteinlm.tasks.catalog import TAPE_TASKS
from proteinlm.tasks.contacts import NAME as CONTACTS

SEEDS = (0, 1, 2)
COMPARED: tuple[Mode, ...] = ("scratch", "cnn", "probe", "baseline")
"""What stands beside the mode asked for when all tasks are run."""


def plan_finetuning(config: FinetuneConfig) -> list[Trial]:
    """The trials of `config`, task by task; ValueError with every fault of every one in one message."""
    is_all = config.task == ALL_TASKS
    tasks = TAPE_TASKS if is_all else (config.task,)
    modes = dict.fromkeys([*(config.modes or (config.mode, *(COMPARED if is_all else ()))), "baseline"])
    seeds = config.seeds or (SEEDS if is_all else (config.seed,))
    trials, faults = [], []
    strays = sorted(set(config.per_task) - set(tasks))
    if strays:
        faults.append(f"per_task: found {', '.join(strays)}; accepted: {', '.join(tasks)}")
    for task in tasks:
        try:
            for mode in modes:
                trials += [_trial(config, task, mode, seed) for seed in (seeds if mode in TRAINED_MODES else seeds[:1])]
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise ValueError("\n".join(faults))
    return [trial for trial in trials if not (_mode(trial) == "probe" and _task(trial) != CONTACTS)]


def _trial(config: FinetuneConfig, task: str, mode: str, seed: int) -> Trial:
    name = f"{task}-{mode}" + (f"-seed-{seed}" if mode in TRAINED_MODES else "")
    alone = {"seeds": (), "modes": (), "per_task": {}, "with_baselines": False}
    values = config.model_dump(mode="json", exclude_unset=True) | alone
    values |= {"task": task, "mode": mode, "seed": seed, "name": name, "storage": str(config.directory.resolve())}
    values = override(values, as_assignments(config.per_task.get(task, {})))
    trial = validate(FinetuneConfig, values, f"task {task}, mode {mode}")
    return Trial(name, "finetune", with_absolute_paths(trial), None)


def _mode(trial: Trial) -> str:
    return getattr(trial.config, "mode", "")


def _task(trial: Trial) -> str:
    return getattr(trial.config, "task", "")
