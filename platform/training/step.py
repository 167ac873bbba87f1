"""One optimizer step as both engines see it: what it reports, how scored labels are counted, how dropout is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist

from proteinlm.tasks.task import Batch


@dataclass(frozen=True)
class StepReport:
    """What one optimizer step gave, over all workers."""

    loss: float
    """Mean loss of a scored label of the global batch."""
    scored: int
    gradient_norm: float
    """Norm of the whole gradient before clipping."""
    is_skipped: bool = False
    """The gradient was not finite, so the optimizer did not step."""
    loss_scale: float = 1.0
    """What fp16 multiplies its loss with, so that small gradients are not lost."""


def world_size() -> int:
    """Workers that share a global batch."""
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_workers(value: Tensor) -> Tensor:
    """`value` summed in place over all workers, on whatever device it lies."""
    if world_size() > 1:
        dist.all_reduce(value)
    return value


def count_scored(batches: Sequence[Batch], device: torch.device) -> Tensor:
    """Scored labels of the global batch, as a tensor on `device`: known before the first forward pass."""
    local = sum(batch.num_scored for batch in batches)
    return sum_over_workers(torch.tensor(float(local), dtype=torch.float64)).to(device)


def seed_dropout(seed: int, batch: Batch) -> None:
    """Make dropout depend on (seed, step, rows), not on how often a generator was used: resume needs no state."""
    torch.manual_seed((seed * 1_000_003 + (batch.rows[0] if batch.rows else 0)) % 2**63)
