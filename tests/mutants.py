"""Put each of the known mutants into a copy of the source and see whether the tests notice.

    python -m tests.mutants                        all of them, some ten minutes on two cores
    python -m tests.mutants --only 8 24 42         these
    python -m tests.mutants --list                 what there is

Outside of the suite, which holds only that every mutant still has its place (tests/architecture/test_mutants.py).
Exit code 1 where fewer than 95 % are caught, 2 where a mutant or its tests cannot be run.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from shutil import copy2

from tests.made.mutations import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parent.parent
LEAST_CAUGHT = 0.95
AT_ONCE = 2
LONGEST = 300.0
"""Seconds that one mutant's tests may take; all tests on the unchanged source may take three times as long."""
LIBRARIES = (
    "pytest",
    "torch",
    "torch._dynamo",
    "numpy",
    "pyarrow.parquet",
    "pyarrow.compute",
    "pyarrow.fs",
    "pydantic",
)
"""Loaded once, and then there in the process of every mutant, which is forked: loading them takes seconds."""
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


class Job:
    """The tests of one mutant, or of the unchanged source, in a process and a copy of the source of their own."""

    def __init__(self, tests: Sequence[str], mutant: Mutant | None) -> None:
        self.mutant, self._tests, self._start = mutant, tests, time.monotonic()
        self._folder = tempfile.TemporaryDirectory(prefix="mutant-")
        self.process: BaseProcess = multiprocessing.get_context("fork").Process(target=self._test)
        copy_source(self._source)
        if mutant:
            file = self._source / mutant.file
            file.write_text(mutated(file.read_text(), mutant))
        self.process.start()

    @property
    def _source(self) -> Path:
        return Path(self._folder.name) / "source"

    @property
    def _said(self) -> Path:
        return Path(self._folder.name) / "said"

    def _test(self) -> None:
        """Become a pytest of the copy. What was imported of the checkout so far is forgotten."""
        with self._said.open("w") as said:
            for stream in (1, 2):
                os.dup2(said.fileno(), stream)
        os.chdir(self._source)
        os.environ |= {"PYTHONPATH": str(self._source), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        sys.path[:] = [str(self._source), *(path for path in sys.path if path and Path(path).resolve() != ROOT)]
        for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "proteinlm")]:
            del sys.modules[name]
        import pytest

        ignored = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        os._exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *ignored, *self._tests]))

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._start

    @property
    def is_over(self) -> bool:
        """Whether its process has ended, or has taken too long."""
        return not self.process.is_alive() or self.seconds > LONGEST * (1 if self.mutant else 3)

    def outcome(self) -> str:
        """CAUGHT, SURVIVED or what went wrong, when it `is_over`."""
        if self.process.is_alive():
            self.process.kill()
            outcome = f"error: no end after {self.seconds:.0f} s"
        else:
            code, said = self.process.exitcode or 0, self._said.read_text().strip()
            outcome = _OUTCOMES.get(code) or f"error {code}: {said[-300:]}"
            if outcome == CAUGHT and not self.mutant:
                outcome = f"error: {said[-2000:]}"
        self.process.join()
        self._folder.cleanup()
        return outcome


def outcomes(jobs: Sequence[tuple[Sequence[str], Mutant | None]]) -> Iterator[tuple[Mutant | None, str, float]]:
    """(mutant, outcome, seconds) of (tests, mutant) in the order in which they end, a few at a time."""
    waiting, running = list(jobs), list[Job]()
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            tests, mutant = waiting.pop(0)
            try:
                running.append(Job(tests, mutant))
            except ValueError as error:
                yield mutant, f"error: {error}", 0.0
        wait([job.process.sentinel for job in running], timeout=1.0)
        for job in [job for job in running if job.is_over]:
            running.remove(job)
            yield job.mutant, job.outcome(), job.seconds


def all_tests(mutants: Sequence[Mutant]) -> list[str]:
    """The tests of all these mutants. What `-k` leaves out is among them."""
    return list(dict.fromkeys(test for mutant in mutants for test in mutant.tests if test.startswith("tests/")))


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
    for name in LIBRARIES:
        import_module(name)
    start, results, unchanged = time.monotonic(), [], SURVIVED
    jobs = [(all_tests(chosen), None), *((mutant.tests, mutant) for mutant in chosen)]
    for mutant, outcome, seconds in outcomes(jobs):
        if mutant is None:
            unchanged = outcome
            print(f"     the same tests on the unchanged source: {'passed' if outcome == SURVIVED else outcome}")
            continue
        results.append(Result(mutant, outcome, seconds))
        print(f"{mutant.number:3d}  {outcome:8s}  {seconds:4.0f} s  {mutant.what}", flush=True)
    code = summary(results, time.monotonic() - start)
    return code if unchanged == SURVIVED else 2  # a test that fails anyway catches nothing


def summary(results: Sequence[Result], seconds: float) -> int:
    """Print the share that was caught and all others; returns the exit code."""
    caught = [result for result in results if result.outcome == CAUGHT]
    share = len(caught) / max(1, len(results))
    used = os.times()
    computed = (used.user + used.system + used.children_user + used.children_system) / 60
    minutes = f"{seconds / 60:.1f} minutes ({computed:.1f} of a processor)"
    print(f"{len(caught)} of {len(results)} caught ({share:.1%}) in {minutes}")
    for result in results:
        if result.outcome != CAUGHT:
            print(f"  {result.mutant.number} {result.mutant.file}: {result.outcome}")
    if any(result.outcome not in (CAUGHT, SURVIVED) for result in results):
        return 2
    return 0 if share >= LEAST_CAUGHT else 1


if __name__ == "__main__":
    sys.exit(main())
