"""Where step figures go: metrics.jsonl and TensorBoard event files in the run directory, written by the first worker.

A resumed run first forgets what was logged after its checkpoint, so that no step stands twice in the files.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

METRICS_FILE = "metrics.jsonl"


def read_metrics(run_directory: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl in order; a last line that is being written is left out."""
    path = run_directory / METRICS_FILE
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def forget_after(run_directory: Path, step: int) -> None:
    """Drop logged rows of steps after `step` (a run that resumes there will write them again)."""
    rows = [row for row in read_metrics(run_directory) if row["step"] <= step]
    path = run_directory / METRICS_FILE
    aside = path.with_suffix(".jsonl.writing")
    aside.write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.replace(aside, path)


class Tracker:
    """Writes one row per logged step; a tracker that is not `active` (every worker but the first) writes nothing."""

    def __init__(self, run_directory: Path, first_step: int, active: bool) -> None:
        self._active = active
        if not active:
            return
        from torch.utils.tensorboard import SummaryWriter

        run_directory.mkdir(parents=True, exist_ok=True)
        forget_after(run_directory, first_step)
        self._file = (run_directory / METRICS_FILE).open("a")
        self._board = SummaryWriter(str(run_directory / "tensorboard"), purge_step=first_step + 1)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Log `figures` at `step` (optimizer steps done)."""
        if not self._active:
            return
        self._file.write(json.dumps({"step": step, **figures}) + "\n")
        self._file.flush()
        for name, value in figures.items():
            self._board.add_scalar(name if "/" in name else f"train/{name}", value, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._active:
            self._file.close()
            self._board.close()
