"""Parts of a long check: each a process with a time limit. One that fails or hangs is reported, and the others go on.

A part notes what it finds as often as it likes; what it noted before it failed or ran out of time is kept. What it
prints goes into a log beside its notes.
"""

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from proteinlm.platform.storage.atomic import write_atomically
from tests.made.measuring import ROOT

NOTES = "PROTEINLM_PART_NOTES"
"""Environment variable of a part: the JSON file for what it finds."""

SHORTEST = 5.0
"""Seconds: with less time than this left, a part is not begun."""
TAIL_LINES = 15
"""Last lines of a failed part's log that are printed."""


@dataclass(frozen=True)
class Part:
    """One part."""

    name: str
    command: tuple[str, ...]
    limit: float
    """Seconds after which it is ended, with all that it started."""


@dataclass(frozen=True)
class PartOutcome:
    """What became of it."""

    status: Literal["ok", "failed", "out of time", "not begun"]
    seconds: float = 0.0
    why: str | None = None
    """Of one that is not ok: the last line that it printed, or what ended it."""
    notes: Mapping[str, Any] = field(default_factory=dict)


def note(**found: Any) -> None:
    """Add to what this part found; outside a part, nothing."""
    path = os.environ.get(NOTES)
    if path:
        write_atomically(Path(path), json.dumps(read_notes(Path(path)) | found).encode())


def read_notes(path: Path) -> dict[str, Any]:
    """What a part noted in this file; nothing where it is not there."""
    if not path.is_file():
        return {}
    notes: dict[str, Any] = json.loads(path.read_text())
    return notes


class Parts:
    """Runs parts until the time for all of them is over."""

    def __init__(self, folder: Path, seconds: float, environment: Mapping[str, str]) -> None:
        """`folder` takes logs and notes; `environment` is the parts' own."""
        self._folder, self._environment = folder, dict(environment)
        self._end = time.monotonic() + seconds
        self.outcomes: dict[str, PartOutcome] = {}
        """Name -> what became of the part, in the order in which they ended."""

    def run_side_by_side(self, chains: Sequence[Sequence[Part]]) -> None:
        """Run the parts of each chain one after the other, beside those of the other chains."""
        with ThreadPoolExecutor(max(1, len(chains))) as pool:
            for done in [pool.submit(self.run, chain) for chain in chains]:
                done.result()

    def run(self, parts: Sequence[Part]) -> None:
        """Run them one after the other and say what became of each."""
        for part in parts:
            left = self._end - time.monotonic()
            outcome = PartOutcome("not begun", why="the time for all parts was over")
            if left >= SHORTEST:
                outcome = self._run(part, min(part.limit, left))
            self.outcomes[part.name] = outcome
            said = "" if outcome.why is None else f": {outcome.why}"
            print(f"{part.name}: {outcome.status}, {outcome.seconds:.1f} s{said}", flush=True)

    def _run(self, part: Part, limit: float) -> PartOutcome:
        log, notes = self._folder / f"{part.name}.log", self._folder / f"{part.name}.json"
        start = time.monotonic()
        # A file and no pipe: what a part leaves behind could hold a pipe open for ever.
        with log.open("wb") as output:
            process = subprocess.Popen(
                part.command,
                cwd=ROOT,
                env=self._environment | {NOTES: str(notes)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                code: int | None = process.wait(timeout=limit)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                end_family(process)
        seconds = time.monotonic() - start
        if code is None:
            return PartOutcome("out of time", seconds, f"ended after {limit:.0f} s", read_notes(notes))
        if code == 0:
            return PartOutcome("ok", seconds, None, read_notes(notes))
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        print("\n".join(lines[-TAIL_LINES:]), flush=True)
        return PartOutcome("failed", seconds, lines[-1].strip() if lines else f"exit code {code}", read_notes(notes))


def end_family(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process of ours that still runs, and all that it started."""
    family = []
    if process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    for child in family:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait()
    psutil.wait_procs(family, timeout=SHORTEST)
