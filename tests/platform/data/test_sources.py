"""What a source is, and that cutting it into pieces never changes its text."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proteinlm.platform.data.sources import inspect_source, read_range, stream_chunks
from tests.made.protein_files import fasta_text, json_text, random_proteins, write_file


@pytest.mark.parametrize("name", ["a.csv", "a.txt", "training_30", "a.gz.b"])
def test_a_corpus_is_not_built_from_labelled_tables(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"unknown ending '.*'; accepted: FASTA"):
        inspect_source(write_file(tmp_path / name, b"x"))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.b.fasta", "fasta"),
        ("A.FA.gz", "fasta"),
        ("x.1.ndjson.gz", "jsonl"),
        ("a.jsonl", "jsonl"),
        ("a.json", "json"),
    ],
)
def test_the_ending_before_gz_says_what_a_file_is(tmp_path: Path, name: str, kind: str) -> None:
    source = inspect_source(write_file(tmp_path / name, b"x"))
    assert (source.kind, source.is_gzip, source.name) == (kind, name.endswith(".gz"), name)


def test_a_range_has_the_records_that_begin_in_it(tmp_path: Path) -> None:
    text = b">a\nAC\n>bb\nACD\n>c\nA\n"
    source = inspect_source(write_file(tmp_path / "a.fasta", text))
    begin = text.index(b">bb")
    assert read_range(source, begin, begin + 1) == b">bb\nACD\n"
    assert read_range(source, begin + 1, begin + 3) == b""
    assert read_range(source, 0, begin) == b">a\nAC\n"


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(1, 12),
    seed=st.integers(0, 9),
    chunk_bytes=st.integers(1, 700),
    width=st.integers(1, 80),
    is_fasta=st.booleans(),
)
def test_cutting_never_changes_the_text(count: int, seed: int, chunk_bytes: int, width: int, is_fasta: bool) -> None:
    proteins = random_proteins(count, seed)
    text = fasta_text(proteins, width) if is_fasta else json_text(proteins)
    name = "a.fasta" if is_fasta else "a.jsonl"
    with tempfile.TemporaryDirectory() as folder:
        plain = inspect_source(write_file(Path(folder, name), text))
        zipped = inspect_source(write_file(Path(folder, name + ".gz"), text))
        ranges = [read_range(plain, start, start + chunk_bytes) for start in range(0, len(text), chunk_bytes)]
        chunks = list(stream_chunks(zipped, chunk_bytes))
    assert b"".join(ranges) == text
    assert b"".join(chunks) == text
    begin = b">" if is_fasta else b"{"
    assert all(chunk.startswith(begin) and chunk.endswith(b"\n") for chunk in [*chunks, *ranges] if chunk)
