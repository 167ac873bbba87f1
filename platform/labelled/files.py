"""The records of a labelled file, one by one, in whichever of the accepted forms it is, checked by a task's schema.

TAPE's LMDB directories, TAPE's JSON (one list of dicts), JSON lines, ProteinNet's text and tables with commas; all but
the LMDB also compressed. A table has a header, then one protein a line:

    id,sequence,target
    wild type,MSKGEELFTG,3.72

Its columns carry TAPE's keys (`primary` may be called `sequence`, a task's one label `target`). A cell that is written
as a number is one, one that begins with '[' is a list in JSON or an array as numpy prints it (a label of each residue),
all else is text. An empty cell is a key that the record lacks. A column `set` says which split a line is of.
"""

import csv
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from proteinlm.models.messages import shown
from proteinlm.models.sequences import Composition
from proteinlm.platform.data.compression import COMPRESSED_ENDINGS
from proteinlm.platform.data.sources import (
    SUFFIXES,
    Kind,
    Source,
    dict_of_once,
    inspect_source,
    lmdb_length,
    lmdb_records,
    opened,
)
from proteinlm.platform.labelled.text_forms import (
    INTEGER,
    NUMBER,
    Found,
    json_lines,
    json_list,
    lines,
    printed_array,
    proteinnet_records,
)
from proteinlm.tasks.records import TaskSchema, check_record

MARKER_FILE = "SIMULATED.txt"
TEST_SPLIT = "simulated_test"
LABELLED_SUFFIXES: Mapping[str, Kind] = {
    **SUFFIXES,
    ".csv": "csv",
    ".txt": "proteinnet",
    ".proteinnet": "proteinnet",
    "": "proteinnet",  # ProteinNet's own names: training_30, validation, testing
}
ACCEPTED = (
    "JSON lines (.jsonl, .ndjson), TAPE's JSON list (.json), ProteinNet's text (.txt, .proteinnet or no ending), "
    "tables with commas (.csv), each plain or compressed (.gz, .bz2, .xz, .zst), or a TAPE LMDB"
)
_TEXT_ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".txt", ".proteinnet")
ENDINGS = (*(ending + compressed for ending in _TEXT_ENDINGS for compressed in (*COMPRESSED_ENDINGS, "")), ".lmdb")
"""Endings of a split's file; where there are several, the first one is read."""


@dataclass(frozen=True)
class Record:
    """One record as it stands in its file."""

    values: dict[str, object]
    where: str
    """For messages: "file.jsonl.gz line 12", "x.lmdb record 3"."""


def read_records(path: Path, faults: list[str] | None = None) -> Iterator[Record]:
    """The records of a labelled file in order.

    Raises FileNotFoundError, or ValueError that names file and line (or record) and what was found: invalid JSON, a
    record that is no dict, a truncated gzip, a pickle that asks for more than plain containers and numpy arrays. With a
    list `faults`, a record that cannot be read is named there and the next one follows, as far as there is a next one.
    """
    source = inspect_source(Path(path), LABELLED_SUFFIXES, ACCEPTED)
    if source.kind == "fasta":
        raise ValueError(f"{path} is FASTA and has no labels; accepted: {ACCEPTED}")
    for where, found in _READERS[source.kind](source):
        if isinstance(found, dict):
            yield Record(found, where)
        elif faults is None:
            raise found
        else:
            faults.append(str(found))


def count_records(path: Path) -> int:
    """How many records a labelled file holds, without looking into those of an LMDB; errors as `read_records`."""
    source = inspect_source(Path(path), LABELLED_SUFFIXES, ACCEPTED)
    return lmdb_length(source) if source.kind == "lmdb" else sum(1 for _ in read_records(path))


def _lmdb(source: Source) -> Found:
    for number, found in lmdb_records(source, 0, lmdb_length(source)):
        yield f"{source.path} record {number}", found


def _text(read: Callable[[IO[bytes], str], Found]) -> Callable[[Source], Found]:
    def records(source: Source) -> Found:
        with opened(source) as file:
            yield from read(file, source.path)

    return records


TEXT_COLUMNS = frozenset({"id", "primary", "sequence", "set"})
"""Columns whose cells stay text, whatever they look like: an id 007 is no 7."""
_ALWAYS_THERE = ("sequence", "primary", "set")
"""Columns whose empty cell is a value: a sequence is missed, and a row without a set is in none."""
_SEQUENCE_COLUMNS = ("sequence", "primary")


def csv_records(file: IO[bytes], name: str) -> Found:
    """A record a line of a table with commas, whose first line is a header.

    ValueError for what leaves no table: no column of sequences, a column named twice, a broken quotation.
    """
    reader = csv.reader(lines(file, name, newline=""), strict=True)
    header: list[str] = []
    try:
        for cells in reader:
            where = f"{name} line {reader.line_num}"
            if not header:
                header = _checked_header(cells, where) if cells else []
            elif len(cells) == len(header):
                yield where, _of_cells(header, cells, where)
            elif cells:
                yield where, ValueError(f"{where} has {len(cells)} cells; accepted: {len(header)}, as in the header")
    except csv.Error as error:
        raise ValueError(f"{name} line {reader.line_num} is not valid CSV: {error}") from None


def _checked_header(cells: list[str], where: str) -> list[str]:
    header = [cell.strip() for cell in cells]
    repeated = sorted(column for column, count in Counter(header).items() if column and count > 1)
    if repeated:
        raise ValueError(f"{where} names the column {repeated[0][:40]!r} more than once")
    if not set(_SEQUENCE_COLUMNS) & set(header):
        found = ", ".join(repr(column[:40]) for column in header[:20])
        raise ValueError(f"{where} has no column 'sequence' (found {found}); a header is expected")
    return header


def _of_cells(header: list[str], cells: list[str], where: str) -> dict[str, object] | ValueError:
    values: dict[str, object] = {}
    for column, cell in zip(header, cells, strict=True):
        text = cell.strip()
        if not column or (not text and column not in _ALWAYS_THERE):
            continue  # a column without a name is the row number that pandas writes
        if not text.isascii() and not _is_text(text):
            return ValueError(f"{where} is not text in UTF-8: column {column[:40]!r}")
        try:
            values[column] = text if column in TEXT_COLUMNS else _value(text)
        except (ValueError, RecursionError) as error:
            return ValueError(f"{where}: key {column[:40]!r} is not a valid list: {_begin(text)}: {error}")
    return values


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _begin(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")


def _value(text: str) -> object:
    if INTEGER.fullmatch(text):
        return int(text)
    if NUMBER.fullmatch(text):
        return float(text)
    if not text.startswith("["):
        return text
    return json.loads(text, object_pairs_hook=dict_of_once) if "," in text else printed_array(text)


_READERS: Mapping[str, Callable[[Source], Found]] = {
    "lmdb": _lmdb,
    "csv": _text(csv_records),
    "proteinnet": _text(proteinnet_records),
    "jsonl": _text(json_lines),
    "json": _text(json_list),
}


SET_KEY = "set"
"""A record may say which split it is of, so that one table can hold them all."""
SHOWN_FAULTS = 5
"""Wrong records that one message names."""
_SPLIT_OF_SET = {"training": "train", "val": "valid", "validation": "valid", "testing": "test"}
_ALWAYS_KNOWN = ("train", "valid", "test", TEST_SPLIT)

Row = dict[str, object]


@dataclass
class FileReading:
    """What was found in one file beside its rows: faults, and records that are in none of the splits asked for."""

    path: Path
    splits: Sequence[str]
    """Which splits its records may go to."""
    known: Collection[str] = ()
    """Further names that a `set` may have: the task's other splits."""
    accept_non_protein: bool = False
    """Whether sequences that look like something else than proteins are taken."""
    faults: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """What the `set` of a record says that is in no split asked for -> records; "" for an empty one."""
    says_sets: bool | None = None
    """Whether its records say which split they are of; None before the first."""

    def splits_of(self, values: Mapping[str, object], where: str) -> Sequence[str]:
        """The split of a record, none for one that is left out; ValueError where it does not say what it must.

        A file without a word of splits is all of its one split, or of several that are only scored.
        """
        found = values.get(SET_KEY)
        if self.says_sets is None:
            self.says_sets = SET_KEY in values
        if found is None or found == "":
            if self.says_sets:
                self.left_out[""] += 1
            return () if self.says_sets else self.splits
        if not self.says_sets:
            raise ValueError(f"{where}: key {SET_KEY!r} has {shown(found)}, and records before it have no such key")
        names = {_set_name(split): split for split in (*_ALWAYS_KNOWN, *self.known, *self.splits)}
        name = _set_name(found) if isinstance(found, str) else None
        if name not in names:
            raise ValueError(f"{where}: key {SET_KEY!r} has {shown(found)}; accepted: {', '.join(sorted(names))}")
        self.left_out[name] += names[name] not in self.splits
        return [split for split in self.splits if split == names[name]]

    def notices(self) -> list[str]:
        """What a user should know of the records that are left out, a sentence for each kind."""
        several = [f"{self.path.name} is {' and '.join(self.splits)} at once"] if len(self.splits) > 1 else []
        return several * (not self.says_sets) + [
            f"{count:,} records of {self.path.name} are in no split: "
            + (f"their {SET_KEY!r} is {name!r}, which is not asked for" if name else f"their {SET_KEY!r} is empty")
            for name, count in sorted((+self.left_out).items())
        ]


def checked_rows(schema: TaskSchema, reading: FileReading) -> Iterator[tuple[str, Row]]:
    """(split, row to store) for each record of a file; what is wrong, or left out, is noted in `reading`.

    A file that cannot be read on is a fault too, after the rows that were read; and so is one whose sequences are no
    proteins when they are taken together.
    """
    letters = Composition()
    try:
        for number, record in enumerate(read_records(reading.path, reading.faults)):
            try:
                if not (splits := reading.splits_of(record.values, record.where)):
                    continue
                row = check_record(schema, record.values, record.where, reading.accept_non_protein)
            except ValueError as error:
                reading.faults.append(str(error))
                continue
            letters.add([str(row["sequence"]).encode()], [None])
            row["id"] = row["id"] or str(number)  # as TAPE's own reader names a record without id
            yield from ((split, row) for split in splits)
    except ValueError as error:
        reading.faults.append(f"{error} (what follows in this file was not read)")
    if "train" in reading.splits and len(reading.splits) > 1 and reading.says_sets is False:
        reading.faults.append(
            f"{reading.path} is the file of {', '.join(reading.splits)}, and its records have no {SET_KEY!r} that says "
            "which of them are of which split"
        )
    if not reading.accept_non_protein and (verdict := letters.verdict()):
        reading.faults.append(f"{reading.path} {verdict}")


def faults_message(faults: Sequence[str], num_records: int, most: int = SHOWN_FAULTS) -> str:
    """One message for all faults: the first `most` of them, and how many there are."""
    if len(faults) == 1:
        return faults[0]
    heading = f"{len(faults):,} of {num_records:,} records are wrong"
    heading += f"; the first {most}:" if len(faults) > most else ":"
    return "\n  ".join([heading, *faults[:most]])


def _set_name(name: str) -> str:
    return _SPLIT_OF_SET.get(name.strip().lower(), name.strip().lower())


def is_simulated(source: Path | str) -> bool:
    """Whether `source` (a folder, or a file in one) was written by `simulate`."""
    path = Path(source)
    return ((path if path.is_dir() else path.parent) / MARKER_FILE).is_file()
