"""What the doctor says of measured values: good ones pass, bad ones warn or fail and say what mends them."""

from dataclasses import replace

import pytest

from proteinlm.cluster.connect import ClusterSize
from proteinlm.cluster.judgement import (
    FAIL,
    GIB,
    OK,
    WARN,
    Check,
    Reduced,
    judge_clock,
    judge_cpus,
    judge_dashboard,
    judge_disk,
    judge_gpus,
    judge_memory,
    judge_ports,
    judge_reduce,
    judge_storage,
    judge_versions,
    runs_on,
)
from proteinlm.cluster.node_probe import REDUCED_ELEMENTS, Card, NodeFacts

V100 = Card("Tesla V100-SXM2-32GB", 7, 0)
CU126 = ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")
CU130 = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
NODE = NodeFacts(
    node="10.0.0.1",
    python="3.11.9",
    ray="2.60.0",
    torch="2.13.0+cu126",
    built_for=CU126,
    cards=(V100, V100),
    disk_free=80 * GIB,
    disk_total=100 * GIB,
    shared_free=30 * GIB,
    shared_total=32 * GIB,
    object_store=8 * GIB,
    listening=(6379,),
)


def told(check: Check, state: str, *words: str) -> None:
    assert check.state == state, check.line()
    assert all(word in check.line() for word in words), check.line()
    assert bool(check.mend) is (state != OK), "what is wrong has a mend"


def test_versions_are_those_of_the_driver() -> None:
    told(judge_versions("Ray", "2.60.0", {"a": "2.60.0", "b": "2.60.0"}), OK, "2.60.0 on 2 nodes")
    told(judge_versions("Ray", "2.60.0", {"a": "2.60.0", "b": "2.59.0"}), FAIL, "2.60.0 here, 2.59.0 on b")
    told(judge_versions("torch", "2.13.0+cpu", {"a": "2.13.0+cu126"}), FAIL, "2.13.0+cu126 on a")
    told(judge_versions("torch", "2.13.0", {"a": "", "b": "2.13.0"}), FAIL, "not there on a")
    told(judge_versions("Python", "3.11.9", {"a": "3.11.2"}, is_exact=False), OK)
    told(judge_versions("Python", "3.11.9", {"a": "3.12.9"}, is_exact=False), FAIL, "3.12.9 on a")


@pytest.mark.parametrize(
    ("capability", "built_for", "expected"),
    [
        ((7, 0), CU126, True),
        ((7, 0), CU130, False),
        ((8, 9), CU130, True),  # code for 8.6 runs on 8.9
        ((9, 0), ("sm_80",), False),  # and that for 8.0 not on 9.0
        ((9, 0), ("sm_90a",), True),
        ((12, 1), ("sm_120",), True),
        ((9, 0), ("compute_80",), True),  # compiled as it is loaded
        ((7, 0), (), False),
    ],
)
def test_a_build_runs_on_what_it_has_code_for(
    capability: tuple[int, int], built_for: tuple[str, ...], expected: bool
) -> None:
    assert runs_on(capability, built_for) is expected


def test_a_gpu_that_torch_has_no_code_for_is_named_with_the_build_that_has() -> None:
    told(judge_gpus(NODE), OK, "2 x Tesla V100-SXM2-32GB (sm_70)")
    told(judge_gpus(replace(NODE, torch="2.13.0+cu130", built_for=CU130)), FAIL, "sm_70", "cu130", "CUDA 12.6")


def test_training_leaves_cpus_for_data() -> None:
    told(judge_cpus(ClusterSize(64, 8, 1), 64), OK)
    told(judge_cpus(ClusterSize(1, 0, 1), 1), FAIL, "1 for data")
    told(judge_cpus(ClusterSize(8, 8, 1), 8), WARN, "are 9")
    told(judge_cpus(ClusterSize(64, 8, 1), 0), WARN, "something else has them")


def test_clocks_that_are_off_by_more_than_can_be_told_are_named() -> None:
    told(judge_clock("a", 0.9, 0.01), OK)
    told(judge_clock("a", -2.0, 0.01), WARN, "-2.000 s", "chrony")
    told(judge_clock("a", 2.0, 1.5), OK)
    told(judge_clock("a", 400.0, 0.01), FAIL)


def test_disks_that_run_full_are_named() -> None:
    told(judge_disk(NODE), OK, "80.0 of 100.0 GiB free")
    told(judge_disk(replace(NODE, disk_free=6 * GIB)), WARN, "10.0.0.1")
    told(judge_disk(replace(NODE, disk_free=4 * GIB)), FAIL, "stores no objects")


def test_shared_memory_that_is_too_small_is_named() -> None:
    told(judge_memory(NODE), OK)
    told(judge_memory(replace(NODE, shared_free=60 << 20, shared_total=64 << 20)), FAIL, "--shm-size")
    told(judge_memory(replace(NODE, shared_total=4 * GIB)), WARN, "on the disk instead")
    told(judge_memory(replace(NODE, object_store=GIB // 4)), WARN, "--object-store-memory")
    told(judge_memory(replace(NODE, shared_free=None, shared_total=None)), OK, "no /dev/shm")


@pytest.mark.parametrize(
    ("status", "is_reached", "is_own_machine", "states"),
    [
        (401, False, False, [OK, OK]),
        (401, True, False, [OK, WARN]),
        (200, True, False, [FAIL, FAIL]),
        (200, False, False, [FAIL, OK]),
        (200, False, True, [WARN, OK]),
    ],
)
def test_a_dashboard_that_answers_strangers_fails(
    status: int, is_reached: bool, is_own_machine: bool, states: list[str]
) -> None:
    checks = judge_dashboard("http://10.0.0.1:8265", status, is_reached, is_own_machine)
    for check, state in zip(checks, states, strict=True):
        told(check, state)


def test_a_cluster_without_a_dashboard_is_named() -> None:
    [check] = judge_dashboard(None, 0, False, False)
    told(check, WARN, "jobs cannot be sent")


def test_open_ports_are_listed_and_matter_without_a_token() -> None:
    many = replace(NODE, listening=tuple(range(10_000, 10_020)))
    told(judge_ports([NODE], has_token=True), OK, "10.0.0.1: 6379")
    told(judge_ports([NODE, many], has_token=False), WARN, "10011 and 8 more", "runs code")
    told(judge_ports([replace(NODE, listening=())], has_token=False), OK, "none is open")


def test_the_bandwidth_is_what_each_process_sends() -> None:
    told(judge_reduce(Reduced("nccl", 2, False, 4 * REDUCED_ELEMENTS / 1e9, 2.0)), OK, "nccl", "1.00 GB/s")
    told(judge_reduce(Reduced("gloo", 4, False, 4 * REDUCED_ELEMENTS / 1e9, 4.0)), OK, "1.50 GB/s")
    told(judge_reduce(Reduced("gloo", 2, True, 1.0, 1.0)), FAIL, "of one node", "the sum of ones is 1")


def test_storage_that_a_node_does_not_share_is_named_with_the_node() -> None:
    told(judge_storage("s3://bucket/runs", {"a": "", "b": ""}), OK, "2 nodes wrote and read")
    told(judge_storage("/runs", {"a": "", "b": "does not see it"}), FAIL, "/runs: b does not see it", "all nodes share")
