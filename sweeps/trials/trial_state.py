"""How a trial stands and how long it held its devices, from the files in its run directory beside its rows.

    finished.json     it ended with its results written         failed.json  {"why": "...", "step": 30 or null}
    halted.json       {"step": 120, "why": "..."}               metrics.jsonl, whose time is a run's last sign of life
    attempts.jsonl    {"event": "start", "time": seconds, "devices": 1.0, "device": "core" or "gpu"}
                      {"event": "end", "time": seconds}

An attempt without an end was killed. Times are seconds since 1970.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from proteinlm.platform.training.finish import is_finished
from proteinlm.platform.training.tracking import METRICS_FILE
from proteinlm.sweeps.trials.outcomes import ATTEMPTS_FILE, FAILED_FILE, HALTED_FILE

LONGEST = 300
"""Characters of a reason that tables show."""


@dataclass(frozen=True)
class TrialState:
    """How a trial stands, and in words what a reader must know of it."""

    kind: Literal["finished", "failed", "halted", "interrupted", "not run"]
    words: str
    """Follows the trial's name, such as "failed at step 30: out of memory"; "" where it is finished."""


def read_state(run_directory: Path) -> TrialState:
    """How the trial with this run directory stands; one that was halted and went on to its end has no such file left.

    Raises ValueError for a file that is no JSON object.
    """
    if (run_directory / HALTED_FILE).is_file():
        halted = _read(run_directory / HALTED_FILE)
        words = f"halted by successive halving after step {halted.get('step')}: {_one_line(halted.get('why'))}"
        return TrialState("halted", words)
    if is_finished(run_directory):
        return TrialState("finished", "")
    if (run_directory / FAILED_FILE).is_file():
        failed = _read(run_directory / FAILED_FILE)
        where = "" if failed.get("step") is None else f" at step {failed['step']}"
        return TrialState("failed", f"failed{where}: {_one_line(failed.get('why'))}")
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
    """All attempts of the trial in order.

    A killed one ended at the run's last sign of life and before the next attempt; without one it lasted no time.
    """
    events = _events(run_directory / ATTEMPTS_FILE)
    metrics = run_directory / METRICS_FILE
    last_sign = metrics.stat().st_mtime if metrics.is_file() else -math.inf
    found = []
    for place, event in enumerate(events):
        if event["event"] != "start":
            continue
        following: dict[str, Any] = {"event": "none", "time": math.inf}
        if place + 1 < len(events):
            following = events[place + 1]
        end = following["time"] if following["event"] == "end" else min(last_sign, following["time"])
        found.append(Attempt(event["time"], max(event["time"], end), event["devices"], event["device"]))
    return found


def device_seconds(run_directory: Path) -> dict[str, float]:
    """Device -> seconds that it was held over all attempts, each device counted."""
    held: dict[str, float] = {}
    for attempt in attempts(run_directory):
        held[attempt.device] = held.get(attempt.device, 0.0) + attempt.device_seconds
    return held


def _events(path: Path) -> list[dict[str, Any]]:
    """Lines of `attempts.jsonl`; one that was cut off by a kill is left out."""
    if not path.is_file():
        return []
    events = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            events.append(event)
    return events


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}; accepted: a JSON object") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: found {values!r}; accepted: a JSON object")
    return values


def _one_line(why: object) -> str:
    text = " ".join(str(why or "no reason was given").split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
