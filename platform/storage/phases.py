"""The phases of a command, from its start to its table: what took how many seconds, in the driver and in a worker.

With PROTEINLM_TIMINGS=1 the driver makes `phases.jsonl` in the run directory, and prints at its end what stands there:

    {"where": "driver", "name": "Ray's start", "start": 1764238000.1, "seconds": 3.2}

Every process notes its phases, which costs nothing; the driver and the first worker write theirs, but only where the
file is there: a worker may be on another machine, with another environment. Phases may lie inside each other.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

VARIABLE = "PROTEINLM_TIMINGS"
PHASES_FILE = "phases.jsonl"

Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Phase:
    """A stretch of time of one process."""

    where: str
    """The process: driver, or worker for the first of them."""
    name: str
    start: float
    """Seconds since 1970."""
    seconds: float


_noted: list[tuple[str, float, float]] = []
"""Of this process, not yet written: name, start, seconds."""


def note(name: str, start: float) -> None:
    """Note a phase that began at `start` (seconds since 1970) and ends here."""
    _noted.append((name, start, time.time() - start))


@contextmanager
def phase(name: str) -> Iterator[None]:
    """The body, or the function that this decorates, is the phase `name`."""
    start = time.time()
    try:
        yield
    finally:
        note(name, start)


@contextmanager
def entered(manager: AbstractContextManager[Value], entering: str, leaving: str) -> Iterator[Value]:
    """Inside the body `manager` is entered; entering and leaving it are phases."""
    inside, after = ExitStack(), ExitStack()
    with phase(entering):
        value = inside.enter_context(manager)
    with after, inside:  # `inside` is left first
        try:
            yield value
        finally:
            after.callback(note, leaving, time.time())


def first_steps(steps: Iterable[Item]) -> Iterator[Item]:
    """Yields `steps`; the wait for the first, and what is done with it until the second is asked for, are phases."""
    iterator = iter(steps)
    with phase("first batch"):
        first = list(islice(iterator, 1))
    with phase("first step"):
        yield from first
    yield from iterator


def process_start() -> float:
    """When this process was started, in seconds since 1970; where there is no /proc, when it imported this module."""
    try:
        ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]  # proc(5): field 22, starttime
        return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - int(ticks) / os.sysconf("SC_CLK_TCK"))
    except (OSError, AttributeError):
        return _imported


_imported = time.time()


def begin(run_directory: Path) -> None:
    """Forget the phases of earlier launches of the run; make its file where the variable asks for it."""
    file = run_directory / PHASES_FILE
    file.unlink(missing_ok=True)
    if os.environ.get(VARIABLE):
        file.touch()


def write_phases(run_directory: Path, where: str) -> None:
    """Move what this process noted to the run's file, where there is one."""
    from proteinlm.platform.places.places import add_text  # here: `--help` loads nothing heavy, and this file

    file = run_directory / PHASES_FILE
    if file.is_file():
        phases = (Phase(where, *noted) for noted in _noted)
        add_text(file, "".join(f"{json.dumps(asdict(one))}\n" for one in phases))
    _noted.clear()


def read_phases(run_directory: Path) -> list[Phase]:
    """The phases of the run's newest launch in the order in which they began; [] where none were asked for."""
    file = run_directory / PHASES_FILE
    if not file.is_file():
        return []
    phases = [Phase(**json.loads(line)) for line in file.read_text().splitlines()]
    return sorted(phases, key=lambda one: one.start)


def tell_phases(run_directory: Path, console: "Console") -> None:
    """Print the phases of this command, which ends here, where the variable asks for them: all that its file holds."""
    write_phases(run_directory, "driver")
    if not os.environ.get(VARIABLE):
        return
    phases = [one for one in read_phases(run_directory) if one.start >= process_start() - 1]
    for one in phases:
        console.print(f"{one.start - phases[0].start:8.2f} s {one.seconds:+8.2f} s  {one.where}: {one.name}")
