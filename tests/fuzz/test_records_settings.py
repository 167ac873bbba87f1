"""The short form of the fuzzing: a few seconds for each target, always of other inputs where a seed is given."""

import os
import subprocess
import sys
from pathlib import Path

from tests.fuzz.records_settings import ROOT, TARGETS, Target, outcome

SEED, SECONDS = os.environ.get("PROTEINLM_FUZZ_SEED", "7"), os.environ.get("PROTEINLM_FUZZ_SECONDS", "1")


def test_hostile_inputs_are_read_or_refused_by_name() -> None:
    """All targets in a process of their own, because an input may kill it."""
    command = [sys.executable, "-m", "tests.fuzz.records_settings", "--seconds", SECONDS, "--seed", SEED]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert all(name in done.stdout for name in TARGETS)


def test_what_is_wrong_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.json"

    def says(message: str) -> Target:
        def read(path: Path) -> None:
            raise ValueError(message)

        return Target(lambda draw, folder: folder, read)

    def hang(path: Path) -> None:
        while True:
            pass

    def break_down(path: Path) -> None:
        raise KeyError("x")

    assert outcome(says("a.json is damaged"), path) == "refused"
    assert outcome(says("damaged"), path).startswith("unnamed")
    assert outcome(says("a.json \x1b[31m"), path).startswith("not printable")
    assert outcome(says("a.json " + "x" * 9000), path) == "a message of 9007 characters"
    assert outcome(Target(lambda draw, folder: folder, hang), path) == "took too long"
    assert outcome(Target(lambda draw, folder: folder, break_down), path).startswith("crash: KeyError")
