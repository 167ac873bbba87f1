"""Watching a sweep: Tune's callbacks become a table on a terminal, lines elsewhere, and nothing without a console."""

import io
import json
import pickle
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from proteinlm.cluster.metrics import RunGauges
from proteinlm.sweeps.trials.watch import SweepWatch

NAMES = ("wide", "deep", "stability")


def console(is_terminal: bool) -> Console:
    return Console(file=io.StringIO(), width=120, height=30, force_terminal=is_terminal, color_system=None)


def text(of: Console) -> str:
    assert isinstance(of.file, io.StringIO)
    return of.file.getvalue()


def watch(folder: Path, on: Console | None, finished: set[str] | None = None) -> SweepWatch:
    return SweepWatch(NAMES, folder, finished or set(), on)


def tell(callback: Any, event: str, name: str, **result: object) -> None:
    trial = SimpleNamespace(config={"trial": name}, last_result=result or None)
    getattr(callback, f"on_trial_{event}")(1, [trial], trial)


def through_a_sweep(callback: Any) -> None:
    tell(callback, "start", "wide")
    tell(callback, "complete", "wide", done=True)
    tell(callback, "start", "deep")
    tell(callback, "complete", "deep", paused=40)
    tell(callback, "start", "stability")
    tell(callback, "complete", "stability", failed="out of memory [CPU]")
    tell(callback, "start", "deep")
    tell(callback, "error", "deep")


def test_without_a_terminal_each_change_is_a_line(tmp_path: Path) -> None:
    shown = console(is_terminal=False)
    with watch(tmp_path, shown) as watched:
        through_a_sweep(watched.callback())
    assert text(shown).splitlines() == [
        "started   wide",
        "finished  wide",
        "started   deep",
        "paused    deep",
        "started   stability",
        "failed    stability: out of memory [CPU]",
        "started   deep",
        "failed    deep: its process died",
    ]


def test_the_time_left_is_learnt_from_finished_trials_also_of_earlier_launches(tmp_path: Path) -> None:
    told: list[dict[str, float]] = []

    def expected(took: Mapping[str, float]) -> dict[str, float]:
        told.append(dict(took))
        return {"wide": 8.0, "deep": 30.0, "stability": 61.0}

    def ran(name: str, *spans: tuple[float, float]) -> None:
        (tmp_path / name).mkdir()
        for start, end in spans:
            begin = {"event": "start", "time": start, "devices": 1, "device": "core"}
            with (tmp_path / name / "attempts.jsonl").open("a") as file:
                file.write(f"{json.dumps(begin)}\n{json.dumps({'event': 'end', 'time': end})}\n")

    shown, clock = console(is_terminal=False), iter(range(100, 10_000, 10))
    ran("wide", (1000.0, 1005.0), (2000.0, 2003.0))
    with SweepWatch(NAMES, tmp_path, {"wide"}, shown, expected, lambda: float(next(clock))) as watched:
        assert told == [{"wide": 8.0}]
        tell(watched.callback(), "start", "deep")
        ran("deep", (3000.0, 3030.0))
        tell(watched.callback(), "complete", "deep", done=True)
    assert told[1:] == [{"wide": 8.0, "deep": 30.0}]
    assert text(shown).splitlines()[-1] == "finished  deep; 0:00:30 elapsed, 0:01:01 left"


def test_a_trial_that_came_to_a_rung_is_paused(tmp_path: Path) -> None:
    shown = console(is_terminal=False)
    callback = watch(tmp_path, shown).callback()
    tell(callback, "complete", "wide", paused=0)
    assert text(shown) == "paused    wide\n"


def test_without_a_console_nothing_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with watch(tmp_path, None) as watched:
        through_a_sweep(watched.callback())
    assert "".join(capsys.readouterr()) == ""


def test_a_terminal_does_not_travel_with_the_callback(tmp_path: Path) -> None:
    shown = console(is_terminal=False)
    travelled = pickle.loads(pickle.dumps(watch(tmp_path, shown).callback()))
    through_a_sweep(travelled)
    assert text(shown) == ""


def write_run(folder: Path, name: str, *rows: dict[str, float]) -> None:
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "run.json").write_text(json.dumps({"total_steps": 400}))
    with (folder / name / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def test_a_terminal_shows_the_newest_figures_of_each_run(tmp_path: Path) -> None:
    shown = console(is_terminal=True)
    with watch(tmp_path, shown, finished={"wide"}) as watched:
        callback = watched.callback()
        tell(callback, "start", "deep")
        write_run(tmp_path, "deep", {"step": 100, "loss": 2.5, "residues_per_s": 12345.0})
        assert table(watched)[2].split() == ["deep", "running", "100/400", "2.5000", "-", "12,345", "-"]
        write_run(
            tmp_path, "deep", {"step": 400, "loss": 2.0, "residues_per_s": 1.0}, {"step": 400, "valid/loss": 2.75}
        )
        tell(callback, "complete", "deep", done=True)
        last = table(watched)
    assert last[0].startswith("3 trials: 2 finished, 1 waiting; 0:00:00 elapsed, - left")
    assert [line.split() for line in last[2:]] == [
        ["deep", "finished", "400/400", "2.0000", "2.7500", "1"],
        ["stability", "waiting", "-", "-", "-", "-"],
    ]
    assert "deep" in text(shown)
    assert "started" not in text(shown)


def table(watched: SweepWatch) -> list[str]:
    recorded = Console(file=io.StringIO(), record=True, width=120, height=30, force_terminal=True)
    recorded.print(watched.shown())
    return recorded.export_text().splitlines()


def test_the_table_follows_by_itself(tmp_path: Path) -> None:
    shown = console(is_terminal=True)
    with watch(tmp_path, shown) as watched:
        tell(watched.callback(), "start", "wide")
        write_run(tmp_path, "wide", {"step": 7, "loss": 2.5, "residues_per_s": 12345.0})
        for _ in range(200):
            if "7/400" in text(shown):
                return
            time.sleep(0.05)
    pytest.fail("the figures were not shown within 10 s")


def test_a_failed_trial_says_why_above_the_table(tmp_path: Path) -> None:
    shown = console(is_terminal=True)
    with watch(tmp_path, shown) as watched:
        tell(watched.callback(), "start", "wide")
        tell(watched.callback(), "complete", "wide", failed="out of memory")
    assert "failed    wide: out of memory" in text(shown)


def test_files_that_cannot_be_read_end_no_sweep(tmp_path: Path) -> None:
    shown = console(is_terminal=True)
    with watch(tmp_path, shown) as watched:
        tell(watched.callback(), "start", "wide")
        (tmp_path / "wide").mkdir()
        (tmp_path / "wide" / "run.json").write_text("{")
        assert table(watched)[2].split() == ["wide", "running", "-", "-", "-", "-", "-"]


def test_trials_by_state_and_retries_are_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[dict[str, int], int]] = []
    monkeypatch.setattr(RunGauges, "log_trials", lambda self, states, retries: told.append((dict(states), retries)))
    watched = watch(tmp_path, None)
    for state in ("running", "failed", "running"):
        watched.note("wide", state)  # type: ignore[arg-type]
    counts = [(states["running"], states["waiting"], retries) for states, retries in told]
    assert counts == [(1, 2, 0), (0, 2, 0), (1, 2, 1)]
