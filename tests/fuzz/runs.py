"""Fuzzing of run directories: one file is damaged, and the directory is used.

python -m tests.fuzz.runs --seconds 300 [TARGET ...]

No checksum says what these files held; what comes out of them must be of the right types, so that whoever uses it
computes.
"""

import math
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

from proteinlm.platform.results.comparison import make_tables
from proteinlm.platform.results.rows import append_rows, gather_rows
from proteinlm.platform.results.table_text import to_markdown
from proteinlm.platform.storage.run_directory import (
    Failure,
    RunFile,
    Stopped,
    is_finished,
    mark_failed,
    mark_finished,
    mark_halted,
    mark_stopped,
    read_run_file,
    take_stopped,
    write_run_file,
)
from proteinlm.platform.training.selection import Selection
from proteinlm.platform.training.tracking import Tracker, forget_after, last_logged_step, read_metrics
from proteinlm.sweeps.results.gather import gather_results, sweep_table
from proteinlm.sweeps.results.report import device_time, fit_laws
from proteinlm.sweeps.trials.trial_state import attempt, attempts, device_seconds, read_state
from tests.fuzz.runner import Target, directory_target, main
from tests.made.result_rows import make_row
from tests.made.sweep_results import finish_run, pretraining

# -------------------------------------------------------------------------------------------------------------- runs


def write_run(folder: Path) -> None:
    """The files of a trial that was stopped, went on, failed once and ended: more than one ever has at once."""
    write_run_file(
        folder,
        {"seed": 3, "optimizer": {"learning_rate": 1e-3}},
        task="stability",
        total_steps=20,
        code_version="1",
        data_hash="ab",
        inputs={"data": "ab"},
    )
    with attempt(folder, 2.0, "core", 99.0), Tracker(folder, 0, active=True) as tracker:
        for step in range(1, 9):
            about = {"residues": 100.0 * step, "residues_per_s": 50.0} if step % 2 else {"valid/loss": math.nan}
            tracker.log(step, {"loss": 3.0 / step, **about})
    append_rows(folder, [make_row(), make_row(metric="Q8", value=math.nan), make_row(seed=1, low=0.1, high=0.9)])
    mark_finished(folder, 20)
    mark_stopped(folder, Stopped(5, "paused"))
    mark_failed(folder, Failure("out of memory", 7, "Traceback ..."))
    mark_halted(folder, Stopped(6, "worse"))
    (folder / "best").mkdir()
    (folder / "best" / "selection.json").write_text("[[10, 0.5], [20, NaN], [30, 0.7]]\n")


def read_marks(folder: Path) -> None:
    """run.json, and the marks that say how a run stands."""
    found = read_run_file(folder)
    assert isinstance(found, RunFile)
    assert isinstance(found.total_steps, int)
    is_finished(folder)
    stopped = take_stopped(folder)
    assert stopped
    assert isinstance(stopped.step, int)
    for _ in ("halted", "finished", "failed"):
        state = read_state(folder)
        assert len(state.words) < 1000
        for name in ("halted.json", "finished.json") if state.kind == "stopped" else ("finished.json",):
            (folder / name).unlink(missing_ok=True)
            if state.kind == "stopped":
                break


def read_selection(folder: Path) -> None:
    """What a resumed finetuning knows of its validations."""
    selection = Selection(
        folder / "best",
        "valid/spearman",
        larger_is_better=True,
        patience=2,
        first_step=30,
        engine=cast(Any, None),
        is_first_worker=False,
    )
    selection.best_step()
    selection.is_exhausted()
    selection.chosen(30)


def read_attempts(folder: Path) -> None:
    """The time that a trial held its devices, before and after it goes on."""
    for span in attempts(folder):
        assert span.device_seconds >= 0
    device_time([folder])
    with attempt(folder, 1.0, "core", 5.0):
        pass
    assert all(math.isfinite(seconds) for seconds in device_seconds(folder).values())


def read_metric_rows(folder: Path) -> None:
    """The step metrics, as progress bars, reports and a resumed run read them."""
    for row in read_metrics(folder):
        assert all(isinstance(value, int | float) for value in row.values())
    last_logged_step(folder)
    device_time([folder])
    forget_after(folder, 5)
    read_metrics(folder)


def read_rows(folder: Path) -> None:
    """The results, to the table."""
    assert to_markdown(*make_tables(gather_rows([folder]))).isascii() or True


def write_sweep_runs(folder: Path) -> None:
    """Run directories of a sweep of two trials, of which one was killed between its rows and its mark."""
    for number, trial in enumerate(SWEEP):
        finish_run(folder, trial, value=2.5 + number, residues=1000 * (number + 1), parameters=1000)
        with attempt(folder / trial.name, 1.0, "core", 99.0), Tracker(folder / trial.name, 0, active=True) as tracker:
            tracker.log(1, {"loss": 3.0, "residues": 100.0, "residues_per_s": 50.0})
    (folder / SWEEP[1].name / "finished.json").unlink()


SWEEP = (pretraining("first"), pretraining("second", hidden_size=32))


def read_sweep(folder: Path) -> None:
    """Its results, laws and device time."""
    results = gather_results(SWEEP, folder, {trial.name: 1e6 for trial in SWEEP})
    fit_laws(results)
    to_markdown(sweep_table(results))
    device_time([folder / trial.name for trial in SWEEP])


MARKS = ("run.json", "finished.json", "stopped.json", "failed.json", "halted.json")
SWEEP_FILES = ("rows.jsonl", "attempts.jsonl", "metrics.jsonl")


@cache
def make_targets() -> Mapping[str, Target]:
    """Targets by name; makes the honest directories."""
    with tempfile.TemporaryDirectory() as made:
        run, sweep = Path(made, "run"), Path(made, "sweep")
        run.mkdir()
        write_run(run)
        write_sweep_runs(sweep)
        found = [
            directory_target("run-marks", read_marks, run, MARKS),
            directory_target("selection", read_selection, run, ("best/selection.json",)),
            directory_target("attempts", read_attempts, run, ("attempts.jsonl",)),
            directory_target("metrics", read_metric_rows, run, ("metrics.jsonl",)),
            directory_target("rows", read_rows, run, ("rows.jsonl",)),
            directory_target("sweep-runs", read_sweep, sweep, tuple(f"second/{name}" for name in SWEEP_FILES)),
        ]
    return {one.name: one for one in found}


NAMES = ("run-marks", "selection", "attempts", "metrics", "rows", "sweep-runs")

if __name__ == "__main__":
    sys.exit(main(list(make_targets().values())))
