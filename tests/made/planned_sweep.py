"""A sweep of two shapes with a task and its baseline, to plan and never to run; what its trials are called."""

import re
from typing import Any

from proteinlm.platform.settings.loading import merge, validate
from proteinlm.sweeps.planning.config import SweepConfig

BASE: dict[str, Any] = {
    "name": "s",
    "pretrain": {"corpus": "c", "model": {"preset": "cpu-tiny"}, "training": {"steps": 5}},
    "configurations": [{"model.hidden_size": 32}, {"model.hidden_size": 64, "optimizer.learning_rate": 0.01}],
    "finetune": {"data": "d", "training": {"steps": 3}},
    "tasks": [
        {"task": "secondary_structure_q3", "mode": "full"},
        {"task": "secondary_structure_q3", "mode": "baseline"},
    ],
}


FIRST, SECOND = "hidden-32-layer-2-head-2", "hidden-64-layer-2-head-2-learning_rate-0.01"


def sweep(**changes: Any) -> SweepConfig:
    return validate(SweepConfig, merge(BASE, changes), "test")


def readable(name: str) -> str:
    """A trial's name without the hash."""
    return re.sub(r"-[0-9a-f]{8}(?=-seed-|$)", "", name)
