"""Compressed files: which compression one has, by its first bytes, and its content, in memory of a bounded size.

A few kilobytes can be written that decompress to terabytes. Such files are refused before they cost hours.
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Literal, cast

from proteinlm.platform.places.places import arrow_file

Compression = Literal["gzip", "bzip2", "xz", "zstandard"]
COMPRESSED_ENDINGS = (".gz", ".bz2", ".xz", ".zst")
"""Endings that say that a file is compressed; whether it is, its first bytes say."""
_MAGIC: Mapping[bytes, Compression] = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
}
_READ_BYTES = 1 << 20
_MAX_WINDOW = 1 << 27  # of zstandard, which takes as much memory as a file says
MOST_EXPANDED = 1_100
"""Content over file, in bytes. gzip cannot reach it (1,032 at most), and proteins do not come near."""
ALWAYS_READ = 4 << 20
"""Bytes of content that are read however small the file is."""


def compression_of(path: Path) -> Compression | None:
    """How a file is compressed, by its first bytes."""
    with path.open("rb") as file:
        begin = file.read(8)
    return next((name for magic, name in _MAGIC.items() if begin.startswith(magic)), None)


@contextmanager
def decompressed(path: Path, compression: Compression | None) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed.

    ValueError that names the file where its compression is truncated or damaged, asks for too large a window
    (zstandard), or expands to more than `MOST_EXPANDED` times its size.
    """
    try:
        with ExitStack() as until:
            file = _opened(path, compression, until)
            yield file if compression is None else io.BufferedReader(_Bounded(file, path), _READ_BYTES)
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise _damaged(path, compression, error) from None
    except OSError as error:
        if compression and error.errno is None:  # bzip2's and zstandard's complaints
            raise _damaged(path, compression, error) from None
        raise


class _Bounded(io.RawIOBase):
    """The content of a compressed file; ValueError once it is too much for such a file."""

    def __init__(self, content: IO[bytes], path: Path) -> None:
        self._content, self._path = content, path
        self._most = max(ALWAYS_READ, MOST_EXPANDED * path.stat().st_size)
        self._read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._content.read(len(buffer))
        self._read += len(block)
        if self._read > self._most:
            raise ValueError(
                f"{self._path} expands to more than {self._most:,} bytes, over {MOST_EXPANDED:,} times its size, as no "
                "file of proteins does; if it is meant, decompress it yourself"
            )
        buffer[: len(block)] = block
        return len(block)


def _damaged(path: Path, compression: Compression | None, error: Exception) -> ValueError:
    return ValueError(f"{path} is a truncated or damaged {compression} file: {error}")


def _opened(path: Path, compression: Compression | None, until: ExitStack) -> IO[bytes]:
    """The content of the file, which is closed with `until`."""
    if compression == "zstandard":
        import pyarrow as pa

        _check_window(path)
        file = until.enter_context(arrow_file(path))
        return until.enter_context(io.BufferedReader(pa.CompressedInputStream(file, "zstd"), _READ_BYTES))
    file = until.enter_context(path.open("rb"))
    openers: Mapping[str | None, Any] = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}
    return cast(IO[bytes], until.enter_context(openers[compression](file)) if compression else file)


def _check_window(path: Path) -> None:
    """ValueError where the first frame asks for more memory than zstd itself gives without `--long`."""
    with path.open("rb") as file:
        begin = file.read(6).ljust(6, b"\0")
    size = (8 + (begin[5] & 7)) << (7 + (begin[5] >> 3))
    if size > _MAX_WINDOW and not begin[4] & 0x20:  # else a single segment, as large as its content
        raise ValueError(f"{path} is a zstandard file with a window of {size:,} bytes; accepted: {_MAX_WINDOW:,}")
