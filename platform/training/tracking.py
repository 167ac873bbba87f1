"""Step metrics, written by the first worker: metrics.jsonl and TensorBoard event files in the run directory.

Where Ray runs they are also gauges for Prometheus (cluster/metrics.py).
A resumed run first deletes what was logged after its checkpoint, so that no step stands twice in metrics.jsonl.

A value that is not finite (the loss of a skipped step) is null in metrics.jsonl, since JSON has no NaN; it is read back
as NaN.

The event files also hold what TensorBoard's HParams tab shows of a run: its settings from the start, and at its end the
metrics of its result rows as `final/<split>/<metric>`. No list of columns is written: the tab would use the first one
it finds under a folder for all runs in it; without any it lists the columns of all runs.
"""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from proteinlm.cluster.metrics import RunGauges
from proteinlm.platform.places.mirror import Mirror
from proteinlm.platform.places.places import written
from proteinlm.platform.places.remote_path import RemotePath
from proteinlm.platform.settings.yaml_text import shown
from proteinlm.platform.storage.atomic import write_atomically
from proteinlm.platform.storage.run_directory import METRICS_FILE, TENSORBOARD_FOLDER, parse_json

if TYPE_CHECKING:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
    from torch.utils.tensorboard import SummaryWriter

VISIT_SECONDS = 5.0
"""Between two looks at the metrics of a run in an object store, which has them whole each time."""
LARGEST = 1e300
"""No metric is larger: sums and quotients of two stay finite."""
HEAD_BYTES = 65536
"""Bytes at the start of an event file that are searched for the run's settings and its end."""


def read_metrics(run_directory: Path) -> list[dict[str, Any]]:
    """Read the rows of a run's metrics.jsonl in order; an unfinished last line is left out."""
    return MetricsTail(run_directory).read()[0]


def last_logged_step(run_directory: Path) -> int | None:
    """Return the optimizer step of the newest row of a run's metrics.jsonl; None where none is there or can be read."""
    try:
        rows = read_metrics(run_directory)
    except (OSError, ValueError):  # it is asked for after a failure, which must be told
        return None
    return int(rows[-1]["step"]) if rows else None


class MetricsTail:
    """Reads metrics.jsonl step by step while it grows, without reading old rows again."""

    def __init__(self, run_directory: Path) -> None:
        self._path = run_directory / METRICS_FILE
        self._file: tuple[int, int] | None = None
        """Device and inode of the file that was read: `forget_after` replaces the file."""
        self._offset = 0
        self._lines = 0
        self._visited = -math.inf

    def read(self) -> tuple[list[dict[str, Any]], bool]:
        """Return the rows since the last call, and whether the file was replaced, so that these are all its rows.

        ValueError, with file and line, for a whole line that is no row.
        """
        now = time.monotonic()
        if isinstance(self._path, RemotePath) and now - self._visited < VISIT_SECONDS:
            return [], False
        self._visited = now
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return [], False
        with file:
            # an object has no inode: only one that is shorter is seen to be another
            status = self._path.stat() if isinstance(self._path, RemotePath) else os.fstat(file.fileno())
            is_new = (status.st_dev, status.st_ino) != self._file or status.st_size < self._offset
            if is_new:
                self._file, self._offset, self._lines = (status.st_dev, status.st_ino), 0, 0
            file.seek(self._offset)
            added = file.read()
        whole = added[: added.rfind(b"\n") + 1]
        self._offset += len(whole)
        rows = []
        for line in whole.split(b"\n")[:-1]:
            self._lines += 1
            try:
                rows.append(_as_row(line))
            except ValueError as error:
                raise ValueError(f"{self._path}, line {self._lines} is no row of metrics: {error}") from None
        return rows, is_new


def _as_row(line: bytes) -> dict[str, Any]:
    """The metrics of a line by name; ValueError unless it has a step, and numbers (NaN for null) alone."""
    values = parse_json(line)
    if not isinstance(values, dict):
        raise ValueError(f"found {shown(values)}; accepted: a JSON object")
    step = values.get("step")
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step <= LARGEST:
        raise ValueError(f"step: found {shown(step)}; accepted: a whole number from 0 on")
    for name, value in values.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
        if value is not None and not is_number:
            raise ValueError(f"{shown(name)}: found {shown(value)}; accepted: a number or null")
    return {name: math.nan if value is None else value for name, value in values.items()}


def _as_line(row: Mapping[str, float]) -> str:
    finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
    return json.dumps(finite, allow_nan=False) + "\n"


def forget_after(run_directory: Path, step: int) -> None:
    """Delete the rows of steps after `step`; a run that resumes there writes them again."""
    rows = [row for row in read_metrics(run_directory) if row["step"] <= step]
    write_atomically(run_directory / METRICS_FILE, "".join(map(_as_line, rows)))


class Tracker:
    """Writes a row for each logged step; a tracker that is not `active` (every worker but the first) writes nothing.

    `settings` (dotted name -> value) are the run's hyper-parameters in TensorBoard.
    """

    def __init__(
        self, run_directory: Path, first_step: int, active: bool, settings: Mapping[str, Any] | None = None
    ) -> None:
        self._active = active
        if not active:
            return
        from torch.utils.tensorboard import SummaryWriter

        self._mirror = Mirror.of(run_directory)
        run_directory = self._mirror.local
        run_directory.mkdir(parents=True, exist_ok=True)
        forget_after(run_directory, first_step)
        self._file = (run_directory / METRICS_FILE).open("a")
        self._board = SummaryWriter(str(run_directory / TENSORBOARD_FOLDER), purge_step=first_step + 1)
        _add_settings(self._board, settings or {})
        self._gauges = RunGauges(run_directory.name)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log `metrics` (metric name -> value) at `step` (optimizer steps done)."""
        if not self._active:
            return
        self._file.write(_as_line({"step": step, **metrics}))
        self._file.flush()
        for name, value in metrics.items():
            self._board.add_scalar(name if "/" in name else f"train/{name}", value, step)
        self._gauges.log({"step": step, **metrics})
        self._mirror.put_if_due()

    def put_up(self) -> None:
        """Put what was logged into the store, of a run that has its directory there."""
        if self._active:
            self._board.flush()
            self._mirror.put()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._active:
            self._file.close()
            self._board.close()
            self._mirror.close(has_failed=error is not None)


def log_result(run_directory: Path, step: int, metrics: Mapping[str, float]) -> None:
    """Add a finished run's `metrics` (`<split>/<metric>` -> value) and its success to its event files, once only."""
    from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS
    from tensorboard.plugins.hparams.metadata import SESSION_END_INFO_TAG
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
    from torch.utils.tensorboard import SummaryWriter

    if _is_on_board(run_directory, SESSION_END_INFO_TAG):
        return
    end = SessionEndInfo(status=STATUS_SUCCESS, end_time_secs=time.time())
    with written(run_directory / TENSORBOARD_FOLDER) as folder, SummaryWriter(str(folder)) as board:
        for name, value in metrics.items():
            board.add_scalar(f"final/{name}", value, step)
        _add_event(board, SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end))


def _add_settings(board: "SummaryWriter", settings: Mapping[str, Any]) -> None:
    """Add the event with a run's settings unless it is there: numbers, truth values and text; nulls are left out."""
    from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo

    if not settings or _is_on_board(Path(board.log_dir).parent, SESSION_START_INFO_TAG):
        return
    start = SessionStartInfo(start_time_secs=time.time())
    for name, value in settings.items():
        if isinstance(value, bool):
            start.hparams[name].bool_value = value
        elif isinstance(value, int | float):
            start.hparams[name].number_value = value
        elif value is not None:
            start.hparams[name].string_value = value if isinstance(value, str) else json.dumps(value)
    _add_event(board, SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start))
    board.flush()


def _add_event(board: "SummaryWriter", tag: str, data: "HParamsPluginData") -> None:
    # Not by torch's add_hparams: it takes truth values for numbers and makes another run below this one.
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams.metadata import NULL_TENSOR, create_summary_metadata

    event = Summary.Value(tag=tag, metadata=create_summary_metadata(data), tensor=NULL_TENSOR)
    assert board.file_writer is not None  # it is None after close() alone
    board.file_writer.add_summary(Summary(value=[event]))


def _is_on_board(run_directory: Path, tag: str) -> bool:
    """Whether one of the run's event files (each launch adds one) begins with an event of this tag."""
    for path in (run_directory / TENSORBOARD_FOLDER).glob("events.out.tfevents.*"):
        with path.open("rb") as file:
            if tag.encode() in file.read(HEAD_BYTES):
                return True
    return False
