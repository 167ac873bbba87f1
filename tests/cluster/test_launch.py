"""What a worker group reserves, and which ones are refused instead of waited for."""

import sys
from pathlib import Path

import pytest
from ray.experimental import internal_kv
from ray.train.torch import TorchTrainer

from proteinlm.cluster.connect import ClusterSize
from proteinlm.cluster.launch import (
    check_fits,
    forget_lost_checkpoints,
    start_coordinator,
    trainer_class,
    waits_of,
    worker_group,
    worker_message,
)

COORDINATOR = "ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator"
TWO_CORES = ClusterSize(cpus=2, gpus=0, nodes=1)


def test_workers_leave_a_cpu_for_ray_data() -> None:
    group = worker_group(TWO_CORES, 2, 2, cpus_per_worker=None, use_gpu=None)
    assert group.cpus_per_worker == 0.5
    assert group.cpus == 2
    assert not group.use_gpu
    check_fits(group, TWO_CORES)
    large = worker_group(ClusterSize(cpus=64, gpus=8, nodes=1), 8, 8, cpus_per_worker=None, use_gpu=None)
    assert (large.cpus_per_worker, large.use_gpu) == (1.0, True)


@pytest.mark.parametrize(
    ("size", "workers", "cpus", "gpu", "words"),
    [
        (TWO_CORES, 2, 1.0, False, "need 3 CPUs, the cluster has 2"),
        (TWO_CORES, 1, None, True, "need a GPU each, the cluster has 0"),
        (ClusterSize(64, 4, 1), 8, 1.0, None, "need a GPU each, the cluster has 4"),
    ],
)
def test_a_group_that_never_fits_is_refused(
    size: ClusterSize, workers: int, cpus: float | None, gpu: bool | None, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        check_fits(worker_group(size, workers, workers, cpus, gpu), size)


def test_an_elastic_group_must_fit_with_its_fewest_workers() -> None:
    group = worker_group(TWO_CORES, 1, 8, cpus_per_worker=1.0, use_gpu=False)
    check_fits(group, TWO_CORES)
    assert worker_group(TWO_CORES, 1, 2, None, False).cpus_per_worker == 0.5, "room for the most workers"


@pytest.mark.parametrize("dashboard", [b"127.0.0.1:8265", b"", None])
def test_helpers_of_ray_train_that_can_do_nothing_are_not_started(
    dashboard: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others, and the order of all, are Ray Train's own; a name that it does not know would drop nothing."""
    monkeypatch.setattr(internal_kv, "_internal_kv_get", lambda *_, **__: dashboard)

    def names(kind: type[TorchTrainer]) -> list[str]:
        return [type(one).__name__ for one in kind(print)._create_default_callbacks()]

    everyone, kept = names(TorchTrainer), names(trainer_class(waits_of(10, None)))
    assert set(everyone) - set(kept) == {"DatasetsCallback"} | (
        set() if dashboard else {"PlacementGroupCleanerCallback"}
    )
    assert [name for name in everyone if name in kept] == kept


def test_the_actor_that_the_controller_waits_for_is_started_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Train has it under this name; elsewhere in another version, it is the controller's to find."""
    started = []
    monkeypatch.setattr(f"{COORDINATOR}.get_or_create_autoscaling_coordinator", lambda: started.append(True))
    start_coordinator()
    assert started == [True]
    monkeypatch.setitem(sys.modules, COORDINATOR, None)
    start_coordinator()
    assert started == [True]


def test_the_message_is_the_worker_s_own() -> None:
    class GroupError(Exception):
        def __init__(self) -> None:
            self.worker_failures = {1: ValueError("Traceback ...\n  deep inside\nValueError: lanes are wrong")}

    assert worker_message(GroupError()) == "worker 1: ValueError: lanes are wrong"
    assert worker_message(RuntimeError("no layers\nhere")) == "here"


@pytest.mark.parametrize(
    ("text", "is_kept"),
    [
        ('{"checkpoint_results": [{"checkpoint_dir_name": "step_1"}]}', True),
        ('{"checkpoint_results": []}', True),
        ('{"checkpoint_results": [{"checkpoint_dir_name": "step_1"}, {"checkpoint_dir_name": "removed"}]}', False),
        ("{", False),
        ("", False),
        ("[]", False),
        ('{"checkpoint_results": [1]}', False),
    ],
)
def test_a_list_of_checkpoints_that_are_gone_is_no_reason_to_refuse_a_run(
    text: str, is_kept: bool, tmp_path: Path
) -> None:
    forget_lost_checkpoints(tmp_path)
    (tmp_path / "step_1").mkdir()
    listed = tmp_path / "checkpoint_manager_snapshot.json"
    listed.write_text(text)
    forget_lost_checkpoints(tmp_path)
    assert listed.exists() == is_kept
