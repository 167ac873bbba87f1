"""What a pretraining loses when something dies, on several Ray nodes of this machine: nothing but steps and seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.made.faults import FAULTS
from tests.made.watched_run import CADENCE

TWICE = 2 * CADENCE
"""Steps computed again at most: a checkpoint that was on its way is lost with those who wrote it."""

pytestmark = pytest.mark.skipif(
    not os.environ.get("PROTEINLM_CLUSTER_TESTS"),
    reason="takes a minute or two a fault; PROTEINLM_CLUSTER_TESTS=1 runs it",
)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults") / "losses.json"


def printed(module: str, *arguments: str) -> dict[str, Any]:
    """The JSON line that a process of its own prints: it ends what it started by descent."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout)  # the figures: pytest shows them with -rP
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_lost_beyond_the_last_checkpoint(fault: str, reference: Path) -> None:
    if FAULTS[fault].is_cut and os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    row = printed("tests.benchmarks.failure_table", fault, "--json", "--reference", str(reference))
    assert row["code"] == 0
    assert row["steps"], "metrics.jsonl holds each step once"
    assert row["steps_again"] <= TWICE
    assert row["largest_difference"] <= (1e-5 if fault == "drain-elastic" else 0), "bit for bit on as many workers"
    assert row["left"] == []


def test_a_run_for_which_there_is_no_room_ends_and_says_what_was_asked_and_what_exists() -> None:
    ended = printed("tests.made.no_room", "0.3")
    assert ended["code"] == 1
    assert 18 <= ended["seconds"] < 90
    said = " ".join(ended["said"].split())
    assert "no room for 2 workers of 2.5 CPUs within" in said
    assert "(cluster.node_minutes=0.3); nodes there are: " in said
    assert all(words in said for words in ("1 CPU", "2 CPUs", "3 CPUs"))
    assert ended["left"] == []
