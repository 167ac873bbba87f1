"""A training checkpoint: the engine's state beside a small cursor that says everything about the place in the data.

cursor.json   step (optimizer steps done), residues seen, world_size, and the newest validation figures
state/...     what the engine saved, one part per worker
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from proteinlm.platform.training.engine import Engine

CURSOR_FILE = "cursor.json"


@dataclass(frozen=True)
class Cursor:
    """Where a run is. With the corpus, the seed and the settings it determines all that follows."""

    step: int
    residues: int
    world_size: int
    figures: Mapping[str, float]


def checkpoint_name(step: int) -> str:
    """Name of the checkpoint directory of `step` in the run directory."""
    return f"step_{step:08d}"


def save_checkpoint(directory: Path, engine: Engine, cursor: Cursor, is_first_worker: bool) -> None:
    """Write this worker's part into `directory` (its own, which exists); Ray Train merges the workers' directories."""
    engine.save(directory)
    if is_first_worker:
        (directory / CURSOR_FILE).write_text(json.dumps(asdict(cursor)))


def load_checkpoint(directory: Path, engine: Engine, world_size: int) -> Cursor:
    """Load the engine's state and give the cursor; ValueError for a checkpoint of another number of workers."""
    values = json.loads((directory / CURSOR_FILE).read_text())
    cursor = Cursor(**values)
    if cursor.world_size != world_size:
        raise ValueError(
            f"cluster.num_workers: the checkpoint of step {cursor.step} was written by {cursor.world_size} workers and "
            f"cannot be continued by {world_size}; run again with cluster.num_workers={cursor.world_size}"
        )
    engine.load(directory)
    return cursor
