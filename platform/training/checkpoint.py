"""Training checkpoints: the engine's state, and a small cursor that says how far the run is in its data.

cursor.json   step (optimizer steps done), residues seen, world_size, steps skipped, and the newest validation metrics
state/...     what the engine saved, one part per worker
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from torch import distributed as dist

from proteinlm.platform.settings.sections import TrainingSection
from proteinlm.platform.storage.atomic import move_directory
from proteinlm.platform.storage.run_directory import CHECKPOINTS_FOLDER
from proteinlm.platform.training.deepspeed_engine import STATE_DIRECTORY, convert_to_universal
from proteinlm.platform.training.engine import Engine
from proteinlm.platform.training.job import Worker

CURSOR_FILE = "cursor.json"


@dataclass(frozen=True)
class Cursor:
    """How far a run is. Together with the data, the seed and the settings it determines all steps that follow."""

    step: int
    residues: int
    world_size: int
    figures: Mapping[str, float]
    """Metrics of the last validation."""
    skipped_steps: int = 0
    """Optimizer steps that were skipped because their gradient was not finite."""

    def checkpoint_name(self) -> str:
        """Return the name of this checkpoint's directory.

        It holds the number of workers, so that a half-written checkpoint of another number of workers is not mixed in.
        """
        return f"step_{self.step:08d}_by_{self.world_size}"


class Checkpoints(Protocol):
    """The checkpoints of a run, wherever they are kept."""

    def staging(self) -> Path:
        """Make an empty directory that this worker writes its part into."""

    def newest(self) -> AbstractContextManager[Path | None]:
        """Yields the newest checkpoint as a directory that is there until the body ends; None where there is none."""

    def take(self, folder: Path, name: str, metrics: Mapping[str, float], *, wait: bool) -> None:
        """Take over `folder`, made by `staging`, as part of checkpoint `name`; with `wait` it is in place on return."""

    def notice(self) -> str | None:
        """Return the name of a notice that a node will be taken away, the same on all workers; all call it together."""


def save_checkpoint(directory: Path, engine: Engine, cursor: Cursor, is_first_worker: bool) -> None:
    """Write this worker's part into `directory`, which exists and is its own."""
    engine.save(directory)
    if is_first_worker:
        (directory / CURSOR_FILE).write_text(json.dumps(asdict(cursor)))


@dataclass(frozen=True)
class CheckpointWriter:
    """Makes the checkpoints of a run; every worker has one, and all call it together."""

    engine: Engine
    worker: Worker
    checkpoints: Checkpoints

    def save(self, step: int, *, residues: int, skipped_steps: int, metrics: Mapping[str, float], wait: bool) -> None:
        """Make a checkpoint after `step`; with `wait` it is in its place on return.

        `residues` and `skipped_steps` are counted since the run began; `metrics` are those of the last validation.
        """
        cursor = Cursor(step, residues, self.worker.world_size, metrics, skipped_steps)
        folder = self.checkpoints.staging()
        save_checkpoint(folder, self.engine, cursor, self.worker.is_first)
        told = {"step": step, "residues": residues, **metrics}
        self.checkpoints.take(folder, cursor.checkpoint_name(), told, wait=wait)


def read_cursor(directory: Path) -> Cursor:
    """Read the cursor of the checkpoint in `directory`."""
    return Cursor(**json.loads((directory / CURSOR_FILE).read_text()))


def needs_conversion(cursor: Cursor, training: TrainingSection, world_size: int) -> bool:
    """Whether `world_size` workers need the checkpoint converted to DeepSpeed's universal format."""
    return training.engine == "deepspeed" and training.zero_stage > 0 and cursor.world_size != world_size


@contextmanager
def loadable(
    directory: Path,
    is_foreign: bool,
    scratch: Path,
    is_first_worker: bool,
    barrier: Callable[[], object] = dist.barrier,
) -> Iterator[Path]:
    """Yields the checkpoint in `directory` as a directory that these workers can load, there until the body ends.

    Where it `is_foreign` (`needs_conversion`), the first worker converts it into a directory under `scratch`, which all
    nodes see, and the others wait: all workers call this.
    """
    if not is_foreign:
        yield directory
        return
    folder = scratch / f"universal-{directory.name}"
    try:
        if is_first_worker:
            convert_to_universal(directory / STATE_DIRECTORY, folder / STATE_DIRECTORY)
        barrier()
        yield folder
        barrier()
    finally:
        if is_first_worker:
            shutil.rmtree(folder, ignore_errors=True)


class LocalCheckpoints:
    """Checkpoints of a run without Ray Train: folders of the run directory, of which the newest `keep` are kept."""

    def __init__(self, run_directory: Path, keep: int) -> None:
        self._folder, self._keep = run_directory / CHECKPOINTS_FOLDER, keep
        self._folder.mkdir(parents=True, exist_ok=True)
        self._staging = self._folder / "unfinished"

    def staging(self) -> Path:
        """Make an empty directory beside the finished ones; deletes what a killed process left there."""
        shutil.rmtree(self._staging, ignore_errors=True)
        self._staging.mkdir()
        return self._staging

    def _finished(self) -> list[Path]:
        return sorted(path for path in self._folder.iterdir() if path.name.startswith("step_"))

    @contextmanager
    def newest(self) -> Iterator[Path | None]:
        """Yields the newest checkpoint, None where there is none yet."""
        finished = self._finished()
        yield finished[-1] if finished else None

    def take(self, folder: Path, name: str, metrics: Mapping[str, float], *, wait: bool) -> None:
        """Rename the finished checkpoint `folder` to `name`, and delete those that are too old."""
        shutil.rmtree(self._folder / name, ignore_errors=True)
        move_directory(folder, self._folder / name)
        for old in self._finished()[: -self._keep]:
            shutil.rmtree(old, ignore_errors=True)

    def notice(self) -> str | None:
        """Return None: no preemption notice reaches a run without Ray Train."""
        return None
