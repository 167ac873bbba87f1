"""Tune's searcher for a sweep: hands out trials as soon as what they need is there.

A finetuning trial is suggested when its own pretraining has finished, whatever else still runs; one whose pretraining
failed is never suggested.
"""

from typing import Any

from ray.tune.search import Searcher

from proteinlm.sweeps.plan import Trial


class RoadSearcher(Searcher):
    """Suggests the trials of a plan in order, each after the one that it needs."""

    def __init__(self, trials: list[Trial], finished: set[str]) -> None:
        super().__init__()
        self._waiting = [trial for trial in trials if trial.name not in finished]
        self._finished = set(finished)
        self._failed: set[str] = set()
        self._running: dict[str, str] = {}

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Accept whatever Tune passes: the plan is fixed."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # FINISHED is a string
        """The next trial that can run, None while others must finish first, FINISHED when there is none left."""
        self._waiting = [trial for trial in self._waiting if trial.needs not in self._failed]
        for trial in self._waiting:
            if trial.needs is None or trial.needs in self._finished:
                self._waiting.remove(trial)
                self._running[trial_id] = trial.name
                return {"trial": trial.name, "verb": trial.verb, "values": trial.config.model_dump(mode="json")}
        if self._waiting:
            return None
        return str(Searcher.FINISHED)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Note what a trial came to."""
        name = self._running.pop(trial_id)
        (self._failed if error else self._finished).add(name)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: what is finished is read from the run directories."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""
