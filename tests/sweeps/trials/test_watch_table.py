"""The table of a running sweep: what is shown of many trials, in which order, and how long the sweep may still take."""

import io

import pytest
from rich.console import Console

from proteinlm.sweeps.trials.watch import State, WatchedTrial, chosen, seconds_left, sweep_table


def trial(name: str, *changes: tuple[State, float], total_steps: int = 100) -> WatchedTrial:
    """A trial that came into each of these states at these seconds."""
    made = WatchedTrial(name, total_steps=total_steps)
    for state, at in changes:
        made.change(state, at)
    return made


def rendered(trials: list[WatchedTrial], now: float = 0.0, size: tuple[int, int] = (120, 30)) -> list[str]:
    console = Console(file=io.StringIO(), record=True, width=size[0], force_terminal=True)
    console.print(sweep_table(trials, now, "0:00:20 elapsed, - left", size))
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_a_line_says_how_far_a_trial_is() -> None:
    running = trial("hidden-64-layer-2-head-2", ("running", 0.0), total_steps=300)
    running.log([{"step": 100, "loss": 2.5, "residues_per_s": 12345.6}], True, 10.0)
    running.log(
        [{"step": 150, "loss": 2.25, "residues_per_s": 12345.6}, {"step": 160, "valid/loss": 2.125}], False, 20.0
    )
    finetuned = trial("stability", ("running", 3.0), ("finished", 9.0))
    finetuned.log([{"step": 100, "loss": 0.5, "residues_per_s": 10.0}], True, 9.0)
    finetuned.log([{"step": 100, "valid/spearman": 0.75, "valid/mean_squared_error": 0.5}], False, 9.0)
    lines = rendered([running, finetuned, trial("next")], now=20.0)
    assert lines[0] == "3 trials: 1 running, 1 finished, 1 waiting; 0:00:20 elapsed, - left"
    assert lines[1].split("  ")[0] == "trial"
    assert lines[2].split() == [
        "hidden-64-layer-2-head-2",
        "running",
        "150/300",
        "2.2500",
        "2.1250",
        "12,346",
        "0:00:30",
    ]
    assert lines[3].split() == ["stability", "finished", "100/100", "0.5000", "spearman", "0.7500", "10"]
    assert lines[4].split() == ["next", "waiting", "-", "-", "-", "-"]
    assert len(lines) == 5


def test_running_trials_are_shown_first_then_failed_ones_then_the_newest_that_ended() -> None:
    ended = [trial(f"ended-{at}", ("running", 0), ("paused" if at == 2 else "finished", at)) for at in (1, 2, 3)]
    others = [trial("failed", ("running", 0), ("failed", 1)), trial("running", ("running", 9))]
    waiting = [trial(f"waiting-{number}") for number in range(37)]
    old = WatchedTrial("old", "finished", is_old=True)
    trials = [old, *waiting, *ended, *others]
    assert [each.name for each in chosen(trials, 6)] == [
        "running",
        "failed",
        "ended-3",
        "ended-2",
        "ended-1",
        "waiting-0",
    ]
    lines = rendered(trials, size=(120, 9))
    assert "1 running, 1 failed, 1 paused, 3 finished, 37 waiting" in lines[0]
    assert [line.split()[0] for line in lines[2:5]] == ["running", "failed", "ended-3"]
    assert lines[5:] == ["... and 1 paused, 1 finished, 37 waiting"]


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_never_outgrows_its_terminal(width: int) -> None:
    name = "hidden-1024-layer-12-head-32-secondary_structure_q3-full-seed-1-0a1b2c3d"
    trials = [trial(f"{name}{number}", ("running", 0)) for number in range(40)]
    for each in trials:
        each.log([{"step": 12000, "loss": 2.0, "residues_per_s": 1e6}, {"step": 1, "valid/accuracy": 0.5}], True, 1.0)
    lines = rendered(trials, size=(width, 24))
    assert len(lines) <= 23
    assert all(len(line) <= width for line in lines)
    cells = next(line for line in lines if line.startswith("hid")).split()
    assert cells[1:] == ["running", "12000/100", "2.0000", "accuracy", "0.5000", "1,000,000", "-"]
    assert "…" in cells[0]
    assert cells[0].endswith("0")  # the end of the name is shown


def test_a_pace_counts_from_its_launch_and_runs_down_between_rows() -> None:
    running = trial("running", ("running", 0))
    assert running.seconds_left(0.0) is None
    running.log([{"step": 40, "loss": 3.0}], True, 10.0)
    assert running.seconds_left(20.0) is None
    running.log([{"step": 50, "loss": 3.0}], False, 30.0)
    assert running.seconds_left(30.0) == 100.0
    running.log([], False, 60.0)  # nothing new
    assert running.seconds_left(60.0) == 70.0
    assert running.seconds_left(500.0) == 0.0
    running.total_steps = None
    assert running.seconds_left(60.0) is None


def test_a_resumed_trial_forgets_the_pace_and_figures_of_its_last_launch() -> None:
    resumed = trial("resumed", ("running", 0))
    resumed.log([{"step": 10, "loss": 3.0}, {"step": 10, "valid/loss": 3.0}], True, 1.0)
    resumed.log([{"step": 20, "loss": 2.0}], False, 2.0)
    assert resumed.seconds_left(2.0) == 8.0
    resumed.log([{"step": 10, "loss": 3.0}], True, 60.0)
    assert resumed.figures == {"step": 10, "loss": 3.0}
    assert resumed.seconds_left(60.0) is None


def test_time_left_is_what_is_expected_of_trials_that_are_not_done() -> None:
    ended = [trial("one", ("running", 0), ("finished", 10)), trial("two", ("running", 0), ("failed", 30))]
    running, waiting = trial("three", ("running", 30)), trial("four")
    expected = {"one": 10.0, "two": 20.0, "three": 20.0, "four": 20.0, "five": 8.0}
    assert seconds_left([*ended, running, waiting], 2, 35.0, expected) == (15 + 20) / 2
    assert seconds_left([*ended, running, waiting], 1, 35.0, expected) == 35
    assert seconds_left([*ended, running], 2, 35.0, expected) == 15  # no trial is cut in two
    assert seconds_left([*ended, running], 2, 80.0, expected) == 0  # it is late
    running.first, running.last = (10, 30.0), (20, 35.0)
    assert seconds_left([*ended, running], 2, 35.0, expected) == 40  # its own pace is known better
    paused = trial("five", ("running", 0), ("paused", 3))  # at a rung; a part of the paused ones goes on
    assert seconds_left([*ended, paused], 1, 35.0, expected) == 5
    assert seconds_left(ended, 2, 35.0, expected) == 0
    assert seconds_left([running], 2, 35.0, {}) is None


def test_a_trial_that_ran_in_turns_lasted_their_sum() -> None:
    turns = trial("turns", ("running", 0), ("paused", 10), ("running", 50), ("finished", 55))
    assert turns.held_seconds == 15
    assert trial("now", ("running", 0), ("paused", 10), ("running", 50)).seconds(54.0) == 14
