"""What a person sees of a run that another process trains, by its metrics.jsonl: on a terminal a progress bar,
elsewhere (a job's log, a file) lines of plain text; and where else it can be watched.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from proteinlm.cluster.connect import dashboard_address
from proteinlm.platform.results.formatting import clock
from proteinlm.platform.training.tracking import MetricsTail

POLL_SECONDS = 0.5
"""How often metrics.jsonl in the run directory is read, wherever the workers are."""
SPEED_SECONDS = 3600.0
"""The time left is estimated from the rows (at most 1000) of so many seconds before now: steps may take minutes."""
LINE_SECONDS = 30.0
"""Between two lines of a log, at least: a day is at most 2,880 lines, which a browser still shows."""
NOTABLE = 0.01
"""Stalls and skipped steps are shown from this share of the time or of the steps on."""


def tell_where_to_watch(directory: Path, console: Console | None) -> None:
    """Print the address of the dashboard of Ray, which is connected, and TensorBoard's command for `directory`."""
    if console is None:
        return
    if address := dashboard_address():
        console.print(f"Ray's dashboard: {address}")
    console.print(f"TensorBoard: tensorboard --logdir {directory}", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress_shown(run_directory: Path, total_steps: int, console: Console | None) -> Iterator[None]:
    """Show the progress of the run in `run_directory` while the body waits for it; no console: show nothing."""
    if console is None:
        yield
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[metrics]}", markup=False),
        TimeRemainingColumn(),
    )
    has_bar = console.is_terminal and not console.is_dumb_terminal
    bar = Progress(*columns, console=console, speed_estimate_period=SPEED_SECONDS)
    follower = Follower(bar, run_directory, total_steps)
    lines = None if has_bar else Lines(follower, console)
    done = threading.Event()

    def show(is_last: bool = False) -> None:
        lines.show(is_last) if lines else follower.show()

    def follow() -> None:
        while not done.is_set():
            show()
            done.wait(POLL_SECONDS)

    with bar if has_bar else nullcontext():
        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            show(is_last=True)


class Lines:
    """Prints a follower's line when something was logged: the first at once, the last at the end, between them one in
    LINE_SECONDS at most.
    """

    def __init__(self, follower: "Follower", console: Console, get_time: Callable[[], float] = time.monotonic) -> None:
        self._follower, self._console, self._get_time = follower, console, get_time
        self._printed: float | None = None
        self._is_new = False

    def show(self, is_last: bool = False) -> None:
        """Read what was logged; print it where a line is due."""
        self._is_new = self._follower.show() or self._is_new
        now = self._get_time()
        is_due = is_last or self._printed is None or now - self._printed >= LINE_SECONDS
        if self._is_new and is_due:
            self._console.print(self._follower.line(), markup=False, highlight=False, soft_wrap=True)
            self._printed, self._is_new = now, False


class Follower:
    """Updates one task of a progress bar from what a run logs."""

    def __init__(self, bar: Progress, run_directory: Path, total_steps: int) -> None:
        self._bar = bar
        self._tail = MetricsTail(run_directory)
        self._last: dict[str, Any] = {}
        self._task = bar.add_task(run_directory.name, total=total_steps, metrics=describe(self._last))

    def show(self) -> bool:
        """Read what was logged since the last call and show it; whether there was anything."""
        rows, is_new_file = self._tail.read()
        if is_new_file:
            self._last = {}
        for row in rows:  # only a training row says how far the run is
            self._last |= row if "loss" in row else {name: row[name] for name in row.keys() - {"step"}}
        step, metrics = self._last.get("step", 0), describe(self._last)
        if is_new_file:  # a launch begins: steps of earlier ones say nothing about its speed
            self._bar.reset(self._task, completed=step, metrics=metrics)
        elif rows:
            self._bar.update(self._task, completed=step, metrics=metrics)
        return bool(rows)

    def line(self) -> str:
        """The task as a line of text: name, step, metrics, time left."""
        (task,) = self._bar.tasks
        left = "" if task.finished else f"  {clock(task.time_remaining)} left"
        return f"{task.description}  step {task.completed:.0f}/{task.total:.0f}  {task.fields['metrics']}{left}"


def describe(metrics: Mapping[str, Any]) -> str:
    """Return the newest metrics as one line of text; small stalls and missing ones are left out."""
    if "loss" not in metrics:
        return "starting workers"
    parts = [f"loss {metrics['loss']:.4f}", f"{metrics['residues_per_s']:,.0f} residues/s"]
    if "peak_share" in metrics:
        parts.append(f"{metrics['peak_share']:.0%} of peak")
    if "valid/loss" in metrics:
        parts.append(f"valid {metrics['valid/loss']:.4f}")
    for name, words in (("data_stall_share", "data stall"), ("checkpoint_stall_share", "checkpoint stall")):
        if metrics.get(name, 0.0) > NOTABLE:
            parts.append(f"{words} {metrics[name]:.0%}")
    if metrics.get("skipped_steps", 0) > NOTABLE * metrics["step"]:
        parts.append(f"{metrics['skipped_steps']:.0f} steps skipped")
    return "  ".join(parts)
