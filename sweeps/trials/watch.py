"""What a person sees of a running sweep: on a terminal a table that follows its trials, elsewhere a line a change.

    Tune -> TrialStates (its callback) -> SweepWatch: a line, or its table twice a second (watch_table.py)

States come from Tune; step figures from each run directory's metrics.jsonl, wherever the trial's process is.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ray import tune
from rich.console import Console, RenderableType
from rich.live import Live

from proteinlm.platform.training.driver import RUN_FILE
from proteinlm.platform.training.progress import POLL_SECONDS
from proteinlm.platform.training.tracking import MetricsTail
from proteinlm.sweeps.trials.watch_table import State, WatchedTrial, sweep_table

WORDS: dict[State, str] = {"running": "started"}
"""What a line says of a state that it does not call by its name."""


class SweepWatch:
    """Shows the trials of a sweep while its body runs; nothing without a console.

    `names_in_order` are the plan's trials, `kinds` their verbs, `finished` those that need not run; the run directories
    lie in `directory`.
    """

    def __init__(
        self,
        names_in_order: Sequence[str],
        kinds: Mapping[str, str],
        directory: Path,
        finished: set[str],
        console: Console | None,
        get_time: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._get_time = console, get_time
        self._started = get_time()
        self._followed = {name: _Followed(name, kinds[name], directory / name, finished) for name in names_in_order}
        self._at_once = 0
        """The most trials that ran at a time."""
        self._live: Live | None = None

    def callback(self) -> tune.Callback:
        """What Tune is to call: it tells this watch of its trials."""
        return TrialStates(self.note)

    def note(self, name: str, state: State, why: str = "") -> None:
        """The trial `name` is now in `state`; `why` it failed."""
        followed = self._followed[name]
        followed.trial.change(state, self._get_time())
        self._at_once = max(self._at_once, sum(each.trial.state == "running" for each in self._followed.values()))
        if self._console and (why or not self._console.is_terminal):
            line = f"{WORDS.get(state, state):<9} {name}" + (f": {why}" if why else "")
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def shown(self) -> RenderableType:
        """The table as it is now."""
        assert self._console is not None
        now = self._get_time()
        for followed in self._followed.values():
            followed.read(now)
        trials = [followed.trial for followed in self._followed.values()]
        size = self._console.size
        return sweep_table(
            trials, started=self._started, now=now, at_once=self._at_once, size=(size.width, size.height)
        )

    def __enter__(self) -> Self:
        if self._console and self._console.is_terminal:
            self._live = Live(get_renderable=self.shown, console=self._console, refresh_per_second=1 / POLL_SECONDS)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
            self._live = None


class _Followed:
    """One trial and the files of its run that say how far it is."""

    def __init__(self, name: str, kind: str, run_directory: Path, finished: set[str]) -> None:
        is_old = name in finished
        self.trial = WatchedTrial(name, kind, "finished" if is_old else "waiting", is_old)
        self._run_file = run_directory / RUN_FILE
        self._tail = MetricsTail(run_directory)
        self._is_read = True

    def read(self, now: float) -> None:
        """Read what was logged since the last time; once more after the trial has ended."""
        is_running = self.trial.state == "running"
        if not is_running and self._is_read:
            return
        self._is_read = not is_running
        with suppress(OSError, ValueError):  # a sweep does not end for what cannot be shown
            if self.trial.total_steps is None and self._run_file.is_file():
                self.trial.total_steps = json.loads(self._run_file.read_text())["total_steps"]
            rows, is_new_file = self._tail.read()
            self.trial.log(rows, is_new_file, now)


class TrialStates(tune.Callback):
    """Tells `note` (trial, state, why it failed) of each trial that gets its process, or ends."""

    def __init__(self, note: Callable[[str, State, str], None]) -> None:
        self._note: Callable[[str, State, str], None] | None = note

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
        """A trial said what it came to (run_trial.py)."""
        came_to = trial.last_result or {}
        if came_to.get("failed"):
            self._tell(trial, "failed", str(came_to["failed"]))
        else:
            self._tell(trial, "halted" if came_to.get("paused") is not None else "finished")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process died; it may be started again."""
        self._tell(trial, "failed", "its process died")
