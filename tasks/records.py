"""One checked schema per task: what a record must hold, and a refusal that names file, record and key.

A record is a mapping as TAPE writes it (JSON or LMDB): the sequence under `primary` (or `sequence`), an `id`, and
labels that may be lists or numpy arrays. Where a task has one label for the whole protein, it may stand under `target`.
L is the number of residues of its protein.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from proteinlm.models.alphabet import RESIDUE_LETTERS
from proteinlm.models.messages import shown
from proteinlm.models.sequences import clean_sequence, mend, non_protein_kind

SEQUENCE_KEYS = ("primary", "sequence")
_ACCEPTED_SEQUENCE = "accepted: a string of the letters " + "".join(sorted(RESIDUE_LETTERS))
TARGET_KEY = "target"
"""The name of the one label of a whole protein in tables of (sequence, target)."""
SHOWN = 60
"""Characters of a found value that a message repeats."""
MAX_LABELS = 10_000_000
"""Values of one label of one protein."""


@dataclass(frozen=True)
class LabelField:
    """A label column: how a found value is checked and how it is stored."""

    key: str
    accepted: str
    """What is accepted, in words."""
    check: Callable[[object, int], object]
    """(value found, L) -> the value to store; ValueError saying what was found where it is wrong."""
    column_type: pa.DataType
    is_required: bool = True
    """Whether every record must have it; else a record without it is stored with a null."""


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

    @cached_property
    def target_field(self) -> LabelField | None:
        """The one required label of the whole protein, which a record may have under `target`; None for other tasks."""
        found = [field for field in self.fields if field.is_required and not pa.types.is_list(field.column_type)]
        return found[0] if len(found) == 1 else None


def residue_classes(key: str, num_classes: int) -> LabelField:
    """A class for each residue, -1 where it is not known: stored as list<int8>."""
    accepted = f"one integer for each residue, 0 to {num_classes - 1} or -1"
    return LabelField(key, accepted, partial(_checked_classes, num_classes=num_classes), pa.list_(pa.int8()))


def residue_mask(key: str) -> LabelField:
    """1 for a residue that counts, 0 for one that does not: stored as list<bool>."""
    return LabelField(key, "one 0 or 1 for each residue", _checked_mask, pa.list_(pa.bool_()))


def protein_class(key: str, num_classes: int, *, is_required: bool = True) -> LabelField:
    """The class of the whole protein: stored as int32."""
    accepted = f"one integer, 0 to {num_classes - 1}"
    return LabelField(key, accepted, partial(_checked_class, num_classes=num_classes), pa.int32(), is_required)


def protein_number(key: str, *, is_required: bool = True) -> LabelField:
    """A finite number for the whole protein, alone or as TAPE's list of one: stored as float64."""
    return LabelField(key, "one finite number, or a list of one", _checked_number, pa.float64(), is_required)


def protein_count(key: str, *, is_required: bool = True) -> LabelField:
    """How many of something the whole protein has: stored as int32."""
    check = partial(_checked_class, num_classes=2**31)
    return LabelField(key, "one integer, 0 or more", check, pa.int32(), is_required)


def residue_coordinates(key: str) -> LabelField:
    """x, y, z in Angstrom of each residue: stored as list<float32> [3L], three for each residue, one after the other.

    Residues that are not resolved have finite numbers too (TAPE: zeros), and a mask that leaves them out.
    """
    accepted = "three finite numbers in Angstrom for each residue"
    return LabelField(key, accepted, _checked_coordinates, pa.list_(pa.float32()))


def _checked_class(value: object, length: int, *, num_classes: int) -> int:
    found = int(_single(value, (int, np.integer)))
    if not 0 <= found < num_classes:
        raise ValueError(shown(found))
    return found


def _checked_number(value: object, length: int) -> float:
    try:
        number = float(_single(value, (int, float, np.integer, np.floating)))
    except OverflowError:
        raise ValueError("an integer above 1.8e308") from None
    if not math.isfinite(number):
        raise ValueError(f"{number}")
    return number


def _single(value: object, kinds: tuple[type, ...]) -> Any:
    """A number of `kinds`, alone or as a list or array of one, which is TAPE's form."""
    found = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
    found = found[0] if isinstance(found, (list, tuple)) and len(found) == 1 else found
    if isinstance(found, (bool, np.bool_)) or not isinstance(found, kinds):
        raise ValueError(f"{shown(value)} ({type(value).__name__})")
    return found


def _checked_coordinates(value: object, length: int) -> NDArray[np.float32]:
    found = _array(value)
    if found.shape != (length, 3):
        raise ValueError(f"an array of shape {list(found.shape)} for a sequence of {length} residues")
    if found.dtype.kind not in "iuf":
        raise ValueError(f"values of type {found.dtype}")
    with np.errstate(over="ignore"):
        stored = found.astype(np.float32)
    wrong = np.argwhere(~np.isfinite(stored))  # of what is stored: 1e39 is finite, and infinite as float32
    if wrong.size:
        residue, axis = wrong[0]
        raise ValueError(f"{found[residue, axis]} at residue {residue + 1}")
    return stored.reshape(-1)


def _array(value: object) -> NDArray[Any]:
    if not isinstance(value, (list, tuple, np.ndarray)):
        raise ValueError(f"{shown(value)} ({type(value).__name__})")
    if isinstance(value, np.ndarray):
        return value
    _num_values(value)
    try:
        return np.asarray(value)
    except (ValueError, OverflowError):
        raise ValueError("nested lists of unequal lengths") from None


def _num_values(values: Sequence[object], depth: int = 0) -> int:
    """How many values numpy would make of nested lists; ValueError where it would take more than a protein's labels."""
    if depth > 4:
        raise ValueError("lists nested too deeply")
    count = 0
    for one in values:
        if isinstance(one, (str, bytes)) and len(one) > SHOWN:  # numpy makes all texts as long as the longest
            raise ValueError(f"the text {shown(one)} among its values")
        if isinstance(one, (list, tuple)):
            count += _num_values(one, depth + 1)
        else:
            count += one.size if isinstance(one, np.ndarray) else 1
        if count > MAX_LABELS:
            raise ValueError(f"more than {MAX_LABELS:,} values")
    return count


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


def check_record(
    task_schema: TaskSchema, values: Mapping[str, object], where: str, accept_non_protein: bool = False
) -> dict[str, object]:
    """The row to store for a record: id, sequence, length and the schema's labels.

    `where` says which file and record it is; `accept_non_protein`: take sequences that look like something else.
    ValueError names it, the key, what was found and what is accepted.
    """
    sequence = _checked_sequence(values, where, accept_non_protein)
    _check_protein_length(values, len(sequence), where)
    row: dict[str, object] = {"id": _checked_id(values, where), "sequence": sequence, "length": len(sequence)}
    target = task_schema.target_field
    for field in task_schema.fields:
        key = TARGET_KEY if field is target and field.key not in values and TARGET_KEY in values else field.key
        if not field.is_required and values.get(key) is None:
            row[field.key] = None
            continue
        if key not in values:
            names = f"{key!r} (or {TARGET_KEY!r})" if field is target else repr(key)
            needs = f"task {task_schema.task!r} needs {field.accepted}"
            raise ValueError(f"{where}: key {names} is missing (found {_names(values)}); {needs}")
        try:
            row[field.key] = field.check(values[key], len(sequence))
        except ValueError as error:
            raise ValueError(f"{where}: key {key!r} has {error}; accepted: {field.accepted}") from None
    return row


def _residue_array(value: object, length: int, *, kinds: str) -> NDArray[Any]:
    """A found list or array as an array of one entry for each of `length` residues; `kinds` are numpy's dtype kinds."""
    found = _array(value)
    if found.ndim != 1:
        raise ValueError(f"a {found.ndim}-dimensional array")
    if len(found) != length:
        raise ValueError(f"{len(found)} values for a sequence of {length} residues")
    if found.dtype.kind not in kinds:
        raise ValueError(f"values of type {found.dtype}")
    return found


def _checked_sequence(values: Mapping[str, object], where: str, accept_non_protein: bool) -> str:
    """The residues of a record's sequence, mended as in a corpus: upper case, without blanks, gaps and a final '*'."""
    accepted = _ACCEPTED_SEQUENCE
    key = next((key for key in SEQUENCE_KEYS if key in values), None)
    if key is None:
        raise ValueError(f"{where}: key 'primary' (or 'sequence') is missing (found {_names(values)}); {accepted}")
    found = values[key]
    text = found.encode("utf-8", "replace") if isinstance(found, str) else found
    if not isinstance(text, bytes):
        raise ValueError(f"{where}: key {key!r} has {shown(found)} ({type(found).__name__}); {accepted}")
    try:
        sequence = clean_sequence(text).decode()
    except ValueError as error:
        said = str(error).removeprefix("unknown letter ")
        raise ValueError(f"{where}: key {key!r} {'is an' if 'empty' in said else 'has'} {said}; {accepted}") from None
    kind = None if accept_non_protein else non_protein_kind(text)
    if kind is not None:
        raise ValueError(f"{where}: key {key!r} looks like {kind}, not a protein: {shown(sequence)}; {mend(kind)}")
    return sequence


def _check_protein_length(values: Mapping[str, object], length: int, where: str) -> None:
    stated = values.get("protein_length", length)
    if isinstance(stated, bool) or not isinstance(stated, (int, np.integer)) or stated != length:
        raise ValueError(
            f"{where}: key 'protein_length' has {shown(stated)}; accepted: {length}, the residues of its sequence"
        )


def _checked_id(values: Mapping[str, object], where: str) -> str:
    found = values.get("id", "")
    if isinstance(found, bytes):
        return found.decode("latin-1")
    if isinstance(found, str) and not found.isascii() and found.encode("utf-8", "replace").decode() != found:
        raise ValueError(f"{where}: key 'id' has {shown(found)}; accepted: text in UTF-8")
    if isinstance(found, bool) or not isinstance(found, (str, int, np.integer)):
        raise ValueError(
            f"{where}: key 'id' has {shown(found)} ({type(found).__name__}); accepted: a string or an integer"
        )
    return str(found)


def _names(values: Mapping[str, object]) -> str:
    names = ", ".join(map(shown, sorted(map(str, values))[:20]))
    return names + (", ..." if len(values) > 20 else "") or "no keys"


def one_label(row: Mapping[str, object]) -> int:
    """A checked record of a task with one label for each protein has that label."""
    return 1
