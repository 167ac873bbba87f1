"""Where proteins come from: what a file or LMDB directory is, and its JSON and LMDB records.

Its ending says what a file holds, its first bytes whether it is compressed: names and compression may disagree.
"""

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from proteinlm.platform.data.compression import COMPRESSED_ENDINGS, Compression, compression_of, decompressed
from proteinlm.platform.data.tape_lmdb import TapeLmdb, content_file, is_lmdb_file
from proteinlm.platform.data.unpickle import load_plain
from proteinlm.platform.places.places import place
from proteinlm.platform.storage.atomic import sha256
from proteinlm.platform.storage.copies import kept_copy

Kind = Literal["fasta", "jsonl", "json", "lmdb", "csv", "proteinnet"]
SUFFIXES: Mapping[str, Kind] = {
    **dict.fromkeys((".fasta", ".fa", ".faa", ".fas"), "fasta"),
    **dict.fromkeys((".jsonl", ".ndjson"), "jsonl"),
    ".json": "json",
}
"""What a file that may hold a corpus is, by its ending before .gz."""
ACCEPTED = (
    "FASTA (.fasta, .fa, .faa, .fas), JSON lines (.jsonl, .ndjson), each plain or compressed (.gz, .bz2, .xz, .zst), "
    "or a TAPE LMDB directory"
)
_READ_BYTES = 1 << 20
_SURROGATE = re.compile(r"[\ud800-\udfff]")
MAX_SOURCES = 1 << 13
"""Of one corpus build: their number is part of what a record is known by."""


@dataclass(frozen=True)
class Source:
    """A file or LMDB directory that holds proteins."""

    path: str
    kind: Kind
    compression: Compression | None
    size: int
    """Bytes on disk."""

    @property
    def name(self) -> str:
        """File name, as messages and manifests give it."""
        return Path(self.path).name


def inspect_source(path: Path, suffixes: Mapping[str, Kind] = SUFFIXES, accepted: str = ACCEPTED) -> Source:
    """What `path` is, judged by its name and first bytes; FileNotFoundError or ValueError say what is wrong with it.

    `suffixes`: which endings are accepted, without .gz and its like; `accepted` says so in words. LMDB directories
    always are.
    """
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    if path.is_dir():
        data = path / "data.mdb"
        if not data.is_file():
            raise ValueError(f"{path} is a directory without data.mdb, so no TAPE LMDB; accepted: {accepted}")
        return Source(str(path), "lmdb", None, data.stat().st_size)
    if is_lmdb_file(path):  # written with subdir=False
        return Source(str(path), "lmdb", None, path.stat().st_size)
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty: it holds no record")
    ending = Path(path.stem if path.suffix.lower() in COMPRESSED_ENDINGS else path.name).suffix.lower()
    if ending not in suffixes:
        if other := next((other for other in _OTHER_FORMATS if ending in other.endings), None):
            raise ValueError(f"{path} is named as {other.name}: {other.advice}; accepted: {accepted}")
        raise ValueError(f"{path} has the unknown ending {ending or '(none)'!r}; accepted: {accepted}")
    return Source(str(path), suffixes[ending], compression_of(path), path.stat().st_size)


def inspect_sources(paths: Sequence[Path]) -> tuple[Source, ...]:
    """The sources of a corpus at `paths`, each looked into; ValueError or FileNotFoundError name what is wrong."""
    if len(paths) > MAX_SOURCES:
        raise ValueError(f"{len(paths)} sources are given; accepted: up to {MAX_SOURCES}")
    repeated = [str(path) for path, count in Counter(path.resolve() for path in paths).items() if count > 1]
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
    with opened(source) as file:
        begin = file.read(_READ_BYTES)
    if begin[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) or begin[1:8:2] == bytes(4) or begin[:8:2] == bytes(4):
        raise ValueError(f"{source.path} is text in UTF-16; accepted: UTF-8 (save it again as UTF-8)")
    text = begin.removeprefix(codecs.BOM_UTF8).lstrip()
    if not text and len(begin) < _READ_BYTES:
        raise ValueError(f"{source.path} is empty: it holds no record")
    if text[:1] in (b">", b"{"):
        return
    if other := next((other for other in _OTHER_FORMATS if other.begin and re.match(other.begin, text)), None):
        raise ValueError(f"{source.path} is {other.name}: {other.advice}; accepted: {ACCEPTED}")
    if source.kind == "fasta" and text:
        found = re.split(rb"[\r\n]", text[:40])[0].decode("utf-8", "replace")
        raise ValueError(f"{source.path} is not FASTA: it begins with {found!r}, where a '>' is expected")


@dataclass(frozen=True)
class _OtherFormat:
    """A format that people have and that is not read."""

    name: str
    endings: tuple[str, ...]
    begin: bytes | None
    """A regular expression of the first bytes, where they tell."""
    advice: str


_ALIGNED = "convert it to FASTA (gaps are dropped when that is read; near copies of one protein stay)"
_CHAINS = "take its chains' sequences as FASTA"
_ENTRIES = "take the same entries as FASTA"
_OTHER_FORMATS = (
    _OtherFormat(
        "an alignment in A3M",
        (".a3m", ".a2m"),
        None,
        "under the ending .fasta it is read with its insertions (lower case) and without its gaps",
    ),
    _OtherFormat("an alignment in Stockholm format", (".sto", ".stk", ".stockholm"), rb"# STOCKHOLM", _ALIGNED),
    _OtherFormat("an alignment in Clustal format", (".aln", ".clw", ".clustal"), rb"CLUSTAL|MUSCLE \(", _ALIGNED),
    _OtherFormat("an alignment in PHYLIP format", (".phy", ".phylip"), rb"\d+[ \t]+\d+\s", _ALIGNED),
    _OtherFormat("a GenBank file", (".gb", ".gbk", ".gbff", ".gpff"), rb"LOCUS {3}", "take its proteins as FASTA"),
    _OtherFormat("a flat file of UniProt or EMBL", (".dat", ".embl", ".swiss"), rb"ID {3}", _ENTRIES),
    _OtherFormat("XML", (".xml",), rb"<\?xml", _ENTRIES),
    _OtherFormat("a structure in mmCIF", (".cif", ".mmcif", ".bcif"), rb"data_\w", _CHAINS),
    _OtherFormat("a structure in PDB format", (".pdb", ".ent"), rb"(HEADER|TITLE|REMARK|ATOM) {2}", _CHAINS),
    _OtherFormat("FASTQ, reads of nucleotides", (".fastq", ".fq"), rb"@\S", "give the proteins translated from them"),
    _OtherFormat("FASTA of nucleotides", (".fna", ".ffn", ".frn"), None, "give the proteins (.faa) of the same genome"),
    _OtherFormat("a web page", (".html", ".htm"), rb"(?i)<!doctype html|<html", "the download failed: fetch it again"),
    _OtherFormat("a git-lfs pointer", (), rb"version https://git-lfs", "fetch the file itself with `git lfs pull`"),
    _OtherFormat("a zip archive", (".zip",), rb"PK\x03\x04", "unpack it"),
    _OtherFormat("a tar archive", (".tar", ".tgz", ".tbz2", ".txz"), None, "unpack it"),
)


def fingerprint(path: Path) -> dict[str, object]:
    """Name, bytes and a SHA-256 digest (16 hex digits) of the whole content of a file or LMDB directory."""
    file = content_file(path)
    return {"name": path.name, "bytes": file.stat().st_size, "digest": sha256(file)[:16]}


def opened(source: Source) -> AbstractContextManager[IO[bytes]]:
    """The source's bytes, decompressed, while the context lasts; ValueError and OSError as `decompressed` says."""
    return decompressed(place(source.path), source.compression)


class NoRecord(ValueError):  # noqa: N818  (it names what was found)
    """A value that is no record: none of a dict's kind, or with names or texts that are none."""


class RepeatedKey(ValueError):  # noqa: N818  (as above)
    """A JSON object that gives one key twice."""


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
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise RepeatedKey(f"key {twice[:40]!r} is given twice")
    return values


def as_record(values: Any, where: str) -> dict[str, object]:
    """`values`, which must be a dict of named values; NoRecord says where it is none or holds what is no text."""
    if not isinstance(values, dict):
        raise NoRecord(f"{where} holds a {type(values).__name__}; a record is a dict of named values")
    for name, value in values.items():
        if not isinstance(name, str):
            raise NoRecord(f"{where} has the key {repr(name)[:40]}; accepted: names as text")
        if isinstance(value, str) and not value.isascii() and _SURROGATE.search(value):
            raise NoRecord(f"{where}: key {name[:40]!r} holds half of a character (a lone surrogate), which is no text")
    return values


# ------------------------------------------------------------------------------------------------------------- LMDB


def lmdb_length(source: Source) -> int:
    """Number of records of a TAPE LMDB; ValueError where it does not hold as many."""
    with _opened_lmdb(source) as database:
        content = database.get(b"num_examples")
        if content is None:
            raise ValueError(f"{source.path} has no key num_examples, so it is no TAPE LMDB")
        try:
            length = load_plain(content)
        except ValueError as error:
            raise ValueError(f"{source.path} num_examples: {error}") from None
        if isinstance(length, bool) or not isinstance(length, int) or length < 0:
            raise ValueError(f"{source.path} num_examples is {str(length)[:20]!r}; a count is expected")
        if length > (others := database.num_entries - 1):
            raise ValueError(f"{source.path} record {others} is missing, though num_examples counts {length:,}")
        if length < others and database.get(str(length).encode()) is not None:
            raise ValueError(
                f"{source.path} holds {others:,} records, and its num_examples says {length:,}; write it anew"
            )
        return length


def lmdb_records(source: Source, start: int, stop: int) -> Iterator[tuple[int, dict[str, object] | ValueError]]:
    """(number, record or what is wrong with it) of records `start` to `stop - 1`; ValueError where one is missing."""
    with _opened_lmdb(source) as database:
        for number in range(start, stop):
            where = f"{source.path} record {number}"
            if (content := database.get(str(number).encode())) is None:
                raise ValueError(f"{where} is missing, though num_examples counts it")
            try:
                found: dict[str, object] | ValueError = as_record(load_plain(content), where)
            except ValueError as error:
                found = error if isinstance(error, NoRecord) else ValueError(f"{where}: {error}")
            yield number, found


def _opened_lmdb(source: Source) -> TapeLmdb:
    """The database, of which pages are read here and there: of one in a store this machine's copy."""
    return TapeLmdb(kept_copy(place(source.path)))
