"""TAPE's LMDB files read page by page, in bounds that are checked: a damaged or truncated file is refused by name.

LMDB's own library maps a file into memory and trusts it: where it was cut short, the process dies of SIGBUS without a
word. Reading needs little of its format (version 1, 64 bits, one database of distinct keys):

    page 0, 1      meta pages: magic, version, page size, the main tree (depth, entries, root), last page, transaction
    branch, leaf   number of the page, flags, lower end of its free space; offsets of its nodes; nodes
    node           leaf: length of the value, flags, key, value or the page where it begins; branch: page, first key
    overflow       16 bytes, then a value that fits into no leaf, over as many pages as it takes

The newer of the two meta pages counts. Keys are in the order of their bytes.
"""

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

MAX_VALUE_BYTES = 64 << 20
"""Of one value. The largest of TAPE's have a few hundred kilobytes."""
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_HEADER = struct.Struct("<QHHHH")  # number, unused, flags, lower end of the free space, its upper end
_META = struct.Struct("<IIQQ")  # magic, version, address, size of the map
_TREE = struct.Struct("<IHHQQQQQ")  # page size or unused, flags, depth, branch, leaf and overflow pages, entries, root
_END = struct.Struct("<QQ")  # last page, transaction
_NODE = struct.Struct("<HHHH")  # length in two halves, flags, length of the key
_BRANCH, _LEAF, _OVERFLOW = 0x01, 0x02, 0x04
_BIG_VALUE = 0x01
_NO_PAGE = 2**64 - 1
_PAGE_SIZES = range(256, 65537)
_MOST_DEPTH = 32
_META_BYTES = _HEADER.size + _META.size + 2 * _TREE.size + _END.size


@dataclass(frozen=True)
class _Meta:
    page_size: int
    flags: int
    depth: int
    entries: int
    root: int
    last_page: int
    transaction: int


@dataclass(frozen=True)
class _Page:
    """A branch or a leaf, taken apart."""

    is_leaf: bool
    content: bytes
    offsets: Sequence[int]
    keys: list[bytes]


def is_lmdb_file(path: Path) -> bool:
    """Whether `path` is a file that begins as LMDB's do, in whatever byte order."""
    with path.open("rb") as file:
        begin = file.read(_HEADER.size + 4)
    magic = _MAGIC.to_bytes(4, "little")
    return len(begin) == _HEADER.size + 4 and begin[_HEADER.size :] in (magic, magic[::-1])


def content_file(path: Path) -> Path:
    """The file that holds the content of `path`: of an LMDB directory its data.mdb, of a file itself."""
    return path / "data.mdb" if path.is_dir() else path


class TapeLmdb:
    """An LMDB, opened for reading: a directory that holds data.mdb, or the file itself.

    Raises ValueError, which names the file, for what is none, for one that was cut short, and for damaged pages.
    """

    def __init__(self, path: Path | str) -> None:
        path = Path(path)
        self.path = content_file(path)
        self._file: IO[bytes] = self.path.open("rb")
        try:
            self._size = self.path.stat().st_size
            self._meta = self._read_meta()
        except ValueError:
            self._file.close()
            raise
        self._pages: dict[int, _Page] = {}

    @property
    def num_entries(self) -> int:
        """How many keys it holds, as it says itself."""
        return self._meta.entries

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, None where there is none; ValueError names the page that cannot be read."""
        number = self._meta.root
        if number == _NO_PAGE:
            return None
        for _ in range(_MOST_DEPTH):
            page = self._page(number)
            if page.is_leaf:
                place = bisect_left(page.keys, key)
                found = place < len(page.keys) and page.keys[place] == key
                return self._value(page, page.offsets[place]) if found else None
            place = max(0, bisect_right(page.keys, key, lo=1) - 1)  # the first key of a branch stands for all before
            low, high, flags, _ = _NODE.unpack_from(page.content, page.offsets[place])
            number = low | high << 16 | flags << 32
        raise self._damaged(f"pages refer to each other without end, the last to page {number}")

    def _read_meta(self) -> _Meta:
        found = [meta for meta in (self._meta_at(0), self._meta_at(None)) if meta]
        if not found:
            raise ValueError(
                f"{self.path} is not a readable LMDB: no meta page of version {_VERSION}, 64 bits and little-endian"
            )
        meta = max(found, key=lambda one: one.transaction)
        if meta.flags:
            raise ValueError(f"{self.path} is an LMDB with flags {meta.flags:#x}; accepted: TAPE's, with none")
        needed = (meta.last_page + 1) * meta.page_size
        if self._size < needed:
            raise ValueError(
                f"{self.path} has {self._size:,} bytes, and {needed:,} by its own header "
                f"({meta.last_page + 1:,} pages of {meta.page_size:,}): it was cut short; copy it again"
            )
        return meta

    def _meta_at(self, place: int | None) -> _Meta | None:
        """The meta page at byte 0, or (None) the second one, a page further on; None where there is none."""
        if place is None:
            first = self._meta_at(0)
            places = [first.page_size] if first else [1 << bits for bits in range(9, 17)]
            return next((meta for meta in map(self._meta_at, places) if meta), None)
        content = self._bytes(place, _META_BYTES)
        if len(content) < _META_BYTES:
            return None
        magic, version, _, _ = _META.unpack_from(content, _HEADER.size)
        start = _HEADER.size + _META.size
        page_size = _TREE.unpack_from(content, start)[0]
        _, flags, depth, _, _, _, entries, root = _TREE.unpack_from(content, start + _TREE.size)
        last_page, transaction = _END.unpack_from(content, start + 2 * _TREE.size)
        if magic != _MAGIC or version != _VERSION or page_size not in _PAGE_SIZES:
            return None
        return _Meta(page_size, flags, depth, entries, root, last_page, transaction)

    def _page(self, number: int) -> _Page:
        """The branch or leaf of this number; the newest ones are kept."""
        page = self._pages.get(number)
        if page is None:
            if len(self._pages) >= 64:
                self._pages.clear()
            page = self._pages[number] = self._read_page(number)
        return page

    def _read_page(self, number: int) -> _Page:
        size = self._meta.page_size
        content = self._bytes(number * size, size) if number <= self._meta.last_page else b""
        if len(content) < size:
            raise self._damaged(f"page {number:,} lies behind its last one, {self._meta.last_page:,}")
        own, _, flags, lower, _ = _HEADER.unpack_from(content)
        kind = flags & (_BRANCH | _LEAF | _OVERFLOW)
        if own != number or kind not in (_BRANCH, _LEAF) or not _HEADER.size <= lower <= size:
            raise self._damaged(f"page {number:,} is none of its tree")
        count = (lower - _HEADER.size) // 2
        offsets = struct.unpack_from(f"<{count}H", content, _HEADER.size)
        keys = []
        for offset in offsets:
            begin = offset + _NODE.size
            if offset < lower or begin > size:
                raise self._damaged(f"page {number:,} has a node outside of itself")
            end = begin + int.from_bytes(content[offset + 6 : begin], "little")
            if end > size:
                raise self._damaged(f"page {number:,} has a key outside of itself")
            keys.append(content[begin:end])
        if count == 0:
            raise self._damaged(f"page {number:,} is empty")
        return _Page(kind == _LEAF, content, offsets, keys)

    def _value(self, page: _Page, offset: int) -> bytes:
        low, high, flags, key_length = _NODE.unpack_from(page.content, offset)
        length, begin = low | high << 16, offset + _NODE.size + key_length
        if length > MAX_VALUE_BYTES:
            raise self._damaged(f"it has a value of {length:,} bytes; accepted: up to {MAX_VALUE_BYTES:,}")
        if not flags & _BIG_VALUE:
            value = page.content[begin : begin + length]
        else:
            number = int.from_bytes(page.content[begin : begin + 8], "little")
            value = self._overflow(number, length) if number <= self._meta.last_page else b""
        if len(value) < length or flags & ~_BIG_VALUE:
            raise self._damaged("it has a value outside of its pages")
        return value

    def _overflow(self, number: int, length: int) -> bytes:
        start = number * self._meta.page_size
        content = self._bytes(start, _HEADER.size + length)
        own, _, flags, _, _ = _HEADER.unpack_from(content.ljust(_HEADER.size, b"\0"))
        return content[_HEADER.size :] if own == number and flags & _OVERFLOW else b""

    def _bytes(self, start: int, count: int) -> bytes:
        if start >= self._size:
            return b""
        self._file.seek(start)
        return self._file.read(count)

    def _damaged(self, what: str) -> ValueError:
        return ValueError(f"{self.path} is a damaged LMDB: {what}")
