"""Where step figures go, written by the first worker: metrics.jsonl and TensorBoard event files in the run directory.

Where Ray runs they are gauges of its metrics too (`ray.util.metrics`, for Prometheus): `proteinlm_<figure>`, tag `run`.
A resumed run first forgets what was logged after its checkpoint, so that no step stands twice in the files.

A figure that is not finite (the loss of a skipped step) is null in metrics.jsonl, for NaN is not JSON; it is read back
as NaN.
"""

import json
import math
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from proteinlm.platform.atomic import write_atomically

if TYPE_CHECKING:
    from ray.util.metrics import Gauge

METRICS_FILE = "metrics.jsonl"


def read_metrics(run_directory: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl in order; a last line that is being written is left out."""
    return MetricsTail(run_directory).read()[0]


class MetricsTail:
    """Reads metrics.jsonl bit by bit while it grows: a long run has many rows."""

    def __init__(self, run_directory: Path) -> None:
        self._path = run_directory / METRICS_FILE
        self._file: tuple[int, int] | None = None
        """Device and inode of the file that was read: `forget_after` puts another one in its place."""
        self._offset = 0

    def read(self) -> tuple[list[dict[str, Any]], bool]:
        """The rows since the last call, and whether the file was written anew, so that these are all there are."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return [], False
        with file:
            status = os.fstat(file.fileno())
            is_new = (status.st_dev, status.st_ino) != self._file or status.st_size < self._offset
            if is_new:
                self._file, self._offset = (status.st_dev, status.st_ino), 0
            file.seek(self._offset)
            added = file.read()
        whole = added[: added.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [_as_row(line) for line in whole.splitlines()], is_new


def _as_row(line: bytes) -> dict[str, Any]:
    return {name: math.nan if value is None else value for name, value in json.loads(line).items()}


def _as_line(row: Mapping[str, float]) -> str:
    finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
    return json.dumps(finite, allow_nan=False) + "\n"


def forget_after(run_directory: Path, step: int) -> None:
    """Drop logged rows of steps after `step` (a run that resumes there will write them again)."""
    rows = [row for row in read_metrics(run_directory) if row["step"] <= step]
    write_atomically(run_directory / METRICS_FILE, "".join(map(_as_line, rows)))


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
        self._gauges = _Gauges(run_directory.name)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Log `figures` at `step` (optimizer steps done)."""
        if not self._active:
            return
        self._file.write(_as_line({"step": step, **figures}))
        self._file.flush()
        for name, value in figures.items():
            self._board.add_scalar(name if "/" in name else f"train/{name}", value, step)
        self._gauges.set({"step": step, **figures})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._active:
            self._file.close()
            self._board.close()


class _Gauges:
    """The newest figures as gauges of Ray's metrics; nothing in a process without Ray."""

    def __init__(self, run: str) -> None:
        self._tags = {"run": run}
        self._gauges: dict[str, Gauge] = {}
        ray = sys.modules.get("ray")  # whoever runs on Ray has imported it
        self._has_ray = ray is not None and ray.is_initialized()

    def set(self, figures: Mapping[str, float]) -> None:
        """Set one gauge per figure; "valid/loss" becomes proteinlm_valid_loss."""
        if not self._has_ray:
            return
        from ray.util.metrics import Gauge

        for name, value in figures.items():
            if name not in self._gauges:
                exported = "proteinlm_" + re.sub(r"\W", "_", name, flags=re.ASCII)
                self._gauges[name] = Gauge(exported, description=f"{name} of a ProteinLM run", tag_keys=("run",))
            self._gauges[name].set(float(value), tags=self._tags)
