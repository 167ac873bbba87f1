"""An embedded Ray: where it can start at all, what its processes hear and inherit, and what it leaves."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
import ray.data

from proteinlm.cluster import connect
from proteinlm.cluster.connect import (
    ON_OWN_MACHINE,
    ClusterSize,
    connected,
    keep_data_actors_here,
    usable_cores,
)
from tests.conftest import ROOT

HEARD = "import signal; print(signal.getsignal(signal.SIGHUP) == signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN)"


@pytest.fixture
def started() -> dict[str, object]:
    """With what a Ray that is not there was started: its options, and variables that its processes inherit."""
    return {}


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: dict[str, object]) -> Path:
    """The session folder of a Ray that is not there."""
    folder = tmp_path / "ray" / "session_1"

    def start(**options: object) -> SimpleNamespace:
        started.update(options, **{name: os.environ[name] for name in ON_OWN_MACHINE})
        child = subprocess.run([sys.executable, "-c", HEARD], capture_output=True, text=True, check=True)
        assert child.stdout.strip() == "True", "children must not hear what ends their parent"
        (folder / "logs").mkdir(parents=True)
        (folder.parent / "session_2").mkdir()
        (folder.parent / "session_latest").symlink_to(folder)
        return SimpleNamespace(address_info={"session_dir": str(folder)})

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(connect, "cluster_size", lambda: ClusterSize(2, 0, 1))
    monkeypatch.setattr(connect, "dashboard_address", lambda: None)
    return folder


@pytest.mark.parametrize("error", [None, ValueError("wrong input"), KeyboardInterrupt()])
def test_an_embedded_ray_leaves_nothing_of_its_own(session: Path, error: BaseException | None) -> None:
    before = signal.getsignal(signal.SIGHUP)
    try:
        with connected():
            assert signal.getsignal(signal.SIGHUP) == before
            assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
            if error:
                raise error
    except (ValueError, KeyboardInterrupt):
        assert error
    assert [path.name for path in session.parent.iterdir()] == ["session_2"]


def test_the_logs_of_what_failed_are_kept_and_named(session: Path) -> None:
    with pytest.raises(RuntimeError, match="broke") as caught, connected():
        raise RuntimeError("broke")
    assert caught.value.__notes__ == [f"Ray's logs: {session / 'logs'}"]
    assert (session / "logs").is_dir()


@pytest.mark.parametrize("has_dashboard", [True, False])
@pytest.mark.usefixtures("session")
def test_processes_that_an_embedded_ray_has_no_use_for_are_not_started(
    has_dashboard: bool, started: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they inherit is of the embedded Ray alone: a cluster that is joined later is not told so."""
    asked_for, *others = ON_OWN_MACHINE
    monkeypatch.setenv(asked_for, "1")
    with connected(has_dashboard=has_dashboard):
        assert not set(others) & set(os.environ)
    assert started["include_dashboard"] is has_dashboard
    assert {name: started[name] for name in ON_OWN_MACHINE} == ON_OWN_MACHINE | {asked_for: "1"}
    assert os.environ[asked_for] == "1"


@pytest.mark.usefixtures("session")
def test_a_temporary_directory_that_is_too_long_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/scratch/projects/groupname/users/username/jobs/slurm_job_1234567")
    with pytest.raises(ValueError, match=r"TMPDIR: /scratch/.* letters too long .*export RAY_TMPDIR=/tmp"), connected():
        pass
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    with connected():
        pass


def test_cores_are_those_that_may_be_used() -> None:
    asked = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    asked += "from proteinlm.cluster.connect import usable_cores; print(usable_cores())"
    done = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
    assert usable_cores() == len(os.sched_getaffinity(0))


@pytest.mark.usefixtures("ray_cluster")
def test_actors_that_all_pipelines_share_are_on_the_driver_s_node_before_a_worker_reads() -> None:
    """All of them: another one would start on a worker's node, which would then never be idle."""
    from ray.util import list_named_actors

    def named() -> set[tuple[str, str]]:
        return {(one["namespace"], one["name"]) for one in list_named_actors(all_namespaces=True)}

    keep_data_actors_here()
    before = named()
    assert len(before) >= 2
    assert ray.data.range(10).map_batches(lambda batch: batch, num_cpus=0).count() == 10
    assert named() == before
