"""The records of a labelled file, one by one, in whichever of the accepted forms it is, checked by a task's schema.

TAPE's LMDB directories, TAPE's JSON (one list of dicts), JSON lines, ProteinNet's text and tables with commas; all but
the LMDB also compressed with gzip. A table has a header, then one protein a line:

    id,sequence,target
    wild type,MSKGEELFTG,3.72

Its columns carry TAPE's keys (`primary` may be called `sequence`, a task's one label `target`). A cell that is written
as a number is one, a cell that begins with '[' is a list in JSON (a label for each residue), everything else is text.
An empty cell is a key that the record lacks. A column `set` says which split a line is of.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from proteinlm.platform.data.sources import (
    SUFFIXES,
    Kind,
    Source,
    as_record,
    inspect_source,
    lmdb_length,
    lmdb_records,
    opened,
    parse_json,
)
from proteinlm.platform.labelled.proteinnet import proteinnet_records
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
    "tables with commas (.csv), each plain or .gz, or a TAPE LMDB directory"
)
_TEXT_ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".txt", ".proteinnet")
ENDINGS = (*(ending + compressed for ending in _TEXT_ENDINGS for compressed in (".gz", "")), ".lmdb")
"""Endings of a split's file; where there are several, the first one is read."""
_READ_BYTES = 1 << 20
_SPACE = re.compile(r"\s*")
_SPACE_AND_COMMA = re.compile(r"[\s,]*")

_Found = Iterator[tuple[str, dict[str, object] | ValueError]]
"""(where, the record or what is wrong with it)."""


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


def _lmdb(source: Source) -> _Found:
    for number, found in lmdb_records(source, 0, lmdb_length(source)):
        yield f"{source.path} record {number}", found


def _csv(source: Source) -> _Found:
    with opened(source) as file:
        yield from csv_records(file, source.path)


def _proteinnet(source: Source) -> _Found:
    with opened(source) as file:
        yield from proteinnet_records(file, source.path)


def _json_lines(source: Source) -> _Found:
    with opened(source) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                where = f"{source.path} line {number}"
                try:
                    found: dict[str, object] | ValueError = parse_json(line, where)
                except ValueError as error:
                    found = error
                yield where, found


def _json_list(source: Source) -> _Found:
    """TAPE's JSON form, a list of dicts, decoded one dict at a time so that a big file needs little memory."""
    decoder, utf8 = json.JSONDecoder(), codecs.getincrementaldecoder("utf-8")("replace")
    text, position, number = "", 0, -1  # -1: the list has not begun
    with opened(source) as file:
        while block := file.read(_READ_BYTES):
            text, position = text[position:] + utf8.decode(block), 0
            if number < 0 and text.strip():
                position = _SPACE.match(text).end()  # type: ignore[union-attr]
                if text[position] != "[":
                    raise ValueError(f"{source.path} does not begin with '['; TAPE's JSON is one list of dicts")
                position, number = position + 1, 0
            while number >= 0:
                position = _SPACE_AND_COMMA.match(text, position).end()  # type: ignore[union-attr]
                if text[position : position + 1] == "]":
                    return
                try:
                    values, position = decoder.raw_decode(text, position)
                except (json.JSONDecodeError, RecursionError):
                    break  # the rest of this record comes with the next block, or never
                where = f"{source.path} record {number}"
                yield where, as_record(values, where)
                number += 1
    raise ValueError(f"{source.path} record {max(number, 0)} is not valid JSON, or the file ends inside the list")


_READERS: Mapping[str, Callable[[Source], _Found]] = {
    "lmdb": _lmdb,
    "csv": _csv,
    "proteinnet": _proteinnet,
    "jsonl": _json_lines,
    "json": _json_list,
}
TEXT_COLUMNS = frozenset({"id", "primary", "sequence", "set"})
"""Columns whose cells stay text, whatever they look like: an id 007 is no 7."""
_SEQUENCE_COLUMNS = ("sequence", "primary")
_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def csv_records(file: IO[bytes], name: str) -> Iterator[tuple[str, dict[str, object] | ValueError]]:
    """(where, record or what is wrong with its line) for each line of the table in `file`, which messages call `name`.

    ValueError for what leaves no table: no column of sequences, a column named twice, a broken quotation, no UTF-8.
    """
    reader = csv.reader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), strict=True)
    header: list[str] = []
    try:
        for cells in reader:
            where = f"{name} line {reader.line_num}"
            if not header:
                header = _checked_header(cells, where) if cells else []
            elif len(cells) == len(header):
                yield where, _record(header, cells, where)
            elif cells:
                yield where, ValueError(f"{where} has {len(cells)} cells; accepted: {len(header)}, as in the header")
    except csv.Error as error:
        raise ValueError(f"{name} line {reader.line_num} is not valid CSV: {error}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not text in UTF-8 (after line {reader.line_num}): {error}") from None


def _checked_header(cells: list[str], where: str) -> list[str]:
    header = [cell.strip() for cell in cells]
    repeated = sorted({column for column in header if column and header.count(column) > 1})
    if repeated:
        raise ValueError(f"{where} names the column {repeated[0]!r} more than once")
    if not set(_SEQUENCE_COLUMNS) & set(header):
        raise ValueError(
            f"{where} has no column 'sequence' (found {', '.join(map(repr, header))}); a header is expected"
        )
    return header


def _record(header: list[str], cells: list[str], where: str) -> dict[str, object] | ValueError:
    values: dict[str, object] = {}
    for column, cell in zip(header, cells, strict=True):
        text = cell.strip()
        if not column or (not text and column not in _SEQUENCE_COLUMNS):
            continue  # a column without a name is the row number that pandas writes
        try:
            values[column] = text if column in TEXT_COLUMNS else _value(text)
        except (ValueError, RecursionError) as error:
            return ValueError(f"{where}: key {column!r} is not a valid list: {error}")
    return values


def _value(text: str) -> object:
    if _INTEGER.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text):
        return float(text)
    return json.loads(text) if text.startswith("[") else text


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


def is_simulated(source: Path | str) -> bool:
    """Whether `source` (a folder, or a file in one) was written by `simulate`."""
    path = Path(source)
    return ((path if path.is_dir() else path.parent) / MARKER_FILE).is_file()
