"""A source cut into chunks of whole records, so that many tasks read one corpus: in linear time and bounded memory.

A plain text is cut by ranges of bytes, a compressed one as a stream, an LMDB by numbers. A record of more than
`max_record_bytes` (`CorpusConfig.max_record_bytes`) is passed over without being kept: its beginning and size are.
Lines end in LF, CR LF or CR alone (old Macs), also mixed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from proteinlm.platform.data.sources import Source, opened
from proteinlm.platform.places.places import place

_READ_BYTES = 1 << 20
_KEPT_BYTES = 4096
"""Of the beginning of a record that is passed over."""


@dataclass(frozen=True)
class Oversized:
    """A record that is too long to be kept."""

    begin: bytes
    """Its first bytes, up to 4,096."""
    size: int
    """Bytes."""
    lines: int
    is_blank: bool
    """Whether it is blank space alone, and no record."""


@dataclass(frozen=True)
class Part:
    """Whole records of a text, and after them perhaps one that is too long to be kept."""

    text: bytes
    oversized: Oversized | None = None


@dataclass(frozen=True)
class Chunk:
    """A part of a source that one task reads: the text itself (compressed), or a range of bytes (plain) or records."""

    source: int
    number: int
    start: int = 0
    stop: int = 0
    part: Part | None = None


def stream_parts(source: Source, chunk_bytes: int, max_record_bytes: int) -> Iterator[Part]:
    """The decompressed text of a FASTA or JSON lines source in parts of about `chunk_bytes`, cut between records.

    Joined they are the text, byte for byte, but for oversized records; each begins where a record begins (the first
    where the file does). ValueError for damaged compression.
    """
    rest = b""
    with opened(source) as file:
        while block := file.read(max(chunk_bytes, len(rest))):  # twice as much each time: joining stays linear
            text = rest + block
            cut = _last_begin(text, source.kind)
            if cut:
                yield Part(text[:cut])
            rest = text[cut:]
            if len(rest) > max_record_bytes:
                oversized, rest = _pass_over(file, rest, source.kind)
                yield Part(b"", oversized)
    if rest:
        yield Part(rest)


def read_part(source: Source, start: int, stop: int, max_record_bytes: int) -> Part:
    """The records of a plain FASTA or JSON lines file that begin at a byte in [start, stop).

    Ranges that cover the file give each record once, whatever the ranges are.
    """
    with place(source.path).open("rb") as file:
        begin = _first_begin(file, start, stop, source.kind)
        if begin is None:
            return Part(b"")
        beyond = stop + max_record_bytes
        end = _first_begin(file, stop, beyond, source.kind)
        if end is not None or beyond >= source.size:
            file.seek(begin)
            return Part(file.read((source.size if end is None else end) - begin))
        file.seek(begin)
        text = file.read(stop - begin)
        cut = _last_begin(text, source.kind)
        oversized, _ = _pass_over(file, text[cut:], source.kind)
        return Part(text[:cut], oversized)


def unix_lines(text: bytes) -> bytes:
    """`text` with lines that end in LF."""
    return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in text else text


def _next_begin(text: bytes, kind: str) -> int | None:
    """Where the first record behind the start of `text` begins, which may be its end; None where that is not known."""
    if kind == "fasta":
        places = [place for place in (text.find(b"\n>"), text.find(b"\r>")) if place >= 0]
        return min(places) + 1 if places else None
    line = text.find(b"\n")
    alone = text.find(b"\r", 0, line if line >= 0 else -1)
    if alone >= 0 and alone + 1 != line:
        return alone + 1
    return line + 1 if line >= 0 else None


def _last_begin(text: bytes, kind: str) -> int:
    """Where the last record of `text` that has a beginning in it begins; 0 where that is its start or not known."""
    if kind == "fasta":
        return max(text.rfind(b"\n>"), text.rfind(b"\r>")) + 1
    line = text.rfind(b"\n") + 1
    return max(line, text.rfind(b"\r", line, -1) + 1)


def _first_begin(file: IO[bytes], start: int, stop: int, kind: str) -> int | None:
    """Byte position of the first record that begins in [start, stop); None where none does."""
    if start == 0:
        return 0
    position = start - 1  # a record begins after a line's end
    file.seek(position)
    tail = b""
    while position < stop and (block := file.read(min(_READ_BYTES, stop - position + 1))):
        text = tail + block
        found = _next_begin(text, kind)
        if found is not None:
            begin = position - len(tail) + found
            return begin if begin < stop else None
        tail = text[-1:]
        position += len(block)
    return None


def _pass_over(file: IO[bytes], text: bytes, kind: str) -> tuple[Oversized, bytes]:
    """The record that `text` is the beginning of, read to its end, and what was read behind it."""
    begin, size, lines, is_blank = text[:_KEPT_BYTES], 0, 0, True
    while True:
        found = _next_begin(text, kind)
        block = b"" if found else file.read(_READ_BYTES)
        end = found or len(text)
        if block and text.endswith((b"\r", b"\n")):
            end -= 2 if text.endswith(b"\r\n") else 1  # whether it ends a line or the record depends on what follows
        record = text[:end]
        size += len(record)
        lines += record.count(b"\n") + record.count(b"\r") - record.count(b"\r\n")
        is_blank = is_blank and not record.strip()
        text = text[end:] + block
        if not block:
            return Oversized(begin, size, lines, is_blank), text
