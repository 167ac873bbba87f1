"""What a trial leaves beside its run's own files, so that a sweep can be read off its directory.

attempts.jsonl   when it held its devices     failed.json   why it failed
halted.json      where halving let it rest    lock          held by the process that runs it
"""

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from proteinlm.platform.atomic import write_atomically
from proteinlm.platform.training.tracking import METRICS_FILE

ATTEMPTS_FILE = "attempts.jsonl"
FAILED_FILE = "failed.json"
HALTED_FILE = "halted.json"
LOCK_FILE = "lock"
PATIENCE = 60.0
"""Seconds to wait for the process of a killed sweep to go."""


def mark_failed(run_directory: Path, why: str, trace: str = "") -> None:
    """Leave word that the trial failed: `why` in one line, and the traceback for who wants to mend it."""
    _mark(run_directory / FAILED_FILE, {"why": why, "traceback": trace})


def mark_halted(run_directory: Path, step: int, why: str) -> None:
    """Leave word that the trial rests after `step`."""
    _mark(run_directory / HALTED_FILE, {"step": step, "why": why})


def forget_outcome(run_directory: Path) -> None:
    """The trial is run (again): what was said of it holds no longer."""
    for name in (FAILED_FILE, HALTED_FILE):
        (run_directory / name).unlink(missing_ok=True)


def _mark(path: Path, said: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(said) + "\n")


@contextmanager
def attempt(run_directory: Path, devices: float, device: str, scheduled: float) -> Iterator[None]:
    """Note when the body began and ended to hold so many devices ("core" or "gpu"), and when it was scheduled."""
    _end_killed_attempt(run_directory)
    start = {"event": "start", "time": time.time(), "devices": devices, "device": device, "scheduled": scheduled}
    _note(run_directory, start)
    try:
        yield
    finally:
        _note(run_directory, {"event": "end", "time": time.time()})


def _end_killed_attempt(run_directory: Path) -> None:
    """Of an attempt that noted no end: it ended at the run's last sign of life."""
    path, metrics = run_directory / ATTEMPTS_FILE, run_directory / METRICS_FILE
    if path.is_file() and metrics.is_file():
        last = path.read_text().splitlines()[-1:]
        if last and '"event": "start"' in last[0]:
            _note(run_directory, {"event": "end", "time": metrics.stat().st_mtime})


def _note(run_directory: Path, said: dict[str, Any]) -> None:
    run_directory.mkdir(parents=True, exist_ok=True)
    with (run_directory / ATTEMPTS_FILE).open("a") as file:
        file.write(json.dumps(said) + "\n")


@contextmanager
def alone_in(run_directory: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Run the body while no other process runs this trial; RuntimeError where one does not go within `patience`.

    A killed sweep's processes may outlive it by seconds, and two writers would mix their steps.
    """
    run_directory.mkdir(parents=True, exist_ok=True)
    with (run_directory / LOCK_FILE).open("w") as file:
        end = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise RuntimeError(f"{run_directory} is being run by another process, perhaps a sweep") from None
                time.sleep(0.2)
        yield
