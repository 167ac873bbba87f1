"""A signal to a running sweep: trials save a checkpoint and end, none is called failed; the same command goes on."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proteinlm.platform.storage.run_directory import is_finished
from proteinlm.platform.training.checkpoint import checkpoints_in
from proteinlm.platform.training.tracking import last_logged_step
from tests.conftest import ROOT
from tests.made.small_sweep import small_sweep, write_sweep
from tests.made.terminal import environment_without_cluster, signals_of_a_terminal

LONG = 100_000
"""Steps that no trial comes to the end of here."""
LONGEST = 300
"""Seconds within which a trial starts, and a sweep ends that was asked to."""


@contextmanager
def started(sweep: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "proteinlm", "sweep", str(sweep)]
    with signals_of_a_terminal():
        driver = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment_without_cluster(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        yield driver
    finally:
        driver.kill()
        driver.wait()


def wait_until_one_trains(directory: Path, driver: subprocess.Popen[str]) -> Path:
    """The run directory of a trial that has logged a step."""
    end = time.monotonic() + LONGEST
    while time.monotonic() < end:
        assert driver.poll() is None, driver.communicate()[0]
        for run in directory.glob("*/metrics.jsonl"):
            if last_logged_step(run.parent):
                return run.parent
        time.sleep(0.2)
    raise AssertionError(f"no trial started within {LONGEST} s")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 1)])
def test_a_signal_ends_a_sweep_in_good_order(tmp_path: Path, number: signal.Signals, code: int) -> None:
    values = small_sweep(tmp_path, "asked", pretrain={"training": {"steps": LONG, "checkpoint_every": LONG}})
    directory = tmp_path / "runs" / "asked"
    with started(write_sweep(tmp_path, values)) as driver:
        trial = wait_until_one_trains(directory, driver)
        driver.send_signal(number)
        said, _ = driver.communicate(timeout=LONGEST)
    assert driver.returncode == code, said
    finished = sum(is_finished(mark.parent) for mark in directory.glob("*/finished.json"))  # a baseline, on four cores
    assert f"{finished} of 5 trials are finished; the same command goes on with the others" in said
    assert "Traceback" not in said
    assert checkpoints_in(trial), "no checkpoint was saved"
    assert not list(directory.glob("*/failed.json")), "a trial that was asked to end is called failed"
    assert not (directory / "tune").exists()

    step = last_logged_step(trial)
    with started(write_sweep(tmp_path, values)) as driver:
        wait_until_one_trains(directory, driver)
        driver.send_signal(signal.SIGTERM)
        driver.communicate(timeout=LONGEST)
    assert step is not None
    assert (last_logged_step(trial) or 0) >= step, "it began anew"
