"""The files of a run directory by name: the marks that say how the run ended, and where its results lie."""

import json
from pathlib import Path

from proteinlm.platform.storage.atomic import write_atomically

FINISHED_FILE = "finished.json"
STOPPED_FILE = "stopped.json"
MODEL_DIRECTORY = "model"
PREDICTIONS_FOLDER = "predictions"


def is_finished(run_directory: Path) -> bool:
    """Whether the run in this directory ended with all its results written."""
    return (run_directory / FINISHED_FILE).is_file()


def mark_finished(run_directory: Path, steps: int) -> None:
    """Write the mark; everything else must be in place."""
    write_atomically(run_directory / FINISHED_FILE, json.dumps({"steps": steps}) + "\n")


def mark_stopped(run_directory: Path, step: int, why: str) -> None:
    """Leave word for the driver that the run ended after `step`, before its last one, and why."""
    write_atomically(run_directory / STOPPED_FILE, json.dumps({"step": step, "why": why}) + "\n")


def take_stopped(run_directory: Path) -> tuple[int, str] | None:
    """What `mark_stopped` left, if anything: (step, why). It is taken away, so that the run may go on."""
    path = run_directory / STOPPED_FILE
    if not path.is_file():
        return None
    word = json.loads(path.read_text())
    path.unlink()
    return word["step"], word["why"]
