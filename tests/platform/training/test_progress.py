"""Progress follows metrics.jsonl: a bar on a terminal, lines elsewhere, and the time left of a run that goes on."""

import io
import json
import time
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from proteinlm.platform.storage.run_directory import METRICS_FILE
from proteinlm.platform.training.progress import (
    LINE_SECONDS,
    SPEED_SECONDS,
    Follower,
    Lines,
    describe,
    progress_shown,
)
from proteinlm.platform.training.tracking import forget_after

TRAINED = {"step": 200, "loss": 2.5, "residues_per_s": 12345.0}


def append(run: Path, *rows: dict[str, float]) -> None:
    with (run / METRICS_FILE).open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def test_the_bar_shows_the_newest_figures(tmp_path: Path) -> None:
    text = io.StringIO()
    run = tmp_path / "run[v2][x]"
    run.mkdir()
    with progress_shown(run, 400, Console(file=text, width=150, force_terminal=True)):
        append(run, TRAINED | {"peak_share": 0.713}, {"step": 200, "valid/loss": 2.75})
    shown = text.getvalue()
    for words in ("run[v2][x]", "200/400", "loss 2.5000", "12,345 residues/s", "71% of peak", "valid 2.7500"):
        assert words in shown


def test_a_log_gets_lines_without_control_characters(tmp_path: Path) -> None:
    text = io.StringIO()
    run = tmp_path / "run[v2]"
    run.mkdir()
    append(run, TRAINED)
    with progress_shown(run, 400, Console(file=text, width=40)):
        for _ in range(500):
            if text.getvalue():
                break
            time.sleep(0.01)
        append(run, TRAINED | {"step": 400, "loss": 2.0})
    assert text.getvalue().splitlines() == [
        "run[v2]  step 200/400  loss 2.5000  12,345 residues/s  - left",
        "run[v2]  step 400/400  loss 2.0000  12,345 residues/s",
    ]


def test_lines_come_at_a_cadence_and_the_last_at_the_end(tmp_path: Path) -> None:
    followed, text = Followed(tmp_path), io.StringIO()
    lines = Lines(followed.follower, Console(file=text), lambda: followed.now)
    lines.show()
    assert text.getvalue() == "", "nothing was logged"
    for second in range(1, 2 * round(LINE_SECONDS) + 10):
        followed.now = second
        append(tmp_path, TRAINED | {"step": 10 * second})
        lines.show()
    lines.show(is_last=True)
    lines.show(is_last=True)
    steps = [int(line.split("step ")[1].split("/")[0]) for line in text.getvalue().splitlines()]
    assert steps == [10, 310, 610, 690]
    assert "0:00:49 left" in text.getvalue().splitlines()[2], "of 1100 steps, ten a second"


def test_without_a_console_nothing_is_shown(tmp_path: Path) -> None:
    with progress_shown(tmp_path, 40, None):
        pass


def test_losses_of_time_and_steps_are_shown_where_notable() -> None:
    assert describe({}) == "starting workers"
    small = {"data_stall_share": 0.009, "checkpoint_stall_share": 0.01, "skipped_steps": 2}
    assert describe(TRAINED | small) == "loss 2.5000  12,345 residues/s"
    large = {"data_stall_share": 0.052, "checkpoint_stall_share": 0.02, "skipped_steps": 3, "loss": float("nan")}
    shown = describe(TRAINED | large)
    assert shown == "loss nan  12,345 residues/s  data stall 5%  checkpoint stall 2%  3 steps skipped"


class Followed:
    """A follower of a run of 1100 steps, with a clock that the test turns."""

    def __init__(self, run: Path) -> None:
        self.now = 0.0
        console = Console(file=io.StringIO())
        self.bar = Progress(console=console, get_time=lambda: self.now, speed_estimate_period=SPEED_SECONDS)
        self.follower = Follower(self.bar, run, 1100)

    def show_at(self, seconds: float) -> tuple[float, float | None]:
        """Steps done and seconds left."""
        self.now = seconds
        self.follower.show()
        (task,) = self.bar.tasks
        return task.completed, task.time_remaining


def test_time_left_is_estimated_from_this_launch_alone(tmp_path: Path) -> None:
    append(tmp_path, *(TRAINED | {"step": step} for step in range(1, 1011)))
    followed = Followed(tmp_path)
    assert followed.show_at(1) == (1010, None)
    forget_after(tmp_path, 1000)  # the worker goes on from its checkpoint
    assert followed.show_at(60) == (1000, None)
    append(tmp_path, TRAINED | {"step": 1001})
    assert followed.show_at(61) == (1001, None)
    append(tmp_path, TRAINED | {"step": 1011})
    assert followed.show_at(101) == (1011, pytest.approx(89 * 4, abs=1))


def test_time_left_is_known_where_a_row_takes_minutes(tmp_path: Path) -> None:
    followed = Followed(tmp_path)
    for row in range(4):
        append(tmp_path, TRAINED | {"step": 100 * row + 100})
        found = followed.show_at(300.0 * row)
    assert found == (400, pytest.approx(7 * 300, abs=1))


def test_validation_moves_nothing_and_a_restart_forgets(tmp_path: Path) -> None:
    followed = Followed(tmp_path)
    append(tmp_path, TRAINED, {"step": 210, "valid/loss": 2.0})
    assert followed.show_at(1)[0] == 200
    forget_after(tmp_path, 0)
    assert followed.show_at(2)[0] == 0
    assert followed.bar.tasks[0].fields["metrics"] == "starting workers"
