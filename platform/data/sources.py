"""Where proteins come from: what a file or LMDB directory is, and its text or records in pieces.

A source is cut into chunks of whole records, so that many tasks can read one corpus: a plain file by byte ranges, a
gzip file as one stream, an LMDB by numbers. Records with labels are read in platform/labelled/files.py.
"""

import codecs
import gzip
import hashlib
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from proteinlm.platform.data.tape_lmdb import TapeLmdb, is_lmdb_file
from proteinlm.platform.data.unpickle import RefusedPickle, load_plain

Kind = Literal["fasta", "jsonl", "json", "lmdb", "csv", "proteinnet"]
SUFFIXES: Mapping[str, Kind] = {
    **dict.fromkeys((".fasta", ".fa", ".faa", ".fas"), "fasta"),
    **dict.fromkeys((".jsonl", ".ndjson"), "jsonl"),
    ".json": "json",
}
"""What a file that may hold a corpus is, by its ending before .gz."""
ACCEPTED = "FASTA (.fasta, .fa, .faa, .fas), JSON lines (.jsonl, .ndjson), each plain or .gz, or a TAPE LMDB directory"
_BOUNDARY = {"fasta": b"\n>", "jsonl": b"\n"}
_READ_BYTES = 1 << 20
_SURROGATE = re.compile(r"[\ud800-\udfff]")
MAX_SOURCES = 1 << 13
"""Of one corpus build: their number is part of what a record is known by."""


@dataclass(frozen=True)
class Source:
    """A file or LMDB directory that holds proteins."""

    path: str
    kind: Kind
    is_gzip: bool
    size: int
    """Bytes on disk."""

    @property
    def name(self) -> str:
        """File name, as messages and manifests give it."""
        return Path(self.path).name


def inspect_source(path: Path, suffixes: Mapping[str, Kind] = SUFFIXES, accepted: str = ACCEPTED) -> Source:
    """What `path` is, judged by its name and first bytes; FileNotFoundError or ValueError say what is wrong with it.

    `suffixes`: which endings are accepted, without .gz; `accepted` says so in words. LMDB directories always are.
    """
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    if path.is_dir():
        data = path / "data.mdb"
        if not data.is_file():
            raise ValueError(f"{path} is a directory without data.mdb, so no TAPE LMDB; accepted: {accepted}")
        return Source(str(path), "lmdb", False, data.stat().st_size)
    if is_lmdb_file(path):  # written with subdir=False
        return Source(str(path), "lmdb", False, path.stat().st_size)
    named_gzip = path.suffix.lower() == ".gz"
    suffix = Path(path.stem if named_gzip else path.name).suffix.lower()
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{path} is empty: it holds no record")
    if named_gzip and not is_gzip:
        raise ValueError(f"{path} ends in .gz but is not a gzip file")
    if suffix not in suffixes:
        raise ValueError(f"{path} has the unknown ending {suffix or '(none)'!r}; accepted: {accepted}")
    return Source(str(path), suffixes[suffix], is_gzip, size)


def inspect_sources(paths: Sequence[Path]) -> tuple[Source, ...]:
    """The sources of a corpus at `paths`, each looked into; ValueError or FileNotFoundError name what is wrong."""
    if len(paths) > MAX_SOURCES:
        raise ValueError(f"{len(paths)} sources are given; accepted: up to {MAX_SOURCES}")
    repeated = [str(path) for path, count in Counter(map(Path.resolve, paths)).items() if count > 1]
    if repeated:
        raise ValueError(f"given more than once: {', '.join(repeated)}")
    sources = tuple(inspect_source(path) for path in paths)
    for source in sources:
        _check_first_record(source)
    return sources


def _check_first_record(source: Source) -> None:
    """Read a little of the source, so that what is no protein file at all is refused at once."""
    if source.kind == "json":
        raise ValueError(f"{source.path} is JSON in one piece; a corpus is built from {ACCEPTED}")
    if source.kind == "lmdb":
        if lmdb_length(source) == 0:
            raise ValueError(f"{source.path} holds no record")
        _, first = next(lmdb_records(source, 0, 1))
        if isinstance(first, ValueError):
            raise first
        return
    try:
        with gzip.open(source.path) if source.is_gzip else open(source.path, "rb") as file:
            begin = file.read(_READ_BYTES)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{source.path} is a truncated or damaged gzip file: {error}") from None
    text = begin.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text and len(begin) < _READ_BYTES:
        raise ValueError(f"{source.path} is empty: it holds no record")
    if source.kind == "fasta" and text and text[:1] != b">":
        found = text[:40].split(b"\n")[0].decode("utf-8", "replace")
        raise ValueError(f"{source.path} is not FASTA: it begins with {found!r}, where a '>' is expected")


def fingerprint(path: Path) -> dict[str, object]:
    """Name, bytes and a digest of the first and last megabyte: tells files apart without reading them through."""
    file_path = path / "data.mdb" if path.is_dir() else path
    size = file_path.stat().st_size
    with file_path.open("rb") as file:
        ends = file.read(_READ_BYTES)
        file.seek(max(0, size - _READ_BYTES))
        ends += file.read(_READ_BYTES)
    return {"name": path.name, "bytes": size, "digest": hashlib.sha256(ends).hexdigest()[:16]}


@contextmanager
def opened(source: Source) -> Iterator[IO[bytes]]:
    """The source's bytes, decompressed; a truncated or damaged gzip becomes a ValueError that names the file."""
    path = source.path
    with gzip.open(path, "rb") if source.is_gzip else open(path, "rb") as file:
        try:
            yield file  # type: ignore[misc]
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path} is a truncated or damaged gzip file: {error}") from None


def parse_json(line: bytes, where: str) -> dict[str, object]:
    """The dict written in `line`; ValueError says where and what is wrong, a key that is given twice among it."""
    try:
        values = json.loads(line.removeprefix(codecs.BOM_UTF8).decode(), object_pairs_hook=dict_of_once)
    except ValueError as error:
        raise ValueError(f"{where} is not valid JSON: {error}") from None
    except RecursionError:
        raise ValueError(f"{where} is not valid JSON: nested too deeply") from None
    return as_record(values, where)


def dict_of_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The dict of a JSON object's keys and values; ValueError names a key that is given twice."""
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice[:40]!r} is given twice")
    return values


def as_record(values: Any, where: str) -> dict[str, object]:
    """`values`, which must be a dict of named values; ValueError says where it is none or holds what is no text."""
    if not isinstance(values, dict):
        raise ValueError(f"{where} holds a {type(values).__name__}; a record is a dict of named values")
    for name, value in values.items():
        if not isinstance(name, str):
            raise ValueError(f"{where} has the key {repr(name)[:40]}; accepted: names as text")
        if isinstance(value, str) and not value.isascii() and _SURROGATE.search(value):
            raise ValueError(
                f"{where}: key {name[:40]!r} holds half of a character (a lone surrogate), which is no text"
            )
    return values


# ------------------------------------------------------------------------------------------------------------- LMDB


def lmdb_length(source: Source) -> int:
    """Number of records of a TAPE LMDB; ValueError where it does not hold as many."""
    with TapeLmdb(source.path) as database:
        content = database.get(b"num_examples")
        if content is None:
            raise ValueError(f"{source.path} has no key num_examples, so it is no TAPE LMDB")
        try:
            length = load_plain(content)
        except ValueError as error:
            raise ValueError(f"{source.path} num_examples: {error}") from None
        if isinstance(length, bool) or not isinstance(length, int) or length < 0:
            raise ValueError(f"{source.path} num_examples is {str(length)[:20]!r}; a count is expected")
        others = database.num_entries - 1
        if length > others:
            raise ValueError(f"{source.path} record {others} is missing, though num_examples counts {length:,}")
        if length < others and database.get(str(length).encode()) is not None:
            raise ValueError(
                f"{source.path} holds {others:,} records, and its num_examples says {length:,}: one that was written "
                "half, or appended to; write it anew with the right count"
            )
        return length


def lmdb_records(source: Source, start: int, stop: int) -> Iterator[tuple[int, dict[str, object] | ValueError]]:
    """(number, record or what is wrong with it) of the records `start` to `stop - 1`; both name file and record.

    ValueError for a record that is not there, and for a file that is damaged.
    """
    with TapeLmdb(source.path) as database:
        for number in range(start, stop):
            where = f"{source.path} record {number}"
            content = database.get(str(number).encode())
            if content is None:
                raise ValueError(f"{where} is missing, though num_examples counts it")
            found: dict[str, object] | ValueError
            try:
                found = as_record(load_plain(content), where)
            except RefusedPickle as error:
                found = ValueError(f"{where}: {error}")
            except ValueError as error:
                found = error
            yield number, found


# ------------------------------------------------------------------------------------- chunks of whole text records


def stream_chunks(source: Source, chunk_bytes: int) -> Iterator[bytes]:
    """The decompressed text of a FASTA or JSON lines source in chunks of about `chunk_bytes`, cut between records.

    Joined they are the text, byte for byte; each begins where a record begins (the first where the file does).
    """
    boundary = _BOUNDARY[source.kind]
    rest = b""
    with opened(source) as file:
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
