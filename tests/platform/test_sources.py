"""Records come out of every kind of file as they went in, wherever it is cut; what is damaged is named."""

import gzip
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proteinlm.platform.data.sources import inspect_source, read_range, read_records, stream_chunks
from tests.platform.protein_files import fasta_text, json_text, random_proteins, write_file, write_lmdb

RECORDS = [{"primary": "ACD" * number, "id": f"é{number}", "ss3": [0, 1, 2] * number} for number in range(50)]


def test_json_lines_are_read_with_their_line_numbers(tmp_path: Path) -> None:
    lines = "\n\n".join(json.dumps(record) for record in RECORDS).encode()
    read = list(read_records(write_file(tmp_path / "a.jsonl.gz", lines)))
    assert [record.values for record in read] == RECORDS
    assert read[2].where == f"{tmp_path}/a.jsonl.gz line 5"


@pytest.mark.parametrize("indent", [None, 1])
def test_tapes_json_list_is_read_across_blocks(
    tmp_path: Path, indent: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proteinlm.platform.data.sources._READ_BYTES", 7)
    text = json.dumps(RECORDS, indent=indent, ensure_ascii=False).encode()
    read = list(read_records(write_file(tmp_path / "a.json", text)))
    assert [record.values for record in read] == RECORDS
    assert read[2].where.endswith("a.json record 2")


def test_lmdb_records_come_in_number_order_with_their_arrays(tmp_path: Path) -> None:
    records = [
        {"id": b"x", "primary": "ACD", "ss3": np.arange(number), "value": np.float32(number)} for number in range(12)
    ]
    read = list(read_records(write_lmdb(tmp_path / "a.lmdb", records)))
    assert [int(record.values["value"]) for record in read] == list(range(12))  # type: ignore[call-overload]
    assert isinstance(read[11].values["ss3"], np.ndarray)
    assert np.array_equal(read[11].values["ss3"], np.arange(11))
    assert read[11].where == f"{tmp_path}/a.lmdb record 11"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n', r"a\.jsonl line 2 is not valid JSON"),
        ("a.jsonl", b'{"a": 1}\n\n[1]\n', r"a\.jsonl line 3 holds a list"),
        ("a.json", b'{"a": 1}', r"a\.json does not begin with '\['"),
        ("a.json", b'[{"a": 1}, {"b"', r"a\.json record 1 is not valid JSON"),
        ("a.json", b"[3]", r"a\.json record 0 holds a int"),
        ("a.jsonl", b"", r"a\.jsonl is empty"),
        ("a.fasta", b">x\nACD\n", r"a\.fasta is FASTA and has no labels"),
        ("a.csv", b"x", r"unknown ending '\.csv'; accepted: FASTA"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(read_records(write_file(tmp_path / name, content)))


def test_a_gzip_ending_on_a_plain_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(b'{"a": 1}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl\.gz ends in \.gz but is not a gzip file"):
        list(read_records(path))


def test_a_truncated_gzip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(json_text(random_proteins(200)))[:-300])
    with pytest.raises(ValueError, match=r"a\.jsonl\.gz is a truncated or damaged gzip file"):
        list(read_records(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such file: .*gone\.jsonl"):
        list(read_records(tmp_path / "gone.jsonl"))


def test_a_damaged_lmdb_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.lmdb record 1 is missing"):
        list(read_records(write_lmdb(tmp_path / "a.lmdb", [{"a": 1}], length=2)))
    with pytest.raises(ValueError, match=r"b\.lmdb record 0: not a readable pickle"):
        list(read_records(write_lmdb(tmp_path / "b.lmdb", [b"nonsense"])))
    with pytest.raises(ValueError, match=r"c\.lmdb record 0 holds a int"):
        list(read_records(write_lmdb(tmp_path / "c.lmdb", [3])))
    (tmp_path / "d.lmdb").mkdir()
    with pytest.raises(ValueError, match=r"d\.lmdb is a directory without data\.mdb"):
        list(read_records(tmp_path / "d.lmdb"))
    (tmp_path / "d.lmdb" / "data.mdb").write_bytes(b"x" * 9000)
    with pytest.raises(ValueError, match=r"d\.lmdb is not a readable LMDB"):
        list(read_records(tmp_path / "d.lmdb"))


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
