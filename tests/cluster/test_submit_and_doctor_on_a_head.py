"""Jobs on a real head with a token, sent from a fresh clone: by `ray job submit` alone and by `proteinlm submit`."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
import yaml

from proteinlm.platform.data.manifest import read_manifest
from tests.conftest import ROOT
from tests.made.ray_head import RAY, Head, fresh_clone, started_head, wait_until
from tests.made.small_corpus import write_small_corpus
from tests.made.small_sweep import TRIALS, small_sweep, write_sweep
from tests.made.terminal import environment_without_cluster

SECONDS = 240
TRAIN_RUNS = "/api/train/v2/runs/v1"


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

    # Ray Train's own account of it, which the dashboard gives out.
    listed = json.loads(head.get(TRAIN_RUNS))["train_runs"]
    (run_there,) = [one for one in listed if one["name"] == "plain"]
    (attempt,) = run_there["attempts"]
    assert (run_there["status"], attempt["status"]) == ("FINISHED", "FINISHED")
    assert [(worker["world_rank"], worker["resources"]["resources"]) for worker in attempt["workers"]] == [
        (0, {"CPU": 1.0})
    ]
    with pytest.raises(HTTPError, match="401"):
        head.get(TRAIN_RUNS, token=False)

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
    rows = table_of(head, clone, shared / "runs" / "left")
    assert any(row["task"] == "masked_language_modeling" for row in rows)
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


def table_of(head: Head, clone: Path, folder: Path) -> list[dict[str, Any]]:
    """The rows of `proteinlm table`, as a laptop reads them that sees the storage."""
    done = subprocess.run(
        [sys.executable, "-m", "proteinlm", "table", str(folder), "--format", "json"],
        cwd=clone,
        env=head.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return list(json.loads(done.stdout))


@pytest.fixture(scope="module")
def real_corpus(tmp_path_factory: pytest.TempPathFactory, real_data: Path) -> Path:
    """Real domains, built beforehand as a user does."""
    out = tmp_path_factory.mktemp("real") / "corpus"
    source = real_data / "pfam" / "pfam_valid.jsonl.gz"
    command = [sys.executable, "-m", "proteinlm", "corpus", "build", str(source), "--out", str(out)]
    subprocess.run(command, cwd=ROOT, env=environment_without_cluster(), capture_output=True, check=True)
    return out


LONG = pytest.mark.skipif(
    not os.environ.get("PROTEINLM_CLUSTER_TESTS"), reason="minutes of trials; PROTEINLM_CLUSTER_TESTS=1 runs it"
)
WAYS = pytest.mark.parametrize("way", ["ray job submit", "proteinlm submit"])


def sent(way: str, head: Head, clone: Path, *verb: str) -> subprocess.CompletedProcess[str]:
    """A verb as a job, followed to its end."""
    if way == "proteinlm submit":
        return proteinlm_submit(head, clone, "--", *verb)
    command = [*RAY, "job", "submit", "--address", head.address, "--working-dir", ".", "--"]
    return subprocess.run(
        [*command, "python", "-m", "proteinlm", *verb],
        cwd=clone,
        env=head.environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


@LONG
@WAYS
def test_real_proteins_are_pretrained_by_a_job(
    way: str, head: Head, clone: Path, shared: Path, real_corpus: Path
) -> None:
    name = way.replace(" ", "-")
    write_config(clone / "real.yaml", shared, name, steps=20)
    done = sent(way, head, clone, "pretrain", "real.yaml", f"corpus={real_corpus}", "batches.max_length=500")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "step 20/20" in done.stdout, "the log is followed to its end"
    rows = table_of(head, clone, shared / "runs" / name)
    assert {row["task"] for row in rows} == {"masked_language_modeling"}
    assert {row["data_hash"] for row in rows} <= {
        split.content_hash for split in read_manifest(real_corpus).splits.values()
    }


@LONG
@WAYS
def test_a_sweep_of_real_proteins_runs_as_a_job_and_its_table_is_read_back(
    way: str, head: Head, clone: Path, tmp_path: Path, real_corpus: Path, real_data: Path
) -> None:
    few = {"max_train_examples": 100, "max_test_examples": 50}
    values = small_sweep(
        tmp_path,
        "swept",
        pretrain={"corpus": str(real_corpus)},
        finetune={"data": str(real_data), **few},
    )
    write_sweep(clone, values)
    done = sent(way, head, clone, "sweep", "swept.yaml")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "secondary_structure_q3" in done.stdout
    assert len(list((tmp_path / "runs").rglob("finished.json"))) == TRIALS
    rows = table_of(head, clone, tmp_path / "runs" / "swept")
    assert {row["task"] for row in rows} == {"masked_language_modeling", "secondary_structure_q3"}
    assert len({row["run"] for row in rows}) == TRIALS
