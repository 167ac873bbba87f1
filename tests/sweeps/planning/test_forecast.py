"""The plan as it is printed: what each trial costs, and about how long the sweep takes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from proteinlm.models.work import TRAINING, Speed, Work
from proteinlm.platform.data.manifest import read_manifest
from proteinlm.platform.finetune import task_data
from proteinlm.platform.settings.config import FinetuneConfig, PretrainConfig
from proteinlm.platform.settings.loading import validate
from proteinlm.sweeps.planning.config import SweepConfig
from proteinlm.sweeps.planning.cost import finetuning_work, pretraining_work, residues_per_step
from proteinlm.sweeps.planning.forecast import WEIGHTS_PER_CORE, forecast_of_sweep
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
    found = forecast_of_sweep(plan, costs, {})
    first, _, on_first, _, baseline = plan.trials
    assert isinstance(first.config, PretrainConfig)
    seconds = found.seconds()
    work = pretraining_work(first.config, costs[first.name])
    cost, manifest = costs[first.name], read_manifest(first.config.corpus)
    validated = 2 * (manifest.split("valid").residues + manifest.split("holdout").residues)  # after steps 2 and 4
    of_validation = validated * cost.flops_per_residue / TRAINING
    assert work.flops == pytest.approx(cost.training_flops + of_validation, rel=0.05)
    assert seconds[first.name] == pytest.approx(work.flops / 1e9 + 2.0)
    assert seconds[baseline.name] == 2.0
    assert found.wall(seconds) == pytest.approx(sum(seconds.values()))
    many = forecast_of_sweep(plan_sweep(config(folder, max_concurrent=50)), costs, {})
    assert many.wall(seconds) == pytest.approx(max(seconds[t.name] + seconds[t.needs] for t in plan.trials if t.needs))
    assert on_first.needs == first.name


def test_workers_share_the_computing_of_a_trial(folder: Path) -> None:
    pretrain = {"batches": {"lanes": 2}, "training": {"engine": "deepspeed"}}
    one, two = (plan_sweep(config(folder, workers_per_trial=workers, pretrain=pretrain)) for workers in (1, 2))
    alone, shared = (forecast_of_sweep(plan, costs_of(plan), {}).seconds() for plan in (one, two))
    for first, second in zip(one.trials[:2], two.trials[:2], strict=True):
        assert shared[second.name] - 2.0 == pytest.approx((alone[first.name] - 2.0) / 2)
    assert shared[two.trials[2].name] == alone[one.trials[2].name]  # the plain engine takes one


def test_finetuning_counts_training_and_scoring(folder: Path) -> None:
    pretrained, _, finetuned, _, baseline = (trial.config for trial in plan_sweep(config(folder)).trials)
    assert isinstance(pretrained, PretrainConfig)
    assert isinstance(finetuned, FinetuneConfig)
    assert isinstance(baseline, FinetuneConfig)
    manifest = read_manifest(task_data(finetuned))
    section = finetuned.training.model_copy(update={"validate_every": 1000})  # once, at the end

    def work(config: FinetuneConfig, **training: Any) -> float:
        changed = config.model_copy(update={"training": section.model_copy(update=training)})
        return finetuning_work(changed, pretrained.model).flops

    whole, residues = work(finetuned), residues_per_step(finetuned, manifest)
    longer = work(finetuned, steps=2 * (finetuned.training.steps or 0))
    frozen = work(finetuned.model_copy(update={"mode": "frozen"}))
    of_residue = (longer - whole) / (TRAINING * (finetuned.training.steps or 0) * residues)
    scored = sum(split.residues for name, split in manifest.splits.items() if name != "train")
    assert whole == pytest.approx(
        of_residue * (TRAINING * (finetuned.training.steps or 0) * residues + scored), rel=0.1
    )
    assert frozen == pytest.approx(of_residue * (manifest.split("train").residues + scored), rel=0.1)
    assert work(finetuned, validate_every=1) > whole
    assert work(finetuned, validate_every=1, validation_residues=1) == pytest.approx(
        work(finetuned, validation_residues=1), rel=0.01
    )
    assert finetuning_work(baseline, None) == Work()


@pytest.mark.parametrize("precision", ["fp32", "auto", "fp16"])
def test_a_driver_without_the_gpus_of_the_sweep_forecasts_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """A head has no GPU, and no fp16; what it measures is mended by the first trials."""
    monkeypatch.setattr("proteinlm.platform.training.telemetry.matmul_peak", lambda *of: 1e10 * torch.get_num_threads())
    monkeypatch.setattr("proteinlm.sweeps.planning.forecast.usable_cores", lambda: 2)
    changes = {"pretrain": {"training": {"precision": precision}}, "estimate": {"flops_per_worker": None}}
    plan = plan_sweep(config(folder, **changes))
    speed = forecast_of_sweep(plan, costs_of(plan), {}).pace.speed
    assert speed == Speed(0.85e10, WEIGHTS_PER_CORE)  # a core for each of the two workers at once


def test_a_machine_at_half_the_speed_is_known_after_two_trials(folder: Path) -> None:
    plan = plan_sweep(config(folder))
    costs = costs_of(plan)
    found = forecast_of_sweep(plan, costs, {})
    real = {name: 2 * seconds for name, seconds in found.seconds().items()}
    first, second, *others = (trial.name for trial in plan.trials)
    learnt = found.seconds({name: real[name] for name in (first, second)})
    assert learnt[first] == real[first]
    assert sum(learnt.values()) == pytest.approx(sum(real.values()), rel=0.02)
    assert found.seconds()[others[0]] == pytest.approx(real[others[0]] / 2)


def test_what_one_trial_of_a_task_took_beyond_its_computing_is_expected_of_the_others(folder: Path) -> None:
    plan = plan_sweep(config(folder))
    found = forecast_of_sweep(plan, costs_of(plan), {})
    real = found.seconds()
    pretrained, _, first, second, baseline = (trial.name for trial in plan.trials)
    took = {pretrained: real[pretrained], first: 4 * real[first]}
    learnt = found.seconds(took)
    assert learnt[first] == took[first]
    assert learnt[second] > 2 * real[second]
    assert learnt[second] > 1.5 * learnt[baseline]  # which computes nothing, and takes as long to start


def test_with_halving_a_trial_counts_by_what_is_expected_of_it(folder: Path) -> None:
    """Three models, rungs at 10 and 40 % of their work, of which a half, rounded up, goes on: 3, 2 and 1 of them."""
    halving = {"rungs": [0.1, 0.4], "keep": 0.5}
    grid = {"model.num_attention_heads": [1, 2, 4]}
    plan = plan_sweep(config(folder, configurations=[], grid=grid, halving=halving))
    costs = costs_of(plan)
    whole, found = (
        forecast_of_sweep(plan, costs, {}),
        forecast_of_sweep(plan, costs, {name: [0.1, 0.4] for name in costs}),
    )
    full, expected = whole.seconds(), found.seconds()
    tuned = {trial.needs: trial.name for trial in plan.trials if trial.needs}
    for name in costs:
        assert expected[name] == pytest.approx(full[name] * (0.1 + 2 / 3 * 0.3 + 1 / 3 * 0.6))
        assert expected[tuned[name]] == pytest.approx(full[tuned[name]] / 3)
    winner, loser, _ = costs
    after = found.seconds({winner: full[winner]})  # it came to its end, so the others will not
    assert after[tuned[winner]] == pytest.approx(full[tuned[winner]])
    assert after[tuned[loser]] == 0.0
