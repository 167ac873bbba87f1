"""Where a sweep's device-time went, from the files of its runs."""

import json
from pathlib import Path

import pytest

from proteinlm.platform.storage.run_directory import ATTEMPTS_FILE
from proteinlm.sweeps.results.report import device_time, training_seconds


def make_run(
    folder: Path, start: float, seconds: float, steps: list[tuple[float, float]], devices: float = 1.0
) -> Path:
    """A run whose logged stretches are (residues so far, residues/s)."""
    folder.mkdir()
    begun = {"event": "start", "time": start, "devices": devices, "device": "core", "scheduled": start - 1}
    ended = {"event": "end", "time": start + seconds}
    (folder / ATTEMPTS_FILE).write_text(f"{json.dumps(begun)}\n{json.dumps(ended)}\n")
    rows = [{"step": n, "residues": seen, "residues_per_s": rate} for n, (seen, rate) in enumerate(steps)]
    (folder / "metrics.jsonl").write_text(
        "".join(f"{json.dumps(row)}\n" for row in [*rows, {"step": 9, "valid/loss": 2.0}])
    )
    return folder


def test_held_and_training_time_are_told_apart(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", 1000.0, 60.0, [(100.0, 10.0), (400.0, 10.0)])  # 10 s and 30 s
    two = make_run(tmp_path / "two", 1060.0, 60.0, [(500.0, 25.0)], devices=2.0)  # 20 s on two cores
    assert training_seconds(one) == pytest.approx(40.0)
    text = device_time([one, two, tmp_path / "never run"])
    # 60 + 120 core-seconds held in 120 s; 40 + 40 of them in steps
    assert text == (
        "3 trials in 2.0 min: 1.50 cores held on average, 0.67 of them in training steps (44% of what was held)."
    )


def test_without_attempts_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert device_time([tmp_path]) is None
