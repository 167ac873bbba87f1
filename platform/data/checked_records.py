"""A labelled file's records checked by a task's schema: the rows that are right, and what is wrong with the others."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from proteinlm.platform.data.labelled_records import read_records
from proteinlm.tasks.records import TaskSchema, check_record

SET_KEY = "set"
"""A record may say which split it is of, so that one table can hold them all."""
SHOWN_FAULTS = 5
"""Wrong records that one message names."""
_SPLIT_OF_SET = {"training": "train", "val": "valid", "validation": "valid", "testing": "test"}

Row = dict[str, object]


def checked_rows(schema: TaskSchema, path: Path, split: str, faults: list[str]) -> Iterator[Row]:
    """The row to store for each record of `path` that is of `split`; what is wrong is named in `faults`.

    A file that cannot be read on is a fault too, after the rows that were read.
    """
    try:
        for number, record in enumerate(read_records(path, faults)):
            if not is_of_split(record.values, split):
                continue
            try:
                row = check_record(schema, record.values, record.where)
            except ValueError as error:
                faults.append(str(error))
                continue
            row["id"] = row["id"] or str(number)  # as TAPE's own reader names a record without id
            yield row
    except ValueError as error:
        faults.append(f"{error} (what follows in this file was not read)")


def is_of_split(values: Mapping[str, object], split: str) -> bool:
    """Whether a record is of `split`: one that does not say is of the split that its file is."""
    found = values.get(SET_KEY)
    return not isinstance(found, str) or _set_name(found) == _set_name(split)


def faults_message(faults: Sequence[str], num_records: int, most: int = SHOWN_FAULTS) -> str:
    """One message for all faults: the first `most` of them, and how many there are."""
    if len(faults) == 1:
        return faults[0]
    heading = f"{len(faults):,} of {num_records:,} records are wrong"
    heading += f"; the first {most}:" if len(faults) > most else ":"
    return "\n  ".join([heading, *faults[:most]])


def _set_name(name: str) -> str:
    lower = name.strip().lower()
    return _SPLIT_OF_SET.get(lower, lower)
