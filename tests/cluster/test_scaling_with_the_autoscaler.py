"""Ray's real autoscaler with the shipped node types: from none to what is asked for and back, within the limits."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(
    not os.environ.get("PROTEINLM_CLUSTER_TESTS"),
    reason="each starts a cluster and waits for its nodes to go; PROTEINLM_CLUSTER_TESTS=1 runs it",
)
MOST = 3
"""max_workers of local.yaml."""


def found(what: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.made.autoscaling", what]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def most_nodes(seen: list[tuple[float, list[str]]]) -> int:
    return max(len(nodes) for _, nodes in seen)


def test_spot_nodes_come_first_and_go_when_nothing_runs() -> None:
    """12 of aws-v100.yaml's GPUs: two nodes of the type with the higher priority."""
    done = found("demand")
    assert done["code"] == 0
    assert ["spot", "spot"] in [nodes for _, nodes in done["seen"]]
    assert most_nodes(done["seen"]) == 2
    assert done["seen"][-1][1] == []


def test_an_elastic_run_that_asks_for_more_than_there_may_be_finishes_with_what_it_gets() -> None:
    done = found("pretrain")
    assert done["code"] == 0, done["said"]
    assert most_nodes(done["seen"]) == MOST
    assert done["checkpoints"][-1] == "step_00000060_by_3"
    assert done["seen"][-1][1] == [], "an actor that outlives the run would keep its node"


def test_a_sweep_that_asks_for_more_than_there_may_be_finishes_with_what_it_gets() -> None:
    done = found("sweep")
    assert done["code"] == 0, done["said"]
    assert done["trials"] == done["planned"]
    assert most_nodes(done["seen"]) == MOST
    assert done["seen"][-1][1] == []


def test_what_no_node_type_can_take_ends_with_what_was_asked_and_what_exists() -> None:
    done = found("infeasible")
    assert done["code"] != 0
    assert "no room for 2 workers of 4 CPUs that the autoscaler's node types and limits allow" in done["said"]
    assert done["ended"] < 120, "long before the time that nodes may take"
    assert "Traceback" not in done["said"]
