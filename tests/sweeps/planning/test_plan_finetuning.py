"""Several finetuning runs out of one configuration: tasks x modes x seeds, and the baselines once for each task."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from proteinlm.platform.settings.config import FinetuneConfig
from proteinlm.platform.settings.loading import validate
from proteinlm.sweeps.planning.plan import plan_finetuning
from proteinlm.tasks.catalog import TAPE_TASKS


def many(**changes: Any) -> list[FinetuneConfig]:
    values: dict[str, Any] = {
        "name": "all",
        "task": "all",
        "data": "records",
        "pretrained": "model",
        "training": {"steps": 5, "engine": "plain"},
    }
    config = validate(FinetuneConfig, values | changes, "test")
    assert config.is_many
    made = [trial.config for trial in plan_finetuning(config)]
    return [trial for trial in made if isinstance(trial, FinetuneConfig)]


def test_all_tasks_come_in_every_mode_with_every_seed_and_baselines_once() -> None:
    trials = many()
    assert set(TAPE_TASKS) == {trial.task for trial in trials}
    of_one = [(trial.mode, trial.seed) for trial in trials if trial.task == "fluorescence"]
    trained = [(mode, seed) for mode in ("full", "scratch", "cnn") for seed in (0, 1, 2)]
    assert Counter(of_one) == Counter([*trained, ("baseline", 0)])
    assert [trial.task for trial in trials if trial.mode == "probe"] == ["contact_prediction"]
    assert len({trial.directory for trial in trials}) == len(trials)
    assert all(trial.directory.parent == Path("runs/all").resolve() for trial in trials)
    assert not any(trial.is_many or trial.with_baselines for trial in trials)


def test_one_task_with_seeds_and_modes_of_its_own() -> None:
    trials = many(task="stability", seeds=[3, 4], modes=["frozen", "lora"])
    assert Counter((trial.mode, trial.seed) for trial in trials) == Counter(
        [("frozen", 3), ("frozen", 4), ("lora", 3), ("lora", 4), ("baseline", 3)]
    )


def test_a_task_may_have_settings_of_its_own() -> None:
    changes = {"training.steps": 9, "options.pool": "mean"}
    trials = many(seeds=[0], per_task={"stability": changes})
    assert {trial.training.steps for trial in trials if trial.task == "stability"} == {9}
    assert {trial.training.steps for trial in trials if trial.task != "stability"} == {5}
    assert all(trial.options == {"pool": "mean"} for trial in trials if trial.task == "stability")


def test_every_fault_is_in_one_message() -> None:
    with pytest.raises(ValueError, match="stabilty") as fault:
        many(per_task={"stabilty": {}, "fluorescence": {"training.step": 3}, "stability": {"mode": "fully"}})
    assert "training.step" in str(fault.value)
    assert "fully" in str(fault.value)
