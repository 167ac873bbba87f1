"""Metrics of runs and sweeps on Ray's metrics endpoint, where Prometheus finds them.

`METRICS` is the one list of them: gauges, the Grafana dashboard (cluster/grafana.py) and the table in docs/watching.md
are made from it. Ray puts `ray_` before a name and tags of its own (node, session, worker process) beside ours.

Values are set when a row is logged, by the first worker, over all workers; so no metric has a rank. A process without
Ray sets nothing.
"""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.util.metrics import Gauge

PREFIX = "proteinlm_"


@dataclass(frozen=True)
class Metric:
    """A gauge: `name` without prefix, which for the metrics of training is their name in metrics.jsonl."""

    name: str
    unit: str
    """As Grafana names it: none, short (12.3 K), percentunit (1 is 100 %), flops, decgbytes, dateTimeFromNow."""
    help: str
    panel: str
    """Title of the dashboard's panel that shows it; metrics of one panel have one unit."""
    tags: tuple[str, ...] = ("run",)

    @property
    def exported(self) -> str:
        """The name on the endpoint."""
        return f"ray_{PREFIX}{self.name}"


VALIDATION = Metric(
    "validation",
    "none",
    "Metric of a validation split, by split and metric: loss, perplexity, accuracy and others of the task",
    "Validation",
    ("run", "split", "metric"),
)
LAUNCH = Metric(
    "launch_time_seconds",
    "none",
    "Unix time at which the worker group began; it changes with each restart",
    "Restarts of the worker group in the last hour",
)
TRIALS = Metric("trials", "none", "Trials of a sweep, by state", "Trials by state", ("run", "state"))
TRIAL_RETRIES = Metric(
    "trial_retries",
    "none",
    "Trials of a sweep started again after they had failed, since the command began",
    "Trials started again",
)
METRICS = (
    Metric("step", "none", "Optimizer steps done", "Step"),
    Metric("loss", "none", "Training loss of the step, mean over scored tokens", "Training loss"),
    VALIDATION,
    Metric("residues_per_s", "short", "Residues a second, all workers together", "Residues a second"),
    Metric("residues", "short", "Residues seen since the run began, all workers together", "Residues seen"),
    Metric("data_stall_share", "percentunit", "Share of the training time spent waiting for data", "Stalls"),
    Metric("checkpoint_stall_share", "percentunit", "Share of the time spent waiting for a checkpoint", "Stalls"),
    Metric("peak_share", "percentunit", "Model FLOP utilisation: share of the measured matmul peak", "Share of peak"),
    Metric("flops_per_s", "flops", "Model FLOP/s, all workers together", "Model FLOP/s"),
    Metric("gradient_norm", "none", "Gradient norm before clipping", "Gradient norm"),
    Metric("learning_rate", "none", "Learning rate of the step", "Learning rate"),
    Metric("loss_scale", "short", "Loss scale of fp16", "Loss scale"),
    Metric("skipped_steps", "none", "Steps skipped since the run began: no finite gradient", "Skipped steps"),
    Metric("padding_share", "percentunit", "Share of attention's slots that is padding", "Padding and filling"),
    Metric("filling_share", "percentunit", "Share of tokens that fill streams up to length", "Padding and filling"),
    Metric("memory_gb", "decgbytes", "Memory of the worker that has most, 10^9 bytes", "Memory"),
    LAUNCH,
    TRIALS,
    TRIAL_RETRIES,
)


class RunGauges:
    """The newest values of one run or sweep as gauges; does nothing in a process without Ray."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._launched = time.time()
        self._gauges: dict[str, Gauge] = {}
        ray = sys.modules.get("ray")  # whoever runs on Ray has imported it
        self._has_ray = ray is not None and ray.is_initialized()

    def log(self, row: Mapping[str, float]) -> None:
        """Set what a row of metrics.jsonl holds; "valid/loss" is `validation` of split valid and metric loss."""
        self._set(LAUNCH, self._launched)
        for metric in METRICS:
            if metric.name in row:
                self._set(metric, row[metric.name])
        for name, value in row.items():
            split, is_split, of_split = name.partition("/")
            if is_split:
                self._set(VALIDATION, value, {"split": split, "metric": of_split})

    def log_trials(self, by_state: Mapping[str, int], retries: int) -> None:
        """Set the number of a sweep's trials in each state, zeros included, and how many were started again."""
        for state, count in by_state.items():
            self._set(TRIALS, count, {"state": state})
        self._set(TRIAL_RETRIES, retries)

    def _set(self, metric: Metric, value: float, tags: Mapping[str, str] | None = None) -> None:
        if not self._has_ray:
            return
        from ray.util.metrics import Gauge

        if metric.name not in self._gauges:
            self._gauges[metric.name] = Gauge(PREFIX + metric.name, description=metric.help, tag_keys=metric.tags)
        self._gauges[metric.name].set(float(value), tags={"run": self._run, **(tags or {})})
