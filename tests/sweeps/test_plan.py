"""A sweep file becomes trials, or one message with every fault."""

from pathlib import Path
from typing import Any

import pytest

from proteinlm.platform.config import FinetuneConfig, PretrainConfig
from proteinlm.platform.settings import merge, validate
from proteinlm.sweeps.plan import SweepConfig, plan_trials

BASE: dict[str, Any] = {
    "name": "s",
    "pretrain": {"corpus": "c", "model": {"preset": "cpu-tiny"}, "training": {"steps": 5}},
    "configurations": [{"model.hidden_size": 32}, {"model.hidden_size": 64, "optimizer.learning_rate": 0.01}],
    "finetune": {"data": "d", "training": {"steps": 3}},
    "tasks": [
        {"task": "secondary_structure_q3", "mode": "full"},
        {"task": "secondary_structure_q3", "mode": "baseline"},
    ],
}


def sweep(**changes: Any) -> SweepConfig:
    return validate(SweepConfig, merge(BASE, changes), "test")


def test_every_configuration_is_pretrained_and_every_task_is_run_on_it() -> None:
    trials = plan_trials(sweep())
    assert [(trial.name, trial.needs) for trial in trials] == [
        ("hidden-32-layer-2-head-2", None),
        ("hidden-64-layer-2-head-2-learning_rate-0.01", None),
        ("hidden-32-layer-2-head-2-secondary_structure_q3-full", "hidden-32-layer-2-head-2"),
        (
            "hidden-64-layer-2-head-2-learning_rate-0.01-secondary_structure_q3-full",
            "hidden-64-layer-2-head-2-learning_rate-0.01",
        ),
        ("secondary_structure_q3-baseline", None),
    ]
    finetuned = trials[2].config
    assert isinstance(finetuned, FinetuneConfig)
    # Tune changes the working directory of a trial, so that nothing in it may be relative.
    assert finetuned.pretrained == Path("runs/s/hidden-32-layer-2-head-2/model").resolve()
    assert finetuned.directory == Path("runs/s/hidden-32-layer-2-head-2-secondary_structure_q3-full").resolve()
    assert finetuned.data == Path("d").resolve()
    assert isinstance(trials[0].config, PretrainConfig)
    assert trials[0].config.corpus == Path("c").resolve()


def test_a_grid_is_the_product_of_its_lists() -> None:
    grid = {"model.hidden_size": [16, 32], "model.num_hidden_layers": [1, 2]}
    trials = plan_trials(sweep(configurations=(), grid=grid))
    shapes = [t.config.model.hidden_size for t in trials if isinstance(t.config, PretrainConfig)]
    assert shapes == [16, 16, 32, 32]


def test_all_faults_are_said_at_once() -> None:
    with pytest.raises(ValueError, match="num_attention_heads") as caught:
        plan_trials(
            sweep(
                configurations=[{"model.num_attention_heads": 3}, {"model.hiden_size": 64}],
                tasks=[{"task": "secondary_structure_q3", "mode": "half"}],
            )
        )
    message = str(caught.value)
    for words in ("configurations[0]", "configurations[1]", "hiden_size", "hidden_size"):
        assert words in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"configurations": []}, "configurations"),
        ({"grid": {"seed": [1]}}, "either configurations"),
        ({"configurations": [], "grid": {"seed": []}}, "grid.seed"),
        ({"workers_per_trial": 0}, "workers_per_trial"),
        ({"tasks": [{"mode": "full"}]}, "task"),
        ({"configurations": [{"seed": 0}, {"seed": 0}]}, "twice"),
    ],
)
def test_a_broken_sweep_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plan_trials(sweep(**changes))
