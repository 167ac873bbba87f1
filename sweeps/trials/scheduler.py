"""The queue of a sweep's trials, as the searcher that Ray Tune asks what to run next.

    Tune: suggest(id) -> a trial whose model is there and for which there are resources, None, or FINISHED
    Tune: on_trial_complete(id, result or error) -> finished, failed, paused at a rung, stopped as asked, or died

Order: finetuning as soon as its own pretraining has finished, then resumed pretraining, then new pretraining. A trial
whose pretraining failed or was stopped by halving is never suggested. Resources are counted here because Tune knows
nothing of the worker groups that trials start: more trials than fit would wait for their workers, and time out.
"""

import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from proteinlm.platform.places.places import is_remote
from proteinlm.sweeps.planning.trial import Trial
from proteinlm.sweeps.trials.halving import Halving

TUNE_FOLDER = "tune"
TUNE_SWITCHES = {"RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}


@contextmanager
def quiet_tune(directory: Path) -> Iterator[Path]:
    """Keep Tune from printing tables and writing event files while the body runs; delete its state at the end.

    A sweep is resumed from its run directories alone. Yields the folder for the state: one in `directory`, or one of
    this machine where that is in a store; other nodes need nothing of it.
    """
    before = {name: os.environ.get(name) for name in TUNE_SWITCHES}
    os.environ.update(TUNE_SWITCHES)
    scratch = Path(tempfile.mkdtemp(prefix="proteinlm-tune-")) if is_remote(directory) else None
    state = (scratch or directory.resolve()) / TUNE_FOLDER
    try:
        yield state
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        shutil.rmtree(scratch or state, ignore_errors=True)


@dataclass(frozen=True)
class Resources:
    """CPUs, GPUs and number of trials: what there is for all of them, or what one takes."""

    cpus: float
    gpus: float
    trials: float = 1

    def fits(self, other: "Resources") -> bool:
        """Whether `other` is no larger than this."""
        slack = 1e-6
        return other.cpus <= self.cpus + slack and other.gpus <= self.gpus + slack and other.trials <= self.trials

    def without(self, other: "Resources") -> "Resources":
        """Return what is left beside `other`."""
        return Resources(self.cpus - other.cpus, self.gpus - other.gpus, self.trials - other.trials)


class TrialQueue(Searcher):
    """Suggests the trials of a plan, each after the one that it needs; with halving, pretraining pauses at rungs."""

    def __init__(
        self,
        trials: list[Trial],
        finished: set[str],
        resources: Resources,
        takes: Mapping[str, Resources],
        *,
        halving: Halving | None = None,
        loss_after: Callable[[str, int], float] | None = None,
        max_failures: int = 0,
        give_up: Callable[[str, int], None] = lambda name, times: None,
    ) -> None:
        """`takes`: trial -> its part of `resources`. `loss_after` reads a trial's validation loss after a step;
        `give_up` is called with name and count for a trial whose process died more than `max_failures` times.
        """
        super().__init__()
        paused = halving.paused() if halving else {}
        unfinished = [trial for trial in trials if trial.name not in finished]
        self._waiting = [trial for trial in unfinished if trial.name not in paused]
        self._paused = {trial.name: trial for trial in unfinished if trial.name in paused}
        self._finished = set(finished)
        self._running: dict[str, Trial] = {}
        """By Tune's id."""
        self._resources, self._takes = resources, takes
        self._halving, self._loss_after = halving, loss_after
        self._max_failures, self._give_up = max_failures, give_up
        self._deaths: Counter[str] = Counter()
        self._is_ending = False

    def end(self) -> None:
        """Suggest no further trial."""
        self._is_ending = True

    def running(self) -> list[str]:
        """Names of the trials that were suggested and have not ended."""
        return [trial.name for trial in list(self._running.values())]

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Accept whatever Tune passes: the plan is fixed."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # FINISHED is a string
        """Return what `run_trial` is told of the next trial; None: others must finish first; FINISHED: none is left."""
        if self._is_ending:
            return None if self._running else str(Searcher.FINISHED)
        ready, free = self._ready(), self._resources
        for running in self._running.values():
            free = free.without(self._takes[running.name])
        for trial in ready:
            if free.fits(self._takes[trial.name]):
                return self._start(trial_id, trial)
        return None if self._running or ready else str(Searcher.FINISHED)

    def _ready(self) -> list[Trial]:
        """Trials that lack nothing but resources: finetuning, then resumed pretraining, then new pretraining."""
        if self._halving:
            for name in self._halving.promote():
                if name in self._paused:
                    self._waiting.insert(0, self._paused.pop(name))
        able = [trial for trial in self._waiting if trial.needs is None or trial.needs in self._finished]
        return sorted(able, key=lambda trial: trial.needs is None)

    def _start(self, trial_id: str, trial: Trial) -> dict[str, Any]:
        self._waiting.remove(trial)
        self._running[trial_id] = trial
        values = trial.config.model_dump(mode="json")
        if self._halving and trial.verb == "pretrain":
            values["training"]["pause_at"] = self._halving.next_pause(trial.name)
        return {"trial": trial.name, "verb": trial.verb, "values": values, "scheduled": time.time()}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Record the outcome of a trial: what `run_trial` returned, or (`error`) that its process died."""
        trial = self._running.pop(trial_id)
        outcome = result or {}
        if error:
            self._died(trial)
        elif outcome.get("failed"):
            self._end(trial)
        elif outcome.get("stopped") is not None:
            return
        elif outcome.get("paused") is not None and self._halving and self._loss_after:
            self._halving.reached(trial.name, self._loss_after(trial.name, outcome["paused"]))
            self._paused[trial.name] = trial
        else:
            self._finished.add(trial.name)
            self._end(trial)

    def _died(self, trial: Trial) -> None:
        """Queue the trial again, to be resumed from its checkpoint, or give it up."""
        self._deaths[trial.name] += 1
        if self._deaths[trial.name] <= self._max_failures:
            self._waiting.insert(0, trial)
        else:
            self._give_up(trial.name, self._deaths[trial.name])
            self._end(trial)

    def _end(self, trial: Trial) -> None:
        if self._halving:
            self._halving.end(trial.name)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: what is finished is read from the run directories."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""
