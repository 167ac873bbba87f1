"""Tables with commas: what a cell is, what a record lacks, and lines and headers that are refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from proteinlm.platform.labelled.files import read_records
from proteinlm.platform.labelled.split_files import SplitOptions
from proteinlm.platform.labelled.task_data import build_task_shards, read_split
from tests.made.protein_files import write_file


def read(path: Path, text: str, faults: list[str] | None = None) -> list[dict[str, object]]:
    return [record.values for record in read_records(write_file(path, text.encode()), faults)]


def test_cells_are_text_numbers_or_lists_and_empty_ones_are_missing(tmp_path: Path) -> None:
    text = (
        ",id,sequence,target,ss3,note\n"
        '0,007,MKT,-1.5e-2,"[0, 1, 2]","wild, ""type"""\n'
        "\n"
        "1,12,MK,3,,\n"
        "2, x ,M,.5,[],nan\n"
    )
    assert read(tmp_path / "a.csv.gz", text) == [
        {"id": "007", "sequence": "MKT", "target": -0.015, "ss3": [0, 1, 2], "note": 'wild, "type"'},
        {"id": "12", "sequence": "MK", "target": 3},
        {"id": "x", "sequence": "M", "target": 0.5, "ss3": [], "note": "nan"},
    ]


@pytest.mark.parametrize("cell", ["1_000", "0x10", "١٢", "inf", "NaN", "1e", "--1", "True", "1,5"])
def test_what_only_looks_like_a_number_stays_text(tmp_path: Path, cell: str) -> None:
    assert read(tmp_path / "a.csv", f'sequence,target\nMKT,"{cell}"\n') == [{"sequence": "MKT", "target": cell}]


def test_lines_are_counted_as_an_editor_counts_them(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.csv", b'\xef\xbb\xbfsequence,note\r\nMK,"two\nlines"\r\nMKT,one\r\n')
    assert [(record.where, record.values["sequence"]) for record in read_records(path)] == [
        (f"{path} line 3", "MK"),
        (f"{path} line 4", "MKT"),
    ]


def test_a_bad_line_is_named_and_the_next_one_follows(tmp_path: Path) -> None:
    text = "sequence,target\nMK\nMK,1,2\nMK,[1\nMK,4\n"
    faults: list[str] = []
    assert read(tmp_path / "a.csv", text, faults) == [{"sequence": "MK", "target": 4}]
    assert faults[:2] == [
        f"{tmp_path}/a.csv line 2 has 1 cells; accepted: 2, as in the header",
        f"{tmp_path}/a.csv line 3 has 3 cells; accepted: 2, as in the header",
    ]
    assert faults[2].startswith(f"{tmp_path}/a.csv line 4: key 'target' is not a valid list: ")
    with pytest.raises(ValueError, match="line 2 has 1 cells"):
        read(tmp_path / "a.csv", text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"MKT,1.5\nMKV,2\n", r"a\.csv line 1 has no column 'sequence' \(found 'MKT', '1.5'\)"),
        (b"sequence;target\nMKT;1\n", r"line 1 has no column 'sequence' \(found 'sequence;target'\)"),
        (b"sequence,a,a\nMK,1,2\n", "line 1 names the column 'a' more than once"),
        (b'sequence,a\nMK,"1\n', r"a\.csv line 2 is not valid CSV: unexpected end of data"),
        (b'sequence,a\nMK,"1"2\n', r"a\.csv line 2 is not valid CSV"),
        (b"sequence,a\nMK,\xff\n", r"a\.csv line 2 is not text in UTF-8: column 'a'"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(read_records(write_file(tmp_path / "a.csv", content)))


def test_a_table_of_sequence_and_target_is_enough_for_a_regression(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        write_file(tmp_path / f"stability_{split}.csv", b"sequence,target\nMKV,0.5\nMKT,-1\n")
    manifest = build_task_shards("stability", tmp_path, tmp_path / "out", SplitOptions(seed=0))
    table = read_split(tmp_path / "out", manifest, "valid")
    assert table["stability_score"].to_pylist() == [0.5, -1.0]
    assert table["id"].to_pylist() == ["0", "1"]


def test_one_table_holds_all_splits_where_it_has_a_set(tmp_path: Path) -> None:
    text = "id,sequence,target,set\na,MKV,1,train\nb,MKT,2,Val\nc,MKA,3,test\nd,MKC,4,training\n"
    write_file(tmp_path / "all.csv", text.encode())
    files = dict.fromkeys(("train", "valid", "test"), "all.csv")
    manifest = build_task_shards("stability", tmp_path, tmp_path / "out", SplitOptions(seed=0, files=files))
    ids = {split: sorted(read_split(tmp_path / "out", manifest, split)["id"].to_pylist()) for split in files}
    assert ids == {"train": ["a", "d"], "valid": ["b"], "test": ["c"]}


def test_a_label_for_each_residue_fits_into_a_cell(tmp_path: Path) -> None:
    text = b'id,primary,ss3,valid_mask\na,MKV,"[0, 1, 2]","[1, 1, 0]"\n'
    for split in ("train", "valid"):
        write_file(tmp_path / f"secondary_structure_{split}.csv.gz", text)
    manifest = build_task_shards("secondary_structure_q3", tmp_path, tmp_path / "out", SplitOptions(seed=0))
    assert np.array_equal(read_split(tmp_path / "out", manifest, "train")["ss3"].to_pylist(), [[0, 1, 2]])
    assert manifest.counts["train_labels"] == 2


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("[0 1 2]", [0, 1, 2]),
        ("[ 0 -1\n  2]", [0, -1, 2]),
        ("[1. 0.5 2e-3 nan]", [1.0, 0.5, 0.002, None]),
        ("[ True False]", [True, False]),
        ("[[0. 1. 2.]\n [3. 4. 5.]]", [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]),
        ("[7]", [7]),
        ("[]", []),
    ],
)
def test_arrays_as_numpy_prints_them_are_read(tmp_path: Path, cell: str, value: list[object]) -> None:
    (found,) = read(tmp_path / "a.csv", f'sequence,ss3\nMKT,"{cell}"\n')
    assert json.loads(json.dumps(found["ss3"]).replace("NaN", "null")) == value


@pytest.mark.parametrize(
    "cell", ["[0 1 ... 2]", "[0 x 1]", "[1_0 2]", "[0 1", "[0 1] 2", "[0 1]]", "[[0 1] 2", "[0 ١]"]
)
def test_what_is_no_whole_array_is_named(tmp_path: Path, cell: str) -> None:
    with pytest.raises(ValueError, match=r"line 2: key 'ss3' is not a valid list: '\["):
        read(tmp_path / "a.csv", f'sequence,ss3\nMKT,"{cell}"\n')
