"""From run directories to the table: figures over seeds, costs, what is missing and why, and the paper's lines."""

import os
from dataclasses import replace
from pathlib import Path
from statistics import stdev

import pytest

from proteinlm.models.config import num_parameters
from proteinlm.platform.results.tables import Cell
from proteinlm.sweeps.planning.trial import Trial
from proteinlm.sweeps.results.gather import gather_results
from proteinlm.sweeps.results.runs import ConfigurationResult, SweepResults
from tests.made.sweep_results import BY_TITLE, Q3, VALID, finetuning, finish_run, pretraining, write_lines

SMALL = pretraining("hidden-64-layer-2-head-2-11112222", like="hidden-512-layer-32-head-8")
WIDE = pretraining("hidden-96-layer-2-head-2-33334444", hidden_size=96)
FLOPS = {SMALL.name: 3e9, WIDE.name: 5e9}
TASK = "secondary_structure_q3"


def seeded(model: Trial, seed: int, mode: str = "full") -> Trial:
    return finetuning(f"{model.label}-{TASK}-{mode}-5555-seed-{seed}", TASK, model, mode=mode, seed=seed)


def measured(value: object, deviation: object = None, num_seeds: int = 1) -> Cell:
    """As `finish_run` leaves it."""
    return replace(Cell(0.5, num_seeds=num_seeds, num_scored=9000), value=value, deviation=deviation)


def line_of(results: SweepResults, name: str, mode: str = "full") -> ConfigurationResult:
    (line,) = (line for line in results.lines if (line.name, line.mode) == (name, mode))
    return line


def test_seeds_are_pooled_into_mean_and_deviation(tmp_path: Path) -> None:
    trials = [SMALL, WIDE, *(seeded(SMALL, seed) for seed in (0, 1, 2)), seeded(WIDE, 0)]
    finish_run(tmp_path, SMALL, value=2.5)
    finish_run(tmp_path, WIDE, value=2.4, residues=3000)
    for trial, value in zip(trials[2:5], (0.5, 0.6, 0.65), strict=True):
        finish_run(tmp_path, trial, value=value)
    finish_run(tmp_path, trials[5], value=0.7)
    results = gather_results(trials, tmp_path, FLOPS)
    assert [line.name for line in results.lines] == ["hidden-64-layer-2-head-2", "hidden-96-layer-2-head-2"]
    small, wide = results.lines
    assert small.values[VALID] == measured(2.5)
    assert small.values[Q3].value == pytest.approx(1.75 / 3)
    assert small.values[Q3].deviation == pytest.approx(stdev([0.5, 0.6, 0.65]))
    assert small.values[Q3].num_seeds == 3
    assert wide.values[Q3] == measured(0.7)
    assert (small.training_flops, small.residues) == (3e9 * 1000, 1000)
    assert (wide.training_flops, wide.residues) == (5e9 * 3000, 3000)
    assert (small.state, small.remarks, small.pretraining) == ("finished", (), SMALL.name)
    assert small.parameters == num_parameters(SMALL.config.model)  # type: ignore[union-attr]
    assert (wide.hidden_size, wide.num_hidden_layers, wide.num_attention_heads) == (96, 2, 2)
    assert results.columns == tuple(BY_TITLE[title] for title in ("SS Q3", "valid loss"))
    assert results.best(Q3) == {1}
    assert results.best(VALID) == {1}
    assert "pretraining seed 0; finetuning seeds 0, 1, 2" in "\n".join(results.notes)


def test_pretraining_seeds_are_one_line(tmp_path: Path) -> None:
    again = pretraining(f"{SMALL.name}-seed-1", seed=1)
    finish_run(tmp_path, SMALL, value=2.5)
    finish_run(tmp_path, again, value=2.6, residues=2000)
    (line,) = gather_results([SMALL, again], tmp_path, {SMALL.name: 1.0, again.name: 1.0}).lines
    assert line.values[VALID] == measured(2.55, pytest.approx(stdev([2.5, 2.6])), 2)
    assert (line.mode, line.training_flops, line.residues) == ("-", 1500.0, 1500)


def test_modes_are_lines_and_scratch_owes_nothing_to_pretraining(tmp_path: Path) -> None:
    trials = [SMALL, seeded(SMALL, 0), seeded(SMALL, 0, "frozen"), seeded(SMALL, 0, "scratch")]
    for trial in trials:
        finish_run(tmp_path, trial)
    results = gather_results(trials, tmp_path, FLOPS)
    assert [line.mode for line in results.lines] == ["full", "frozen", "scratch"]
    assert [VALID in line.values for line in results.lines] == [True, True, False]
    scratch = results.lines[2]
    assert (scratch.pretraining, scratch.training_flops, scratch.residues) == ("", None, None)
    assert scratch.hidden_size == 64
    assert results.best(VALID) == frozenset(), "one model in two modes does not compete with itself"
    assert results.best(Q3) == {0, 1, 2}
    assert "the pretraining that several lines share counts in each" in "\n".join(results.notes)


def test_a_convolutional_network_has_no_shape(tmp_path: Path) -> None:
    results = gather_results([SMALL, seeded(SMALL, 0, "cnn")], tmp_path, FLOPS)
    (line,) = results.lines
    assert (line.mode, line.hidden_size, line.parameters, line.pretraining) == ("cnn", 0, 0, "")


def test_settings_that_differ_are_never_pooled_as_seeds(tmp_path: Path) -> None:
    rates = {
        rate: finetuning(f"{TASK}-{rate}", TASK, None, model=SMALL.config.model_dump()["model"], mode="scratch",
                         optimizer={"learning_rate": rate})
        for rate in (0.001, 0.01)
    }  # fmt: skip
    for rate, trial in rates.items():
        finish_run(tmp_path, trial, value=rate)
    results = gather_results(list(rates.values()), tmp_path, {})
    names = [f"hidden-64-layer-2-head-2, learning_rate {rate}" for rate in rates]
    assert [line.name for line in results.lines] == names
    assert [line.values[Q3] for line in results.lines] == [measured(rate) for rate in rates]


def test_models_from_elsewhere_of_one_shape_are_never_pooled_as_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proteinlm.sweeps.results.runs.read_config", lambda path: SMALL.config.model)
    paths = {path: finetuning(f"{TASK}-of-{path}", TASK, None, pretrained=f"runs/{path}/model") for path in "ab"}
    for number, trial in enumerate(paths.values()):
        finish_run(tmp_path, trial, value=0.5 + number / 10)
    again = finetuning(f"{TASK}-of-a-seed-1", TASK, None, pretrained="runs/a/model", seed=1)
    finish_run(tmp_path, again, value=0.7)
    results = gather_results([*paths.values(), again], tmp_path, {})
    shape = "hidden-64-layer-2-head-2"
    assert [line.name for line in results.lines] == [f"{shape} of runs/a/model", f"{shape} of runs/b/model"]
    assert [line.values[Q3].num_seeds for line in results.lines] == [2, 1]
    (alone,) = gather_results([paths["a"], again], tmp_path, {}).lines
    assert alone.name == shape


def test_device_hours_count_devices_and_killed_attempts(tmp_path: Path) -> None:
    tuned = seeded(SMALL, 0)
    finish_run(tmp_path, SMALL)
    start = {"event": "start", "devices": 2.0, "device": "core"}
    lines = [start | {"time": 1000.0}, start | {"time": 2000.0}, {"event": "end", "time": 2360.0}]
    write_lines(tmp_path / SMALL.name / "attempts.jsonl", *lines)
    write_lines(tmp_path / tuned.name / "attempts.jsonl", start | {"time": 5000.0, "devices": 1.0})
    for name, last_sign in ((SMALL.name, 1180.0), (tuned.name, 5900.0)):
        write_lines(tmp_path / name / "metrics.jsonl")
        os.utime(tmp_path / name / "metrics.jsonl", (last_sign, last_sign))
    (line,) = gather_results([SMALL, tuned], tmp_path, FLOPS).lines
    assert line.device_hours == pytest.approx((2 * 180 + 2 * 360 + 900) / 3600)
    write_lines(tmp_path / tuned.name / "attempts.jsonl", start | {"time": 0.0, "device": "gpu"}, lines[-1])
    results = gather_results([SMALL, tuned], tmp_path, FLOPS)
    assert (results.device, results.lines[0].device_hours) == ("gpu", pytest.approx(2 * 2360 / 3600))


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    deep = pretraining("hidden-128-layer-2-head-2-77778888", hidden_size=128)
    trials = [SMALL, WIDE, deep, seeded(SMALL, 0), seeded(SMALL, 1), seeded(WIDE, 0), seeded(deep, 0)]
    finish_run(tmp_path, SMALL)
    write_lines(tmp_path / trials[4].name / "failed.json", {"why": "out of\nmemory", "step": 3})
    (tmp_path / trials[3].name).mkdir()
    write_lines(tmp_path / WIDE.name / "failed.json", {"why": "the loss is not finite", "step": None})
    write_lines(tmp_path / deep.name / "halted.json", {"step": 120, "why": "loss 2.7, third of three"})
    results = gather_results(trials, tmp_path, FLOPS)
    small, wide, stopped = results.lines
    assert small.state == "incomplete"
    assert small.remarks == (f"{TASK} (seed 0) not finished", f"{TASK} (seed 1) failed at step 3: out of memory")
    assert wide.state == "failed"
    assert wide.remarks == (
        "pretraining failed: the loss is not finite",
        f"{TASK} not run, because pretraining failed",
    )
    assert (wide.values, wide.training_flops, wide.residues, wide.device_hours) == ({}, None, None, None)
    assert stopped.state == "stopped"
    assert stopped.remarks[0] == "pretraining stopped by successive halving after step 120: loss 2.7, third of three"
    assert stopped.remarks[1] == f"{TASK} not run, because pretraining was stopped"
    assert Q3 in results.columns, "a trial was to fill it"


def test_nothing_done_is_a_table_too(tmp_path: Path) -> None:
    results = gather_results([SMALL, seeded(SMALL, 0)], tmp_path / "none", FLOPS)
    assert [line.remarks for line in results.lines] == [(f"pretraining, {TASK} not run",)]
    assert results.best(Q3) == frozenset()


def test_baselines_are_lines_of_their_own_and_compete(tmp_path: Path) -> None:
    trial = finetuning(f"{TASK}-baseline-9999", TASK, None, mode="baseline")
    lost = finetuning("stability-baseline-9999", "stability", None, mode="baseline")
    tuned = seeded(SMALL, 0)
    finish_run(tmp_path, SMALL)
    finish_run(tmp_path, tuned, value=0.6)
    for model, value in (("one-hot window", 0.62), ("most common class", 0.4)):
        finish_run(tmp_path, trial, kind="baseline", model=model, mode="-", value=value)
    finish_run(tmp_path, trial, kind="baseline", model="of another split", mode="-", split="valid")
    write_lines(tmp_path / lost.name / "failed.json", {"why": "no data", "step": None})
    results = gather_results([SMALL, trial, lost, tuned], tmp_path, FLOPS)
    names = ["hidden-64-layer-2-head-2", "one-hot window", "most common class", "baselines"]
    assert [line.name for line in results.lines] == names
    assert [line.is_baseline for line in results.lines] == [False, True, True, True]
    assert results.best(Q3) == {1}
    assert results.lines[3].remarks == ("stability failed: no data",)
    assert line_of(results, "one-hot window", "baseline").parameters == 0


def test_figures_measured_otherwise_are_not_ranked(tmp_path: Path) -> None:
    trials = [SMALL, WIDE, seeded(SMALL, 0), seeded(WIDE, 0)]
    finish_run(tmp_path, trials[2], value=0.6)
    finish_run(tmp_path, trials[3], value=0.7, data_hash="another")
    results = gather_results(trials, tmp_path, FLOPS)
    assert results.unranked == (Q3,)
    assert results.best(Q3) == frozenset()
    assert any("NOT ALL MEASURED ALIKE" in note and "data another" in note for note in results.notes)


def test_another_test_split_has_a_column_that_says_so(tmp_path: Path) -> None:
    tuned = seeded(SMALL, 0)
    finish_run(tmp_path, SMALL)
    finish_run(tmp_path, tuned, split="valid")
    finish_run(tmp_path, tuned, split="simulated_test", value=0.8, is_simulated=True)
    results = gather_results([SMALL, tuned], tmp_path, FLOPS)
    column = results.columns[0]
    assert (column.title, column.split) == ("SS Q3 on simulated_test", "simulated_test")
    assert results.lines[0].values[column] == measured(0.8)
    assert results.is_simulated
    assert any("511 simulated proteins" in note for note in results.notes)


def test_the_paper_stands_apart_with_its_definitions(tmp_path: Path) -> None:
    results = gather_results([SMALL, WIDE], tmp_path, FLOPS)
    (line,) = results.paper
    assert (line.name, line.hidden_size, line.num_hidden_layers, line.parameters) == (SMALL.like, 512, 32, 0)
    found = [line.values[BY_TITLE[title]].value for title in ("P@L/5", "P@L/2", "P@L", "fluorescence", "RH")]
    assert found == [0.503, 0.477, 0.409, 0.679, 0.205]
    assert [line.values[BY_TITLE[title]].value for title in ("SS Q3", "SS Q8", "stability")] == [0.716, 0.578, 0.758]
    assert line.values[BY_TITLE["P@L/5, paper's count"]].value == 0.503
    notes = "\n".join(results.paper_notes)
    for words in ("single runs", "the epoch perhaps chosen on test", "valid_mask is not applied", "pairs twice"):
        assert words in notes
    assert "ours for the paper's: hidden-64-layer-2-head-2 for hidden-512-layer-32-head-8" in notes
    assert gather_results([WIDE], tmp_path, FLOPS).paper == ()
    assert gather_results([WIDE], tmp_path, FLOPS).paper_notes == ()
