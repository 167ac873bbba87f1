"""Where a sweep's device-time went: training steps, what else its trials did, and how many devices were held at a time.

*Training steps* are residues over residues/s of each logged stretch of metrics.jsonl (waiting for data included, saving
and validation not). The rest of what a trial held is start, validation, scoring and saving.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from proteinlm.platform.training.tracking import read_metrics
from proteinlm.sweeps.trials.trial_state import attempts


def device_time(runs: Sequence[Path]) -> str | None:
    """A sentence on the device-time of the trials with these run directories; None where none held any.

    A sweep that was interrupted has its pauses in the wall time.
    """
    spans = {run: attempts(run) for run in runs}
    everything = [span for found in spans.values() for span in found]
    held = sum(span.device_seconds for span in everything)
    if not held:
        return None
    wall = max(span.end for span in everything) - min(span.start for span in everything)
    stepping = sum(training_seconds(run) * found[0].devices for run, found in spans.items() if found)
    device = {"core": "cores", "gpu": "GPUs"}[everything[0].device]
    return (
        f"{len(runs)} trials in {wall / 60:.1f} min: {held / wall:.2f} {device} held on average, "
        f"{stepping / wall:.2f} of them in training steps ({stepping / held:.0%} of what was held)."
    )


def training_seconds(run_directory: Path) -> float:
    """Seconds of the run in training steps; what a resumed run did twice counts once."""
    rows = [row for row in read_metrics(run_directory) if row.get("residues_per_s")]
    seen = [0.0, *(row["residues"] for row in rows)]
    stretches = zip(pairwise(seen), rows, strict=True)
    return float(sum((now - before) / row["residues_per_s"] for (before, now), row in stretches))
