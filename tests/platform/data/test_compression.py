"""Compressed files are read whole, and those that a few bytes blow up to gigabytes are refused."""

import bz2
import gzip
import lzma
from collections import deque
from pathlib import Path

import pyarrow as pa
import pytest

from proteinlm.platform.data.compression import ALWAYS_READ, Compression, compression_of, decompressed

SIZE = ALWAYS_READ + 1
BLANK = b"\n" * SIZE


def zstandard(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue().to_pybytes())


@pytest.mark.parametrize(
    ("name", "content"),
    [("bzip2", bz2.compress(BLANK)), ("xz", lzma.compress(BLANK)), ("zstandard", zstandard(BLANK))],
)
def test_a_file_that_expands_beyond_all_measure_is_refused_by_name(
    name: Compression, content: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "small.fasta.x"
    file.write_bytes(content)
    assert len(content) * 1_100 < SIZE
    assert compression_of(file) == name
    with (
        pytest.raises(ValueError, match=r"small\.fasta\.x expands to more than 4,194,304 bytes, over 1,100 times"),
        decompressed(file, name) as read,
    ):
        deque(read, maxlen=0)


def test_the_most_that_gzip_can_do_is_read(tmp_path: Path) -> None:
    file = tmp_path / "blank.gz"
    file.write_bytes(gzip.compress(BLANK * 2))
    with decompressed(file, compression_of(file)) as read:
        assert sum(map(len, iter(lambda: read.read(1 << 20), b""))) == 2 * SIZE


def test_small_files_and_plain_ones_are_read_line_by_line(tmp_path: Path) -> None:
    for number, content in enumerate((b"a\nb\n", gzip.compress(b"a\nb\n"), zstandard(b"a\nb\n"))):
        file = tmp_path / f"{number}"
        file.write_bytes(content)
        with decompressed(file, compression_of(file)) as read:
            assert list(read) == [b"a\n", b"b\n"]
