"""The fuzzing that stays, in a short form; and that its runner finds what it is to find."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.fuzz import contents, models, records, runner, runs, sequences, settings
from tests.fuzz.damage import damaged
from tests.fuzz.runner import Target, attempt, fuzz

TARGETS = (*sequences.TARGETS, *records.TARGETS, *settings.TARGETS)

TRIES = 100
"""A number and not a time: on a busy machine they take longer and stay the same."""


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_damaged_files_are_read_or_refused_by_name(target: Target) -> None:
    findings = fuzz(target, 120.0, seed=1, most=TRIES)
    assert findings.found == []
    assert findings.refusals
    assert findings.accepted


@pytest.mark.parametrize("name", runs.NAMES)
def test_damaged_run_directories_are_read_or_refused_by_name(name: str) -> None:
    findings = fuzz(runs.make_targets()[name], 120.0, seed=1, most=TRIES)
    assert findings.found == []
    assert findings.refusals


@pytest.mark.parametrize("name", contents.NAMES)
def test_damaged_contents_come_out_as_they_were_or_are_refused_by_name(name: str) -> None:
    findings = fuzz(contents.make_targets()[name], 120.0, seed=1, most=TRIES)
    assert findings.found == []
    assert findings.refusals


@pytest.mark.parametrize("kind", models.KINDS)
def test_damaged_model_directories_are_read_or_refused_by_name(kind: str) -> None:
    pytest.importorskip("transformers")
    findings = fuzz(models.target(kind), 120.0, seed=1, most=TRIES)
    assert findings.found == []
    assert findings.refusals
    assert findings.accepted


def test_all_targets_are_listed() -> None:
    assert tuple(runs.make_targets()) == runs.NAMES
    assert tuple(contents.make_targets()) == contents.NAMES


def honest(path: Path) -> None:
    """Reads anything."""


def crash(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang(path: Path) -> None:
    time.sleep(60)


def eat(path: Path) -> None:
    bytearray(3 << 30)


def stumble(path: Path) -> None:
    raise KeyError("x")


def mumble(path: Path) -> None:
    raise ValueError("something is wrong")


def shout(path: Path) -> None:
    raise ValueError(f"{path} holds \x1b]0;title\x07")


@pytest.mark.parametrize(
    ("read", "kind"),
    [
        (crash, "crash: SIGKILL"),
        (hang, "hang: more than"),
        (eat, "memory: more than"),
        (stumble, "traceback: Traceback"),
        (mumble, "message: the file is not named"),
        (shout, "message: it is not printable"),
    ],
)
def test_what_must_not_happen_is_found_and_its_input_kept(
    read: object, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "SECONDS_FOR_ONE", 0.2)
    target = Target("bad", read, {"a.txt": b"honest"})  # type: ignore[arg-type]
    findings = fuzz(target, seconds=0.3, seed=3, keep=tmp_path / "kept")
    assert findings.found
    assert kind in findings.found[0]
    assert any(path.name.startswith("finding-bad-3-0-") for path in (tmp_path / "kept").iterdir())


def test_tries_are_drawn_by_seed_and_number_alone(tmp_path: Path) -> None:
    content = b"ACDEFGHIKL\n" * 20
    one, two = (damaged(content, random.Random("a"), (b"word",)) for _ in range(2))
    assert one == two
    assert len({damaged(content, random.Random(number)) for number in range(50)}) > 40
    path = tmp_path / "a.txt"
    assert attempt(Target("a", honest, {}), path) == ("read", "")
