"""The plan as it is printed: what each trial costs, and about how long the sweep takes."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from proteinlm.platform.settings.config import FinetuneConfig, PretrainConfig
from proteinlm.platform.settings.loading import validate
from proteinlm.sweeps.planning.config import SweepConfig
from proteinlm.sweeps.planning.cost import finetuning_flops
from proteinlm.sweeps.planning.forecast import forecast
from proteinlm.sweeps.planning.plan import plan_sweep
from proteinlm.sweeps.sweep import costs_of, sweep
from tests.made.small_sweep import small_sweep


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("forecast")


def config(folder: Path, **changes: Any) -> SweepConfig:
    estimate = {"flops_per_worker": 1e9, "seconds_per_trial": 2.0}
    return validate(SweepConfig, small_sweep(folder, "forecast", **{"estimate": estimate, **changes}), "test")


def test_a_dry_run_prints_the_plan_and_starts_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_ray(*found: object, **options: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("proteinlm.sweeps.trials.trials.connected", no_ray)
    console = Console(record=True, width=200)
    grid = {"model.hidden_size": [32, 60], "model.num_attention_heads": [2, 8]}
    assert sweep(plan_sweep(config(folder, configurations=[], grid=grid)), console, dry_run=True) == []
    text = console.export_text()
    for words in ("hidden-32-layer-1-head-2", "hidden-60-layer-1-head-2", "7 trials", "1.0e9 FLOP/s", "residues"):
        assert words in text
    assert "left out: grid point model.hidden_size=60, model.num_attention_heads=8: 8 heads do not divide" in text
    assert not list((folder / "runs").rglob("metrics.jsonl"))
    with pytest.raises(AssertionError, match="Ray was started"):
        sweep(plan_sweep(config(folder)), console)


def test_a_long_name_cuts_no_figure_off(folder: Path) -> None:
    console = Console(record=True, width=80)
    grid = {"optimizer.learning_rate": [0.001234], "optimizer.weight_decay": [0.04321], "seed": [0, 1]}
    assert sweep(plan_sweep(config(folder, configurations=[], grid=grid)), console, dry_run=True) == []
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
    assert sum("k" in line and " 4 " in line for line in lines) == 2


def test_time_is_flops_over_rate_and_no_shorter_than_the_longest_road(folder: Path) -> None:
    chosen = config(folder, max_concurrent=1)
    plan = plan_sweep(chosen)
    costs = costs_of(plan)
    found = forecast(chosen, plan, costs)
    first, _, on_first, _, baseline = plan.trials
    assert found.seconds[first.name] == pytest.approx(costs[first.name].training_flops / 1e9 + 2.0)
    assert found.seconds[baseline.name] == 2.0
    assert found.wall == pytest.approx(sum(found.seconds.values()))
    many = forecast(config(folder, max_concurrent=50), plan, costs)
    assert many.wall == pytest.approx(
        max(found.seconds[t.name] + found.seconds[t.needs] for t in plan.trials if t.needs)
    )
    assert on_first.needs == first.name


def test_finetuning_counts_training_and_scoring(folder: Path) -> None:
    pretrained, _, finetuned, _, baseline = (trial.config for trial in plan_sweep(config(folder)).trials)
    assert isinstance(pretrained, PretrainConfig)
    assert isinstance(finetuned, FinetuneConfig)
    assert isinstance(baseline, FinetuneConfig)
    whole = finetuning_flops(finetuned, pretrained.model)
    training = finetuned.training.model_copy(update={"steps": 2 * (finetuned.training.steps or 0)})
    longer = finetuning_flops(finetuned.model_copy(update={"training": training}), pretrained.model)
    frozen = finetuning_flops(finetuned.model_copy(update={"mode": "frozen"}), pretrained.model)
    assert longer - whole == pytest.approx(whole - frozen)  # twice the steps; none through the encoder
    assert 0 < frozen < whole
    assert finetuning_flops(baseline, None) == 0.0
