"""The end of a sweep: everything in one folder, and the laws and advice that its figures allow."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from proteinlm.models.config import ModelConfig, num_parameters
from proteinlm.platform.places.places import place, put
from proteinlm.platform.settings.loading import validate
from proteinlm.platform.storage.run_directory import ATTEMPTS_FILE, Failure, mark_failed
from proteinlm.sweeps.planning.config import SweepConfig
from proteinlm.sweeps.planning.cost import Cost
from proteinlm.sweeps.planning.plan import Plan
from proteinlm.sweeps.results.report import FORMS, PAGE, write_report
from proteinlm.sweeps.sweep import show_report
from tests.made.object_store import BUCKET, object_store
from tests.made.sweep_results import finish_run, pretraining, write_lines

WIDTHS = (32, 64, 128, 256)
RESIDUES = (1_000_000, 4_000_000, 16_000_000)
FLOPS_PER_PARAMETER = 8.0


def loss_of(parameters: float, residues: float) -> float:
    return 2.0 + 5.0 * parameters**-0.3 + 20.0 * residues**-0.3


def finished_sweep(folder: Path, residues: tuple[int, ...]) -> tuple[SweepConfig, Plan, dict[str, Cost]]:
    """Runs of every width on every number of residues whose losses obey a law, each an hour on a core."""
    values = {"name": "laws", "storage": str(folder), "tasks": [{"task": "stability"}], "budgets": [100.0]}
    config = validate(SweepConfig, values, "test")
    trials, costs = [], {}
    for width in WIDTHS:
        for count in residues:
            trial = pretraining(f"hidden-{width}-on-{count}", hidden_size=width)
            model = trial.config.model
            assert isinstance(model, ModelConfig)
            parameters = num_parameters(model)
            finish_run(config.directory, trial, value=loss_of(parameters, count), residues=count, parameters=parameters)
            write_lines(
                config.directory / trial.name / ATTEMPTS_FILE,
                {"event": "start", "time": 1000.0, "devices": 1.0, "device": "core", "scheduled": 999.0},
                {"event": "end", "time": 4600.0},
            )
            costs[trial.name] = Cost(parameters, 4, count, FLOPS_PER_PARAMETER * parameters, 0.0)
            trials.append(trial)
    return config, Plan(config, trials, []), costs


def test_a_sweep_over_size_and_residues_says_how_to_spend_a_budget(tmp_path: Path) -> None:
    config, plan, costs = finished_sweep(tmp_path, RESIDUES)
    folder = write_report(config, plan, costs)
    findings = (folder / "findings.txt").read_text()
    rate = sum(cost.training_flops for cost in costs.values()) / (3600 * len(costs))
    assert f"A budget of 100 core-hours at {rate:.2g} FLOP/s" in findings
    product = rate * 100 * 3600 / FLOPS_PER_PARAMETER
    best = min((10**power for power in [3 + n / 1000 for n in range(5000)]), key=lambda n: loss_of(n, product / n))
    assert f"{best / 1e3:.2g} thousand parameters" in findings or f"{best / 1e6:.2g} million parameters" in findings
    assert "Valid loss against training FLOPs (C): loss = " in findings
    assert "Valid loss against parameters (N): " in findings
    assert f"{len(plan.trials)} trials in 60.0 min: {len(plan.trials)}.00 cores held" in findings


def test_everything_is_in_one_folder(tmp_path: Path) -> None:
    config, plan, costs = finished_sweep(tmp_path, RESIDUES[:1])
    folder = write_report(config, plan, costs)
    names = {path.name for path in folder.iterdir()}
    assert {*FORMS, PAGE, "findings.txt", "loss.png", "loss.svg"} <= names
    assert "shape.png" not in names  # nothing was finetuned
    assert "this sweep does not say; loss: found 4 values" in (folder / "findings.txt").read_text()
    assert len(json.loads((folder / "table.json").read_text())["lines"]) == len(WIDTHS)
    assert "<svg" in (folder / PAGE).read_text() or "data:image/svg" in (folder / PAGE).read_text()


def test_nothing_finished_is_no_error(tmp_path: Path) -> None:
    config, plan, costs = finished_sweep(tmp_path, RESIDUES[:1])
    for trial in plan.trials:
        (config.directory / trial.name / "finished.json").unlink()
        (config.directory / trial.name / "rows.jsonl").unlink()
    folder = write_report(config, plan, costs)
    assert "not finished" in (folder / "table.md").read_text()
    assert not (folder / "loss.png").exists()


def test_rows_without_a_finished_trial_are_no_error(tmp_path: Path) -> None:
    """A kill between the last row and the mark: no device was held by a finished trial, so no speed is known."""
    config, plan, costs = finished_sweep(tmp_path, RESIDUES)
    for trial in plan.trials:
        (config.directory / trial.name / "finished.json").unlink()
    findings = (write_report(config, plan, costs) / "findings.txt").read_text()
    assert "Which size on how many residues for a budget: this sweep does not say; no pretraining trial" in findings
    assert "Valid loss against parameters (N): " in findings


def test_it_is_written_anew_each_time(tmp_path: Path) -> None:
    config, plan, costs = finished_sweep(tmp_path, RESIDUES[:1])
    folder = write_report(config, plan, costs)
    for name in (*FORMS, PAGE):
        (folder / name).write_text("old")
    write_report(config, plan, costs)
    for name in (*FORMS, PAGE):
        assert (folder / name).read_text() != "old", name


@pytest.fixture
def store() -> Iterator[Path]:
    with object_store():
        yield place(f"s3://{BUCKET}/runs")


def test_in_a_store_it_is_that_of_the_same_runs_on_a_disk(store: Path, tmp_path: Path) -> None:
    config, plan, costs = finished_sweep(tmp_path, RESIDUES[:1])
    lost = plan.trials[0].name
    mark_failed(config.directory / lost, Failure("out of memory", 3))
    put(config.directory, store / config.name)
    remote = config.model_copy(update={"storage": store})
    here, there = write_report(config, plan, costs), write_report(remote, plan, costs)
    assert there == store / "laws" / "results"
    names = [path.name for path in sorted(here.iterdir())]
    assert [path.name for path in there.iterdir()] == names
    assert {"table.md", "table.csv", "table.json", "table.tex", "loss.png", "findings.txt", "index.html"} <= set(names)
    assert [name for name in names if (there / name).read_bytes() != (here / name).read_bytes()] == []
    console = Console(record=True, width=200)
    show_report(there, console)
    assert f"table and plots: {there}/index.html" in console.export_text()
    for trial in plan.trials:
        (remote.directory / trial.name / "rows.jsonl").unlink()
    write_report(remote, plan, costs)
    assert not (there / "loss.png").exists()
