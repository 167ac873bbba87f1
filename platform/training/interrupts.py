"""Whether to save or stop out of turn: agreed on by all workers after every step.

    the driver was asked to end (SIGTERM)       it writes stop.json into the run directory; the run saves and ends
    a node will be taken away                   Ray's preemption notice: the run saves before the deadline, and goes on
    the newest checkpoint is n minutes old      the run saves

One worker may see a notice a step before the others do. Only what all of them agreed on may lead to a checkpoint, which
every worker takes part in.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import distributed as dist

from proteinlm.platform.storage.run_directory import is_stop_requested

POLL_SECONDS = 1.0
"""How often files and notices are looked at; a notice takes a barrier of Ray's, a file a visit to shared storage."""


@dataclass(frozen=True)
class Decision:
    """What all workers do after this step."""

    save: bool
    stop: bool


class Interrupts:
    """Looks at the clock, the run directory and Ray's notices on behalf of the loop."""

    def __init__(
        self,
        run_directory: Path,
        checkpoint_minutes: float | None,
        is_first_worker: bool,
        preemption_notice: Callable[[], str | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`preemption_notice` is called by all workers together; it gives a notice's name, the same on all of them."""
        self._directory, self._minutes, self._first = run_directory, checkpoint_minutes, is_first_worker
        self._preemption_notice, self._clock = preemption_notice, clock
        self._answered: str | None = None
        self._polled = self._saved = clock()

    def decide(self) -> Decision:
        """All workers call it after every step and get the same decision."""
        now = self._clock()
        poll = self._first and now - self._polled >= POLL_SECONDS
        stop = poll and is_stop_requested(self._directory)
        due = self._first and self._minutes is not None and now - self._saved >= 60 * self._minutes
        agreed = torch.tensor([poll, stop, due], dtype=torch.int32)
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.broadcast(agreed, src=0)
        polls, stops, saves = agreed.bool().tolist()
        if polls:
            self._polled = now
            notice = self._preemption_notice()
            saves = saves or (notice is not None and notice != self._answered)
            self._answered = notice or self._answered
        return Decision(save=saves or stops, stop=stops)

    def saved(self) -> None:
        """A checkpoint was just made."""
        self._saved = self._clock()
