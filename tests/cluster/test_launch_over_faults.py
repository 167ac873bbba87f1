"""What a pretraining loses when something dies, on several Ray nodes of this machine: nothing but steps and seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.made.faults import FAULTS
from tests.made.watched_run import CADENCE

TWICE = 2 * CADENCE
"""Steps computed again at most: a checkpoint that was on its way is lost with those who wrote it."""


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults") / "losses.json"


@pytest.mark.skipif(
    not os.environ.get("PROTEINLM_CLUSTER_TESTS"),
    reason="takes a minute or two a fault; PROTEINLM_CLUSTER_TESTS=1 runs it",
)
@pytest.mark.parametrize("fault", list(FAULTS))
def test_nothing_is_lost_beyond_the_last_checkpoint(fault: str, reference: Path) -> None:
    if FAULTS[fault].is_cut and os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    command = [sys.executable, "-m", "tests.benchmarks.failure_table", fault, "--json", "--reference", str(reference)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    row = json.loads(done.stdout.splitlines()[-1])
    assert row["code"] == 0
    assert row["steps"], "metrics.jsonl holds each step once"
    assert row["steps_again"] <= TWICE
    assert row["largest_difference"] <= (1e-5 if fault == "drain-elastic" else 0), "bit for bit on as many workers"
    assert row["left"] == []
