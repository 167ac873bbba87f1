"""What a fitted baseline is: a name, what it was fitted on, and per-protein columns for the rows of a split.

Shapes: B proteins.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from proteinlm.tasks.task import Columns


@dataclass(frozen=True)
class Baseline:
    """A fitted baseline."""

    name: str
    description: str
    """What it is and what it was fitted on: printed with its figures."""
    score: Callable[[pa.Table], Columns]
    """Rows [B] of a split -> per-protein columns [B] as `Task.score` gives them."""
