"""Where proteins come from: FASTA, JSON lines, TAPE's JSON and TAPE's LMDB directories, read record by record.

`read_records` gives the records of a labelled file, for anybody. The rest cuts a source into chunks of whole records,
so that many tasks can read one corpus: a plain file by byte ranges, a gzip file as one stream, an LMDB by numbers.
"""

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from proteinlm.platform.data.unpickle import load_plain

FASTA_SUFFIXES = (".fasta", ".fa", ".faa", ".fas")
JSON_LINES_SUFFIXES = (".jsonl", ".ndjson")
ACCEPTED = "FASTA (.fasta, .fa, .faa, .fas), JSON lines (.jsonl, .ndjson), each plain or .gz, or a TAPE LMDB directory"
_BOUNDARY = {"fasta": b"\n>", "jsonl": b"\n"}
_READ_BYTES = 1 << 20
_SPACE = re.compile(r"\s*")
_SPACE_AND_COMMA = re.compile(r"[\s,]*")


@dataclass(frozen=True)
class Record:
    """One record as it stands in its file."""

    values: dict[str, object]
    where: str
    """For messages: "file.jsonl.gz line 12", "x.lmdb record 3"."""


@dataclass(frozen=True)
class Source:
    """A file or LMDB directory that holds proteins."""

    path: str
    kind: Literal["fasta", "jsonl", "json", "lmdb"]
    is_gzip: bool
    size: int
    """Bytes on disk."""

    @property
    def name(self) -> str:
        """File name, as messages and manifests give it."""
        return Path(self.path).name


def inspect_source(path: Path) -> Source:
    """What `path` is, judged by its name and first bytes; FileNotFoundError or ValueError say what is wrong with it."""
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    if path.is_dir():
        data = path / "data.mdb"
        if not data.is_file():
            raise ValueError(f"{path} is a directory without data.mdb, so no TAPE LMDB; accepted: {ACCEPTED}")
        return Source(str(path), "lmdb", False, data.stat().st_size)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    suffix = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else (suffixes or [""])[-1]
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{path} is empty: it holds no record")
    if suffixes[-1:] == [".gz"] and not is_gzip:
        raise ValueError(f"{path} ends in .gz but is not a gzip file")
    if suffix in FASTA_SUFFIXES:
        return Source(str(path), "fasta", is_gzip, size)
    if suffix in JSON_LINES_SUFFIXES:
        return Source(str(path), "jsonl", is_gzip, size)
    if suffix == ".json":
        return Source(str(path), "json", is_gzip, size)
    raise ValueError(f"{path} has the unknown ending {suffix or '(none)'!r}; accepted: {ACCEPTED}")


@contextmanager
def _opened(source: Source) -> Iterator[IO[bytes]]:
    """The source's bytes, decompressed; a truncated or damaged gzip becomes a ValueError that names the file."""
    path = source.path
    with gzip.open(path, "rb") if source.is_gzip else open(path, "rb") as file:
        try:
            yield file  # type: ignore[misc]
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path} is a truncated or damaged gzip file: {error}") from None


# ---------------------------------------------------------------------------------------------- records with labels


def read_records(path: Path) -> Iterator[Record]:
    """The records of a JSON lines file (.gz), a TAPE JSON file (one list of dicts) or a TAPE LMDB directory, in order.

    Raises FileNotFoundError, or ValueError that names file and line (or record) and what was found: invalid JSON, a
    record that is no dict, a truncated gzip, a pickle that asks for more than plain containers and numpy arrays.
    """
    source = inspect_source(Path(path))
    if source.kind == "lmdb":
        for number, values in lmdb_records(source, 0, lmdb_length(source)):
            yield Record(values, f"{source.path} record {number}")
    elif source.kind == "jsonl":
        yield from _json_lines(source)
    elif source.kind == "json":
        yield from _json_list(source)
    else:
        raise ValueError(f"{path} is FASTA and has no labels; accepted: JSON lines, TAPE's JSON list, LMDB directories")


def _json_lines(source: Source) -> Iterator[Record]:
    with _opened(source) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                where = f"{source.path} line {number}"
                yield Record(parse_json(line, where), where)


def parse_json(line: bytes, where: str) -> dict[str, object]:
    """The dict written in `line`; ValueError says where and what is wrong."""
    try:
        values = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is not valid JSON: {error}") from None
    except RecursionError:
        raise ValueError(f"{where} is not valid JSON: nested too deeply") from None
    return _as_record(values, where)


def _as_record(values: Any, where: str) -> dict[str, object]:
    if not isinstance(values, dict):
        raise ValueError(f"{where} holds a {type(values).__name__}; a record is a dict of named values")
    return values


def _json_list(source: Source) -> Iterator[Record]:
    """TAPE's JSON form, a list of dicts, decoded one dict at a time so that a big file needs little memory."""
    decoder, utf8 = json.JSONDecoder(), codecs.getincrementaldecoder("utf-8")("replace")
    text, position, number = "", 0, -1  # -1: the list has not begun
    with _opened(source) as file:
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
                yield Record(_as_record(values, where), where)
                number += 1
    raise ValueError(f"{source.path} record {max(number, 0)} is not valid JSON, or the file ends inside the list")


# ------------------------------------------------------------------------------------------------------------- LMDB


@contextmanager
def _lmdb_transaction(source: Source) -> Iterator[Any]:
    import lmdb

    try:
        environment = lmdb.open(source.path, readonly=True, lock=False, readahead=False, meminit=False, create=False)
    except lmdb.Error as error:
        raise ValueError(f"{source.path} is not a readable LMDB: {error}") from None
    try:
        with environment.begin() as transaction:
            yield transaction
    finally:
        environment.close()


def lmdb_length(source: Source) -> int:
    """Number of records of a TAPE LMDB."""
    with _lmdb_transaction(source) as transaction:
        return _lmdb_length(source, transaction)


def _lmdb_length(source: Source, transaction: Any) -> int:
    content = transaction.get(b"num_examples")
    if content is None:
        raise ValueError(f"{source.path} has no key num_examples, so it is no TAPE LMDB")
    try:
        length = load_plain(content)
    except ValueError as error:
        raise ValueError(f"{source.path} num_examples: {error}") from None
    if not isinstance(length, int) or length < 0:
        raise ValueError(f"{source.path} num_examples is {length!r}; a count is expected")
    return length


def lmdb_records(source: Source, start: int, stop: int) -> Iterator[tuple[int, dict[str, object]]]:
    """(number, record) of the records `start` to `stop - 1`; ValueError names the file and the record."""
    with _lmdb_transaction(source) as transaction:
        for number in range(start, stop):
            where = f"{source.path} record {number}"
            content = transaction.get(str(number).encode())
            if content is None:
                raise ValueError(f"{where} is missing, though num_examples counts it")
            try:
                values = load_plain(content)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
            yield number, _as_record(values, where)


# ------------------------------------------------------------------------------------- chunks of whole text records


def stream_chunks(source: Source, chunk_bytes: int) -> Iterator[bytes]:
    """The decompressed text of a FASTA or JSON lines source in chunks of about `chunk_bytes`, cut between records.

    Joined they are the text, byte for byte; each begins where a record begins (the first where the file does).
    """
    boundary = _BOUNDARY[source.kind]
    rest = b""
    with _opened(source) as file:
        while block := file.read(chunk_bytes):
            text = rest + block
            cut = text.rfind(boundary) + 1  # the newline belongs to the record before
            if cut:
                yield text[:cut]
            rest = text[cut:]
    if rest:
        yield rest


def read_range(source: Source, start: int, stop: int) -> bytes:
    """The records of a plain FASTA or JSON lines file that begin at a byte in [start, stop), as one text.

    Ranges that cover the file give each record once, whatever the ranges are.
    """
    boundary = _BOUNDARY[source.kind]
    with open(source.path, "rb") as file:
        begin = _next_record(file, start, boundary)
        end = _next_record(file, stop, boundary)
        file.seek(begin)
        return file.read(end - begin)


def _next_record(file: IO[bytes], offset: int, boundary: bytes) -> int:
    """Byte position of the first record that begins at `offset` or later; the end of the file where there is none."""
    if offset == 0:
        return 0
    position = offset - 1  # a record begins after its boundary's newline
    file.seek(position)
    tail = b""
    while block := file.read(_READ_BYTES):
        text = tail + block
        found = text.find(boundary)
        if found >= 0:
            return position - len(tail) + found + 1
        tail = text[-1:] if len(boundary) > 1 else b""
        position += len(block)
    return position
