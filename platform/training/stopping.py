"""A run or a sweep that ends before its last step: the signals that ask for it, and how its end is said.

A signal never ends the workers. It asks them to save a checkpoint and end (storage/run_directory.py, stop.json), those
of the run or of every running trial, and the same command goes on from the very step.

    SIGTERM           `ray job stop`, and batch systems before they kill; a second one ends the process at once
    SIGINT            Ctrl-C; a second one ends the process at once
    SIGHUP, SIGUSR1   a terminal that closes, and Slurm's notice (`--signal=B:USR1@120`); more of them say nothing new
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType

from rich.console import Console

from proteinlm.platform.storage.run_directory import request_stop, take_stopped
from proteinlm.platform.training.loop import AS_ASKED, PAUSED

ENDS_AT_ONCE = (signal.SIGINT, signal.SIGTERM)
"""Signals whose second one does what it did before the run."""
ONLY_ASKS = (signal.SIGHUP, signal.SIGUSR1)


class StoppedError(RuntimeError):
    """A run that ended in good order before its last step; the message says why and what can be done."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message, step)  # both in `args`, from which pickle makes the error again
        self.step = step

    def __str__(self) -> str:
        return str(self.args[0])


class PausedError(StoppedError):
    """A run that came to `training.pause_at`."""


class AskedError(StoppedError):
    """A run that a signal asked to end; the same command resumes it."""


class Signals:
    """Calls `ask` when this process gets a signal, which asks the workers to save a checkpoint and end."""

    def __init__(self, ask: Callable[[], object], what_ends: str, console: Console | None) -> None:
        """`what_ends`: words for what is asked of them, such as "the run saves a checkpoint and ends"."""
        self._ask_workers, self._what_ends, self._console = ask, what_ends, console
        self._before = {number: signal.getsignal(number) or signal.SIG_DFL for number in (*ENDS_AT_ONCE, *ONLY_ASKS)}
        self.is_asked = False
        """Whether there was a signal."""
        self.is_interrupted = False
        """Whether one of the signals was Ctrl-C."""

    def take(self) -> None:
        """Handle the signals from now on, but for those that were ignored (`nohup` ignores SIGHUP)."""
        for number, before in self._before.items():
            if before is not signal.SIG_IGN:
                signal.signal(number, self._ask)

    def give_back(self) -> None:
        """Handle the signals as before."""
        for number, before in self._before.items():
            signal.signal(number, before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.is_asked = True
        self.is_interrupted |= number == signal.SIGINT
        self._ask_workers()
        again = ""
        if number in ENDS_AT_ONCE:
            signal.signal(number, self._before[signal.Signals(number)])
            again = "; once more ends it at once"
        if self._console:
            with suppress(OSError):  # the terminal may have gone
                name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
                self._console.print(f"{name}: {self._what_ends}{again}", soft_wrap=True)


@contextmanager
def asking_on_signals(run_directory: Path, console: Console | None = None) -> Iterator[Signals]:
    """Inside the body, signals ask the run's workers to save a checkpoint and end, as `Signals` says."""
    with on_signals(partial(request_stop, run_directory), "the run saves a checkpoint and ends", console) as signals:
        yield signals


@contextmanager
def on_signals(ask: Callable[[], object], what_ends: str, console: Console | None = None) -> Iterator[Signals]:
    """Inside the body, signals call `ask`, as `Signals` says; in another thread than the main one they do not."""
    signals = Signals(ask, what_ends, console)
    if threading.current_thread() is not threading.main_thread():  # a sweep's trial: signals belong to the main thread
        yield signals
        return
    signals.take()
    try:
        yield signals
    finally:
        signals.give_back()


def raise_if_stopped(run_directory: Path, is_interrupted: bool) -> None:
    """StoppedError where the workers marked that they ended before the last step; the mark is taken away.

    KeyboardInterrupt with the same message where Ctrl-C asked for it (`is_interrupted`).
    """
    stopped = take_stopped(run_directory)
    if stopped is None:
        return
    if stopped.why == PAUSED:
        raise PausedError(f"paused after step {stopped.step} (training.pause_at)", stopped.step)
    if stopped.why != AS_ASKED:
        raise StoppedError(stopped.why, stopped.step)
    why = f"stopped after step {stopped.step}, as asked; the same command resumes from there"
    raise KeyboardInterrupt(why) if is_interrupted else AskedError(why, stopped.step)
