"""Each cleaning rule, what a record's family and clan are, and which clans and families are held out."""

import gzip
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proteinlm.platform.corpus.chunks import Oversized
from proteinlm.platform.corpus.cleaning import (
    Cleaner,
    HeldOut,
    Protein,
    Reject,
    choose_held_out,
    read_clans,
)
from proteinlm.platform.data.sources import Source, inspect_source
from tests.made.protein_files import LETTERS, corpus_config, fasta_text, write_file, write_lmdb


def cleaner(**changes: Any) -> Cleaner:
    return Cleaner(corpus_config([Path("a.fasta")], Path("out"), **changes))


def test_fasta_headers_give_id_family_and_line() -> None:
    text = (
        b"\n>O67024/9-140 O67024/9-140 PF00578.24;AhpC-TSA;\nAC\nDE\n"
        b">sp|P1|X_Y Some protein OS=E. coli PFAM\nAC\n>\nACD\n>empty\n>short\nA"
    )
    assert list(cleaner(min_length=2).fasta_proteins(text, "a.fasta")) == [
        Protein(1, "O67024/9-140", b"ACDE", "PF00578", None),
        Protein(4, "sp|P1|X_Y", b"AC", None, None),
        Reject(6, "", "no id"),
        Reject(8, "empty", "empty sequence"),
        Reject(9, "short", "1 residues, fewer than the 2 asked for"),
    ]


def test_text_before_the_first_header_is_refused_with_the_file() -> None:
    with pytest.raises(ValueError, match=r"a\.fasta is not FASTA: text before the first '>': 'ACDEF'"):
        list(cleaner().fasta_proteins(b"ACDEF\n>x\nACD\n", "a.fasta"))


@settings(deadline=None, max_examples=50)
@given(
    sequences=st.lists(st.text(alphabet="".join(LETTERS), min_size=1, max_size=70), min_size=1, max_size=6),
    width=st.integers(1, 80),
    newline=st.sampled_from([b"\n", b"\r\n"]),
    lower=st.booleans(),
)
def test_the_way_a_fasta_is_wrapped_never_matters(
    sequences: list[str], width: int, newline: bytes, lower: bool
) -> None:
    proteins = [(f"p{number}", sequence, "PF00001") for number, sequence in enumerate(sequences)]
    written = [(name, sequence.lower() if lower else sequence, family) for name, sequence, family in proteins]
    text = fasta_text(written, width).replace(b"\n", newline)
    read = [entry for entry in cleaner().fasta_proteins(text, "a") if isinstance(entry, Protein)]
    assert [(entry.id, entry.sequence.decode(), entry.family) for entry in read] == proteins


def test_json_lines_give_tapes_keys() -> None:
    text = b"""{"id": "a", "primary": "ACD", "family": 996, "clan": 3, "family_id": "PF02926", "clan_id": "CL0747"}
{"id": "b", "sequence": "ACD", "family": 34, "clan": 12}

{"id": "c", "primary": "ACD", "family": "PF00001.2", "clan": -1}
{"id": "d"}
[1]
nonsense
{"id": "e", "primary": "ACD", "family": [1]}
{"primary": "ACD"}"""
    assert list(cleaner().json_proteins(text, "a.jsonl")) == [
        Protein(0, "a", b"ACD", "PF02926", "CL0747"),
        Protein(1, "b", b"ACD", "PF00034", "CL0012"),
        Protein(3, "c", b"ACD", "PF00001", None),
        Reject(4, "d", "no sequence under the keys 'primary' or 'sequence'"),
        Reject(5, "", "the line holds a list; a record is a dict of named values"),
        Reject(6, "", "the line is not valid JSON: Expecting value: line 1 column 1 (char 0)"),
        Reject(7, "e", "the value [1] under 'family' is neither a name nor a number"),
        Reject(8, "", "no id"),
    ]


def test_lmdb_records_without_an_id_are_numbered(tmp_path: Path) -> None:
    records = [{"primary": "ACD", "family": 34, "clan": 0}, {"primary": b"AC", "id": b"x"}, {"primary": 3, "id": "y"}]
    source = inspect_source(write_lmdb(tmp_path / "pfam_train.lmdb", records))
    assert list(cleaner().lmdb_proteins(source, 0, 3, "pfam_train")) == [
        Protein(0, "pfam_train/0", b"ACD", "PF00034", None),
        Protein(1, "x", b"AC", None, None),
        Reject(2, "y", "a int as sequence under the keys 'primary' or 'sequence'"),
    ]


def test_records_that_only_look_like_records_are_rejects() -> None:
    text = b"""{"id": ["a"], "primary": "ACD"}
{"id": {"a": 1}, "primary": "ACD"}
{"id": 1.5, "primary": "ACD"}
{"id": true, "primary": "ACD"}
{"id": "a", "id": "b", "primary": "ACD"}
{"id": "c", "primary": "AC\\ud800D"}
{"id": "d\\ud800", "primary": "ACD"}
{"id": "e", "family": "\\udfff", "primary": "ACD"}
{"id": "f", "primary": "ACD", "sequence": "ACE"}
{"id": 7, "primary": "ACD", "sequence": "ACD"}"""
    half = "half of a character (a lone surrogate), which is no text"
    assert list(cleaner().json_proteins(text, "a.jsonl")) == [
        Reject(0, "", "the id is ['a'], a list; accepted: text or a whole number"),
        Reject(1, "", "the id is {'a': 1}, a dict; accepted: text or a whole number"),
        Reject(2, "", "the id is 1.5, a float; accepted: text or a whole number"),
        Reject(3, "", "the id is True, a bool; accepted: text or a whole number"),
        Reject(4, "", "the line is not valid JSON: key 'id' is given twice"),
        Reject(5, "", f"the line: key 'primary' holds {half}"),
        Reject(6, "", f"the line: key 'id' holds {half}"),
        Reject(7, "", f"the line: key 'family' holds {half}"),
        Reject(8, "f", "the sequences under 'primary' and 'sequence' differ"),
        Protein(9, "7", b"ACD", None, None),
    ]


def test_a_long_value_is_cut_in_the_reason() -> None:
    (reject,) = cleaner().json_proteins(b'{"id": [' + b"1," * 5000 + b'1], "primary": "ACD"}', "a.jsonl")
    assert isinstance(reject, Reject)
    assert len(reject.reason) < 150


def test_what_is_no_protein_is_a_reject_with_its_kind_unless_it_is_insisted_on() -> None:
    text = b">x\nATGGCTTGCAAAGGTCTGAACTAA\n>y mol:na length:4\nACGT\n>z\nMKTAYIAK\n>s\nMdEvVpQpL#VyQdYaKvMd\n"
    assert list(cleaner().fasta_proteins(text, "a")) == [
        Reject(0, "x", "nucleotides, not a protein (accept_non_protein takes it)"),
        Reject(2, "y", "nucleotides, not a protein (accept_non_protein takes it)"),
        Protein(4, "z", b"MKTAYIAK", None, None),
        Reject(6, "s", "structure-aware sequences (SaProt), not a protein (accept_non_protein takes it)"),
    ]
    taken = list(cleaner(accept_non_protein=True).fasta_proteins(text, "a"))
    assert [type(entry) for entry in taken] == [Protein, Protein, Protein, Reject]
    assert taken[3] == Reject(6, "s", "unknown letter '#' at residue 10")


def test_proteins_and_records_above_the_limit_are_rejects_that_name_the_setting() -> None:
    short = cleaner(max_length=10)
    assert list(short.fasta_proteins(b">a\nACDEFGHIKLM\n>b\nACDEFGHIKL\n", "a")) == [
        Reject(0, "a", "11 residues, more than max_length 10"),
        Protein(2, "b", b"ACDEFGHIKL", None, None),
    ]
    most = short._config.max_record_bytes
    reason = f"bytes; accepted: {most:,} (max_length 10 sets it)"
    (reject,) = short.fasta_proteins(b">a " + b"x" * most, "a")
    assert reject == Reject(0, "a", f"a record of {most + 2:,} {reason}")
    (reject,) = short.json_proteins(b'{"id": "' + b"x" * most, "a")
    assert reject == Reject(0, "", f"a record of {most + 8:,} {reason}")
    record = Oversized(b">a name\nACD", 1 << 30, 5, False)
    assert short.oversized(record, Source("a", "fasta", None, 9), 3) == Reject(
        3, "a", f"a record of {1 << 30:,} {reason}"
    )
    assert short.oversized(Oversized(b"\n\n", 1 << 30, 5, True), Source("a", "fasta", None, 9), 3) is None
    with pytest.raises(ValueError, match="a is not FASTA: text before the first '>': 'ACD'"):
        short.oversized(Oversized(b"ACD\n", 1 << 30, 5, False), Source("a", "fasta", None, 9), 0)


CLANS = b"PF00001\tCL0192\tGPCR_A\t7tm_1\tx\nPF00009\t\t\tx\tx\nPF00010\t\\N\t\\N\tx\tx\n"


def test_the_clans_file(tmp_path: Path) -> None:
    assert read_clans(write_file(tmp_path / "clans.tsv.gz", CLANS)) == {"PF00001": "CL0192"}
    with pytest.raises(ValueError, match=r"clans\.tsv line 2 is not 'PFxxxxx"):
        read_clans(write_file(tmp_path / "clans.tsv", CLANS[:31] + b"what\n"))
    (tmp_path / "plain.tsv.gz").write_bytes(CLANS.replace(b"\n", b"\r"))
    assert read_clans(tmp_path / "plain.tsv.gz") == read_clans(write_file(tmp_path / "c.tsv.xz", CLANS))
    with pytest.raises(ValueError, match=r"u\.tsv cannot be read as Pfam's clans file"):
        read_clans(write_file(tmp_path / "u.tsv", b"PF00001\tCL\xff\n"))
    with pytest.raises(FileNotFoundError, match="no such clans file"):
        read_clans(tmp_path / "gone.tsv")
    (tmp_path / "cut.tsv.gz").write_bytes(gzip.compress(CLANS)[:-9])
    with pytest.raises(ValueError, match=r"cut\.tsv\.gz is a truncated or damaged gzip file"):
        read_clans(tmp_path / "cut.tsv.gz")


def test_the_real_clans_file(real_data: Path) -> None:
    clans = read_clans(real_data / "pfam" / "Pfam-A.clans.tsv.gz")
    assert clans["PF00001"] == "CL0192"
    assert len(set(clans.values())) > 600


RECORDS: Counter[tuple[str | None, str | None]] = Counter(
    {(f"PF{number:05d}", f"CL{number // 4:04d}" if number < 80 else None): 10 for number in range(160)}
)
RECORDS[None, None] = 400


def held(fraction: float, seed: int = 0, clans: tuple[str, ...] = (), families: tuple[str, ...] = ()) -> HeldOut:
    return choose_held_out(RECORDS, clans=clans, families=families, fraction=fraction, seed=seed)


def count_held(held_out: HeldOut) -> int:
    return sum(
        count for (family, clan), count in RECORDS.items() if family in held_out.families or clan in held_out.clans
    )


def test_the_draw_reaches_the_share_without_passing_it() -> None:
    total = sum(RECORDS.values())
    for seed in range(5):
        drawn = held(0.1, seed)
        assert 0.09 * total <= count_held(drawn) <= 0.1 * total
    assert held(0.1, 1) != held(0.1, 2)
    assert held(0.1, 1) == held(0.1, 1)
    assert held(0.0) == HeldOut((), ())


def test_no_drawn_clan_is_cut_in_two() -> None:
    drawn = held(0.2, 3)
    assert drawn.clans
    for (family, clan), _ in RECORDS.items():
        if clan is not None:
            assert (family in drawn.families) == (clan in drawn.clans)


def test_named_ones_are_held_out_first_and_named_families_alone() -> None:
    drawn = held(0.0, clans=("CL0001", "CL9999"), families=("PF00100", "PF00000"))
    assert drawn.clans == ("CL0001", "CL9999")
    assert drawn.families == ("PF00000", "PF00004", "PF00005", "PF00006", "PF00007", "PF00100")


def test_a_clan_counts_also_where_no_family_is_said() -> None:
    records = {(None, "CL0001"): 50, ("PF00002", None): 950}
    assert choose_held_out(records, clans=(), families=(), fraction=0.05, seed=0).clans == ("CL0001",)


def test_a_family_is_held_out_also_where_its_clan_is_not_said() -> None:
    records = {("PF00001", "CL0001"): 5, ("PF00001", None): 5, ("PF00002", None): 90}
    drawn = choose_held_out(records, clans=("CL0001",), families=(), fraction=0.0, seed=0)
    assert drawn.families == ("PF00001",)
