"""A task's shards in a storage: built on first use, and shared by all runs there that read the same records."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from proteinlm.platform.data.task_shards import build_task_shards
from proteinlm.tasks.catalog import build_task

FOLDER = "task-data"


def records_folder(task: str, data: Path) -> Path:
    """Where the task's records lie: `data`, or the folder in it that is named as the task's files are."""
    schema = build_task(task).records
    folder = data / schema.file_stem if schema else data
    return folder if folder.is_dir() else data


def shared_task_shards(
    task: str,
    data: Path,
    storage: Path,
    *,
    seed: int,
    max_train_examples: int | None = None,
    max_test_examples: int | None = None,
    files: Mapping[str, str] | None = None,
    valid_fraction: float = 0.0,
) -> Path:
    """The directory of the task's shards; raises as `build_task_shards` does."""
    source = records_folder(task, data)
    chosen = [task, str(source.resolve()), seed, max_train_examples, max_test_examples, files or {}, valid_fraction]
    known_by = json.dumps(chosen, sort_keys=True)
    out = storage / FOLDER / f"{task}-{hashlib.sha256(known_by.encode()).hexdigest()[:12]}"
    build_task_shards(
        task,
        source,
        out,
        seed=seed,
        max_train_examples=max_train_examples,
        max_test_examples=max_test_examples,
        files=files,
        valid_fraction=valid_fraction,
    )
    return out
