"""Phases of a command: what is noted, what crosses from a worker to the driver, and what is printed."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from proteinlm.platform.storage.phases import (
    PHASES_FILE,
    VARIABLE,
    begin,
    entered,
    first_steps,
    note,
    phase,
    process_start,
    read_phases,
    tell_phases,
    write_phases,
)
from tests.conftest import ROOT


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a run whose phases are asked for; what other tests noted in this process is forgotten."""
    monkeypatch.setenv(VARIABLE, "1")
    write_phases(tmp_path, "driver")
    begin(tmp_path)
    return tmp_path


def names(run: Path) -> list[str]:
    write_phases(run, "driver")
    return [f"{one.where}: {one.name}" for one in read_phases(run)]


def test_phases_of_a_worker_on_another_machine_come_to_the_driver_as_values(run: Path) -> None:
    with phase("launch"):
        code = f"""
from pathlib import Path
from proteinlm.platform.storage.phases import phase, write_phases
with phase("training"):
    pass
write_phases(Path({str(run)!r}), "worker")
"""
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={"PATH": ""}, check=True)
    write_phases(run, "driver")
    launch, training = read_phases(run)
    assert (launch.where, launch.name, training.where, training.name) == ("driver", "launch", "worker", "training")
    assert launch.start <= training.start <= training.start + training.seconds <= launch.start + launch.seconds


def test_a_launch_begins_with_no_phases_and_writes_none_unasked(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note("earlier", time.time())
    assert names(run) == ["driver: earlier"]
    begin(run)
    assert names(run) == []
    monkeypatch.delenv(VARIABLE)
    begin(run)
    note("unasked", time.time())
    assert names(run) == []
    assert not (run / PHASES_FILE).exists()
    monkeypatch.setenv(VARIABLE, "1")
    begin(run)
    assert names(run) == [], "what was not asked for is not kept for later"


def test_entering_and_leaving_are_phases_of_their_own_in_good_order(run: Path) -> None:
    order: list[str] = []

    @contextmanager
    def manager() -> Iterator[int]:
        order.append("enter")
        yield 7
        with phase("the manager's own"):
            order.append("leave")

    with entered(manager(), "start", "end") as value, phase("body"):
        assert value == 7
        order.append("body")
    assert order == ["enter", "body", "leave"]
    assert names(run) == ["driver: start", "driver: body", "driver: end", "driver: the manager's own"]
    start, body, end, own = read_phases(run)
    assert start.start + start.seconds <= body.start
    assert body.start + body.seconds <= end.start <= own.start
    assert own.start + own.seconds <= end.start + end.seconds


def test_the_end_of_what_failed_is_noted_too(run: Path) -> None:
    with pytest.raises(ValueError, match="wrong"), entered(phase("inside"), "start", "end"), phase("body"):
        raise ValueError("wrong")
    assert set(names(run)) == {"driver: start", "driver: body", "driver: inside", "driver: end"}


def test_the_first_step_ends_where_the_second_is_asked_for(run: Path) -> None:
    seen = []
    for step in first_steps(iter([1, 2, 3])):
        with phase(f"step {step}"):
            seen.append(step)
    assert seen == [1, 2, 3]
    assert names(run) == [f"driver: {name}" for name in ("first batch", "first step", "step 1", "step 2", "step 3")]
    _, first, one, two, _ = read_phases(run)
    assert one.start + one.seconds <= first.start + first.seconds <= two.start
    assert list(first_steps([])) == []


def test_all_is_printed_once_in_the_order_of_time(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(width=100)
    with phase("outer"), phase("inner"):
        pass
    note("long ago, of an earlier command", 0.0)
    note("the process", process_start())
    tell_phases(run, console)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("driver: ")[2] for line in lines] == ["the process", "outer", "inner"]
    assert lines[0].split()[0] == "0.00"
    assert all(float(line.split()[2]) >= 0 for line in lines)


def test_nothing_is_printed_unasked(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    note("asked", time.time())
    monkeypatch.delenv(VARIABLE)
    tell_phases(run, Console())
    assert capsys.readouterr().out == ""


def test_the_start_of_the_process_is_that_of_the_system(run: Path) -> None:
    code = (
        "import time; t = time.time(); from proteinlm.platform.storage.phases import process_start as p; print(t - p())"
    )
    before = time.time()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 0 <= float(done.stdout) <= time.time() - before + 0.02
