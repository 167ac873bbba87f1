"""What stops a run before it wastes hours: steps that are not finite, and a micro batch that does not fit in memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from proteinlm.platform.sections import BatchSection, TrainingSection

_CPU_ALLOCATOR = "DefaultCPUAllocator"


class SkippedSteps:
    """Counts optimizer steps that the engine skipped because their loss or gradient was not finite."""

    def __init__(self, section: TrainingSection, before: int) -> None:
        """`before`: steps skipped before the checkpoint that the run goes on from."""
        self._most = section.max_skipped_steps
        self._last_good = 0
        self.total = before
        self.in_a_row = 0

    def note(self, step: int, is_skipped: bool) -> None:
        """Count step `step` (1-based)."""
        self.in_a_row = self.in_a_row + 1 if is_skipped else 0
        self.total += is_skipped
        if not is_skipped:
            self._last_good = step

    def reason_to_stop(self, last_checkpoint: int) -> str | None:
        """What to tell the user once too many steps in a row were skipped; None as long as training may go on."""
        if self.in_a_row < self._most:
            return None
        return (
            f"training.max_skipped_steps: the loss or the gradient of the {self.in_a_row} optimizer steps after step "
            f"{self._last_good} was not finite; the checkpoint of step {last_checkpoint} is kept. "
            "Lower optimizer.learning_rate, or lengthen optimizer.warmup_steps, under another name"
        )


@contextmanager
def explained_out_of_memory(batches: BatchSection) -> Iterator[None]:
    """Turn an allocator's error into one message with the residue budget to try, as a RuntimeError."""
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and _CPU_ALLOCATOR not in str(error):
            raise
        raise RuntimeError(out_of_memory_message(batches)) from error


def out_of_memory_message(batches: BatchSection) -> str:
    """The next smaller micro batch, and how many lanes keep the global batch as it is."""
    smaller = max(1, batches.micro_batch_residues // 2)
    crop = f" batches.max_length={smaller}" if batches.max_length > smaller else ""
    return (
        f"out of memory: micro batches of {batches.micro_batch_residues} residues do not fit; try "
        f"batches.micro_batch_residues={smaller} batches.lanes={batches.lanes * 2}{crop} (the same global batch), "
        "or model.activation_checkpointing=true"
    )
