"""Tune's searcher for a sweep: hands out trials as soon as what they need is there and there is room for them.

A finetuning trial is suggested when its own pretraining has finished, before pretraining that has not begun; one whose
pretraining failed or was halted never is. Room is counted here, for Tune knows nothing of the worker groups that trials
start: more trials than fit would wait for their workers, and time out.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray.tune.search import Searcher

from proteinlm.sweeps.planning.trial import Trial
from proteinlm.sweeps.trials.halving import Halving


@dataclass(frozen=True)
class Room:
    """CPUs, GPUs and trials: what there is for trials, or what one takes."""

    cpus: float
    gpus: float
    trials: float = 1

    def fits(self, other: "Room") -> bool:
        """Whether `other` is no larger than this."""
        slack = 1e-6
        return other.cpus <= self.cpus + slack and other.gpus <= self.gpus + slack and other.trials <= self.trials

    def without(self, other: "Room") -> "Room":
        """What is left beside `other`."""
        return Room(self.cpus - other.cpus, self.gpus - other.gpus, self.trials - other.trials)


class RoadSearcher(Searcher):
    """Suggests the trials of a plan, each after the one that it needs, halving pretraining where that is asked for."""

    def __init__(
        self,
        trials: list[Trial],
        finished: set[str],
        room: Room,
        takes: Mapping[str, Room],
        *,
        halving: Halving | None = None,
        loss_after: Callable[[str, int], float] | None = None,
        max_failures: int = 0,
        give_up: Callable[[str, int], None] = lambda name, times: None,
    ) -> None:
        """`takes`: what each trial takes of `room`. `loss_after` reads a trial's validation loss after a step;
        `give_up` is told of one whose process died more than `max_failures` times.
        """
        super().__init__()
        self._waiting = [trial for trial in trials if trial.name not in finished]
        self._finished = set(finished)
        self._running: dict[str, Trial] = {}
        at_rest = halving.resting() if halving else {}
        self._resting = {trial.name: trial for trial in self._waiting if trial.name in at_rest}
        self._waiting = [trial for trial in self._waiting if trial.name not in at_rest]
        self._room, self._takes = room, takes
        self._halving, self._loss_after = halving, loss_after
        self._max_failures, self._give_up = max_failures, give_up
        self._deaths: Counter[str] = Counter()

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Accept whatever Tune passes: the plan is fixed."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # FINISHED is a string
        """The next trial that can run, None while others must finish first, FINISHED when there is none left."""
        ready, room = self._ready(), self._room
        for running in self._running.values():
            room = room.without(self._takes[running.name])
        for trial in ready:
            if room.fits(self._takes[trial.name]):
                return self._start(trial_id, trial)
        return None if self._running or ready else str(Searcher.FINISHED)

    def _ready(self) -> list[Trial]:
        """Trials that lack nothing but room: finetuning, then pretraining that goes on, then the rest."""
        if self._halving:
            for name in self._halving.promote():
                if name in self._resting:
                    self._waiting.insert(0, self._resting.pop(name))
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
        """Note what a trial came to; `error`: its process died, for `run_trial` itself says what else went wrong."""
        trial = self._running.pop(trial_id)
        came_to = result or {}
        if error:
            self._died(trial)
        elif came_to.get("failed"):
            self._leave(trial)
        elif came_to.get("paused") is not None and self._halving and self._loss_after:
            self._halving.reached(trial.name, self._loss_after(trial.name, came_to["paused"]))
            self._resting[trial.name] = trial
        else:
            self._finished.add(trial.name)
            self._leave(trial)  # no rung waits for it

    def _died(self, trial: Trial) -> None:
        self._deaths[trial.name] += 1
        if self._deaths[trial.name] <= self._max_failures:
            self._waiting.insert(0, trial)
        else:
            self._give_up(trial.name, self._deaths[trial.name])
            self._leave(trial)

    def _leave(self, trial: Trial) -> None:
        if self._halving:
            self._halving.give_up(trial.name)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: what is finished is read from the run directories."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""
