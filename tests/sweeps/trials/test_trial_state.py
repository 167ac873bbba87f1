"""How a trial stands, and how long it held its devices, from files that a kill may have cut off."""

import os
from pathlib import Path

import pytest

from proteinlm.platform.storage.run_directory import Failure, Stopped, mark_failed, mark_finished, mark_halted
from proteinlm.sweeps.trials.trial_state import LONGEST, attempt, attempts, device_seconds, read_state
from tests.made.sweep_results import write_lines

START = {"event": "start", "time": 100.0, "devices": 2.0, "device": "core"}
END = {"event": "end", "time": 160.0}


def last_sign(run: Path, time: float) -> None:
    write_lines(run / "metrics.jsonl")
    os.utime(run / "metrics.jsonl", (time, time))


def test_a_trial_stands_as_its_files_say(tmp_path: Path) -> None:
    assert (read_state(tmp_path / "none").kind, read_state(tmp_path / "none").words) == ("not run", "not run")
    assert read_state(tmp_path).kind == "interrupted"
    mark_failed(tmp_path, Failure("x" * 1000, 0))
    assert read_state(tmp_path).words == f"failed at step 0: {'x' * LONGEST} ..."
    mark_finished(tmp_path, 4)
    assert (read_state(tmp_path).kind, read_state(tmp_path).words) == ("finished", "")
    mark_halted(tmp_path, Stopped(12, "worse"))
    assert read_state(tmp_path).words == "stopped by successive halving after step 12: worse"


@pytest.mark.parametrize("text", ["", "[1]", '{"why": '])
def test_a_file_that_is_no_object_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "failed.json").write_text(text)
    with pytest.raises(ValueError, match=r"failed\.json is damaged: .*accepted: a JSON object"):
        read_state(tmp_path)


def test_attempts_add_up_and_each_device_counts(tmp_path: Path) -> None:
    assert device_seconds(tmp_path) == {}
    write_lines(tmp_path / "attempts.jsonl", START, END, START | {"time": 200.0, "devices": 1.0}, END | {"time": 205.0})
    assert device_seconds(tmp_path) == {"core": 125.0}


def test_a_killed_attempt_ends_at_the_last_sign_of_life(tmp_path: Path) -> None:
    write_lines(tmp_path / "attempts.jsonl", START)
    assert device_seconds(tmp_path) == {"core": 0.0}, "no sign of life"
    last_sign(tmp_path, 99.0)
    assert device_seconds(tmp_path) == {"core": 0.0}, "one of before"
    last_sign(tmp_path, 130.0)
    assert device_seconds(tmp_path) == {"core": 60.0}


def test_a_killed_attempt_ends_before_the_next_one(tmp_path: Path) -> None:
    write_lines(tmp_path / "attempts.jsonl", START, START | {"time": 150.0}, END)
    last_sign(tmp_path, 155.0)
    assert device_seconds(tmp_path) == {"core": 2 * (50.0 + 10.0)}


@pytest.mark.parametrize(
    "line",
    [
        *(
            "{}",
            "[]",
            "1",
            "null",
            '{"event": "pause", "time": 3.0}',
            '{"event": "end"}',
            '{"event": "start", "time": 1}',
        ),
        *('{"event": "end", "time": "soon"}', '{"event": "end", "time": NaN}', '{"event": "end", "time": 1e300}'),
        *('{"event": "start", "time": 1, "devices": 1, "device": "tpu"}', "[" * 5000, "PK", '{"time": 1'),
    ],
)
def test_a_whole_line_that_is_no_event_is_named(line: str, tmp_path: Path) -> None:
    write_lines(tmp_path / "attempts.jsonl", START)
    with (tmp_path / "attempts.jsonl").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ValueError, match=r"attempts\.jsonl, line 2 is no event of an attempt: \S"):
        device_seconds(tmp_path)


def test_an_attempt_after_a_line_that_was_cut_off_is_read(tmp_path: Path) -> None:
    (tmp_path / "attempts.jsonl").write_text('{"event": "sta')
    with attempt(tmp_path, 2.0, "core", 9.0):
        pass
    (span,) = attempts(tmp_path)
    assert span.devices == 2.0


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    write_lines(tmp_path / "attempts.jsonl", START, END)
    with (tmp_path / "attempts.jsonl").open("a") as file:
        file.write('{"event": "sta')
    assert device_seconds(tmp_path) == {"core": 120.0}
