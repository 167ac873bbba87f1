"""What a trial leaves for its sweep: how it ended, when it held its devices, and that it ran alone."""

import json
import os
from pathlib import Path

import pytest

from proteinlm.platform.storage.run_directory import (
    ATTEMPTS_FILE,
    Failure,
    Stopped,
    forget_outcome,
    mark_failed,
    mark_halted,
)
from proteinlm.sweeps.trials.trial_state import attempt, read_state


def test_an_outcome_is_said_and_forgotten(tmp_path: Path) -> None:
    run = tmp_path / "run"
    mark_failed(run, Failure("out of memory", traceback="Traceback ..."))
    assert read_state(run).words == "failed: out of memory"
    mark_failed(run, Failure("out of memory", 30))
    assert read_state(run).words == "failed at step 30: out of memory"
    mark_halted(run, Stopped(30, "4 of 9"))
    assert read_state(run).kind == "stopped"
    forget_outcome(run)
    assert read_state(run).kind == "interrupted"
    assert not list(run.iterdir())


def test_attempts_are_noted_with_their_ends_also_when_they_fail(tmp_path: Path) -> None:
    with pytest.raises(KeyError), attempt(tmp_path, 2.0, "core", scheduled=1.5):
        raise KeyError("x")
    with attempt(tmp_path, 1.0, "gpu", scheduled=2.5):
        pass
    lines = [json.loads(line) for line in (tmp_path / ATTEMPTS_FILE).read_text().splitlines()]
    assert [line["event"] for line in lines] == ["start", "end", "start", "end"]
    assert [(line["devices"], line["device"], line["scheduled"]) for line in lines[::2]] == [
        (2.0, "core", 1.5),
        (1.0, "gpu", 2.5),
    ]
    times = [line["time"] for line in lines]
    assert times == sorted(times)


def test_a_killed_attempt_ended_at_the_last_sign_of_life(tmp_path: Path) -> None:
    killed = {"event": "start", "time": 100.0, "devices": 1.0, "device": "core", "scheduled": 99.0}
    (tmp_path / ATTEMPTS_FILE).write_text(json.dumps(killed) + "\n")
    (tmp_path / "metrics.jsonl").write_text("")
    os.utime(tmp_path / "metrics.jsonl", (130.0, 130.0))
    with attempt(tmp_path, 1.0, "core", scheduled=999.0):
        pass
    lines = [json.loads(line) for line in (tmp_path / ATTEMPTS_FILE).read_text().splitlines()]
    assert [line["event"] for line in lines] == ["start", "end", "start", "end"]
    assert lines[1]["time"] == 130.0
