"""Every record of a folder of task files checked by its schema, and how many there are beside TAPE's published sizes.

The folder is TAPE's tree (DIR/stability/stability_<split>.lmdb, ...) or holds the files of one task.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from proteinlm.platform.labelled.files import ENDINGS, SHOWN_FAULTS, FileReading, checked_rows, count_records
from proteinlm.platform.labelled.task_data import shared_notice
from proteinlm.tasks.catalog import TASKS, build_task
from proteinlm.tasks.records import TaskSchema

if TYPE_CHECKING:
    from rich.console import Console

PUBLISHED_SIZES: Mapping[str, Mapping[str, int]] = {
    "secondary_structure": {"train": 8_678, "valid": 2_170, "cb513": 513, "ts115": 115, "casp12": 21},
    "proteinnet": {"train": 25_299, "valid": 224, "test": 40},
    "remote_homology": {
        "train": 12_312,
        "valid": 736,
        "test_fold_holdout": 718,
        "test_superfamily_holdout": 1_254,
        "test_family_holdout": 1_272,
    },
    "fluorescence": {"train": 21_446, "valid": 5_362, "test": 27_217},
    "stability": {"train": 53_614, "valid": 2_512, "test": 12_851},
    "pfam": {"train": 32_593_668, "valid": 1_715_454, "holdout": 44_311},
}
"""File stem -> split -> records of TAPE's archives: counted in them by TAPE's converters, torchdrug and ProteinLM. The
paper has other sizes for stability: 53,679, 2,447 and 12,839."""
COUNTED_ONLY = ("pfam",)
"""Read by `proteinlm corpus build`, which checks its records itself."""


@dataclass(frozen=True)
class SplitCheck:
    """What was found in the file of one split, for one task."""

    task: str
    split: str
    file: str
    num_records: int
    published: int | None
    """TAPE's number of records; None for a split that TAPE does not have."""
    num_labels: int | None
    """Labels that would be scored; None where records were only counted."""
    num_faults: int
    faults: tuple[str, ...]
    """The first ones."""
    notices: tuple[str, ...] = ()
    """Records that are in no split, and proteins that are in train too."""


def check_tasks(directory: Path) -> Iterator[SplitCheck]:
    """Check the files below `directory`, one by one; FileNotFoundError where there is none of a known name."""
    if not directory.is_dir():
        raise FileNotFoundError(f"no folder {directory}")
    files = [(stem, split, path) for stem in _schemas() for split, path in _split_files(directory, stem)]
    if not files:
        names = ", ".join(f"{stem}_<split>" for stem in _schemas())
        raise FileNotFoundError(f"{directory} holds no file of a task; looked for {names} ({', '.join(ENDINGS)})")
    trained: dict[str, set[object]] = {}
    for stem, split, path in files:
        schemas = _schemas()[stem]
        if not schemas:
            yield _counted(stem, split, path)
        for schema in schemas:
            yield _checked(schema, split, path, trained.setdefault(schema.task, set()))


def show_check(directory: Path, console: "Console") -> int:
    """Print what `check_tasks` finds as a table, then the faults; returns how many records are wrong."""
    from rich.table import Table

    columns = ("task", "split", "records", "TAPE", "difference", "labels scored", "wrong")
    table = Table(*columns, title=f"Records of {directory}")
    for column in table.columns[2:]:
        column.justify = "right"
    found = []
    with console.status("reading"):
        for check in check_tasks(directory):
            found.append(check)
            table.add_row(*_cells(check))
    console.print(table)
    if any(check.published not in (None, check.num_records) for check in found):
        console.print("Sizes differ from TAPE's: results on these records are not results on TAPE's splits.")
    for notice in dict.fromkeys(notice for check in found for notice in check.notices):
        console.print(notice, markup=False, highlight=False, soft_wrap=True)
    for fault in dict.fromkeys(fault for check in found for fault in check.faults):  # tasks of one file may share it
        console.print(fault, markup=False, highlight=False, soft_wrap=True)
    for check in found:
        if check.num_faults > len(check.faults):
            console.print(f"... and {check.num_faults - len(check.faults):,} more in {check.file}", soft_wrap=True)
    return sum(check.num_faults for check in found)


def _schemas() -> dict[str, list[TaskSchema]]:
    """File stem -> the schemas of the tasks that read such files; none where records are only counted."""
    found: dict[str, list[TaskSchema]] = {}
    for name in TASKS:
        schema = build_task(name).records
        if schema is not None:
            found.setdefault(schema.file_stem, []).append(schema)
    return {**found, **{stem: [] for stem in COUNTED_ONLY}}


def _split_files(directory: Path, stem: str) -> Iterator[tuple[str, Path]]:
    """(split, file) for the files of a task, in TAPE's order of splits and then by name."""
    found: dict[str, Path] = {}
    for folder in (directory, directory / stem):
        for ending in ENDINGS:
            for path in sorted(folder.glob(f"{stem}_*{ending}")):
                found.setdefault(path.name.removeprefix(f"{stem}_").removesuffix(ending), path)
    order = list(PUBLISHED_SIZES.get(stem, {}))
    for split in sorted(found, key=lambda split: (order.index(split) if split in order else len(order), split)):
        yield split, found[split]


def _checked(schema: TaskSchema, split: str, path: Path, trained: set[object]) -> SplitCheck:
    """`trained`: the sequences of the task's train split, to which those of this file are added if it is that."""
    reading = FileReading(path, [split], PUBLISHED_SIZES.get(schema.file_stem, {}))
    num_right = num_labels = 0
    shared: list[str] = []
    for _, row in checked_rows(schema, reading):
        num_right += 1
        num_labels += schema.count_labels(row)
        if split == "train":
            trained.add(row["sequence"])
        elif row["sequence"] in trained:
            shared.append(str(row["id"]))
    notices = reading.notices() + ([f"{schema.task}: {shared_notice(split, num_right, shared)}"] if shared else [])
    return SplitCheck(
        task=schema.task,
        split=split,
        file=str(path),
        num_records=num_right + len(reading.faults),
        published=PUBLISHED_SIZES.get(schema.file_stem, {}).get(split),
        num_labels=num_labels,
        num_faults=len(reading.faults),
        faults=tuple(reading.faults[:SHOWN_FAULTS]),
        notices=tuple(notices),
    )


def _counted(stem: str, split: str, path: Path) -> SplitCheck:
    faults: tuple[str, ...] = ()
    num_records = 0
    try:
        num_records = count_records(path)
    except ValueError as error:
        faults = (str(error),)
    return SplitCheck(
        task=stem,
        split=split,
        file=str(path),
        num_records=num_records,
        published=PUBLISHED_SIZES[stem].get(split),
        num_labels=None,
        num_faults=len(faults),
        faults=faults,
    )


def _cells(check: SplitCheck) -> tuple[str, ...]:
    published = "-" if check.published is None else f"{check.published:,}"
    difference = "-" if check.published is None else f"{check.num_records - check.published:+,}".replace("+0", "0")
    labels = "-" if check.num_labels is None else f"{check.num_labels:,}"
    return (check.task, check.split, f"{check.num_records:,}", published, difference, labels, f"{check.num_faults:,}")
