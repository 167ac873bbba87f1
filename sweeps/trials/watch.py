"""What a person sees of a running sweep: on a terminal a table that follows its trials, elsewhere a line per change.

    Tune -> TuneCallback -> SweepWatch.note -> a line, or the next drawing of the table (rich.live, twice a second)

Tune says in which state a trial is. How far it is says its run directory's metrics.jsonl, wherever the trial's process
runs. All times are seconds of one clock.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from ray import tune
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from proteinlm.cluster.metrics import RunGauges
from proteinlm.platform.results.formatting import UNKNOWN, clock, known_text
from proteinlm.platform.storage.run_directory import RUN_FILE
from proteinlm.platform.training.progress import POLL_SECONDS
from proteinlm.platform.training.tracking import MetricsTail
from proteinlm.sweeps.trials.trial_state import attempts

Expected = Callable[[Mapping[str, float]], dict[str, float]]
"""Seconds of the finished trials by name -> seconds of all."""
State = Literal["waiting", "running", "finished", "failed", "paused"]
"""paused: the trial came to a rung of successive halving and waits there, or was asked to end."""
STATES: tuple[State, ...] = ("running", "failed", "paused", "finished", "waiting")
"""In the order in which they are counted and shown; paused and finished ones are shown among each other."""
COLOURS = dict(zip(STATES, ("cyan", "red", "yellow", "green", "dim"), strict=True))
TITLES = ("state", "step", "loss", "valid", "residues/s", "time left")
SHORTEST_NAME = 12
FRAME = 6
"""Lines of the terminal that are not for trials: header (two where narrow), titles, what is not shown, the cursor."""


@dataclass
class WatchedTrial:
    """A trial: its state as Tune says it, its figures as its run logged them."""

    name: str
    state: State = "waiting"
    is_old: bool = False
    """Finished before this sweep command started, so nobody saw how long it took."""
    changed: float = 0.0
    """When it came into its state."""
    held_seconds: float = 0.0
    """Seconds that it ran, without the present launch."""
    total_steps: int | None = None
    figures: dict[str, float] = field(default_factory=dict)
    """The newest value of each metric by name, as in metrics.jsonl."""
    first: tuple[int, float] | None = None
    """Step and time of the first figures of the present launch: a resumed trial starts in the middle."""
    last: tuple[int, float] | None = None
    """Step and time of its newest figures."""
    is_unread: bool = False
    """Whether it may have logged something since its metrics were last read."""

    def change(self, state: State, now: float) -> None:
        """Tune says that the trial is now in `state`."""
        if self.state == "running":
            self.held_seconds += now - self.changed
        if state == "running":
            self.first = self.last = None
        self.state, self.changed, self.is_unread = state, now, True

    def log(self, rows: Iterable[Mapping[str, float]], is_new_file: bool, now: float) -> None:
        """Take rows of metrics.jsonl into account; a new file is a new launch's, and `rows` are all that it holds."""
        if is_new_file:
            self.figures, self.first, self.last = {}, None, None
        for row in rows:  # only a training row says how far the run is
            is_training = "loss" in row
            self.figures |= {name: value for name, value in row.items() if is_training or name != "step"}
        if "step" in self.figures:
            step = int(self.figures["step"])
            self.first = self.first or (step, now)
            if self.last is None or step > self.last[0]:
                self.last = (step, now)

    def seconds(self, now: float) -> float:
        """Seconds that it ran until now, all launches together."""
        return self.held_seconds + (now - self.changed if self.state == "running" else 0.0)

    def seconds_left(self, now: float) -> float | None:
        """Seconds to its last step at the present launch's speed; None until two different steps were seen."""
        if self.first is None or self.last is None or self.total_steps is None or self.last[0] <= self.first[0]:
            return None
        step, at = self.last
        per_step = (at - self.first[1]) / (step - self.first[0])
        return max(0.0, (self.total_steps - step) * per_step - (now - at))


class SweepWatch:
    """Shows the trials of a sweep while its body runs; nothing without a console."""

    def __init__(
        self,
        names: Sequence[str],
        directory: Path,
        finished: set[str],
        console: Console | None,
        expected: Expected | None = None,
        get_time: Callable[[], float] = time.monotonic,
    ) -> None:
        """`names` of the trials, in the plan's order, and of those that are `finished`; `expected` forecasts them."""
        self._console, self._get_time = console, get_time
        self._started = get_time()
        self._directory = directory
        self._trials = {name: WatchedTrial(name, is_old=name in finished) for name in names}
        for name in finished:
            self._trials[name].state = "finished"
        self._tails = {name: MetricsTail(directory / name) for name in names}
        self._at_once = 0
        """The most trials that ran at a time."""
        self._retries = 0
        """How often a trial was started again after it had failed."""
        self._gauges = RunGauges(directory.name)
        self._forecast, self._took, self._expected = expected, dict[str, float](), dict[str, float]()
        self._screen: AbstractContextManager[Any] = nullcontext()

    def callback(self) -> tune.Callback:
        """What Tune is to call: it tells this watch of its trials."""
        return TuneCallback(self.note)

    def note(self, name: str, state: State, why: str = "") -> None:
        """The trial `name` is now in `state`; `why` it failed."""
        self._retries += state == "running" and self._trials[name].state == "failed"
        self._trials[name].change(state, self._get_time())
        counts = Counter(trial.state for trial in self._trials.values())
        self._gauges.log_trials({state: counts[state] for state in STATES}, self._retries)
        self._at_once = max(self._at_once, sum(trial.state == "running" for trial in self._trials.values()))
        if state == "finished":
            self._learn()
        if self._console and (why or not self._console.is_terminal):
            line = f"{'started' if state == 'running' else state:<9} {name}" + (f": {why}" if why else "")
            if state == "finished" and self._expected:
                line += f"; {self._times()}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _learn(self) -> None:
        """Forecast the trials from all that are finished, also those of earlier launches."""
        if self._forecast:
            new = [one.name for one in self._trials.values() if one.state == "finished" and one.name not in self._took]
            with suppress(OSError, ValueError):  # a sweep does not end for what cannot be foretold
                self._took |= {name: sum(e.end - e.start for e in attempts(self._directory / name)) for name in new}
                self._expected = self._forecast({name: seconds for name, seconds in self._took.items() if seconds > 0})

    def _times(self) -> str:
        now, trials = self._get_time(), list(self._trials.values())
        for trial in trials:
            self._read(trial, now)
        left = clock(seconds_left(trials, self._at_once, now, self._expected))
        return f"{clock(now - self._started)} elapsed, {left} left"

    def shown(self) -> RenderableType:
        """The table as it is now, for the size of the terminal."""
        assert self._console is not None
        size, times = self._console.size, self._times()
        return sweep_table(list(self._trials.values()), self._get_time(), times, (size.width, size.height))

    def _read(self, trial: WatchedTrial, now: float) -> None:
        """Read what the trial logged since the last time; once more after it has ended."""
        if not trial.is_unread:
            return
        trial.is_unread = trial.state == "running"
        run_file = self._directory / trial.name / RUN_FILE
        with suppress(OSError, ValueError):  # a sweep does not end for what cannot be shown
            if trial.total_steps is None and run_file.is_file():
                trial.total_steps = json.loads(run_file.read_text())["total_steps"]
            trial.log(*self._tails[trial.name].read(), now)

    def __enter__(self) -> Self:
        self._learn()
        if self._console and self._console.is_terminal:
            self._screen = Live(get_renderable=self.shown, console=self._console, refresh_per_second=1 / POLL_SECONDS)
        self._screen.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._screen.__exit__(*error)


class TuneCallback(tune.Callback):
    """Tells `note` (trial, state, why it failed) of each trial that gets its process, or ends."""

    def __init__(self, note: Callable[[str, State, str], None] | None) -> None:
        self._note = note

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks into the experiment's state; a terminal does not travel."""
        return {"_note": None}

    def _tell(self, trial: Any, state: State, why: str = "") -> None:
        if self._note:
            self._note(trial.config["trial"], state, why)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial got its process."""
        self._tell(trial, "running")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """`run_trial` returned: the trial finished, failed, came to a rung or was asked to end."""
        outcome = trial.last_result or {}
        if outcome.get("failed"):
            self._tell(trial, "failed", str(outcome["failed"]))
        else:
            is_paused = any(outcome.get(key) is not None for key in ("paused", "stopped"))
            self._tell(trial, "paused" if is_paused else "finished")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process died; it may be started again."""
        self._tell(trial, "failed", "its process died")


def seconds_left(
    trials: Iterable[WatchedTrial], at_once: int, now: float, expected: Mapping[str, float]
) -> float | None:
    """Seconds until all trials are done, of which `at_once` run at a time; None while nothing is `expected`. A running
    one takes what its speed says, where that is known.
    """
    if not expected:
        return None
    rest = {"running": [0.0], "waiting": [0.0], "paused": [0.0]}
    for trial in trials:
        left = trial.seconds_left(now) if trial.state == "running" else None
        if trial.state in rest:
            rest[trial.state].append(max(0.0, expected[trial.name] - trial.seconds(now)) if left is None else left)
    return max(sum(map(sum, rest.values())) / max(1, at_once), *rest["running"])


def chosen(trials: Iterable[WatchedTrial], room: int) -> list[WatchedTrial]:
    """The at most `room` trials that are shown: running ones, then failed ones, then the newest that ended, then
    waiting ones in the order of the sweep; what an earlier command finished is not shown.
    """

    def order(trial: WatchedTrial) -> tuple[int, float]:
        has_ended = trial.state in ("paused", "finished")
        return STATES.index("finished" if has_ended else trial.state), -trial.changed if has_ended else 0.0

    return sorted((trial for trial in trials if not trial.is_old), key=order)[:room]


def sweep_table(trials: Sequence[WatchedTrial], now: float, times: str, size: tuple[int, int]) -> RenderableType:
    """Counts and `times`, table, and what is not shown of it, for a terminal of `size` (columns, lines)."""
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
    counts = Counter(trial.state for trial in trials)
    hidden = Counter(trial.state for trial in trials if not trial.is_old)
    hidden.subtract(trial.state for trial in shown)
    rest = [Text(f"... and {_counted(hidden)}", style="dim")] if hidden.total() else []
    return Group(Text(f"{len(trials)} trials: {_counted(counts)}; {times}"), table, *rest)


def _counted(counts: Mapping[State, int]) -> str:
    """Such as "2 running, 37 waiting"."""
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])


def _figures(trial: WatchedTrial, now: float) -> tuple[str, ...]:
    """The cells step, loss, valid, residues/s, time left."""
    figures, total = trial.figures, UNKNOWN if trial.total_steps is None else trial.total_steps
    return (
        f"{figures['step']:.0f}/{total}" if "step" in figures else UNKNOWN,
        known_text(figures.get("loss"), ".4f"),
        _valid(figures),
        known_text(figures.get("residues_per_s"), ",.0f"),
        clock(trial.seconds_left(now)) if trial.state == "running" else "",
    )


def _valid(figures: Mapping[str, float]) -> str:
    """The loss on valid, else the first metric there with its name: the one that a finetuned step is chosen by."""
    if "valid/loss" in figures:
        return known_text(figures["valid/loss"], ".4f")
    name = next((name for name in figures if name.startswith("valid/")), None)
    return UNKNOWN if name is None else f"{name.removeprefix('valid/')} {figures[name]:.4f}"


def _shortened(name: str, width: int) -> str:
    """`name` in at most `width` characters: its beginning says the model and its end the task."""
    if len(name) <= width:
        return name
    end = (width - 1) // 2
    return f"{name[: width - 1 - end]}…{name[-end:]}"
