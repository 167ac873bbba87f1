"""A small sweep under Ray Tune: trials in parallel into one table, and nothing that is finished runs again."""

import time
from pathlib import Path
from typing import Any

import pytest

from proteinlm.platform.results.rows import gather_rows
from proteinlm.platform.settings.loading import validate
from proteinlm.platform.training.tracking import read_metrics
from proteinlm.sweeps.planning.config import SweepConfig
from proteinlm.sweeps.planning.plan import plan_sweep
from proteinlm.sweeps.sweep import sweep
from proteinlm.sweeps.trials.trial_state import read_state
from tests.made.planned_sweep import readable
from tests.made.small_sweep import TRIALS, small_sweep


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep")


def config(folder: Path, name: str, **changes: Any) -> SweepConfig:
    return validate(SweepConfig, small_sweep(folder, name, **changes), "test")


def stamps(chosen: SweepConfig) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in chosen.directory.rglob("finished.json")}


@pytest.mark.usefixtures("ray_cluster")
def test_trials_run_into_one_table_and_once(folder: Path) -> None:
    small = config(folder, "small")
    assert sweep(plan_sweep(small)) == []
    rows = gather_rows([small.directory])
    models = {"hidden-32-layer-1-head-2", "hidden-64-layer-1-head-4"}
    assert {row.model for row in rows if row.kind == "pretrain"} == models
    assert {(row.model, row.mode) for row in rows if row.kind == "finetune"} == {(model, "full") for model in models}
    assert any(row.kind == "baseline" for row in rows)
    finetuned = [row for row in rows if row.kind == "finetune" and row.metric == "accuracy"]
    assert {row.split for row in finetuned} == {"valid", "simulated_test"}
    before = stamps(small)
    assert len(before) == TRIALS
    assert sweep(plan_sweep(small)) == []
    assert stamps(small) == before
    # One more configuration is the only one that runs.
    more = config(folder, "small", configurations=[*small.configurations, {"model.hidden_size": 16}])
    assert sweep(plan_sweep(more)) == []
    after = stamps(more)
    assert {path: after[path] for path in before} == before
    assert len(after) == TRIALS + 2


@pytest.mark.usefixtures("ray_cluster")
def test_a_failed_trial_says_why_and_the_sweep_goes_on(folder: Path) -> None:
    """Weights at which fp32 overflows, and a task on them; the other configuration is not held up."""
    diverging = {"model.hidden_size": 32, "model.initializer_range": 1e30}
    chosen = config(
        folder,
        "failing",
        configurations=[diverging, {"model.num_attention_heads": 4}],
        pretrain={"training": {"max_skipped_steps": 2}},
    )
    unfinished = [readable(name) for name in sweep(plan_sweep(chosen))]
    lost = "hidden-32-layer-1-head-2-initializer_range-1e30"
    assert unfinished == [lost, f"{lost}-secondary_structure_q3-full"]
    names = {readable(trial.name): trial.name for trial in plan_sweep(chosen).trials}
    why = read_state(chosen.directory / names[lost]).words
    assert why.startswith("failed at step 2: ")
    assert "was not finite" in why
    assert "max_skipped_steps" in why


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("asynchronous", [False, True])
def test_halving_ends_the_worse_and_finishes_the_best(folder: Path, asynchronous: bool) -> None:
    chosen = config(
        folder,
        f"halved-{asynchronous}",
        configurations=[{"optimizer.learning_rate": rate} for rate in (1e-6, 1e-2, 1e-5)],
        halving={"rungs": [0.5], "keep": 0.34, "asynchronous": asynchronous},
        pretrain={"training": {"steps": 20}, "optimizer": {"warmup_steps": 0}},
    )
    assert sweep(plan_sweep(chosen)) == []
    names = {readable(trial.name).split("learning_rate-")[1]: trial.name for trial in plan_sweep(chosen).trials[:3]}
    done = {rate for rate, name in names.items() if (chosen.directory / name / "finished.json").exists()}
    # Two of three go on, for 0.34 of three is more than one; the lowest rate learned least.
    assert done == {"0.01", "1e-05"}
    assert read_metrics(chosen.directory / names["1e-06"])[-1]["step"] == 10
    assert (chosen.directory / names["1e-06"] / "halted.json").exists()
    before = stamps(chosen)
    assert sweep(plan_sweep(chosen)) == []
    assert stamps(chosen) == before


@pytest.mark.usefixtures("ray_cluster")
def test_a_trial_larger_than_the_cluster_is_refused_at_once(folder: Path) -> None:
    large = config(
        folder,
        "large",
        workers_per_trial=40,
        cpus_per_worker=0.5,
        pretrain={"batches": {"lanes": 40}, "training": {"engine": "deepspeed"}},
    )
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"trial hidden-64.*need 21 CPUs, the cluster has 4"):
        sweep(plan_sweep(large))
    assert time.monotonic() - start < 10
    assert not list(large.directory.rglob("metrics.jsonl"))
