"""What a sweep costs beside its computing: many finetuning trials of about two seconds each.

    python -m tests.benchmarks.trial_overhead [--trials 50] [--steps 60] [--at-once 2]

All figures are of one sweep of equal trials on made-up proteins, the first ones (cold processes) apart. *Computing* is
a trial's steps at its own median step time; all else is overhead, its validations and last scoring too. *To the first
step*: from the trial's being handed out to its first step's end.
"""

import argparse
import json
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from proteinlm.platform.settings.loading import validate
from proteinlm.platform.storage.run_directory import ATTEMPTS_FILE
from proteinlm.platform.training.tracking import read_metrics
from proteinlm.sweeps.planning.config import SweepConfig
from proteinlm.sweeps.planning.plan import plan_sweep
from proteinlm.sweeps.sweep import sweep
from tests.made.measuring import report
from tests.made.small_sweep import small_sweep


def main() -> None:
    """Measure and print."""
    asked = argparse.ArgumentParser(description="What a sweep of small trials costs beside its computing.")
    asked.add_argument("--trials", type=int, default=50)
    asked.add_argument("--steps", type=int, default=60, help="optimizer steps of a trial")
    asked.add_argument("--at-once", type=int, default=2, help="trials at once, one thread each")
    options = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows, figures = measured(Path(folder), options.trials, options.steps, options.at_once)
    report("what a small trial costs", ["what", "seconds or count, medians of warm trials"], rows, figures)


def measured(folder: Path, trials: int, steps: int, at_once: int) -> tuple[list[list[str]], dict[str, Any]]:
    """Rows of the table, and all figures."""
    chosen = validate(SweepConfig, settings(folder, trials, steps, at_once), "benchmark")
    start = time.time()
    assert sweep(plan_sweep(chosen)) == []
    wall = time.time() - start
    finetuned = [trial for trial in plan_sweep(chosen).trials if trial.verb == "finetune"]
    found = [times(chosen.directory / trial.name) for trial in finetuned]
    by_start = sorted(found, key=lambda one: one["scheduled"])
    warm = by_start[at_once:]
    span = max(one["end"] for one in warm) - min(one["scheduled"] for one in warm)
    figures = {
        "trials": len(warm),
        "wall_s_of_the_sweep": wall,
        "computing_s": statistics.median(one["computing"] for one in warm),
        "held_s": statistics.median(one["end"] - one["start"] for one in warm),
        "dispatch_s": statistics.median(one["start"] - one["scheduled"] for one in warm),
        "to_first_step_s": statistics.median(one["first_step"] - one["scheduled"] for one in warm),
        "to_first_step_s_cold": statistics.median(one["first_step"] - one["scheduled"] for one in by_start[:at_once]),
        "slot_s_per_trial": span * at_once / len(warm),
    }
    figures["overhead_s_per_trial"] = figures["slot_s_per_trial"] - figures["computing_s"]
    return [[name, f"{value:.2f}"] for name, value in figures.items()], figures


def settings(folder: Path, trials: int, steps: int, at_once: int) -> dict[str, Any]:
    """Many finetuning trials on one small model."""
    values = small_sweep(folder, "overhead")
    values["configurations"] = [{"model.hidden_size": 64}]
    values["tasks"] = [{"task": "secondary_structure_q3", "mode": "full"}]
    values["seeds"] = list(range(trials))
    values["max_concurrent"] = at_once
    every = {"steps": steps, "validate_every": steps, "checkpoint_every": steps, "log_every": 1}
    values["finetune"]["training"] = values["finetune"]["training"] | every
    values["finetune"]["batches"] = {"micro_batch_residues": 4000, "lanes": 1, "max_length": 200}
    return values


def times(run: Path) -> dict[str, float]:
    """Unix seconds of what befell a trial, and the seconds that it computed."""
    begun, ended = (json.loads(line) for line in (run / ATTEMPTS_FILE).read_text().splitlines())
    board = EventAccumulator(str(run / "tensorboard"))  # type: ignore[no-untyped-call]
    board.Reload()  # type: ignore[no-untyped-call]
    stamps = [event.wall_time for event in board.Scalars("train/loss")]  # type: ignore[no-untyped-call]
    rows = [row for row in read_metrics(run) if "loss" in row and "residues_per_s" in row]
    residues = [rows[0]["residues"], *(b["residues"] - a["residues"] for a, b in pairwise(rows))]
    seconds = [count / row["residues_per_s"] for count, row in zip(residues, rows, strict=True)]
    return {
        "scheduled": begun["scheduled"],
        "start": begun["time"],
        "first_step": stamps[0],
        "end": ended["time"],
        "computing": statistics.median(seconds[1:]) * len(rows),
    }


if __name__ == "__main__":
    main()
