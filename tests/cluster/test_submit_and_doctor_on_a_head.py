"""Jobs on a real head with a token, sent from a fresh clone: by `ray job submit` alone and by `proteinlm submit`."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.made.ray_head import RAY, Head, fresh_clone, started_head, wait_until
from tests.made.small_corpus import write_small_corpus
from tests.made.small_sweep import TRIALS, small_sweep, write_sweep

SECONDS = 240


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with started_head() as head:
        yield head


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone with data and runs in it, of names that no ignore file knows."""
    clone = fresh_clone(tmp_path_factory.mktemp("laptop") / "clone")
    for name in ("runs", "my results", "pfam"):
        (clone / name).mkdir()
        (clone / name / "large.bin").write_bytes(os.urandom(3_000_000))
    return clone


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every node sees: a corpus."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "corpus").mkdir()
    write_small_corpus(folder / "corpus")
    return folder


def write_config(path: Path, shared: Path, name: str, steps: int) -> Path:
    settings = {
        "name": name,
        "corpus": str(shared / "corpus"),
        "storage": str(shared / "runs"),
        "model": {"preset": "cpu-tiny"},
        "batches": {"micro_batch_residues": 1000, "max_length": 100},
        "training": {"steps": steps, "engine": "plain", "precision": "fp32", "validate_every": steps},
    }
    path.write_text(yaml.safe_dump(settings))
    return path


def command(head: Head, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "proteinlm", "submit", "--address", head.address, *arguments]


def proteinlm_submit(
    head: Head, clone: Path, *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(head, *arguments),
        cwd=clone,
        env=environment or head.environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def test_plain_ray_job_submit_runs_a_pretraining_from_a_fresh_clone(
    head: Head, clone: Path, shared: Path, tmp_path: Path
) -> None:
    submit = [*RAY, "job", "submit", "--address", head.address, "--working-dir", ".", "--"]
    verb = ["python", "-m", "proteinlm", "pretrain", "job.yaml"]
    write_config(clone / "job.yaml", shared, "plain", steps=4)

    def run(environment: dict[str, str], *more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*submit, *verb, *more], cwd=clone, env=environment, capture_output=True, text=True, timeout=SECONDS
        )

    refused = run(head.without_token)
    assert refused.returncode != 0
    assert "Unauthorized" in refused.stderr
    assert not (shared / "runs").exists()

    done = run(head.environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "masked_language_modeling" in done.stdout, "the job's logs are followed to its table"
    assert (shared / "runs" / "plain" / "finished.json").is_file()

    wrong = run(head.environment, "training.stepz=3", "name=other")
    assert wrong.returncode == 1, "a failed job is a failed command"
    assert "training.stepz" in wrong.stdout + wrong.stderr


def test_without_the_token_submit_says_what_is_missing(head: Head, clone: Path) -> None:
    words = ("--no-follow", "--", "settings", "pretrain")
    refused = proteinlm_submit(head, clone, *words, environment=head.without_token)
    assert (refused.returncode, "no token was sent (401)" in refused.stderr) == (2, True), refused.stderr
    refused = proteinlm_submit(head, clone, *words, environment=head.with_another_token)
    assert (refused.returncode, "Traceback" in refused.stderr) == (2, False)
    assert "the token of RAY_AUTH_TOKEN_PATH is not the cluster's (403)" in refused.stderr
    assert "RAY_AUTH_MODE=token" in refused.stderr


def test_a_job_goes_on_when_the_laptop_is_gone(head: Head, clone: Path, shared: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "outside.yaml", shared, "left", steps=6)
    follower = subprocess.Popen(
        command(head, "--name", "left", "--", "pretrain", str(config)),
        cwd=clone,
        env=head.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert follower.stdout is not None
    said = []
    for line in follower.stdout:
        said.append(line)
        if "come back" in line:
            break
    follower.kill()
    follower.communicate()
    assert f"sent along: {config}\n" in said

    # Followed again, from the beginning to the end, with the job's exit code.
    again = proteinlm_submit(head, clone, "--logs", "left")
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert "masked_language_modeling" in again.stdout
    status = proteinlm_submit(head, clone, "--status", "left")
    assert (status.returncode, status.stdout.startswith("left: SUCCEEDED")) == (0, True), status.stderr
    table = subprocess.run(
        [sys.executable, "-m", "proteinlm", "table", str(shared / "runs" / "left"), "--format", "json"],
        cwd=clone,
        env=head.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert any(row["task"] == "masked_language_modeling" for row in json.loads(table.stdout))
    packages = list(head.folder.glob("session_*/runtime_resources/working_dir_files/_ray_pkg_*"))
    assert packages
    sizes = [sum(path.stat().st_size for path in package.rglob("*") if path.is_file()) for package in packages]
    assert max(sizes) < 2_000_000, "by `ray job submit` alone and by ours, with data and runs beside the code"
    assert not [path for package in packages for path in package.rglob("large.bin")]


def test_a_job_that_is_stopped_saves_a_checkpoint_first(head: Head, clone: Path, shared: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "long.yaml", shared, "long", steps=1_000_000)
    sent = proteinlm_submit(head, clone, "--no-follow", "--name", "long", "--", "pretrain", str(config))
    assert sent.returncode == 0, sent.stderr
    run = shared / "runs" / "long"
    wait_until(lambda: any(path.stat().st_size for path in run.rglob("metrics.jsonl")), SECONDS)
    stopped = proteinlm_submit(head, clone, "--stop", "long")
    assert stopped.stdout == "long: asked to stop, saves a checkpoint\n", stopped.stderr
    ended = proteinlm_submit(head, clone, "--logs", "long")
    assert ended.returncode == 1
    assert "job long: STOPPED" in ended.stdout
    assert list(run.glob("step_*/cursor.json"))


def test_what_the_job_would_refuse_is_refused_before_anything_is_sent(head: Head, clone: Path, shared: Path) -> None:
    write_config(clone / "job.yaml", shared, "plain", steps=4)
    wrong = proteinlm_submit(head, clone, "--", "pretrain", "job.yaml", "training.stepz=3")
    assert wrong.returncode == 2
    assert "training.stepz" in wrong.stderr
    assert proteinlm_submit(head, clone, "--", "pretrian", "job.yaml").returncode == 2
    gone = proteinlm_submit(head, clone, "--status", "nobody")
    assert (gone.returncode, "nobody" in gone.stderr, "Traceback" in gone.stderr) == (1, True, False)


def test_the_doctor_looks_at_two_nodes_from_inside(head: Head, clone: Path, shared: Path) -> None:
    head.add_node(num_cpus=1)
    wait_until(lambda: head.get("/api/v0/nodes").count(b'"state": "ALIVE"') == 2)
    done = subprocess.run(
        [sys.executable, "-m", "proteinlm", "doctor", "--address", head.address, "--storage", str(shared / "doctor")],
        cwd=clone,
        env=head.environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    lines = [line.split(": ", 1) for line in done.stdout.splitlines() if line.startswith(("ok ", "warn ", "fail "))]
    found = {}
    for name, text in lines:
        found.setdefault(name.split(maxsplit=1)[1], []).append((name.split()[0], text))
    assert {state for checks in found.values() for state, _ in checks} <= {"ok", "warn"}, done.stdout + done.stderr
    assert done.returncode == 0
    assert [len(found[name]) for name in ("disk", "shared memory", "clock")] == [2, 2, 2]
    assert "on 2 nodes" in found["Ray"][0][1]
    assert "gloo, 2 processes on as many nodes" in found["all-reduce"][0][1]
    assert "2 nodes wrote and read" in found["storage"][0][1]
    assert found["token"][0] == ("ok", "on: without it the dashboard refuses")
    assert list((shared / "doctor").iterdir()) == []


@pytest.mark.skipif(
    not os.environ.get("PROTEINLM_CLUSTER_TESTS"), reason="a minute of trials; PROTEINLM_CLUSTER_TESTS=1 runs it"
)
def test_a_sweep_runs_as_a_job(head: Head, clone: Path, tmp_path: Path) -> None:
    path = write_sweep(tmp_path, small_sweep(tmp_path, "swept"))
    done = proteinlm_submit(head, clone, "--", "sweep", str(path))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "secondary_structure_q3" in done.stdout
    assert len(list((tmp_path / "runs").rglob("finished.json"))) >= TRIALS - 1
