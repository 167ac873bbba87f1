"""The verb `pretrain` as a user runs it, a process of its own, timed from outside; killed and resumed.

command -> first step logged -> last step logged -> the process has ended
         start               training             end
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proteinlm.platform.settings.config import PretrainConfig
from proteinlm.platform.settings.yaml_text import to_yaml
from proteinlm.platform.training.checkpoint import checkpoints_in, newest_whole, read_cursor
from proteinlm.platform.training.tracking import MetricsTail, read_metrics
from tests.made.measuring import ROOT
from tests.made.timed_parts import end_family

POLL_SECONDS = 0.05
QUIET_SECONDS = 2.0
"""A killed run whose metrics have not grown for so long is over."""
WARMING_ROWS = 2
"""Logged rows at a run's start that its speed leaves out: kernels are chosen and compiled, memory is taken."""
TIMINGS = "PROTEINLM_TIMINGS"
"""Environment variable that has the verb write its phases into its run directory."""
PHASES_FILE = "phases.jsonl"
"""A line for each phase: its process, name, start (seconds since 1970) and seconds."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class VerbRun:
    """What was seen of one launch."""

    code: int
    """The exit code; negative: the signal that ended it."""
    said: str
    """All that it printed."""
    start_seconds: float
    """From the command to the first step's row; all of its time where no step was logged."""
    training_seconds: float
    end_seconds: float
    rows: Sequence[Row]
    """Of the steps that this launch logged."""
    phases: Sequence[Row] = ()
    """In the order in which they began, `start` in seconds after the first; none where the verb wrote none."""

    @property
    def residues_per_s(self) -> float | None:
        """Median over the logged rows; None where too few were logged."""
        speeds = [row["residues_per_s"] for row in self.rows[WARMING_ROWS:]]
        return statistics.median(speeds) if speeds else None

    def figures(self) -> dict[str, Any]:
        """What a part notes of it."""
        return {
            "start_s": round(self.start_seconds, 2),
            "training_s": round(self.training_seconds, 2),
            "end_s": round(self.end_seconds, 2),
            "residues_per_s": self.residues_per_s,
            "first_loss": self.rows[0]["loss"] if self.rows else None,
            "last_loss": self.rows[-1]["loss"] if self.rows else None,
            "last_step": self.rows[-1]["step"] if self.rows else 0,
            "skipped_steps": self.rows[-1].get("skipped_steps", 0) if self.rows else 0,
            "phases": list(self.phases),
        }


def run_verb(config: PretrainConfig, log: Path, *, kill: Callable[[int], bool] = lambda step: False) -> VerbRun:
    """Run it to its end, or until `kill` says yes to a step that was just logged; its output goes into `log`."""
    first_step = resumes_from(config.directory)
    file = log.with_suffix(".yaml")
    file.write_text(to_yaml(config))
    tail = MetricsTail(config.directory)
    rows: list[Row] = []
    start = first = last = time.monotonic()
    with verb_process(file, log) as process:
        while process.poll() is None:
            time.sleep(POLL_SECONDS)
            if new := steps_of(tail, first_step):
                last = time.monotonic()
                first = first if rows else last
                rows += new
                if kill(rows[-1]["step"]):
                    end_family(process)
        ended = time.monotonic()
    rows += steps_of(tail, first_step)
    if not rows:
        first = last = ended
    said, phases = log.read_text(errors="replace"), phases_of(config.directory)
    return VerbRun(process.returncode, said, first - start, last - first, ended - last, rows, phases)


@contextmanager
def verb_process(file: Path, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The verb on this file of settings; it does not outlive the body."""
    command = [sys.executable, "-m", "proteinlm", "pretrain", str(file)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {TIMINGS: "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            end_family(process)


def phases_of(run_directory: Path) -> list[Row]:
    """What the newest launch wrote of its phases."""
    file = run_directory / PHASES_FILE
    if not file.is_file():
        return []
    phases = sorted(map(json.loads, file.read_text().splitlines()), key=lambda phase: float(phase["start"]))
    return [
        phase | {"start": round(phase["start"] - phases[0]["start"], 2), "seconds": round(phase["seconds"], 2)}
        for phase in phases
    ]


def steps_of(tail: MetricsTail, first_step: int) -> list[Row]:
    """The rows of steps after `first_step` that were logged since the last call."""
    rows, _ = tail.read()
    return [row for row in rows if "loss" in row and row["step"] > first_step]


def resumes_from(run_directory: Path) -> int:
    """The step of the newest whole checkpoint; 0 where none is whole, such as a first one that is being written."""
    try:
        newest, _ = newest_whole(checkpoints_in(run_directory))
    except ValueError:
        return 0
    return read_cursor(newest).step if newest else 0


def kill_and_resume(config: PretrainConfig, log: Path, steps_after: int = 3) -> dict[str, Any]:
    """Kill a run `steps_after` steps after its newest checkpoint, resume it, and say what that cost.

    RuntimeError where the run ended before it could be killed, or did not end in good order when it was resumed.
    """

    def is_time(step: int) -> bool:
        saved = resumes_from(config.directory)
        return saved > 0 and step >= saved + steps_after

    killed = run_verb(config, log, kill=is_time)
    if killed.code >= 0:
        raise RuntimeError(f"the run was to be killed but ended by itself with exit code {killed.code}: {killed.said}")
    wait_until_quiet(config.directory)
    before = {row["step"]: row["loss"] for row in read_metrics(config.directory) if "loss" in row}
    resumed_from = resumes_from(config.directory)
    resumed = run_verb(config, log.with_name(f"{log.stem}-resumed{log.suffix}"))
    if resumed.code != 0:
        raise RuntimeError(f"the run that was resumed ended with exit code {resumed.code}: {resumed.said}")
    after = {row["step"]: row["loss"] for row in resumed.rows}
    repeated = sorted(before.keys() & after.keys())
    return {
        "killed_after_step": max(before),
        "resumed_from_step": resumed_from,
        "first_step_of_resumed": min(after),
        "steps_repeated": len(repeated),
        "largest_loss_difference": max((abs(before[step] - after[step]) for step in repeated), default=None),
        "to_first_step_of_resumed_s": round(resumed.start_seconds, 2),
        **{name: value for name, value in resumed.figures().items() if name in ("end_s", "last_loss", "last_step")},
    }


def wait_until_quiet(run_directory: Path) -> None:
    """Wait until nobody logs into the run any more: workers on a Ray that others started end after their driver."""
    rows, since = -1, time.monotonic()
    while time.monotonic() - since < QUIET_SECONDS:
        found = len(read_metrics(run_directory))
        if found != rows:
            rows, since = found, time.monotonic()
        time.sleep(POLL_SECONDS)


def with_training(config: PretrainConfig, name: str, **training: Any) -> PretrainConfig:
    """The run under another name, with other values of its section `training`; they are checked as a user's are."""
    values = config.model_dump(mode="json") | {"name": name}
    values["training"] |= training
    return PretrainConfig.model_validate(values)
