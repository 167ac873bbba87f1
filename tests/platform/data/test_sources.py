"""What a source is: by its name, its first bytes and its content."""

import gzip
from pathlib import Path

import pytest

from proteinlm.platform.data.sources import fingerprint, inspect_source, inspect_sources, opened
from tests.made.protein_files import compressed, fasta_text, random_proteins, write_file, write_lmdb

TEXT = fasta_text(random_proteins(50))


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
    assert (source.kind, source.compression, source.name) == (kind, "gzip" if name.endswith(".gz") else None, name)


@pytest.mark.parametrize("ending", ["", ".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("named", ["", ".gz", ".zst"])
def test_compression_is_known_by_the_first_bytes_whatever_the_name_says(
    tmp_path: Path, ending: str, named: str
) -> None:
    path = tmp_path / f"a.fasta{named}"
    path.write_bytes(compressed(TEXT, ending))
    (source,) = inspect_sources([path])
    with opened(source) as file:
        assert file.read() == TEXT
    with opened(source) as file:
        assert b"".join(file) == TEXT  # by lines, as labelled records are read


@pytest.mark.parametrize(
    ("ending", "damage"),
    # Arrow writes zstandard without a checksum, so a flipped bit may only change letters.
    [
        (".gz", "cut"),
        (".bz2", "cut"),
        (".xz", "cut"),
        (".zst", "cut"),
        (".gz", "flip"),
        (".bz2", "flip"),
        (".xz", "flip"),
    ],
)
def test_damaged_compression_is_named_with_the_file(tmp_path: Path, ending: str, damage: str) -> None:
    content = bytearray(compressed(fasta_text(random_proteins(2000)), ending))
    if damage == "cut":
        del content[-40:]
    else:
        content[len(content) // 2] ^= 0xFF
    path = tmp_path / f"a.fasta{ending}"
    path.write_bytes(content)
    source = inspect_source(path)
    with (
        pytest.raises(ValueError, match=rf"a\.fasta\{ending} is a truncated or damaged {source.compression} file"),
        opened(source) as file,
    ):
        file.read()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.a3m", b">x\nAC", r"a\.a3m is named as an alignment in A3M: under the ending \.fasta it is read"),
        ("a.sto", b"# STOCKHOLM 1.0\n", r"a\.sto is named as an alignment in Stockholm format: convert it to FASTA"),
        ("a.fasta", b"# STOCKHOLM 1.0\nx AC-DE\n//\n", r"a\.fasta is an alignment in Stockholm format: convert it"),
        ("a.fasta.gz", b"CLUSTAL W (1.83)\n\nx AC", r"a\.fasta\.gz is an alignment in Clustal format: convert it"),
        ("a.fa", b" 5 60\nx AC-DE", r"a\.fa is an alignment in PHYLIP format"),
        ("a.faa", b"LOCUS       NP_1  100 aa", r"a\.faa is a GenBank file: take its proteins as FASTA"),
        ("a.fasta", b"ID   A_B  Reviewed; 100 AA.", r"a\.fasta is a flat file of UniProt or EMBL"),
        ("a.fasta", b"data_1ABC\n#\n", r"a\.fasta is a structure in mmCIF: take its chains' sequences"),
        ("a.fasta", b"HEADER    HYDROLASE", r"a\.fasta is a structure in PDB format"),
        ("a.cif.gz", b"data_1ABC\n#\n", r"a\.cif\.gz is named as a structure in mmCIF"),
        ("a.fastq.gz", b"@r\nACGT", r"a\.fastq\.gz is named as FASTQ"),
        ("a.fna", b">x\nACGT", r"a\.fna is named as FASTA of nucleotides: give the proteins"),
        ("a.fasta", b"<!DOCTYPE html>", r"a\.fasta is a web page: the download failed"),
        ("a.jsonl", b"<html>", r"a\.jsonl is a web page: the download failed"),
        ("a.fasta", b"version https://git-lfs.github.com/spec/v1", r"a\.fasta is a git-lfs pointer: fetch"),
        ("a.fasta", b"PK\x03\x04rest", r"a\.fasta is a zip archive: unpack it"),
        ("a.fasta", ">x\nACD\n".encode("utf-16"), r"a\.fasta is text in UTF-16; accepted: UTF-8"),
        ("a.jsonl", '{"id": "x"}'.encode("utf-16-le"), r"a\.jsonl is text in UTF-16; accepted: UTF-8"),
        ("a.fasta", ">x\nACD\n".encode("utf-16-be"), r"a\.fasta is text in UTF-16; accepted: UTF-8"),
    ],
)
def test_other_formats_are_named_for_what_they_are(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        inspect_sources([write_file(tmp_path / name, content)])


def test_a_byte_order_mark_of_utf8_is_passed_over(tmp_path: Path) -> None:
    for name, content in (("a.fasta", b">x\nACD\n"), ("a.jsonl", b'{"id": "x", "primary": "ACD"}\n')):
        (source,) = inspect_sources([write_file(tmp_path / name, b"\xef\xbb\xbf" + content)])
        assert source.kind == name.split(".")[1]


def test_a_file_is_known_by_all_of_its_content(tmp_path: Path) -> None:
    content = bytearray(b">x\n" + b"ACDEFGHIKL" * 500_000)
    path = tmp_path / "a.fasta"
    path.write_bytes(content)
    before = fingerprint(path)
    content[2_500_000:2_500_003] = b"XXX"  # masked in place, far from both ends
    path.write_bytes(content)
    after = fingerprint(path)
    assert before["digest"] != after["digest"]
    assert before == {**after, "digest": before["digest"]}
    assert before["bytes"] == len(content)
    database = write_lmdb(tmp_path / "a.lmdb", [{"primary": "ACD"}])
    assert fingerprint(database)["bytes"] == (database / "data.mdb").stat().st_size


def test_a_gzip_of_a_gzip_is_no_fasta(tmp_path: Path) -> None:
    path = tmp_path / "a.fasta.gz"
    path.write_bytes(gzip.compress(gzip.compress(TEXT)))
    with pytest.raises(ValueError, match=r"a\.fasta\.gz is not FASTA: it begins with '\\x1f"):
        inspect_sources([path])
