"""The progress bar of a run: step, loss, speed, time left, and stalls or skipped steps where there are any.

It reads metrics.jsonl in the run directory, so it does not matter where the workers are.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from proteinlm.platform.training.tracking import MetricsTail

POLL_SECONDS = 0.5

SPEED_SECONDS = 3600.0
"""The time left is estimated from the rows (at most 1000) of so many seconds before now: steps may take minutes."""

NOTABLE = 0.01
"""Stalls and skipped steps are shown from this share of the time or of the steps on."""


@contextmanager
def progress_bar(run_directory: Path, total_steps: int, console: Console | None) -> Iterator[None]:
    """Show the progress of the run in `run_directory` while the body waits for it; no console: show nothing."""
    if console is None:
        yield
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    done = threading.Event()
    with Progress(*columns, console=console, speed_estimate_period=SPEED_SECONDS) as bar:
        follower = Follower(bar, run_directory, total_steps)

        def follow() -> None:
            while not done.is_set():
                follower.show()
                done.wait(POLL_SECONDS)

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            follower.show()


class Follower:
    """Updates one task of a progress bar from what a run logs."""

    def __init__(self, bar: Progress, run_directory: Path, total_steps: int) -> None:
        self._bar = bar
        self._tail = MetricsTail(run_directory)
        self._last: dict[str, Any] = {}
        self._task = bar.add_task(run_directory.name, total=total_steps, figures=describe(self._last))

    def show(self) -> None:
        """Read what was logged since the last call and show it."""
        rows, is_new_file = self._tail.read()
        if is_new_file:
            self._last = {}
        for row in rows:  # only a training row says how far the run is
            self._last |= row if "loss" in row else {name: row[name] for name in row.keys() - {"step"}}
        step, figures = self._last.get("step", 0), describe(self._last)
        if is_new_file:  # a launch begins: steps of earlier ones say nothing about its speed
            self._bar.reset(self._task, completed=step, figures=figures)
        elif rows:
            self._bar.update(self._task, completed=step, figures=figures)


def describe(figures: Mapping[str, Any]) -> str:
    """Return the newest metrics as one line of text; small stalls and missing ones are left out."""
    if "loss" not in figures:
        return "starting workers"
    parts = [f"loss {figures['loss']:.4f}", f"{figures['residues_per_s']:,.0f} residues/s"]
    if "peak_share" in figures:
        parts.append(f"{figures['peak_share']:.0%} of peak")
    if "valid/loss" in figures:
        parts.append(f"valid {figures['valid/loss']:.4f}")
    for name, words in (("data_stall_share", "data stall"), ("checkpoint_stall_share", "checkpoint stall")):
        if figures.get(name, 0.0) > NOTABLE:
            parts.append(f"{words} {figures[name]:.0%}")
    if figures.get("skipped_steps", 0) > NOTABLE * figures["step"]:
        parts.append(f"{figures['skipped_steps']:.0f} steps skipped")
    return "  ".join(parts)
