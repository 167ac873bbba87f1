"""Training checkpoints: the engine's state, and a small cursor that says how far the run is in its data.

cursor.json            step (optimizer steps done), residues seen, world_size, steps skipped, newest validation metrics
state/... or state.pt  what the engine saved, one part per worker
checksums-00000.json   of one worker: file -> [bytes, CRC-32] of each file that it wrote; written last

A checkpoint is whole where the files of all its workers are there with these sizes and checksums. A damaged one is
passed over: a run goes on from the newest whole one.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import Field
from torch import distributed as dist

from proteinlm.models.messages import printable
from proteinlm.models.weights import check_archive
from proteinlm.platform.places.places import is_remote
from proteinlm.platform.settings.sections import TrainingSection
from proteinlm.platform.settings.yaml_text import shown
from proteinlm.platform.storage.atomic import checksums_of, crc32, move_directory
from proteinlm.platform.storage.phases import phase
from proteinlm.platform.storage.run_directory import CHECKPOINTS_FOLDER, read_object, validated
from proteinlm.platform.training.deepspeed_engine import STATE_DIRECTORY, convert_to_universal, unreadable
from proteinlm.platform.training.engine import Engine
from proteinlm.platform.training.job import Worker

CURSOR_FILE = "cursor.json"
CHECKSUMS_FILE = "checksums-{rank:05d}.json"
FORMAT_VERSION = 2
"""Version 1, which has no key of that name, had no checksums."""


@dataclass(frozen=True)
class Cursor:
    """How far a run is. Together with the data, the seed and the settings it determines all steps that follow."""

    step: Annotated[int, Field(ge=0)]
    residues: Annotated[int, Field(ge=0)]
    world_size: Annotated[int, Field(gt=0)]
    figures: Mapping[str, float]
    """Metrics of the last validation."""
    skipped_steps: Annotated[int, Field(ge=0)] = 0
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


def save_checkpoint(directory: Path, engine: Engine, cursor: Cursor, rank: int) -> None:
    """Write the part of worker `rank` into `directory`, which exists and is its own, and its checksums last.

    OSError that names the directory where it cannot be written, such as on a full disk.
    """
    try:
        engine.save(directory)
        if rank == 0:
            described = {"format_version": FORMAT_VERSION, **asdict(cursor)}
            (directory / CURSOR_FILE).write_text(json.dumps(described))
        (directory / CHECKSUMS_FILE.format(rank=rank)).write_text(json.dumps(checksums_of(directory)))
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_of_writing(error):
            raise
        why = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise OSError(
            f"the checkpoint after step {cursor.step} could not be written to {directory} ({why}); is the disk full? "
            "The checkpoint before it stays, and the same command goes on from there"
        ) from error


def _is_of_writing(error: RuntimeError) -> bool:
    """Whether torch's writer of archives raised it: it says a failed write of its file in words of C++."""
    return any(word in str(error) for word in ("iostream", "PytorchStreamWriter", "unexpected pos"))


@dataclass(frozen=True)
class CheckpointWriter:
    """Makes the checkpoints of a run; every worker has one, and all call it together."""

    engine: Engine
    worker: Worker
    checkpoints: Checkpoints
    before: Callable[[], object] = lambda: None
    """Called before a checkpoint counts: what was logged until then is to be found by who resumes from it."""

    @phase("checkpoint")
    def save(self, step: int, *, residues: int, skipped_steps: int, metrics: Mapping[str, float], wait: bool) -> None:
        """Make a checkpoint after `step`; with `wait` it is in its place on return.

        `residues` and `skipped_steps` are counted since the run began; `metrics` are those of the last validation.
        """
        cursor = Cursor(step, residues, self.worker.world_size, metrics, skipped_steps)
        folder = self.checkpoints.staging()
        save_checkpoint(folder, self.engine, cursor, self.worker.rank)
        self.before()
        told = {"step": step, "residues": residues, **metrics}
        self.checkpoints.take(folder, cursor.checkpoint_name(), told, wait=wait)


def read_cursor(directory: Path) -> Cursor:
    """Read the cursor of the checkpoint in `directory`; ValueError that names the file where it is not whole."""
    return _read_cursor(directory)[0]


def _read_cursor(directory: Path) -> tuple[Cursor, int]:
    """The cursor, and the version of the checkpoint's format."""
    file = directory / CURSOR_FILE
    values = _read_part(file)
    version = values.pop("format_version", 1)
    if version not in (1, FORMAT_VERSION):
        raise ValueError(f"{file} has format version {shown(version)}; this version reads 1 and {FORMAT_VERSION}")
    if unknown := values.keys() - {field.name for field in fields(Cursor)}:
        raise ValueError(f"{file} is damaged: it holds {shown(min(unknown))}, which no cursor has")
    return validated(Cursor, values, file), version


def _read_part(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(f"{file} is missing")
    return read_object(file)


def check_whole(directory: Path, *, with_sums: bool = True) -> None:
    """ValueError that names the file of the checkpoint in `directory` that is missing or damaged.

    Without `with_sums` only sizes are compared.

    Of a checkpoint of an earlier version, which has no checksums, the cursor is read and the archives of tensors are
    compared with their own.
    """
    cursor, version = _read_cursor(directory)
    if version == 1 and not any(directory.glob("checksums-*.json")):  # else a 2 of the cursor became a 1
        for file in sorted(directory.rglob("*.pt")):
            check_archive(file, sums=True)
        return
    there = {file.relative_to(directory).as_posix(): file for file in directory.rglob("*") if file.is_file()}
    unlisted = {name for name in there if name == CURSOR_FILE or name.endswith(".pt")}
    for rank in range(cursor.world_size):
        listed = directory / CHECKSUMS_FILE.format(rank=rank)
        for name, about in _read_part(listed).items():
            if name not in there:
                raise ValueError(f"{directory / printable(name)} is missing; {listed.name} lists it")
            if [there[name].stat().st_size, crc32(there[name]) if with_sums else about[1]] != about:
                raise ValueError(f"{there[name]} is damaged: its size or checksum is not what {listed.name} says")
            unlisted.discard(name)
    if unlisted:
        listing = CHECKSUMS_FILE.format(rank=0)
        raise ValueError(f"{directory / min(unlisted)} is damaged, or {listing}: no checksum is listed for it")


def newest_whole(candidates: Iterable[Path]) -> tuple[Path | None, tuple[str, ...]]:
    """The first whole checkpoint of `candidates`, newest first, and what is wrong with those before it.

    (None, ()) where there is none at all; ValueError where all are damaged.
    """
    faults: list[str] = []
    for folder in candidates:
        try:
            check_whole(folder, with_sums=not is_remote(folder))  # a store's: when it is fetched
        except ValueError as error:
            parent = folder.parent
            faults.append(str(error))
        else:
            return folder, tuple(faults)
    if faults:
        raise ValueError(
            f"no checkpoint in {parent} is whole: {'; '.join(faults)}. Bring one back from a copy, or "
            "remove them all to begin anew"
        )
    return None, ()


def checkpoints_in(run_directory: Path) -> list[Path]:
    """All checkpoints of a run, newest first, whole or not: in its directory (Ray Train's) or in checkpoints/."""
    folders = (run_directory, run_directory / CHECKPOINTS_FOLDER)
    found = [path for folder in folders for path in folder.glob("step_*_by_*") if path.is_dir()]
    return sorted(found, key=lambda path: path.name, reverse=True)


def has_checksums(directory: Path) -> bool:
    """Whether the checkpoint in `directory` says what belongs to it: those of earlier versions do not."""
    return (directory / CHECKSUMS_FILE.format(rank=0)).is_file()


@contextmanager
def loading(directory: Path) -> Iterator[None]:
    """Run the body, which loads the checkpoint in `directory`; ValueError names the file that cannot be loaded."""
    for file in sorted(directory.rglob("*.pt")):
        check_archive(file, sums=False)
    try:
        yield
    except Exception as error:  # a damaged or hostile file makes torch and DeepSpeed raise nearly anything
        for file in sorted(directory.rglob("*.pt")):
            if why := unreadable(file):
                raise ValueError(f"{file} {why}") from error
        raise


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
    if is_first_worker:
        for left in scratch.glob("universal-*"):  # by a worker that was killed, of any size of the group
            shutil.rmtree(left, ignore_errors=True)
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
        """Yields the newest whole checkpoint, None where there is none yet."""
        yield newest_whole(self._finished()[::-1])[0]

    def take(self, folder: Path, name: str, metrics: Mapping[str, float], *, wait: bool) -> None:
        """Rename the finished checkpoint `folder` to `name`, and delete those that are too old."""
        shutil.rmtree(self._folder / name, ignore_errors=True)
        move_directory(folder, self._folder / name)
        for old in self._finished()[: -self._keep]:
            shutil.rmtree(old, ignore_errors=True)

    def notice(self) -> str | None:
        """Return None: no preemption notice reaches a run without Ray Train."""
        return None
