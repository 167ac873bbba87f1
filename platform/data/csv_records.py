"""Labelled records as a table with commas: a header, then one protein a line.

    id,sequence,target
    wild type,MSKGEELFTG,3.72

Columns carry TAPE's keys (`primary` may be called `sequence`, a task's one label `target`). A cell that is written as a
number is one, a cell that begins with '[' is a list in JSON (a label for each residue), everything else is text. An
empty cell is a key that the record lacks. A column `set` says which split a line is of.
"""

import csv
import io
import json
import re
from collections.abc import Iterator
from typing import IO

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
