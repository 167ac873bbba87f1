"""One checked schema per task: what a record must hold, and a refusal that names file, record and key.

A record is a mapping as TAPE writes it (JSON or LMDB): the sequence under `primary` (or `sequence`), an `id`, and
labels that may be lists or numpy arrays. L is the number of residues of its protein.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

RESIDUE_LETTERS = frozenset("ACDEFGHIKLMNPQRSTVWYXBUZO")
"""The 20 amino acids and X (any), B (D or N), U (selenocysteine), Z (E or Q), O (pyrrolysine)."""
SEQUENCE_KEYS = ("primary", "sequence")
SHOWN = 60
"""Characters of a found value that a message repeats."""


@dataclass(frozen=True)
class LabelField:
    """A label column: how a found value is checked and how it is stored."""

    key: str
    accepted: str
    """What is accepted, in words."""
    check: Callable[[object, int], object]
    """(value found, L) -> the value to store; ValueError saying what was found where it is wrong."""
    column_type: pa.DataType


@dataclass(frozen=True)
class TaskSchema:
    """What the records of a task hold beside id and sequence."""

    task: str
    file_stem: str
    """Files are named `<file_stem>_<split>`."""
    fields: tuple[LabelField, ...]
    count_labels: Callable[[Mapping[str, object]], int]
    """How many labels of a checked record would be scored: a split in which that sums to 0 is refused."""

    def arrow_schema(self) -> pa.Schema:
        """The columns of the task's shards: id, sequence, length and the labels."""
        columns = [pa.field("id", pa.string()), pa.field("sequence", pa.string()), pa.field("length", pa.int32())]
        return pa.schema(columns + [pa.field(field.key, field.column_type) for field in self.fields])


def residue_classes(key: str, num_classes: int) -> LabelField:
    """A class for each residue, -1 where it is not known: stored as list<int8>."""
    accepted = f"one integer for each residue, 0 to {num_classes - 1} or -1"
    return LabelField(key, accepted, partial(_checked_classes, num_classes=num_classes), pa.list_(pa.int8()))


def residue_mask(key: str) -> LabelField:
    """1 for a residue that counts, 0 for one that does not: stored as list<bool>."""
    return LabelField(key, "one 0 or 1 for each residue", _checked_mask, pa.list_(pa.bool_()))


def _checked_classes(value: object, length: int, *, num_classes: int) -> NDArray[np.int8]:
    found = _residue_array(value, length, kinds="iu")
    _refuse(found, (found < -1) | (found >= num_classes))
    return found.astype(np.int8)


def _checked_mask(value: object, length: int) -> NDArray[np.bool_]:
    found = _residue_array(value, length, kinds="iufb")
    _refuse(found, (found != 0) & (found != 1))
    return found.astype(np.bool_)


def _refuse(found: NDArray[Any], is_wrong: NDArray[np.bool_]) -> None:
    wrong = np.flatnonzero(is_wrong)
    if wrong.size:
        raise ValueError(f"{found[wrong[0]]} at residue {wrong[0] + 1}")


def check_record(task_schema: TaskSchema, values: Mapping[str, object], where: str) -> dict[str, object]:
    """The row to store for a record: id, sequence, length and the schema's labels.

    `where` says which file and record it is. ValueError names it, the key, what was found and what is accepted.
    """
    sequence = _checked_sequence(values, where)
    _check_protein_length(values, len(sequence), where)
    row: dict[str, object] = {"id": _checked_id(values, where), "sequence": sequence, "length": len(sequence)}
    for field in task_schema.fields:
        if field.key not in values:
            raise ValueError(
                f"{where}: key {field.key!r} is missing (found {_names(values)}); "
                f"task {task_schema.task!r} needs {field.accepted}"
            )
        try:
            row[field.key] = field.check(values[field.key], len(sequence))
        except ValueError as error:
            raise ValueError(f"{where}: key {field.key!r} has {error}; accepted: {field.accepted}") from None
    return row


def _residue_array(value: object, length: int, *, kinds: str) -> NDArray[Any]:
    """A found list or array as an array of one entry for each of `length` residues; `kinds` are numpy's dtype kinds."""
    if not isinstance(value, (list, tuple, np.ndarray)):
        raise ValueError(f"{_shown(value)} ({type(value).__name__})")
    try:
        found = np.asarray(value)
    except (ValueError, OverflowError):
        raise ValueError("nested lists of unequal lengths") from None
    if found.ndim != 1:
        raise ValueError(f"a {found.ndim}-dimensional array")
    if len(found) != length:
        raise ValueError(f"{len(found)} values for a sequence of {length} residues")
    if found.dtype.kind not in kinds:
        raise ValueError(f"values of type {found.dtype}")
    return found


def _checked_sequence(values: Mapping[str, object], where: str) -> str:
    accepted = "accepted: a string of the letters " + "".join(sorted(RESIDUE_LETTERS))
    key = next((key for key in SEQUENCE_KEYS if key in values), None)
    if key is None:
        raise ValueError(f"{where}: key 'primary' (or 'sequence') is missing (found {_names(values)}); {accepted}")
    sequence = values[key]
    if isinstance(sequence, bytes):
        sequence = sequence.decode("latin-1")
    if not isinstance(sequence, str):
        raise ValueError(f"{where}: key {key!r} has {_shown(sequence)} ({type(sequence).__name__}); {accepted}")
    if not sequence:
        raise ValueError(f"{where}: key {key!r} is an empty sequence; {accepted}")
    wrong = next((place for place, letter in enumerate(sequence) if letter not in RESIDUE_LETTERS), None)
    if wrong is not None:
        raise ValueError(f"{where}: key {key!r} has {sequence[wrong]!r} at residue {wrong + 1}; {accepted}")
    return sequence


def _check_protein_length(values: Mapping[str, object], length: int, where: str) -> None:
    stated = values.get("protein_length", length)
    if isinstance(stated, bool) or not isinstance(stated, (int, np.integer)) or stated != length:
        raise ValueError(
            f"{where}: key 'protein_length' has {_shown(stated)}; accepted: {length}, the residues of its sequence"
        )


def _checked_id(values: Mapping[str, object], where: str) -> str:
    found = values.get("id", "")
    if isinstance(found, bytes):
        return found.decode("latin-1")
    if isinstance(found, bool) or not isinstance(found, (str, int, np.integer)):
        raise ValueError(
            f"{where}: key 'id' has {_shown(found)} ({type(found).__name__}); accepted: a string or an integer"
        )
    return str(found)


def _names(values: Mapping[str, object]) -> str:
    return ", ".join(repr(name) for name in sorted(map(str, values))) or "no keys"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
