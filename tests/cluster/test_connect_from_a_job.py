"""A job from a fresh clone: token authentication on, only the working directory travels, logs are followed."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.made.small_corpus import write_small_corpus

RAY = [sys.executable, "-m", "ray.scripts.scripts"]


@dataclass(frozen=True)
class Head:
    """A Ray head started by hand, and what a laptop needs to reach it."""

    address: str
    environment: dict[str, str]


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    port, dashboard, agent = free_port(), free_port(), free_port()
    unset = {"RAY_ADDRESS", "RAY_AUTH_MODE", "PYTHONPATH"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a-token-of-the-test" * 3, "DS_ACCELERATOR": "cpu"}
    environment["PATH"] = (
        f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"  # the cluster's own `python`
    )
    with tempfile.TemporaryDirectory(prefix="plm-", ignore_cleanup_errors=True) as temp_dir:
        command = [*RAY, "start", "--head", "--block", "--num-cpus=2", f"--port={port}", f"--temp-dir={temp_dir}"]
        command += [f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", "--include-dashboard=true"]
        # The default one is taken where the session's own Ray is already up.
        command += [f"--dashboard-agent-listen-port={agent}"]
        with (tmp_path / "head.log").open("wb") as log:
            # A group of its own, so that all its processes, and no others, can be ended here.
            started = subprocess.Popen(
                command, env=environment, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            yield Head(f"http://127.0.0.1:{dashboard}", environment)
        finally:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()


def fresh_clone(folder: Path) -> Path:
    """The tracked files alone, as a clone has them."""
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, files.split("\0")):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target, follow_symlinks=False)
    return folder


NOT_YET = "No available agent to submit job, please try again later"
"""What a head says whose dashboard is up and whose agent, on busy cores, is not."""


def submit(head: Head, clone: Path, *arguments: str, token: bool = True) -> subprocess.CompletedProcess[str]:
    environment = dict(head.environment)
    if not token:
        environment["RAY_AUTH_TOKEN"] = "another-token-altogether" * 2
    command = [
        *RAY,
        "job",
        "submit",
        "--address",
        head.address,
        "--working-dir",
        ".",
        "--",
        "python",
        "-m",
        "proteinlm",
    ]
    for _ in range(60):
        done = subprocess.run(
            [*command, *arguments], cwd=clone, env=environment, capture_output=True, text=True, timeout=300
        )
        if NOT_YET not in done.stderr:
            break
        time.sleep(1)
    return done


def wait_for(head: Head) -> None:
    port = int(head.address.rsplit(":", 1)[1])
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise TimeoutError("the head's dashboard did not come up")


def test_a_job_runs_from_its_working_directory(head: Head, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    write_small_corpus(tmp_path / "corpus")
    clone = fresh_clone(tmp_path / "clone")
    settings = {
        "name": "job",
        "corpus": str(tmp_path / "corpus"),
        "storage": str(tmp_path / "runs"),
        "model": {"preset": "cpu-tiny"},
        "batches": {"micro_batch_residues": 1000, "max_length": 100},
        "training": {"steps": 4, "engine": "plain", "precision": "fp32"},
    }
    (clone / "job.yaml").write_text(yaml.safe_dump(settings))
    (clone / "runs").mkdir()
    (clone / "runs" / "large").write_bytes(b"0" * 1000)
    wait_for(head)

    refused = submit(head, clone, "pretrain", "job.yaml", token=False)
    assert refused.returncode != 0
    assert not (tmp_path / "runs").exists()

    done = submit(head, clone, "pretrain", "job.yaml")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "masked_language_modeling" in done.stdout, "the job's logs are followed to its table"
    assert (tmp_path / "runs" / "job" / "finished.json").is_file()

    wrong = submit(head, clone, "pretrain", "job.yaml", "training.stepz=3", "name=other")
    assert wrong.returncode == 1, "a failed job is a failed command"
    assert "training.stepz" in wrong.stdout + wrong.stderr
