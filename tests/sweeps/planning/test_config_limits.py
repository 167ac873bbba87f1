"""Sweeps of too many trials are refused by counting them, at once, with the setting that allows more."""

import time
from pathlib import Path

import pytest

from proteinlm.sweeps.planning.plan import load_sweep

PRETRAIN = "pretrain: {corpus: data, model: {preset: cpu-tiny}, training: {steps: 10}}\n"
TEN = "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]"
GRID = "".join(
    f"  {name}: {TEN}\n"
    for name in (
        "seed",
        "optimizer.warmup_steps",
        "training.log_every",
        "training.patience",
        "batches.lanes",
        "training.validate_every",
        "training.keep_checkpoints",
        "training.checkpoint_every",
        "training.max_skipped_steps",
    )
)
MANY = {
    "a grid": (PRETRAIN + f"grid:\n{GRID}", "1,000,000,000 trials of pretraining"),
    "a search": (
        PRETRAIN + "search: {trials: 1000000000, space: {seed: {randint: [0, 9]}}}\n",
        "trials: found 1000000000",
    ),
    "a smaller search": (
        PRETRAIN + "search: {trials: 20000, space: {seed: {randint: [0, 9]}}}\n",
        "20,000 trials of pre",
    ),
    "tasks": (
        f"finetune: {{data: d, training: {{epochs: 1}}}}\ntasks: [{{task: stability, mode: baseline}}]\nseeds: {TEN}\n"
        f"finetune_grid:\n{GRID}",
        "10,000,000,000 trials of finetuning",
    ),
}


@pytest.mark.parametrize("name", MANY)
def test_a_sweep_of_too_many_trials_is_refused_at_once(tmp_path: Path, name: str) -> None:
    text, message = MANY[name]
    (tmp_path / "s.yaml").write_text(f"name: s\n{text}")
    started = time.process_time()
    with pytest.raises(ValueError, match=message):
        load_sweep(tmp_path / "s.yaml")
    assert time.process_time() - started < 5


def test_the_limit_is_a_setting(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(f"name: s\n{PRETRAIN}grid: {{seed: {TEN}}}\n")
    with pytest.raises(
        ValueError, match=r"max_trials is 9, and this sweep has 10 trials of pretraining; .*set max_trials"
    ):
        load_sweep(tmp_path / "s.yaml", ["max_trials=9"])
    assert len(load_sweep(tmp_path / "s.yaml", ["max_trials=10"]).trials) == 10


def test_aliases_that_stand_for_a_billion_values_are_refused(tmp_path: Path) -> None:
    lists = "[&a [x,x,x,x,x,x,x,x,x,x]" + "".join(
        f", &{chr(98 + number)} [{','.join(['*' + chr(97 + number)] * 10)}]" for number in range(8)
    )
    (tmp_path / "s.yaml").write_text(f"name: s\n{PRETRAIN}grid:\n  seed: {lists}]\n")
    with pytest.raises(ValueError, match=r"s\.yaml, line 4: more than 100,000 values"):
        load_sweep(tmp_path / "s.yaml")
