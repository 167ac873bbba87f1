"""The records of a labelled file, one by one, in whichever of the accepted forms it is.

TAPE's LMDB directories, TAPE's JSON (one list of dicts), JSON lines, ProteinNet's text and tables with commas; all but
the LMDB also compressed with gzip.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from proteinlm.platform.data.csv_records import csv_records
from proteinlm.platform.data.proteinnet_text import proteinnet_records
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
    for number, values in lmdb_records(source, 0, lmdb_length(source)):
        yield f"{source.path} record {number}", values


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
