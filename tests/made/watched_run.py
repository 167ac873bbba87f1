"""A pretraining on several Ray nodes as a process of its own, and every step that it computes."""

import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from proteinlm.platform.training.tracking import MetricsTail, read_metrics
from tests.conftest import ROOT
from tests.made.ray_nodes import RayNodes, wait_until
from tests.made.small_corpus import write_small_corpus

STEPS, CADENCE = 200, 10
"""Steps of the run, and between checkpoints."""


def settings(folder: Path, name: str, cluster: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "storage": str(folder / "runs"),
        "corpus": str(folder / "corpus"),
        "model": {"preset": "cpu-tiny"},
        "batches": {"micro_batch_residues": 1500, "lanes": 2, "max_length": 100},
        "optimizer": {"learning_rate": 5e-4, "warmup_steps": 5},
        "training": {
            "steps": STEPS,
            "precision": "fp32",
            "validate_every": STEPS,
            "checkpoint_every": CADENCE,
            "log_every": 1,
        },
        "cluster": {"threads_per_worker": 1, **cluster},
    }


def losses(run: Path) -> list[tuple[int, float]]:
    """Step and loss of each of a run's rows, that of the last validation too."""
    return [(row["step"], row[name]) for row in read_metrics(run) for name in ("loss", "valid/loss") if name in row]


def undisturbed(file: Path) -> list[tuple[int, float]]:
    """The losses of a run that nothing happens to, of an embedded Ray; kept in `file` for the next call."""
    if not file.is_file():
        with RayNodes() as nodes:
            run = WatchedRun(nodes, "alone", {"num_workers": 2, "cpus_per_worker": 0.5})
            if run.end():
                raise RuntimeError("the undisturbed run failed")
            file.write_text(json.dumps(losses(run.directory)))
    return [(step, loss) for step, loss in json.loads(file.read_text())]


@dataclass
class Steps:
    """All steps that a run computes, those too that it computes again; read from metrics.jsonl as it grows."""

    run: Path
    seen: list[tuple[float, int]] = field(default_factory=list)
    """Time and step."""
    _rows: dict[int, dict[str, Any]] = field(default_factory=dict)

    def follow(self, done: threading.Event) -> None:
        tail = MetricsTail(self.run)
        while not done.wait(0.05):
            for row in tail.read()[0]:
                if "loss" in row and row != self._rows.get(row["step"]):  # kept over a restart: the very same row
                    self._rows[row["step"]] = row
                    self.seen.append((time.time(), row["step"]))

    def last(self) -> int:
        return self.seen[-1][1] if self.seen else 0

    def again(self) -> int:
        return len(self.seen) - len({step for _, step in self.seen})

    def longest_gap(self, since: float) -> float:
        """The longest time without a step, in seconds, that ends after `since`."""
        return max(b - a for (a, _), (b, _) in pairwise(self.seen) if b >= since)


class WatchedRun:
    """The verb in a process of its own, as a driver of the cluster at `address` or with an embedded Ray."""

    def __init__(
        self,
        nodes: RayNodes,
        name: str,
        cluster: dict[str, Any],
        address: str | None = None,
        prefix: tuple[str, ...] = (),
    ) -> None:
        """`cluster`: the settings' section; `prefix`: what its command begins with, as a `Node`'s."""
        self.directory, self.said = nodes.folder / "runs" / name, nodes.folder / "said"
        file = nodes.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(settings(nodes.folder, name, cluster)))
        (nodes.folder / "corpus").mkdir()
        write_small_corpus(nodes.folder / "corpus", proteins=4000)
        self._command = [*prefix, sys.executable, "-m", "proteinlm", "pretrain", str(file)]
        self._env = nodes.env | ({"RAY_ADDRESS": address} if address else {})
        self.steps = Steps(self.directory)
        self._done = threading.Event()
        self._follower = threading.Thread(target=self.steps.follow, args=(self._done,), daemon=True)
        self._follower.start()
        self.submit()

    def submit(self) -> None:
        with self.said.open("a") as said:
            self.process = subprocess.Popen(self._command, cwd=ROOT, env=self._env, stdout=said, stderr=said)

    def wait_for(self, step: int, seconds: float = 300) -> None:
        wait_until(lambda: self.steps.last() >= step or self.process.poll() is not None, seconds)
        if self.steps.last() < step:
            raise RuntimeError(f"ended before step {step}")

    def end(self, seconds: float = 400) -> int:
        """The exit code, once the run has ended."""
        try:
            return self.process.wait(seconds)
        finally:
            time.sleep(0.2)
            self._done.set()
            self._follower.join()
