"""A task's labelled records as Parquet shards and a manifest: the form in which the stream reads them.

    SOURCE/secondary_structure_{train,valid,cb513,...}.jsonl.gz | .json | .lmdb | .csv | .txt
      -> check each record -> OUT/<split>/shard-00000.parquet ... OUT/manifest.json

Only the train split is shuffled. A build is made in a staging directory and renamed, so that several processes may ask
for the same one. Runs of one storage that read the same records share one build.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from proteinlm.models.messages import shown
from proteinlm.platform.data.manifest import (
    FORMAT_VERSION,
    Manifest,
    Split,
    read_shard,
    split_of,
    standing_build,
    write_manifest,
    write_shard,
)
from proteinlm.platform.labelled.files import (
    FileReading,
    Row,
    checked_rows,
    faults_message,
    is_simulated,
)
from proteinlm.platform.labelled.split_files import (
    SplitOptions,
    file_digest,
    find_split_files,
    records_digest,
    records_folder,
    task_of,
)
from proteinlm.platform.places.places import place
from proteinlm.platform.storage.atomic import staged_directory
from proteinlm.platform.storage.copies import kept_copy
from proteinlm.tasks.records import TaskSchema
from proteinlm.tasks.task import Task

SHARD_ROWS = 512
NOTICES_FILE = "notices.json"
"""Beside the manifest: sentences for the screen, and the ids of each split's proteins whose sequence is in train."""
SHOWN_IDS = 5


def build_task_shards(
    task_name: str,
    source: Path | str,
    out: Path | str,
    options: SplitOptions,
    *,
    shard_rows: int = SHARD_ROWS,
    simulated: bool | None = None,
) -> Manifest:
    """Shards of `task_name`'s records from the folder `source`, in `out`; a finished build of equal settings is reused.

    Splits are the files `<file stem>_<split>` that are there, of those the task names, unless `options.files` names
    others. `simulated`: None looks for the marker of `simulate`. Of a file whose records have a `set`, each split takes
    its own.
    Raises ValueError for wrong records, a split without a single label, and an `out` that holds another build;
    FileNotFoundError where a split that is needed has no file.
    """
    task, schema = task_of(task_name)
    folder, directory = Path(source), place(out)
    if shard_rows < 1:
        raise ValueError(f"shard_rows is {shard_rows}; accepted: at least 1")
    paths = find_split_files(task, folder, options.files, needs_valid=options.valid_fraction == 0)
    told = {name: value for name, value in options.told().items() if name != "files"}  # `sources` says which they are
    settings: dict[str, object] = {
        "task": task_name,
        "sources": {split: {"file": path.name, "sha256": file_digest(path)} for split, path in paths.items()},
        **told,
        "shard_rows": shard_rows,
        "is_simulated": is_simulated(folder) if simulated is None else simulated,
    }
    standing = standing_build(directory, task_name, settings)
    if standing is not None:
        return standing
    splits, counts, notices = _read_splits(task, paths, options)
    for split in splits.keys() - {task.train_split, *task.valid_splits}:
        splits[split] = _sample(splits[split], options.max_test_examples)
    _count_labels(schema, paths, splits, counts)
    shared = _count_shared(task, splits, counts)
    notices += [shared_notice(split, len(splits[split]), ids) for split, ids in shared.items() if ids]
    try:
        with staged_directory(directory) as staging:
            written = {name: _write_split(staging, name, rows, schema, shard_rows) for name, rows in splits.items()}
            is_made_up = bool(settings["is_simulated"])
            manifest = Manifest(
                kind=task_name, splits=written, settings=settings, counts=counts, is_simulated=is_made_up
            )
            record = {"notices": notices, "in_train": shared}
            (staging / NOTICES_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            write_manifest(staging, manifest)
    except OSError:
        other = standing_build(directory, task_name, settings)  # another process may have been faster
        if other is None:
            raise
        return other
    return manifest


def read_split(directory: Path | str, manifest: Manifest, split: str) -> pa.Table:
    """All rows of a split in order; for baselines and other readers that want a whole split in memory."""
    return pa.concat_tables([read_shard(directory, shard) for shard in manifest.split(split).shards])


def _read_splits(
    task: Task, paths: Mapping[str, Path], options: SplitOptions
) -> tuple[dict[str, list[Row]], dict[str, int], list[str]]:
    """Checked rows of every split, train shuffled; how many were read of each; notices of what was left out."""
    assert task.records is not None
    splits: dict[str, list[Row]] = {split: [] for split in paths}
    faults: list[str] = []
    notices: list[str] = []
    left_out = 0
    for path in dict.fromkeys(paths.values()):  # once, where several splits share it
        known = (*task.valid_splits, *task.test_splits, *paths)
        reading = FileReading(
            path, [split for split in paths if paths[split] == path], known, options.accept_non_protein
        )
        for split, row in checked_rows(task.records, reading):
            splits[split].append(row)
        faults += reading.faults
        notices += reading.notices()
        left_out += reading.left_out.total()
    if faults:
        raise ValueError(faults_message(faults, len(faults) + sum(map(len, splits.values()))))
    counts = {f"{split}_read": len(rows) for split, rows in splits.items()} | {"left_out": left_out}
    generator = np.random.default_rng([options.seed, 0x7A5C])
    train = [splits["train"][i] for i in generator.permutation(len(splits["train"]))]
    if options.valid_fraction > 0:
        splits["valid"], train = _cut_valid(train, options.valid_fraction)
    splits["train"] = train[: options.max_train_examples]
    return splits, counts, notices


def _count_shared(task: Task, splits: Mapping[str, list[Row]], counts: dict[str, int]) -> dict[str, list[str]]:
    """Add to `counts` how many proteins of each other split have a sequence of train; returns their ids."""
    in_train = {row["sequence"] for row in splits[task.train_split]}
    shared = {
        split: [str(row["id"]) for row in rows if row["sequence"] in in_train]
        for split, rows in splits.items()
        if split != task.train_split
    }
    counts |= {f"{split}_in_train": len(ids) for split, ids in shared.items()}
    return shared


def shared_notice(split: str, num_records: int, ids: Sequence[str]) -> str:
    """That proteins of `split` are in train too, how many and which."""
    first = ", ".join(shown(name)[1:-1] for name in ids[:SHOWN_IDS]) + (", ..." if len(ids) > SHOWN_IDS else "")
    return f"{len(ids):,} of {num_records:,} proteins of {split} have a sequence that is in train too: {first}"


def notices_of(directory: Path) -> list[str]:
    """What a user should know of the records in the shards of `directory`: left out, or in train and test alike."""
    try:
        values = json.loads((directory / NOTICES_FILE).read_text(encoding="utf-8"))
        return [str(notice) for notice in values["notices"]]
    except (OSError, ValueError, KeyError, TypeError):  # a build of an earlier version has none
        return []


def _sample(rows: list[Row], most: int | None) -> list[Row]:
    """At most so many of `rows`, in their order: those whose sequence's SHA-256 comes first, in whatever file."""
    if most is None or len(rows) <= most:
        return rows
    digests = [hashlib.sha256(str(row["sequence"]).encode()).digest() for row in rows]
    return [rows[i] for i in sorted(sorted(range(len(rows)), key=digests.__getitem__)[:most])]


def _count_labels(
    schema: TaskSchema, paths: Mapping[str, Path], splits: Mapping[str, list[Row]], counts: dict[str, int]
) -> None:
    """Add rows and labels of every split to `counts`; ValueError for a split without a single label."""
    for split, rows in splits.items():
        labels = sum(schema.count_labels(row) for row in rows)
        if labels == 0:
            keys = " and ".join(repr(field.key) for field in schema.fields)
            file = paths.get(split, paths["train"])  # valid may be cut off train
            raise ValueError(
                f"split {split!r} of task {schema.task!r}: {file} has {len(rows):,} records and not one label "
                f"to score in {keys}; name another file for this split with files={{{split!r}: NAME}}"
                + (" or cut it off train with valid_fraction" if split == "valid" else "")
            )
        counts[f"{split}_kept"], counts[f"{split}_labels"] = len(rows), labels


def _cut_valid(train: list[Row], fraction: float) -> tuple[list[Row], list[Row]]:
    """The first share of the shuffled train rows and the rest; copies of one sequence stay on one side."""
    in_valid = {row["sequence"] for row in train[: max(1, round(fraction * len(train)))]}
    valid = [row for row in train if row["sequence"] in in_valid]
    return valid, [row for row in train if row["sequence"] not in in_valid]


def _write_split(directory: Path, split: str, rows: list[Row], schema: TaskSchema, shard_rows: int) -> Split:
    shards = []
    for number, start in enumerate(range(0, len(rows), shard_rows)):
        part = rows[start : start + shard_rows]
        columns = {name: [row[name] for row in part] for name in schema.arrow_schema().names}
        shards.append(write_shard(directory, split, number, pa.table(columns, schema=schema.arrow_schema())))
    return split_of(shards)


FOLDER = "task-data"


def shared_task_shards(task: str, data: Path, storage: Path, options: SplitOptions) -> Path:
    """Return the directory of the task's shards in `storage`, made if needed; raises as `build_task_shards` does.

    It is known by the content of the records: of a file that changed new shards are made, beside the earlier ones.
    """
    data = kept_copy(data)
    source = records_folder(task, data)
    known_by = json.dumps([FORMAT_VERSION, task, records_digest(task, data, options), options.told()], sort_keys=True)
    out = storage / FOLDER / f"{task}-{hashlib.sha256(known_by.encode()).hexdigest()[:12]}"
    build_task_shards(task, source, out, options)
    return out
