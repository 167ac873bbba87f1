"""The machines that the shipped cluster files ask for, and twins of them, against AWS's and Google's own models."""

from collections.abc import Callable
from typing import Any

import pytest

from proteinlm.cluster.cluster_file import AWS_MACHINES, read_cluster_file
from tests.conftest import ROOT
from tests.made.broken_twins import twin
from tests.made.cloud_models import aws_faults, gcp_faults, run_instances

Faults = Callable[[dict[str, Any]], list[str]]
TYPES = "available_node_types"
SPOT = (TYPES, "v100-spot", "node_config")


@pytest.fixture
def faults(request: pytest.FixtureRequest) -> Faults:
    """The check of the cloud that the file's name begins with; skips where its package is absent."""
    cloud = request.node.callspec.params["name"].partition("-")[0]
    pytest.importorskip({"aws": "botocore", "gcp": "googleapiclient"}[cloud])
    return {"aws": aws_faults, "gcp": gcp_faults}[cloud]


def shipped(name: str) -> dict[str, Any]:
    return read_cluster_file(ROOT / "cluster" / "configs" / f"{name}.yaml")


@pytest.mark.parametrize("name", ["aws-v100", "aws-h100", "gcp-v100"])
def test_the_cloud_would_take_every_machine(name: str, faults: Faults) -> None:
    found = {kind: faults(value["node_config"]) for kind, value in shipped(name)[TYPES].items()}
    assert {kind: lines for kind, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("name", "path", "value", "words"),
    [
        ("aws-v100", (*SPOT, "InstanceTyp"), "p3.16xlarge", "InstanceTyp"),
        ("aws-v100", (*SPOT, "InstanceType"), "p3.24xlarge", "'p3.24xlarge' is not one of"),
        ("aws-v100", (*SPOT, "InstanceMarketOptions", "MarketType"), "Spot", "MarketType: 'Spot'"),
        ("aws-v100", (*SPOT, "BlockDeviceMappings", 0, "Ebs", "VolumeSize"), "500", "VolumeSize"),
        ("gcp-v100", (*SPOT, "guestAccelerator"), [], "guestAccelerator"),
        ("gcp-v100", (*SPOT, "scheduling"), [{"preemptible": True}], "$.scheduling"),
        ("gcp-v100", (*SPOT, "scheduling", "provisioningModel"), "spot", "$.scheduling.provisioningModel"),
        ("gcp-v100", (*SPOT, "guestAccelerators", 0, "acceleratorCount"), "8", "acceleratorCount"),
    ],
)
def test_a_twin_with_one_fault_is_refused_and_the_fault_named(
    name: str, path: tuple[str | int, ...], value: object, words: str, faults: Faults
) -> None:
    broken = twin(shipped(name), path, value)
    assert words in "\n".join(faults(broken[TYPES]["v100-spot"]["node_config"]))


def test_aws_knows_every_machine_of_our_list() -> None:
    pytest.importorskip("botocore")
    assert set(AWS_MACHINES) <= set(run_instances().members["InstanceType"].enum)
