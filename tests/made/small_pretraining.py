"""A pretraining of seconds on two workers, on proteins that repeat one motif."""

import os
import time
from pathlib import Path
from typing import Any

from proteinlm.platform.settings.config import PretrainConfig
from proteinlm.platform.settings.loading import validate
from proteinlm.platform.training.tracking import read_metrics

STEPS = 300
KILLS = int(os.environ.get("PROTEINLM_KILLS", "3"))
"""Workers killed in one run; a thorough check takes 20."""


def config(
    folder: Path, name: str, workers: int = 2, lanes: int = 2, learning_rate: float = 5e-3, **training: Any
) -> PretrainConfig:
    values = {
        "name": name,
        "storage": str(folder / "runs"),
        "corpus": str(folder / "corpus"),
        "model": {"preset": "cpu-tiny"},
        "batches": {"micro_batch_residues": 2000 // lanes, "lanes": lanes, "max_length": 100},
        "optimizer": {"learning_rate": learning_rate, "warmup_steps": 5},
        "training": {
            "steps": STEPS,
            "precision": "fp32",
            "validate_every": 150,
            "checkpoint_every": 100,
            "log_every": 1,
        }
        | training,
        "cluster": {"num_workers": workers, "threads_per_worker": 1, "max_failures": KILLS},
    }
    return validate(PretrainConfig, values, "test")


def losses(run: PretrainConfig) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in read_metrics(run.directory) if "loss" in row]


def wait_for_step(run: PretrainConfig, step: int) -> None:
    for _ in range(6000):
        if any(done >= step for done, _ in losses(run)):
            return
        time.sleep(0.02)
    raise TimeoutError(f"{run.name} did not reach step {step}")
