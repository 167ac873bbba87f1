"""kill -9 of a sweep's driver, of a trial's process or of a cluster's head: the same command goes on to the table of a
sweep left alone.
"""

import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from proteinlm.platform.results.rows import ResultRow, gather_rows
from proteinlm.platform.settings.loading import validate
from proteinlm.sweeps.planning.config import SweepConfig
from proteinlm.sweeps.planning.plan import plan_sweep
from proteinlm.sweeps.sweep import sweep
from tests.conftest import ROOT
from tests.made.small_sweep import small_sweep, write_sweep
from tests.made.terminal import environment_without_cluster

KILLS = int(os.environ.get("PROTEINLM_KILLS", "2"))
"""Drivers killed in one sweep; a thorough check takes 5."""
SEEDS = list(range(KILLS))
"""Each gives two more trials, so that there is something left to kill."""
LONGEST = 3.0
"""Seconds after the first new trial's start in which a driver is killed."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("survives")


@pytest.fixture(scope="module")
def whole(folder: Path, ray_cluster: None) -> list[tuple[object, ...]]:
    """The figures of the sweep when nothing is killed."""
    chosen = validate(SweepConfig, small_sweep(folder, "whole", seeds=SEEDS), "test")
    assert sweep(plan_sweep(chosen)) == []
    return figures(chosen.directory)


def figures(directory: Path) -> list[tuple[object, ...]]:
    """All that a table shows of the rows, and all digits of it."""

    def figure(row: ResultRow) -> tuple[object, ...]:
        return (*row.key, row.value, row.low, row.high, row.steps, row.residues, row.data_hash, row.definition)

    return sorted((figure(row) for row in gather_rows([directory])), key=str)


def starts_after_finish(directory: Path) -> int:
    """Attempts of finished trials that began after they had finished."""
    count = 0
    for run in directory.iterdir():
        if (run / "finished.json").is_file():
            finished = (run / "finished.json").stat().st_mtime
            lines = [json.loads(line) for line in (run / "attempts.jsonl").read_text().splitlines()]
            count += sum(line["event"] == "start" and line["time"] > finished for line in lines)
    return count


def test_a_killed_driver_costs_nothing_but_time(folder: Path, whole: list[tuple[object, ...]]) -> None:
    values = small_sweep(folder, "driver-killed", seeds=SEEDS)
    command = [sys.executable, "-m", "proteinlm", "sweep", str(write_sweep(folder, values))]
    environment = environment_without_cluster()
    directory = folder / "runs" / "driver-killed"
    generator = random.Random(KILLS)
    for _ in range(KILLS):
        driver = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for_a_trial(directory, driver)
        time.sleep(generator.uniform(0, LONGEST))
        assert driver.poll() is None, "the sweep ended before it was killed"
        driver.kill()
        driver.wait()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list(directory.glob("*/finished.json"))) == 3 + 2 * len(SEEDS)
    assert figures(directory) == whole
    assert starts_after_finish(directory) == 0


def test_a_killed_head_costs_nothing_but_time(folder: Path, whole: list[tuple[object, ...]]) -> None:
    values = small_sweep(folder, "head-killed", seeds=SEEDS)
    ports = free_ports()
    command = [sys.executable, "-m", "proteinlm", "sweep", str(write_sweep(folder, values))]
    command += [f"address=127.0.0.1:{ports['port']}"]
    environment = {**os.environ, "RAY_gcs_rpc_server_reconnect_timeout_s": "5"}  # a minute by default
    directory = folder / "runs" / "head-killed"
    with ray_head(ports):
        driver = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        wait_for_a_trial(directory, driver)
    _, said = driver.communicate(timeout=60)
    assert driver.returncode != 0
    assert "Failed to connect to GCS" in said
    assert len(list(directory.glob("*/finished.json"))) < 3 + 2 * len(SEEDS), "the sweep ended before its head"
    with ray_head(ports):
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert figures(directory) == whole
    assert starts_after_finish(directory) == 0


def free_ports() -> dict[str, int]:
    """A port for each thing of a head that listens, so that it meets no other Ray of this machine."""
    listening = ("port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port")
    listening += ("metrics-export-port", "ray-client-server-port", "runtime-env-agent-port")
    listening += ("node-manager-port", "object-manager-port")
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in listening]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return {name: each.getsockname()[1] for name, each in zip(listening, sockets, strict=True)}


@contextmanager
def ray_head(ports: dict[str, int]) -> Iterator[None]:
    """A cluster of this one node while the body runs; at its end all its processes are killed."""
    with tempfile.TemporaryDirectory(prefix="plm-", ignore_cleanup_errors=True) as temp_dir:
        options = {**ports, "temp-dir": temp_dir, "num-cpus": 4, "object-store-memory": 100_000_000}
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
        command += [f"--{name}={value}" for name, value in options.items()]
        head = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for_port(ports["port"])
            yield
        finally:
            for process in (head, *head.children(recursive=True)):
                process.kill()
            head.wait()


def wait_for_port(port: int) -> None:
    """Until somebody answers there; TimeoutError after a minute."""
    end = time.monotonic() + 60
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if time.monotonic() > end:
            raise TimeoutError(f"no head answered at port {port}")
        time.sleep(0.1)


def wait_for_a_trial(directory: Path, driver: subprocess.Popen[bytes]) -> None:
    """Until a trial has begun that was not there before, or the driver is at its end."""
    before = attempts(directory)
    while attempts(directory) == before and driver.poll() is None:
        time.sleep(0.05)


def attempts(directory: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in directory.glob("*/attempts.jsonl"))


def test_a_killed_trial_goes_on_in_the_same_sweep(folder: Path, whole: list[tuple[object, ...]]) -> None:
    chosen = validate(SweepConfig, small_sweep(folder, "trial-killed", seeds=SEEDS), "test")
    killed: list[int] = []

    def kill() -> None:
        while not killed:
            for run in chosen.directory.glob("*/metrics.jsonl"):
                holders = [p for p in psutil.Process().children(recursive=True) if _holds(p, run.parent / "lock")]
                if holders and not (run.parent / "finished.json").exists():
                    holders[0].kill()
                    killed.append(holders[0].pid)
                    return
            time.sleep(0.02)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    assert sweep(plan_sweep(chosen)) == []
    killer.join(timeout=1)
    assert len(killed) == 1
    assert figures(chosen.directory) == whole
    assert starts_after_finish(chosen.directory) == 0


def _holds(process: psutil.Process, lock: Path) -> bool:
    try:
        return bool(json.loads(lock.read_text())["process"] == process.pid)
    except (OSError, ValueError):  # given back just now
        return False
