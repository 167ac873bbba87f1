"""ProteinNet's text gives TAPE's records: C-alpha in Angstrom, and what is wrong is named by the line of its [ID]."""

from pathlib import Path

import numpy as np
import pytest

from proteinlm.platform.labelled.files import read_records
from tests.made.protein_files import write_file

EVOLUTIONARY = "[EVOLUTIONARY]\n" + "0.25\t1.\t0\n" * 21
FIRST = f"""[ID]
1ABC_1_A
[PRIMARY]
MKT
{EVOLUTIONARY}[TERTIARY]
1.\t100.\t2.\t1.\t-250.5\t2.\t1.\t0\t2.
1.\t200.\t2.\t1.\t350.\t2.\t1.\t0\t2.
1.\t300.\t2.\t1.\t450.\t2.\t1.\t0\t2.
[MASK]
++-

"""
SECOND = "[ID]\n2\n[PRIMARY]\nM\n[SECONDARY]\nH\n[TERTIARY]\n0 1 0\n0 2 0\n0 3 0\n[MASK]\n+\n"


def read(path: Path, text: str, faults: list[str] | None = None) -> list[dict[str, object]]:
    return [record.values for record in read_records(write_file(path, text.encode()), faults)]


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.proteinnet", "training_30", "testing.gz"])
def test_the_alpha_carbons_come_out_in_angstrom(tmp_path: Path, name: str) -> None:
    first, second = read(tmp_path / name, FIRST + SECOND)
    assert (first["id"], first["primary"], first["protein_length"]) == ("1ABC_1_A", "MKT", 3)
    assert np.array_equal(first["tertiary"], np.array([[1, 2, 3], [-2.505, 3.5, 4.5], [0, 0, 0]], np.float32))
    assert np.array_equal(first["valid_mask"], [True, True, False])
    assert set(first) == {"id", "primary", "protein_length", "tertiary", "valid_mask"}
    assert np.array_equal(second["tertiary"], np.array([[0.01, 0.02, 0.03]], np.float32))


def test_windows_line_ends_change_nothing(tmp_path: Path) -> None:
    one, other = read(tmp_path / "a.txt", FIRST), read(tmp_path / "b.txt", FIRST.replace("\n", "\r\n"))
    np.testing.assert_equal(one, other)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("MKT", "MKT\nMKV", r"\[PRIMARY\] has 2 lines; accepted: 1"),
        ("350.", "35O.", r"\[TERTIARY\] holds what is no number: .*35O"),
        ("350.", "35_0.", r"\[TERTIARY\] holds what is no number: '35_0.'"),
        ("350.", "٣50.", r"\[TERTIARY\] holds what is no number: '٣50.'"),
        ("\t0\t2.\n[MASK]", "\t0\n[MASK]", r"\[TERTIARY\] has \[9, 9, 8\] numbers in its lines"),
        ("1.\t300.\t2.\t1.\t450.\t2.\t1.\t0\t2.\n", "", r"\[TERTIARY\] has 2 lines; accepted: 3"),
        ("[TERTIARY]\n", "[TERTIARY]\n1\n2\n3\n[SECONDARY]\n", r"\[TERTIARY\] has \[1, 1, 1\] numbers in its lines"),
        ("++-", "+?-", r"\[MASK\] has '\?' at residue 2"),
        ("[MASK]", "[MASKS]", r"'\[MASKS\]' at line 31; accepted: \[ID\], \[PRIMARY\]"),
        ("[MASK]", "[PRIMARY]", r"'\[PRIMARY\]' at line 31; .*each once"),
    ],
)
def test_a_wrong_record_is_named_and_the_next_one_follows(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert FIRST.count(old) == 1
    faults: list[str] = []
    records = read(tmp_path / "a.txt", FIRST.replace(old, new) + SECOND, faults)
    assert [record["id"] for record in records] == ["2"]
    with pytest.raises(ValueError, match=rf"^{tmp_path}/a\.txt line 1: {message}"):
        raise ValueError(*faults)


def test_a_section_that_is_not_there_is_left_to_the_check(tmp_path: Path) -> None:
    (record,) = read(tmp_path / "a.txt", "[ID]\nx\n[PRIMARY]\nMK\n")
    assert set(record) == {"id", "primary", "protein_length"}


def test_a_text_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"README line 2 is 'hello'; ProteinNet's text begins with \[ID\]"):
        read(tmp_path / "README", "\nhello\n")


def test_the_genuine_excerpt_is_the_records_that_were_made_from_it(real_data: Path) -> None:
    folder = real_data / "proteinnet"
    texts = list(read_records(folder / "raw_proteinnet_casp7_testing_excerpt.txt.gz"))
    records = list(read_records(folder / "proteinnet_casp7_test6.jsonl.gz"))
    assert len(texts) == len(records) == 6
    for text, record in zip(texts, records, strict=True):
        assert [text.values[key] for key in ("id", "primary", "protein_length")] == [
            record.values[key] for key in ("id", "primary", "protein_length")
        ]
        assert np.array_equal(text.values["tertiary"], np.array(record.values["tertiary"], np.float32))
        assert np.array_equal(text.values["valid_mask"], record.values["valid_mask"])


def test_a_number_of_a_million_digits_is_looked_through_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds what is no number: '1111"):
        read(tmp_path / "a.txt", FIRST.replace("350.", "1" * 1_000_000 + "x"))
