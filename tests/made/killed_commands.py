"""A verb as a user runs it, a process of its own with a Ray of its own, and what kills all of it at once."""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from tests.conftest import ROOT


def command(verb: str, file: Path) -> list[str]:
    return [sys.executable, "-m", "proteinlm", verb, str(file)]


def run_whole(verb: str, file: Path, environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        command(verb, file), cwd=ROOT, env=dict(environment), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def kill_once(verb: str, file: Path, environment: Mapping[str, str], is_time: Callable[[], bool]) -> None:
    """Start the verb, and kill it with its Ray and all workers once `is_time`."""
    driver = psutil.Popen(
        command(verb, file), cwd=ROOT, env=dict(environment), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not is_time():
            assert driver.poll() is None, "it ended before it was killed"
            time.sleep(0.1)
    finally:
        processes = [driver, *driver.children(recursive=True)]
        for process in processes:
            process.kill()
        psutil.wait_procs(processes)
