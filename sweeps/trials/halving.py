"""Successive halving: at each rung, trials are compared by validation loss, and only the best are trained further.

Synchronous (Jamieson and Talwalkar 2016, arXiv 1502.07943): a rung is decided when all that can reach it have, so the
outcome is a function of the losses alone. Asynchronous (ASHA, Li et al. 2020, arXiv 1810.05934, algorithm 2): a trial
is promoted as soon as it is among the best share of those that have reached its rung so far.

    reached(name, loss) -> the trial is paused at its rung -> promote() -> it is resumed, up to its next rung or its end

A trial that is still paused when the sweep is over was stopped by halving. Nothing of this is stored: the losses stand
in the runs' own metrics, from which `restore` makes the state again after a crash.
"""

import math
from collections.abc import Iterable, Mapping, Sequence


class Halving:
    """Decides which trials are trained further. It knows names, steps and losses; nothing of runs, files or Ray."""

    def __init__(self, rung_steps: Mapping[str, Sequence[int]], keep: float, asynchronous: bool) -> None:
        """`rung_steps`: for each trial the optimizer steps at which it is compared, one a rung, rising.

        `keep`: share of a rung's trials that is promoted, rounded up.
        """
        self._steps, self._keep, self._asynchronous = rung_steps, keep, asynchronous
        num_rungs = max((len(steps) for steps in rung_steps.values()), default=0)
        self._losses: list[dict[str, float]] = [{} for _ in range(num_rungs)]
        self._promoted: list[set[str]] = [set() for _ in range(num_rungs)]
        self._ended: set[str] = set()
        """Trials that finished or failed: no rung waits for them."""

    def restore(self, name: str, losses: Iterable[float | None], is_finished: bool) -> None:
        """Take over what an earlier launch measured: the trial's loss at each rung, None where it was never there."""
        if is_finished:
            self._ended.add(name)
            for promoted in self._promoted:
                promoted.add(name)
        for rung, loss in enumerate(losses):
            if loss is None:
                return
            self._losses[rung][name] = loss
            if rung:
                self._promoted[rung - 1].add(name)

    def next_pause(self, name: str) -> int | None:
        """Return the optimizer step at which the trial is compared next; None: it runs to its end."""
        rung = self._rung(name)
        return self._steps[name][rung] if rung < len(self._losses) else None

    def reached(self, name: str, loss: float) -> None:
        """Record the validation loss of a trial at its next rung, where it is paused."""
        self._losses[self._rung(name)][name] = loss

    def end(self, name: str) -> None:
        """Record that the trial finished or failed: no rung waits for it any more."""
        self._ended.add(name)

    def promote(self) -> list[str]:
        """Return the paused trials that may be resumed since the last call."""
        freed = []
        for rung in range(len(self._losses)):
            for name in self._best(rung):
                if name not in self._promoted[rung]:
                    self._promoted[rung].add(name)
                    freed.append(name)
        return freed

    def paused(self) -> dict[str, str]:
        """Return the trials that are paused at a rung, each with its loss and rank there in words."""
        standing = {}
        for rung, losses in enumerate(self._losses):
            ranked = _ranked(losses)
            for rank, name in enumerate(ranked, start=1):
                if name not in self._promoted[rung]:
                    standing[name] = (
                        f"validation loss {losses[name]:.4f} after step {self._steps[name][rung]}, "
                        f"{rank} of {len(ranked)} at rung {rung + 1}"
                    )
        return standing

    def _rung(self, name: str) -> int:
        """How many rungs the trial has passed."""
        return sum(name in promoted for promoted in self._promoted)

    def _best(self, rung: int) -> list[str]:
        """The trials at `rung` that are to be promoted, by the losses known now."""
        share = self._keep * len(self._losses[rung])
        if self._is_complete(rung):
            count = math.ceil(share - 1e-9)
        else:
            count = math.floor(share + 1e-9) if self._asynchronous else 0
        return [name for name in _ranked(self._losses[rung])[:count] if not math.isnan(self._losses[rung][name])]

    def _is_complete(self, rung: int) -> bool:
        """Whether no further trial can come to `rung`."""
        if rung == 0:
            entrants = set(self._steps)
        elif self._is_complete(rung - 1):
            entrants = self._promoted[rung - 1] | set(self._best(rung - 1))
        else:
            return False
        return entrants <= self._losses[rung].keys() | self._ended


def _ranked(losses: Mapping[str, float]) -> list[str]:
    """Names by loss, lowest first; NaN comes last."""
    return sorted(losses, key=lambda name: (math.isnan(losses[name]), losses[name], name))
