"""Several finetuning runs out of one configuration: every task, in every mode, with every seed, and the baselines.

    task: all | one       seeds: [0, 1, 2]       modes: [full, scratch]       per_task: {fluorescence: ...}
      -> <task>-<mode>-seed-<seed> ..., <task>-probe, <task>-baseline

Baselines and the probe are fitted once for each task; the probe reads contacts and is left out for other tasks.
"""

from collections.abc import Iterator

from proteinlm.platform.finetune import for_task
from proteinlm.platform.settings.config import ALL_TASKS, TRAINED_MODES, FinetuneConfig, Mode
from proteinlm.sweeps.planning.plan import Trial, with_absolute_paths
from proteinlm.tasks.catalog import TAPE_TASKS
from proteinlm.tasks.contact_prediction import NAME as CONTACTS

SEEDS = (0, 1, 2)
COMPARED: tuple[Mode, ...] = ("scratch", "cnn", "probe")
"""What stands beside the mode asked for when all tasks are run."""


def plan_finetuning(config: FinetuneConfig) -> list[Trial]:
    """The trials of `config`, task by task; ValueError with every fault of every one in one message."""
    tasks = TAPE_TASKS if config.task == ALL_TASKS else (config.task,)
    trials, faults = [], []
    strays = sorted(set(config.per_task) - set(tasks))
    if strays and config.task == ALL_TASKS:
        faults.append(f"per_task: found {', '.join(strays)}; accepted: {', '.join(tasks)}")
    for task in tasks:
        try:
            trials += [_trial(config, task, mode, seed) for mode, seed in _runs(config, task)]
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise ValueError("\n".join(faults))
    return trials


def _runs(config: FinetuneConfig, task: str) -> Iterator[tuple[Mode, int]]:
    """The modes in which `task` is run, with their seeds."""
    is_all = config.task == ALL_TASKS
    seeds = config.seeds or (SEEDS if is_all else (config.seed,))
    modes = config.modes or (config.mode, *(COMPARED if is_all else ()))
    for mode in dict.fromkeys((*modes, "baseline")):
        if mode in TRAINED_MODES:
            yield from ((mode, seed) for seed in seeds)
        elif mode != "probe" or task == CONTACTS:
            yield mode, seeds[0]


def _trial(config: FinetuneConfig, task: str, mode: Mode, seed: int) -> Trial:
    configuration = f"{task}-{mode}"
    name = configuration + (f"-seed-{seed}" if mode in TRAINED_MODES else "")
    alone = {"seeds": (), "modes": (), "with_baselines": False}
    place = {"name": name, "configuration": configuration, "storage": str(config.directory.resolve())}
    chosen = {"mode": mode, "seed": seed, **place}
    return Trial(name, "finetune", with_absolute_paths(for_task(config, task, **alone, **chosen)), None)
