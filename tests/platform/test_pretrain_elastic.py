"""An elastic run on a cluster that loses a node: a checkpoint within the notice, and on with the worker left."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from proteinlm.platform.training.tracking import read_metrics
from tests.conftest import ROOT
from tests.made.elastic_cluster import CADENCE, STEPS, config


@pytest.mark.skipif(
    not os.environ.get("PROTEINLM_CLUSTER_TESTS"),
    reason="takes two nodes' time: Ray waits a minute for the node that is gone; PROTEINLM_CLUSTER_TESTS=1 runs it",
)
def test_a_preempted_node_costs_a_worker_and_no_step_before_the_notice(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.made.elastic_cluster", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["accepted"]
    (saved,) = [name for name in found["checkpoints"] if int(name.split("_")[1]) % CADENCE]
    step = int(saved.split("_")[1])
    assert saved.endswith("_by_2")
    assert found["announced_at"] <= step <= found["taken_at"], "the notice was answered before the deadline"
    run = config(tmp_path)
    assert (run.directory / f"step_{STEPS:08d}_by_1" / "cursor.json").is_file()
    rows = [row for row in read_metrics(run.directory) if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    # Two lanes of every global batch were read, by two workers or by one: residues go on at the same pace.
    pace = rows[step - 1]["residues"] / step
    assert abs(rows[-1]["residues"] / STEPS / pace - 1) < 0.05
