"""What is a protein and what is not: cleaning of a sequence, and the judgement of records and files."""

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest

from proteinlm.models.sequences import (
    KINDS,
    NUCLEOTIDES,
    SECONDARY_STRUCTURE,
    STRUCTURE_3DI,
    STRUCTURE_AWARE,
    THREE_LETTERS,
    Composition,
    clean_sequence,
    letters_verdict,
    mend,
    non_protein_kind,
)


@pytest.mark.parametrize(
    ("text", "residues"),
    [
        (b"acdEF", b"ACDEF"),
        (b" AC\tD\r\nEF\n\n", b"ACDEF"),
        (b"A-C..D", b"ACD"),
        (b"ACD*\n", b"ACD"),
        (b"ACXBUZO", b"ACXBUZO"),
    ],
)
def test_what_is_cleaned(text: bytes, residues: bytes) -> None:
    assert clean_sequence(text) == residues


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "empty sequence"),
        (b" -..*\n", "empty sequence"),
        (b"AC*D", r"stop codon '\*' inside the sequence, at residue 3"),
        (b"A\nCJD", "unknown letter 'J' at residue 3"),
        (b"AC1D", "unknown letter '1' at residue 3"),
        ("ACéD".encode(), "unknown letter 'é' at residue 3"),
    ],
)
def test_what_is_rejected_and_why(text: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        clean_sequence(text)


RESIDUES = "ARNDCQEGHILKMFPSTWYV"
CODONS = dict(
    zip(RESIDUES, re.findall("...", "GCTCGTAACGATTGCCAGGAAGGTCACATCCTGAAAATGTTCCCGAGCACCTGGTATGTG"), strict=True)
)
NAMES = dict(
    zip(RESIDUES, re.findall("...", "AlaArgAsnAspCysGlnGluGlyHisIleLeuLysMetPheProSerThrTrpTyrVal"), strict=True)
)
SHARES_OF_3DI = np.array([49, 31, 101, 33, 28, 42, 45, 31, 30, 61, 15, 22, 78, 51, 26, 61, 20, 216, 31, 30])


def proteins(count: int = 40, seed: int = 0) -> list[str]:
    generator = np.random.default_rng(seed)
    return ["".join(generator.choice(list(CODONS), int(generator.integers(40, 120)))) for _ in range(count)]


def structure_3di(length: int, seed: int) -> str:
    """Made up with the shares of 3Di's letters, a third of them doubled."""
    generator = np.random.default_rng(seed)
    letters = generator.choice(list("ACDEFGHIKLMNPQRSTVWY"), length, p=SHARES_OF_3DI / SHARES_OF_3DI.sum())
    times = generator.choice([1, 1, 2], length)
    return "".join(letter * int(count) for letter, count in zip(letters, times, strict=True))[:length]


def composition(texts: list[str], headers: list[str] | None = None) -> Composition:
    made = Composition()
    parts = [text.encode() for text in texts]
    names = [name.encode() for name in headers or [""] * len(texts)]
    made.add(parts, [non_protein_kind(part, name) for part, name in zip(parts, names, strict=True)])
    return made


@pytest.mark.parametrize(
    ("text", "header", "kind"),
    [
        ("ATGGCTTGCAAAGGTCTGAACTAA", "", NUCLEOTIDES),
        ("atggcttgcaaaggtctgaactaa", "", NUCLEOTIDES),
        ("AUGGCUUGCAAAGGUCUGAACUAA", "", NUCLEOTIDES),
        ("ATGGCTTGCAARGGTCTGAACTAAGCTAGC", "", NUCLEOTIDES),  # R: A or G
        ("NNNNATGGCTTGCAAAGGTCTGAACTAA", "", NUCLEOTIDES),
        ("AGAUCUACU", "", NUCLEOTIDES),  # U is selenocysteine in proteins, and rare
        ("GTACTGC", "1000_Y mol:na length:7  DNA", NUCLEOTIDES),
        ("CGCGAATTCGCG", "1BNA_1|Chains A, B|DNA (5'-D(*CP*GP*CP*G)-3')|", NUCLEOTIDES),
        ("METLYSTHRALATYR", "", THREE_LETTERS),
        ("Met-Lys-Thr-Ala-Tyr", "", THREE_LETTERS),
        ("Met Lys Thr Ala Tyr\nLeu", "", THREE_LETTERS),
        ("    GGGTTTSSSSS   HHHHHHHHHHHBBBEEEEEE  B", "", SECONDARY_STRUCTURE),
        ("CCCHHHHHHHHCCCCEEEEECCC", "", SECONDARY_STRUCTURE),
        ("---HHHHHHHHHHHH----EEEEEEEEE---", "", SECONDARY_STRUCTURE),
        ("LLLHHHHHHHHLLLLLLLLHHHHHHH", "", SECONDARY_STRUCTURE),
        ("GGEEB", "1000:A:secstr", SECONDARY_STRUCTURE),
        ("MdEvVpQpL#VyQdYaKvMd", "", STRUCTURE_AWARE),
        ("#dEvVpQpLpVyQdYaKvMd", "", STRUCTURE_AWARE),
    ],
)
def test_a_record_that_is_no_protein_is_told_by_its_letters_or_its_header(text: str, header: str, kind: str) -> None:
    assert non_protein_kind(text.encode(), header.encode()) == kind
    assert kind in KINDS
    assert mend(kind)


@pytest.mark.parametrize(
    "text",
    [
        "GATTACA",  # a peptide
        "ACGTACGTACGTACGTACG",  # 19 letters
        "A" * 60,
        "TA" * 15,  # two of the four bases
        "GSTEGSTEGHSTPGLEGSTPEGSTLEH",  # states of secondary structure, but no runs
        "GA" * 50,
        "GAGAGS" * 20,  # silk
        "GGGGS" * 20,
        "AATAATAATAATAATPATAATAATAATAATPATAAT",  # antifreeze glycoprotein
        "AAT" * 12,  # a stretch of it without proline
        "NNNNTNNNTTNNNGNNNTTNNNANNN" * 2,
        "VPGVG" * 30,  # elastin
        "GPP" * 30,  # collagen
        "EEEEEEEESSSSSSSSSEEEEEEEEEEEE",
        "HHHHHHHHHHHHHHHHHHHH",
        "MGSSHHHHHHSSGLVPRGSH",
        "MDPNCSCATGGSCTCTGSCKCKECKCTSCKKSCCSCCPVGCAKCAQGCICKGASEKCSCCA",  # metallothionein
        "mlapagppgifslvtiiilarqshnwlgkakedv",
        "ALAGLY",
    ],
)
def test_peptides_and_proteins_of_few_letters_are_proteins(text: str) -> None:
    assert non_protein_kind(text.encode()) is None


def test_a_protein_that_binds_dna_is_none() -> None:
    for header in (b"3PTA_1|Chain A|DNA (cytosine-5)-methyltransferase 1|", b"sp|P1|X_Y RNA (guanine-9-) mol:protein"):
        assert non_protein_kind(b"MPARTAPARVPTLAVPAISLPDDVRRRLKDL", header) is None


def test_a_file_of_another_kind_is_named_with_figures_and_what_to_do() -> None:
    made = proteins()
    assert composition(made).verdict() is None
    coding = ["".join(CODONS[residue] for residue in protein) for protein in made]
    assert composition(coding).verdict() == (
        "looks like nucleotides, not proteins (40 of 40 records; 100.0% of the letters are A, C, G, T, U or N); "
        "translate them into proteins first"
    )
    codes = ["-".join(NAMES[residue] for residue in protein) for protein in made]
    assert (composition(codes).verdict() or "").startswith("looks like three-letter codes, not proteins (40 of 40")
    letters_3di = [structure_3di(100, seed) for seed in range(20)]
    assert (composition(letters_3di).verdict() or "").startswith(f"looks like {STRUCTURE_3DI}, not proteins")
    aware = [
        "".join(a + b for a, b in zip(protein, structure_3di(120, seed).lower(), strict=False))
        for seed, protein in enumerate(made)
    ]
    assert (composition(aware).verdict() or "").startswith("looks like structure-aware sequences (SaProt)")


def test_short_pieces_of_dna_are_told_together() -> None:
    """Primers: none is long enough to be judged by itself."""
    primers = ["ATGGCTTGCAAAGG", "TTAGTTCAGACC", "CCGTAATGCC"] * 5
    assert (composition(primers).verdict() or "").startswith("looks like nucleotides")
    assert composition(primers[:3]).verdict() is None  # 36 letters: too few to say


def test_a_file_of_proteins_with_a_few_others_is_a_file_of_proteins() -> None:
    made = [*proteins(), "ATGGCTTGCAAAGGTCTGAACTAA", "CATTAG", "GATTACA"]
    found = composition(made)
    assert found.kinds == {NUCLEOTIDES: 1}
    assert found.verdict() is None


def test_parts_of_a_file_add_up() -> None:
    texts = ["".join(CODONS[residue] for residue in protein) for protein in proteins()]
    whole, parts = composition(texts), composition(texts[:7])
    parts.update(composition(texts[7:]))
    assert (parts.records, parts.kinds, parts.verdict()) == (whole.records, whole.kinds, whole.verdict())
    assert np.array_equal(parts.letters, whole.letters)
    assert Composition().verdict() is None


def test_letters_of_a_corpus_that_stands_are_judged_too() -> None:
    assert letters_verdict({"A": 500, "C": 400, "G": 480, "T": 510, "R": 2, "Y": 1}) == (
        "looks like nucleotides, not proteins (99.8% of the letters are A, C, G, T, U or N); translate them into "
        "proteins first"
    )
    assert (letters_verdict({"H": 400, "E": 300, "C": 500}) or "").startswith("looks like secondary structure")
    assert letters_verdict({"A": 500, "G": 500}) is None
    assert letters_verdict({"A": 20, "C": 20, "G": 20, "T": 20}) is None
    assert letters_verdict({}) is None


@pytest.mark.parametrize("name", ["cb513", "ts115", "casp12"])
def test_real_secondary_structure_is_told_and_real_proteins_are_none(real_data: Path, name: str) -> None:
    path = real_data / "secondary_structure" / f"secondary_structure_{name}.jsonl.gz"
    records = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    assert not composition([record["primary"] for record in records]).kinds
    for states, key in (("GHIBESTC", "ss8"), ("GHIBEST-", "ss8"), ("HEC", "ss3"), ("HE-", "ss3")):
        strings = ["".join(states[state] for state in record[key] if state >= 0) for record in records]
        found = composition(strings)
        assert found.kinds[SECONDARY_STRUCTURE] > 0.7 * len(records)
        assert (found.verdict() or "").startswith("looks like secondary structure")


@pytest.mark.parametrize("name", ["pfam/pfam_domains.fasta.gz", "pfam/swissprot_50k.fasta.gz"])
def test_no_real_protein_is_refused(real_data: Path, name: str) -> None:
    entries = gzip.decompress((real_data / name).read_bytes())[1:].split(b"\n>")
    parts = [entry.partition(b"\n") for entry in entries]
    kinds = [non_protein_kind(text, header) for header, _, text in parts]
    found = Composition()
    found.add([text for _, _, text in parts], kinds)
    assert found.records > 49_000
    assert not found.kinds
    assert found.verdict() is None
