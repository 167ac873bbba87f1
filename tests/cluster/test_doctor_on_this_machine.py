"""The doctor without a cluster looks at this machine, with a Ray of its own (proteinlm.cluster.doctor)."""

import subprocess
import sys
from pathlib import Path

import pytest

from proteinlm.cluster import node_probe
from tests.conftest import ROOT
from tests.made.terminal import environment_without_cluster


def test_the_doctor_examines_this_machine_and_names_what_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "proteinlm", "doctor", "--storage", str(tmp_path / "runs")]
    done = subprocess.run(
        [*command, "--storage", str(tmp_path / "file" / "runs")],
        cwd=ROOT,
        env=environment_without_cluster(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 1, done.stdout + done.stderr
    assert [line for line in lines if line.startswith("fail")] == [line for line in lines if "cannot write" in line]
    names = [line.split(maxsplit=1)[1].partition(":")[0] for line in lines]
    assert names == [
        *["Ray", "Python", "torch", "CPUs", "disk", "shared memory", "clock"],
        *["token", "dashboard", "ports", "all-reduce", "storage", "storage"],
    ]
    assert "gloo, 2 processes of one node" in next(line for line in lines if "all-reduce" in line)
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ("import no_such_torch", "ModuleNotFoundError: No module named 'no_such_torch'"),
        ("import time; time.sleep(60)", "timed out after 0.5 seconds"),
        ("print()", "Expecting value"),
        ("pass", "list index out of range"),
    ],
)
def test_why_torch_does_not_import_is_said(script: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_probe, "OF_TORCH", script)
    monkeypatch.setattr(node_probe, "TORCH_SECONDS", 0.5 if "sleep" in script else 60)
    found = node_probe.of_torch()
    assert (found["version"], found["cards"]) == ("", [])
    assert fault in found["fault"]
    assert "\n" not in found["fault"]
