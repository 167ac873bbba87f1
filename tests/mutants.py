"""Put each of the known mutants into a copy of the source and see whether the tests notice.

    python -m tests.mutants                        all of them, some ten minutes on two cores
    python -m tests.mutants --only 8 24 42         these
    python -m tests.mutants --list                 what there is

Outside of the suite, which holds only that every mutant still has its place (tests/architecture/test_mutants.py).
Exit code 1 where fewer than 95 % are caught, 2 where a mutant or its tests cannot be run.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from shutil import copy2

from tests.made.mutations import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parent.parent
LEAST_CAUGHT = 0.95
AT_ONCE = 2
LONGEST = 300.0
"""Seconds of one mutant's tests. One that makes them hang is caught."""
CAUGHT, SURVIVED = "caught", "survived"
_OUTCOMES = {0: SURVIVED, 1: CAUGHT}
"""By pytest's exit code; others say that no test could be run."""


@dataclass(frozen=True)
class Result:
    """What became of one mutant."""

    mutant: Mutant
    outcome: str
    """CAUGHT, SURVIVED, or what kept its tests from running."""
    seconds: float


def mutated(source: str, mutant: Mutant) -> str:
    """`source` with the mutant in it; ValueError unless its old text stands there exactly once."""
    if (count := source.count(mutant.old)) != 1:
        raise ValueError(f"mutant {mutant.number} is stale: {mutant.file} has its old text {count} times, not once")
    return source.replace(mutant.old, mutant.new)


def copy_source(target: Path) -> None:
    """Copy the checkout's tracked files, and new ones that are not ignored; symbolic links stay links."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        source, copied = ROOT / name, target / name
        if source.is_symlink() or source.is_file():
            copied.parent.mkdir(parents=True, exist_ok=True)
            copy2(source, copied, follow_symlinks=False)


def outcome_of(tests: Sequence[str], folder: Path) -> str:
    """The outcome of `tests` in the source at `folder`."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    settings = {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=os.environ | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LONGEST,
        )
    except subprocess.TimeoutExpired:
        return CAUGHT
    return _OUTCOMES.get(done.returncode) or f"error: {done.stdout.strip().splitlines()[-1:]}"


def run(mutant: Mutant) -> Result:
    """Test one mutant in a copy of its own."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        folder = Path(name)
        copy_source(folder)
        try:
            file = folder / mutant.file
            file.write_text(mutated(file.read_text(), mutant))
            outcome = outcome_of(mutant.tests, folder)
        except ValueError as error:
            outcome = f"error: {error}"
    return Result(mutant, outcome, time.monotonic() - start)


def on_unchanged_source(mutants: Sequence[Mutant]) -> str:
    """The outcome of all their tests in an unchanged copy: unless it is SURVIVED, no failure of theirs says anything.

    What `-k` leaves out is run too.
    """
    tests = dict.fromkeys(test for mutant in mutants for test in mutant.tests if test.startswith("tests/"))
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        copy_source(Path(name))
        return outcome_of(list(tests), Path(name))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the mutants asked for, print a line for each and the total; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="numbers of mutants")
    parser.add_argument("--list", action="store_true", help="say what there is and run nothing")
    asked = parser.parse_args(arguments)
    chosen = [mutant for mutant in MUTANTS if not asked.only or mutant.number in asked.only]
    if asked.list:
        print("\n".join(f"{mutant.number:3d}  {mutant.file}: {mutant.what}" for mutant in chosen))
        return 0
    start, results = time.monotonic(), []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        unchanged = pool.submit(on_unchanged_source, chosen)
        for result in pool.map(run, chosen):
            results.append(result)
            mutant = result.mutant
            print(f"{mutant.number:3d}  {result.outcome:8s}  {result.seconds:4.0f} s  {mutant.what}", flush=True)
    if unchanged.result() != SURVIVED:
        print(f"the same tests do not pass on the unchanged source ({unchanged.result()}): what is caught is not known")
        return 2
    return summary(results, time.monotonic() - start)


def summary(results: Sequence[Result], seconds: float) -> int:
    """Print the share that was caught and all others; returns the exit code."""
    caught = [result for result in results if result.outcome == CAUGHT]
    share = len(caught) / max(1, len(results))
    print(f"{len(caught)} of {len(results)} caught ({share:.1%}) in {seconds / 60:.1f} minutes")
    for result in results:
        if result.outcome != CAUGHT:
            print(f"  {result.mutant.number} {result.mutant.file}: {result.outcome}")
    if any(result.outcome not in (CAUGHT, SURVIVED) for result in results):
        return 2
    return 0 if share >= LEAST_CAUGHT else 1


if __name__ == "__main__":
    sys.exit(main())
