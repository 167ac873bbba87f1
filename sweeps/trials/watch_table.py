"""The table of a running sweep as a value: which trials are shown with which figures, and how long it may still take.

    WatchedTrial ... and a time -> seconds left, trials that fit the terminal -> header, table, "... and 37 waiting"

All times are seconds of one clock. Nothing here reads a file or knows Tune.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

State = Literal["waiting", "running", "finished", "failed", "halted"]
SHOWN_FIRST: tuple[State, ...] = ("running", "failed", "halted", "finished", "waiting")
COLOURS: dict[State, str] = {
    "running": "cyan",
    "failed": "red",
    "halted": "yellow",
    "finished": "green",
    "waiting": "dim",
}
UNKNOWN = "-"
TITLES = ("state", "step", "loss", "valid", "residues/s", "time left")
SHORTEST_NAME = 12
FRAME = 6
"""Lines of the terminal that are not for trials: header (two where narrow), titles, what is not shown, the cursor."""


@dataclass
class Pace:
    """How fast a trial goes on, from the steps of its present launch alone: a resumed one starts in the middle."""

    first: tuple[int, float] | None = None
    """Step and time (seconds) of the launch's first figures."""
    last: tuple[int, float] | None = None

    def note(self, step: int, now: float) -> None:
        """The trial is found at `step`."""
        self.first = self.first or (step, now)
        if self.last is None or step > self.last[0]:
            self.last = (step, now)

    def seconds_left(self, total_steps: int | None, now: float) -> float | None:
        """Seconds to the last step; None until two different steps were seen."""
        if self.first is None or self.last is None or total_steps is None or self.last[0] <= self.first[0]:
            return None
        step, at = self.last
        per_step = (at - self.first[1]) / (step - self.first[0])
        return max(0.0, (total_steps - step) * per_step - (now - at))


@dataclass
class WatchedTrial:
    """What is known of one trial; its state as Tune says it, its figures as its run logged them."""

    name: str
    kind: str
    """pretrain or finetune: trials of a kind are taken to last equally long."""
    state: State = "waiting"
    is_old: bool = False
    """Finished before this sweep command started, so nobody saw how long it took."""
    changed: float = 0.0
    """When it came into its state."""
    held_seconds: float = 0.0
    """Seconds that it ran, in all its turns but the present one."""
    total_steps: int | None = None
    figures: dict[str, float] = field(default_factory=dict)
    """The newest ones by name, as in metrics.jsonl."""
    pace: Pace = field(default_factory=Pace)

    def change(self, state: State, now: float) -> None:
        """Tune says that the trial is now in `state`."""
        if self.state == "running":
            self.held_seconds += now - self.changed
        if state == "running":
            self.pace = Pace()
        self.state, self.changed = state, now

    def log(self, rows: Sequence[Mapping[str, float]], is_new_file: bool, now: float) -> None:
        """Take rows of metrics.jsonl into account; a new file is a new launch's, and `rows` are all that it holds."""
        if is_new_file:
            self.figures, self.pace = {}, Pace()
        for row in rows:  # only a training row says how far the run is
            is_training = "loss" in row
            self.figures |= {name: value for name, value in row.items() if is_training or name != "step"}
        if "step" in self.figures:
            self.pace.note(int(self.figures["step"]), now)

    def seconds(self, now: float) -> float:
        """Seconds that it ran until now."""
        return self.held_seconds + (now - self.changed if self.state == "running" else 0.0)


def seconds_left(trials: Sequence[WatchedTrial], at_once: int, now: float) -> float | None:
    """Seconds until all trials are done, of which `at_once` run at a time; None while that is not known.

    A trial that waits takes as long as the finished ones of its kind took on average, one that runs what its pace says.
    """
    seen: dict[str, list[float]] = {}
    for trial in trials:
        if trial.state == "finished" and not trial.is_old:
            seen.setdefault(trial.kind, []).append(trial.held_seconds)
    expected = {kind: mean(seconds) for kind, seconds in seen.items()}
    running, waiting = ([trial for trial in trials if trial.state == state] for state in ("running", "waiting"))
    paces = [trial.pace.seconds_left(trial.total_steps, now) for trial in running]
    runs = [
        max(0.0, expected[trial.kind] - trial.seconds(now)) if left is None and trial.kind in expected else left
        for trial, left in zip(running, paces, strict=True)
    ]
    waits = [expected.get(trial.kind) for trial in waiting]
    known = [left for left in (*runs, *waits) if left is not None]
    if len(known) < len(running) + len(waiting):
        return None
    return max([sum(known) / max(1, at_once), *(left for left in runs if left is not None)])


def chosen(trials: Sequence[WatchedTrial], room: int) -> list[WatchedTrial]:
    """The at most `room` trials that are shown: those that run, then failed ones, then the newest that ended, then
    those that wait, in the order of the sweep; what an earlier command finished is not shown.
    """
    order = {state: place for place, state in enumerate(SHOWN_FIRST)}
    order["halted"] = order["finished"]
    has_ended = {"finished", "halted"}
    shown = [trial for trial in trials if not trial.is_old]
    shown.sort(key=lambda trial: (order[trial.state], -trial.changed if trial.state in has_ended else 0.0))
    return shown[:room]


def header(trials: Sequence[WatchedTrial], elapsed: float, left: float | None) -> str:
    """Counts by state, elapsed time and time left."""
    counts = Counter(trial.state for trial in trials)
    parts = [f"{counts[state]} {state}" for state in SHOWN_FIRST if counts[state]]
    return f"{len(trials)} trials: {', '.join(parts)}; {clock(elapsed)} elapsed, {clock(left)} left"


def not_shown(trials: Sequence[WatchedTrial], shown: Sequence[WatchedTrial]) -> str | None:
    """Such as "... and 37 waiting"; None where all are shown that are neither shown nor old."""
    counts = Counter(trial.state for trial in trials if not trial.is_old)
    counts.subtract(trial.state for trial in shown)
    parts = [f"{counts[state]} {state}" for state in SHOWN_FIRST if counts[state]]
    return f"... and {', '.join(parts)}" if parts else None


def sweep_table(
    trials: Sequence[WatchedTrial], *, started: float, now: float, at_once: int, size: tuple[int, int]
) -> RenderableType:
    """Header, table and what is not shown of it, on a terminal of `size` (columns, lines)."""
    width, height = size
    shown = chosen(trials, max(1, height - FRAME))
    rows = [(trial.state, *_figures(trial, now)) for trial in shown]
    taken = sum(max(map(len, cells)) + 2 for cells in zip(TITLES, *rows, strict=True))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("trial", no_wrap=True)
    for title in TITLES:
        table.add_column(title, justify="left" if title == "state" else "right", no_wrap=True)
    for trial, (state, *figures) in zip(shown, rows, strict=True):
        name = _shortened(trial.name, max(SHORTEST_NAME, width - taken))
        table.add_row(Text(name), Text(state, style=COLOURS[trial.state]), *figures)
    lines: list[RenderableType] = [Text(header(trials, now - started, seconds_left(trials, at_once, now))), table]
    rest = not_shown(trials, shown)
    return Group(*lines, *([Text(rest, style="dim")] if rest else []))


def _figures(trial: WatchedTrial, now: float) -> tuple[str, ...]:
    """The cells step, loss, valid, residues/s, time left."""
    figures, is_running = trial.figures, trial.state == "running"
    left = trial.pace.seconds_left(trial.total_steps, now) if is_running else None
    return (
        _step(figures.get("step"), trial.total_steps),
        _number(figures.get("loss"), ".4f"),
        _valid(figures),
        _number(figures.get("residues_per_s"), ",.0f"),
        clock(left) if is_running else "",
    )


def _step(step: float | None, total: int | None) -> str:
    return UNKNOWN if step is None else f"{step:.0f}/{UNKNOWN if total is None else total}"


def _number(value: float | None, form: str) -> str:
    return UNKNOWN if value is None else format(value, form)


def _valid(figures: dict[str, float]) -> str:
    """The loss on valid, else the first figure there with its name: the one that a finetuned step is chosen by."""
    loss = figures.get("valid/loss")
    if loss is not None:
        return f"{loss:.4f}"
    named = next((name for name in figures if name.startswith("valid/")), None)
    return UNKNOWN if named is None else f"{named.removeprefix('valid/')} {figures[named]:.4f}"


def _shortened(name: str, width: int) -> str:
    """`name` in at most `width` characters: its beginning says the model and its end the task."""
    if len(name) <= width:
        return name
    end = (width - 1) // 2
    return f"{name[: width - 1 - end]}…{name[-end:]}"


def clock(seconds: float | None) -> str:
    """Hours, minutes, seconds; "-" where unknown."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
