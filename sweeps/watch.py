"""What a person sees of a running sweep: a line when a trial starts, finishes or fails."""

from typing import Any

from ray import tune
from rich.console import Console


class TrialLines(tune.Callback):
    """Prints the state changes of trials."""

    def __init__(self, console: Console | None) -> None:
        self._console = console

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks into the experiment's state; a terminal does not travel."""
        return {"_console": None}

    def _tell(self, state: str, trial: Any) -> None:
        if self._console:
            self._console.print(f"{state:<9} {trial.config['trial']}")

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial got its process."""
        self._tell("started", trial)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial ended with its results written."""
        self._tell("finished", trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed; the sweep goes on."""
        self._tell("failed", trial)
