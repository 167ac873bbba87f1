"""State and device time of a trial, from the files in its run directory.

    finished.json, failed.json, halted.json     written and read by platform/storage/run_directory.py
    metrics.jsonl     the time of its last change is the run's last sign of life
    attempts.jsonl    {"event": "start", "time": seconds, "devices": 1.0, "device": "core" or "gpu",
                      "scheduled": seconds}, then {"event": "end", "time": seconds}
    lock              held by the process that runs the trial (platform/storage/lock.py)

An attempt is one process that ran the trial; one without an end was killed. Times are seconds since 1970.
"""

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from proteinlm.platform.places.places import add_text, is_remote
from proteinlm.platform.storage.run_directory import (
    ATTEMPTS_FILE,
    METRICS_FILE,
    first_fault,
    is_finished,
    parse_json,
    read_failed,
    read_halted,
)

LONGEST = 300
"""Characters of a reason that tables show."""
BEGINNING = b'{"event": '
"""Of each line of attempts.jsonl."""
LAST_TIME, MOST_DEVICES = 1e11, 1e6
"""Seconds since 1970 (in the year 5138), and devices of a trial: what lies beyond was not written by a sweep."""


@dataclass(frozen=True)
class TrialState:
    """What became of a trial so far, and the words for it in tables."""

    kind: Literal["finished", "failed", "stopped", "interrupted", "not run"]
    """stopped: by successive halving. interrupted: killed, or still running; the sweep resumes it."""
    words: str
    """Follows the trial's name, such as "failed at step 30: out of memory"; "" where it is finished."""


def read_state(run_directory: Path) -> TrialState:
    """Read the state of the trial with this run directory; ValueError for a mark that is no JSON object.

    The marks of an earlier launch are deleted when a trial is run again, so one that was stopped and later resumed to
    its end is finished.
    """
    if halted := read_halted(run_directory):
        words = f"stopped by successive halving after step {halted.step}: {_one_line(halted.why)}"
        return TrialState("stopped", words)
    if is_finished(run_directory):
        return TrialState("finished", "")
    if failed := read_failed(run_directory):
        where = "" if failed.step is None else f" at step {failed.step}"
        return TrialState("failed", f"failed{where}: {_one_line(failed.why)}")
    if run_directory.is_dir():
        return TrialState("interrupted", "not finished")
    return TrialState("not run", "not run")


@dataclass(frozen=True)
class Attempt:
    """One time that a trial held its devices; seconds since 1970."""

    start: float
    end: float
    devices: float
    device: str
    """core or gpu"""

    @property
    def device_seconds(self) -> float:
        """Each device counted: 2 cores for 10 s are 20 s."""
        return (self.end - self.start) * self.devices


def attempts(run_directory: Path) -> list[Attempt]:
    """Read all attempts of the trial, in order.

    A killed one ended at the run's last sign of life, but before the next attempt; without a sign it lasted 0 seconds.
    """
    events = _events(run_directory / ATTEMPTS_FILE)
    metrics = run_directory / METRICS_FILE
    last_sign = metrics.stat().st_mtime if metrics.is_file() else -math.inf
    spans = []
    for event, following in zip_longest(events, events[1:]):
        if event.event != "start":
            continue
        if following is None:
            end = last_sign
        else:
            end = following.time if following.event == "end" else min(last_sign, following.time)
        spans.append(Attempt(event.time, max(event.time, end), event.devices, event.device))
    return spans


def device_seconds(run_directory: Path) -> dict[str, float]:
    """Return device ("core" or "gpu") -> seconds that all attempts held it, each device counted."""
    held: dict[str, float] = {}
    for attempt in attempts(run_directory):
        held[attempt.device] = held.get(attempt.device, 0.0) + attempt.device_seconds
    return held


@dataclass(frozen=True)
class _Event:
    """A line of attempts.jsonl; the end of an attempt says the time alone."""

    event: Literal["start", "end"]
    time: Annotated[float, Field(ge=0, lt=LAST_TIME)]
    devices: Annotated[float, Field(ge=0, lt=MOST_DEVICES)] = 0.0
    device: Literal["core", "gpu"] = "core"


def _events(path: Path) -> list[_Event]:
    """Lines of `attempts.jsonl`; one that was cut off by a kill is left out.

    ValueError, with file and line, for one that is no event nor the beginning of one.
    """
    if not path.is_file():
        return []
    events, kind = [], TypeAdapter(_Event)
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        try:
            values = parse_json(line)
        except ValueError as error:
            text = line.strip(b"\0")  # which a power cut may leave
            if text[: len(BEGINNING)] == BEGINNING[: len(text)]:
                continue
            raise ValueError(f"{path}, line {number} is no event of an attempt: {error}") from None
        try:
            events.append(kind.validate_python(values))
        except ValidationError as error:
            raise ValueError(f"{path}, line {number} is no event of an attempt: {first_fault(error)}") from None
        if events[-1].event == "start" and not {"devices", "device"} <= values.keys():
            raise ValueError(f"{path}, line {number} is no event of an attempt: a start says devices and device")
    return events


def _one_line(why: str) -> str:
    text = " ".join((why or "no reason was given").split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


@contextmanager
def attempt(run_directory: Path, devices: float, device: str, scheduled: float) -> Iterator[None]:
    """Record start and end of the body, which holds so many devices ("core" or "gpu"), and when it was scheduled."""
    _end_killed_attempt(run_directory)
    start = {"event": "start", "time": time.time(), "devices": devices, "device": device, "scheduled": scheduled}
    _note(run_directory, start)
    try:
        yield
    finally:
        _note(run_directory, {"event": "end", "time": time.time()})


def _end_killed_attempt(run_directory: Path) -> None:
    """Record the end of an earlier attempt that was killed: the run's last sign of life."""
    metrics, events = run_directory / METRICS_FILE, _events(run_directory / ATTEMPTS_FILE)
    if events and events[-1].event == "start" and metrics.is_file():
        _note(run_directory, {"event": "end", "time": metrics.stat().st_mtime})


def _note(run_directory: Path, said: dict[str, Any]) -> None:
    run_directory.mkdir(parents=True, exist_ok=True)
    line = json.dumps(said) + "\n"
    if is_remote(run_directory):
        add_text(run_directory / ATTEMPTS_FILE, line)  # what is there was put whole
        return
    with (run_directory / ATTEMPTS_FILE).open("ab+") as file:
        file.seek(max(0, file.tell() - 1))
        is_cut_off = file.read(1) not in (b"", b"\n")  # a kill's half line must not spoil the next one
        file.write(b"\n" * is_cut_off + line.encode())
