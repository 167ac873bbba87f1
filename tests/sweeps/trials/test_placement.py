"""What trials get of a cluster: never so much that they wait for each other for ever."""

from dataclasses import replace
from typing import Any

import pytest

from proteinlm.cluster.connect import ClusterSize
from proteinlm.platform.settings.loading import merge
from proteinlm.sweeps.planning.plan import plan_sweep
from proteinlm.sweeps.trials.placement import cpu_share, with_share
from tests.made.planned_sweep import sweep

PLAIN = {"pretrain": {"training": {"engine": "plain"}}}


@pytest.mark.parametrize(("cpus", "workers"), [(2, 2), (4, 4), (16, 16), (64, 64)])
def test_there_is_room_for_a_worker_a_cpu_beside_the_one_for_data(cpus: int, workers: int) -> None:
    """Two CPUs and two trials of one worker: with a CPU each, Ray Data would have none and nothing would ever move."""
    share = cpu_share(ClusterSize(cpus=cpus, gpus=0, nodes=1))
    assert workers * share <= cpus - 1
    assert (workers + 1) * share > cpus - 1 or share == pytest.approx((cpus - 1) / cpus, abs=0.01)


@pytest.mark.parametrize(
    ("cpus", "asked", "threads"),
    [
        (2, {}, 1),
        (2, {"max_concurrent": 1}, 2),
        (2, {"threads_per_worker": 5}, 5),
        (8, {"max_concurrent": 2}, 4),
        (8, {"max_concurrent": 2, "pretrain": {"cluster": {"threads_per_worker": 3}}, "threads_per_worker": 5}, 3),
    ],
)
def test_the_cores_are_shared_by_the_trials_that_run_at_once(cpus: int, asked: dict[str, Any], threads: int) -> None:
    size = ClusterSize(cpus=cpus, gpus=0, nodes=1)
    plan = plan_sweep(sweep(**merge(PLAIN, asked)))
    settled = with_share(plan.trials[0], size, plan.sweep.max_concurrent).config.cluster
    assert settled.threads_per_worker == threads
    assert settled.cpus_per_worker == cpu_share(size)


def test_what_a_worker_takes_is_what_the_sweep_says_or_else_the_run_itself() -> None:
    size = ClusterSize(cpus=8, gpus=0, nodes=1)
    plan = plan_sweep(sweep(cpus_per_worker=2, finetune={"cluster": {"cpus_per_worker": 0.5}}))
    pretrained, finetuned = (with_share(trial, size).config.cluster for trial in (plan.trials[0], plan.trials[2]))
    assert (pretrained.cpus_per_worker, finetuned.cpus_per_worker) == (2, 0.5)


@pytest.mark.parametrize(("gpus", "asked", "taken"), [(1, None, True), (0, None, False), (1, False, False)])
def test_what_trains_takes_a_gpu_where_there_is_one_and_a_baseline_none(
    gpus: int, asked: bool | None, taken: bool
) -> None:
    size = ClusterSize(cpus=4, gpus=gpus, nodes=1)
    trials = plan_sweep(sweep(**PLAIN)).trials
    for trial in trials:
        section = trial.config.cluster.model_copy(update={"use_gpu": asked})
        trial = replace(trial, config=trial.config.model_copy(update={"cluster": section}))
        settled = with_share(trial, size)
        assert settled.config.cluster.use_gpu is (taken and "baseline" not in trial.name)
    assert {"baseline" in trial.name for trial in trials} == {True, False}
