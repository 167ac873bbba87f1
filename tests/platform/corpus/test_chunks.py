"""A source in chunks: its text never changes, whatever the cuts; a record that is too long costs no memory."""

import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proteinlm.platform.corpus.chunks import Oversized, Part, read_part, stream_parts, unix_lines
from proteinlm.platform.data.sources import inspect_source
from tests.made.protein_files import fasta_text, json_text, random_proteins, write_file

NO_LIMIT = 1 << 30


def ranges(path: Path, chunk_bytes: int, limit: int = NO_LIMIT) -> list[Part]:
    source = inspect_source(path)
    return [read_part(source, start, start + chunk_bytes, limit) for start in range(0, source.size, chunk_bytes)]


def streamed(path: Path, chunk_bytes: int, limit: int = NO_LIMIT) -> list[Part]:
    return list(stream_parts(inspect_source(path), chunk_bytes, limit))


def test_a_range_has_the_records_that_begin_in_it(tmp_path: Path) -> None:
    text = b">a\nAC\n>bb\nACD\n>c\nA\n"
    source = inspect_source(write_file(tmp_path / "a.fasta", text))
    begin = text.index(b">bb")
    assert read_part(source, begin, begin + 1, NO_LIMIT) == Part(b">bb\nACD\n")
    assert read_part(source, begin + 1, begin + 3, NO_LIMIT) == Part(b"")
    assert read_part(source, 0, begin, NO_LIMIT) == Part(b">a\nAC\n")


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(1, 12),
    seed=st.integers(0, 9),
    chunk_bytes=st.integers(1, 700),
    width=st.integers(1, 80),
    is_fasta=st.booleans(),
    newline=st.sampled_from([b"\n", b"\r\n", b"\r"]),
)
def test_cutting_never_changes_the_text(
    count: int, seed: int, chunk_bytes: int, width: int, is_fasta: bool, newline: bytes
) -> None:
    proteins = random_proteins(count, seed)
    text = (fasta_text(proteins, width) if is_fasta else json_text(proteins)).replace(b"\n", newline)
    name = "a.fasta" if is_fasta else "a.jsonl"
    with tempfile.TemporaryDirectory() as folder:
        parts = [
            ranges(write_file(Path(folder, name), text), chunk_bytes),
            streamed(write_file(Path(folder, name + ".gz"), text), chunk_bytes),
        ]
    for found in parts:
        assert b"".join(part.text for part in found) == text
        begin = b">" if is_fasta else b"{"
        assert all(part.text.startswith(begin) and part.text.endswith(newline) for part in found if part.text)
        assert sum(unix_lines(part.text).count(b"\n") for part in found) == text.count(newline)


@settings(deadline=None, max_examples=300)
@given(
    lines=st.lists(st.sampled_from([b">a", b"AC", b"", b">", b"C" * 30]), min_size=1, max_size=12),
    ends=st.lists(st.sampled_from([b"\n", b"\r\n", b"\r"]), min_size=12, max_size=12),
    chunk_bytes=st.integers(1, 40),
    limit=st.integers(8, 60),
    name=st.sampled_from(["a.fasta", "a.jsonl"]),
)
def test_every_byte_and_line_is_in_a_part_or_in_a_record_that_is_passed_over(
    lines: list[bytes], ends: list[bytes], chunk_bytes: int, limit: int, name: str
) -> None:
    """Any mixture of line ends and lengths."""
    text = b">x" + b"".join(line + end for line, end in zip(lines, ends, strict=False))
    with tempfile.TemporaryDirectory() as folder:
        path = write_file(Path(folder, name), text)
        parts = (ranges(path, chunk_bytes, limit), streamed(path, chunk_bytes, limit))
    for found in parts:
        over = [part.oversized for part in found if part.oversized]
        assert sum(len(part.text) for part in found) + sum(record.size for record in over) == len(text)
        assert all(record.size > limit for record in over)
        num_lines = sum(unix_lines(part.text).count(b"\n") for part in found) + sum(record.lines for record in over)
        assert num_lines == unix_lines(text).count(b"\n")


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_a_record_that_is_too_long_is_passed_over_between_its_neighbours(
    tmp_path: Path, ending: str, newline: bytes
) -> None:
    long = newline.join([b">long one", *([b"ACDEFGHIKL" * 10] * 3000), b""])
    text = newline.join([b">a", b"ACD", b""]) + long + newline.join([b">b", b"ACE", b""])
    path = write_file(tmp_path / f"a.fasta{ending}", text)
    found = (streamed if ending else ranges)(path, 5000, 20_000)
    assert unix_lines(b"".join(part.text for part in found)) == b">a\nACD\n>b\nACE\n"
    assert [part.oversized for part in found if part.oversized] == [Oversized(long[:4096], len(long), 3001, False)]


def test_blank_space_is_no_record_however_much(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.fasta", b"\n" * 300_000 + b">a\nACD\n")
    for found in (ranges(path, 5000, 20_000), streamed(path, 5000, 20_000)):
        assert [part.oversized and part.oversized.is_blank for part in found if part.oversized] == [True]
        assert b"".join(part.text for part in found) == b">a\nACD\n"


@pytest.mark.parametrize("name", ["a.fasta", "a.fasta.gz", "a.jsonl", "a.jsonl.gz"])
def test_one_line_of_forty_megabytes_takes_little_memory_and_linear_work(tmp_path: Path, name: str) -> None:
    size = 40 << 20
    path = write_file(tmp_path / name, b">x\n" + b"A" * size)
    tracemalloc.start()
    found = (streamed if name.endswith(".gz") else ranges)(path, 1 << 20, 2 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [part.oversized.size for part in found if part.oversized] == [size + (3 if "fasta" in name else 0)]
    assert peak < 16 << 20
