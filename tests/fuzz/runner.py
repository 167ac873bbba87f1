"""Seeded fuzzing: honest inputs are damaged and read in a child process, under limits of time and memory.

A target is a reader and honest inputs for it:

    def read(path: Path) -> None: ...            # reads the file `path` as the product does
    TARGETS = [Target("fasta", read, {"a.fasta": b">x ..."})]

    if __name__ == "__main__":
        sys.exit(main(TARGETS))                  # python -m tests.fuzz.NAME --seconds 300 [--seed 0] [--keep FOLDER]

Each try draws an honest input, damages it, and reads it. Accepted is that it is read, or refused by a ValueError or
OSError whose message has the file's name and is short and printable. All else is a finding: another exception, a
message that names nothing, a crash, more time or memory than the limits. What was drawn depends on the seed and the
number of the try alone, so a finding can be made again; `--keep` stores its input.
"""

import argparse
import multiprocessing
import os
import random
import resource
import shutil
import signal
import string
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.fuzz.damage import damaged

SECONDS_FOR_ONE = 30.0
"""A try that takes longer hangs. A busy machine may stall for seconds: what a try computes has a limit of its own."""
COMPUTED_FOR_ONE = 3.0
"""Seconds of the processor that a try may take; the first one of a child loads libraries."""
MEMORY_FOR_ONE = 1 << 30
"""Bytes that a child may take beyond what it had at its start."""
LONGEST_MESSAGE = 4000
TRIES_OF_A_CHILD = 500
"""Then a new one starts, so that what one try leaves behind does not help or hurt many others."""


@dataclass(frozen=True)
class Target:
    """What is fuzzed."""

    name: str
    read: Callable[[Path], object]
    """Reads a file as the product does."""
    honest: Mapping[str, bytes]
    """File name -> honest content: what is damaged."""
    words: tuple[bytes, ...] = ()
    """Pieces of this format that damage also inserts."""
    must_name: bool = True
    """Whether a refusal must have the file's name in it."""
    damage: Callable[[bytes, random.Random], bytes] | None = None
    """Takes the place of `damaged`, where given."""
    beside: Mapping[str, bytes] = field(default_factory=dict)
    """Other files of the directory, by path below it: they are there whole. The name of a file may be a path too."""


@dataclass
class Findings:
    """What came of the tries of a target."""

    tries: int = 0
    accepted: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    """By the kind of error."""
    found: list[str] = field(default_factory=list)
    """What should not have happened, each with its seed and try."""

    def __str__(self) -> str:
        refused = sum(self.refusals.values())
        return f"{self.tries:,} tries: {self.accepted:,} read, {refused:,} refused, {len(self.found)} findings"


JSON_WORDS = (
    *(
        b"null",
        b"true",
        b"[]",
        b"{}",
        b'""',
        b"-1",
        b"0",
        b"1e308",
        b"Infinity",
        b"9" * 5000,
        b"[" * 5000,
        b'{"a":' * 50,
    ),
    *(
        b'"step": ',
        b'"time": ',
        b'{"event": "start"}\n',
        b"{}\n",
        b'"\\u001b]0;x\\u0007": 1, ',
        b"\n",
        b"[1, 2]",
        b"1.5",
    ),
)


def files_of(folder: Path) -> dict[str, bytes]:
    """All files below `folder`, by their path in it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def directory_target(
    name: str, read: Callable[[Path], object], folder: Path, damaged: tuple[str, ...], **more: Any
) -> Target:
    """A target that damages one of the files `damaged` of a directory and calls `read` with the directory."""
    files = files_of(folder)

    def read_directory(path: Path) -> None:
        (depth,) = (Path(one).parts for one in damaged if path.match(one))
        read(path.parents[len(depth) - 1])

    honest = {one: files[one] for one in damaged}
    return Target(name, read_directory, honest, more.pop("words", JSON_WORDS), beside=files, **more)


def fuzz(target: Target, seconds: float, seed: int = 0, keep: Path | None = None, most: int | None = None) -> Findings:
    """Try for `seconds`, or until `most` tries are made; findings stay in `keep`, where one is given."""
    findings, end = Findings(), time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        while time.monotonic() < end and (most is None or findings.tries < most):
            last = findings.tries + TRIES_OF_A_CHILD if most is None else min(most, findings.tries + TRIES_OF_A_CHILD)
            _run_child(target, seed, findings, Path(folder), end, last)
            if keep and findings.found:
                keep.mkdir(parents=True, exist_ok=True)
                for path in Path(folder).glob("finding-*"):
                    path.replace(keep / path.name)
    return findings


def _run_child(target: Target, seed: int, findings: Findings, folder: Path, end: float, last: int) -> None:
    """Tries before number `last` in one child; a try that hangs or crashes ends the child and is a finding."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    numbers = range(findings.tries, last)
    child = context.Process(target=_child, args=(target, seed, numbers, folder, theirs, end), daemon=True)
    child.start()
    theirs.close()
    try:
        while ours.poll(SECONDS_FOR_ONE + 1):
            message = ours.recv()
            if message is None:
                break
            _count(findings, *message)
        else:
            child.kill()
            _count(findings, findings.tries, "hang", f"more than {SECONDS_FOR_ONE:g} seconds")
    except EOFError:
        child.join()
        name = signal.Signals(-child.exitcode).name if (child.exitcode or 0) < 0 else f"exit code {child.exitcode}"
        _count(findings, findings.tries, "crash", name)
    finally:
        if child.is_alive():
            child.kill()
        child.join()
    if findings.found and findings.found[-1].startswith(f"try {findings.tries - 1} "):
        for path in folder.glob("now/**/*"):
            if path.name in {Path(name).name for name in target.honest}:
                path.replace(folder / f"finding-{target.name}-{seed}-{findings.tries - 1}-{path.name}")


def _count(findings: Findings, number: int, outcome: str, text: str) -> None:
    findings.tries = number + 1
    if outcome == "read":
        findings.accepted += 1
    elif outcome == "refused":
        findings.refusals[text] += 1
    else:
        findings.found.append(f"try {number} {outcome}: {text}")


def _child(target: Target, seed: int, numbers: range, folder: Path, pipe: Connection, end: float) -> None:
    """The tries of these numbers, until the first finding or the end of the time."""
    _limit_memory()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what libraries say
    for number in numbers:
        if time.monotonic() > end:
            break
        generator = random.Random(f"{target.name} {seed} {number}")
        name = generator.choice(sorted(target.honest))
        shutil.rmtree(folder / "now", ignore_errors=True)
        path = folder / "now" / name
        honest = target.honest[name]
        broken = target.damage(honest, generator) if target.damage else damaged(honest, generator, target.words)
        for other, content in {**target.beside, name: broken}.items():
            (folder / "now" / other).parent.mkdir(parents=True, exist_ok=True)
            (folder / "now" / other).write_bytes(content)
        outcome, text = attempt(target, path)
        pipe.send((number, outcome, text))
        if outcome not in ("read", "refused"):
            break
    pipe.send(None)


def _limit_memory() -> None:
    pa.allocate_buffer(1 << 20)  # Arrow reserves a gigabyte of addresses at once, which is no memory yet
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY_FOR_ONE
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def attempt(target: Target, path: Path) -> tuple[str, str]:
    """What came of reading `path`: "read", "refused" with the error's kind, or what is wrong with a description."""
    begin, computed = time.monotonic(), time.process_time()
    try:
        target.read(path)
        outcome, text = "read", ""
    except (ValueError, OSError) as error:
        wrong = wrong_message(str(error), path, target.must_name)
        outcome, text = ("message", f"{wrong}: {str(error)[:300]!r}") if wrong else ("refused", type(error).__name__)
    except MemoryError:
        outcome, text = "memory", f"more than {MEMORY_FOR_ONE:,} bytes"
    except Exception:
        outcome, text = "traceback", traceback.format_exc()[-1500:]
    took = time.monotonic() - begin
    computed = time.process_time() - computed
    if took > SECONDS_FOR_ONE or computed > COMPUTED_FOR_ONE:
        outcome, text = "hang", f"{took:.1f} seconds, {computed:.1f} of the processor ({outcome})"
    return outcome, text


def wrong_message(message: str, path: Path, must_name: bool) -> str | None:
    """What is wrong with a refusal's message, None where nothing is."""
    if must_name and path.name not in message:
        return "the file is not named"
    if len(message) > LONGEST_MESSAGE:
        return f"{len(message):,} characters"
    if strange := sorted(
        {letter for letter in message if not letter.isprintable() and letter not in string.whitespace}
    ):
        return f"it is not printable: {sorted(strange)[:5]!r}"
    return None


def main(targets: Sequence[Target]) -> int:
    """Fuzz each target that the command line names, or all, for `--seconds`; exit code 1 where there are findings."""
    parser = argparse.ArgumentParser()
    parser.add_argument("targets", nargs="*", help=", ".join(target.name for target in targets))
    parser.add_argument("--seconds", type=float, default=300, help="for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the inputs of findings")
    arguments = parser.parse_args()
    is_clean = True
    for target in targets:
        if arguments.targets and target.name not in arguments.targets:
            continue
        findings = fuzz(target, arguments.seconds, arguments.seed, arguments.keep)
        print(f"{target.name}: {findings}", flush=True)
        for text in findings.found:
            print(f"  {text}")
        is_clean = is_clean and not findings.found
    return 0 if is_clean else 1
