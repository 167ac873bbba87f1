"""The files of a folder that hold the splits of a task, which of their records are taken, and a digest of them all.

DATA/secondary_structure/secondary_structure_{train,valid,cb513,...}.jsonl.gz    or in DATA itself
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

from proteinlm.platform.data.tape_lmdb import content_file
from proteinlm.platform.labelled.files import ENDINGS, TEST_SPLIT, is_simulated
from proteinlm.platform.storage.atomic import sha256
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.records import TaskSchema
from proteinlm.tasks.task import Task


@dataclass(frozen=True)
class SplitOptions:
    """Which of a task's records become which split; with the records themselves, all that the shards depend on."""

    seed: int
    """Of the shuffle of the train split, and of what is cut off for valid."""
    max_train_examples: int | None = None
    """The first so many proteins of the shuffled train split; None: all."""
    max_test_examples: int | None = None
    """At most so many proteins of every test split, the same ones for all seeds; None: all."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Split -> file or file stem in the source folder, where the names differ from `<file stem>_<split>`."""
    valid_fraction: float = 0.0
    """Above 0: no valid file is read; this share of the train file's sequences is cut off."""
    accept_non_protein: bool = False
    """Whether sequences that look like something else than proteins are taken."""

    def told(self) -> dict[str, object]:
        """All options by name; what is off, and came later than the first builds, is not told."""
        return {name: value for name, value in asdict(self).items() if name != "accept_non_protein" or value}

    def __post_init__(self) -> None:
        for name in ("max_train_examples", "max_test_examples"):
            most = getattr(self, name)
            if most is not None and most < 1:
                raise ValueError(f"{name} is {most}; accepted: at least 1, or none for all")
        if not 0 <= self.valid_fraction < 1:
            raise ValueError(f"valid_fraction is {self.valid_fraction}; accepted: 0 (a valid file is read) to below 1")


def records_folder(task: str, data: Path) -> Path:
    """Where the task's records lie: `data`, or the folder in it that is named as the task's files are."""
    schema = build_task(task).records
    folder = data / schema.file_stem if schema else data
    return folder if folder.is_dir() else data


def find_split_files(task: Task, folder: Path, files: Mapping[str, str], *, needs_valid: bool) -> dict[str, Path]:
    """Split -> file: `files`, else `<file stem>_<split>` for the splits that the task names and the simulated one."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder} for the records of task {task.name!r}")
    assert task.records is not None
    paths: dict[str, Path] = {}
    for split in (task.train_split, *task.valid_splits, *task.test_splits, TEST_SPLIT):
        if split in task.valid_splits and not needs_valid:
            continue
        found = _with_ending(folder, f"{task.records.file_stem}_{split}")
        if split not in files and found is not None:
            paths[split] = found
    for split, name in files.items():
        found = folder / name if (folder / name).exists() else _with_ending(folder, name)
        if found is None:
            raise FileNotFoundError(
                f"file {name!r} of split {split!r} is not in {folder} (tried it and {', '.join(ENDINGS)})"
            )
        paths[split] = found
    for split in (task.train_split, *(task.valid_splits if needs_valid else ())):
        if split not in paths:
            raise FileNotFoundError(
                f"task {task.name!r}: {folder} has no {task.records.file_stem}_{split} ({' or '.join(ENDINGS)})"
            )
    return paths


def task_of(task_name: str) -> tuple[Task, TaskSchema]:
    """The task, and what its records hold; ValueError for a task without labels."""
    task = build_task(task_name)
    if task.records is None:
        raise ValueError(f"task {task_name!r} has no labelled records: it reads what `proteinlm corpus build` makes")
    return task, task.records


def _with_ending(folder: Path, stem: str) -> Path | None:
    return next((folder / (stem + ending) for ending in ENDINGS if (folder / (stem + ending)).exists()), None)


def records_digest(task: str, data: Path, options: SplitOptions) -> str:
    """SHA-256 (hex) over the files that the task's splits are read from: their names, which splits, their content.

    Raises as `find_split_files` does.
    """
    folder = records_folder(task, data)
    paths = find_split_files(task_of(task)[0], folder, options.files, needs_valid=options.valid_fraction == 0)
    known = [is_simulated(folder), {split: [path.name, file_digest(path)] for split, path in paths.items()}]
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file of records, or of a directory's LMDB."""
    file = content_file(path)
    about = file.stat()
    return _digest_of_state(file, about.st_size, about.st_mtime_ns, about.st_ctime_ns)


@lru_cache(maxsize=1024)
def _digest_of_state(path: Path, *_state: int) -> str:
    """The digest of a file in a state that its size and times tell apart: the trials of a sweep all ask for it."""
    return sha256(path)
