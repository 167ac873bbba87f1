"""Records come out of every kind of labelled file as they went in; what is damaged is named."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from proteinlm.platform.labelled.files import ENDINGS, count_records, read_records
from tests.made.protein_files import json_text, random_proteins, write_file, write_lmdb

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
    monkeypatch.setattr("proteinlm.platform.labelled.text_forms._READ_BYTES", 7)
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
        ("a.xlsx", b"x", r"unknown ending '\.xlsx'; accepted: JSON lines"),
        ("a.jsonl", b'{"primary": "\xff"}\n', r"a\.jsonl line 1 is not valid JSON: 'utf-8' codec"),
        ("a.jsonl", b'{"a": 1, "a": 2}\n', r"a\.jsonl line 1 is not valid JSON: key 'a' is given twice"),
        ("a.jsonl", b'{"a": "\\ud800"}\n', r"a\.jsonl line 1: key 'a' holds half of a character"),
        ("a.jsonl", b'{"a": ' + b"1" * 5000 + b"}", r"a\.jsonl line 1 is not valid JSON: Exceeds the limit"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl line 1 is not valid JSON: nested too deeply"),
        ("a.json", b"[" * 100_000, r"a\.json record 0 is not valid JSON: nested too deeply"),
        ("a.json", b'[{"a": 1}]\n[{"a": 2}]', r"a\.json goes on with '\[\{\"a\": 2\}\]' after the list of 1 records"),
        ("a.json", b'[{"a": 1}] garbage', r"a\.json goes on with 'garbage' after the list"),
        (
            "a.json",
            b'[{"a": 1} {"a": 2}]',
            r"a\.json record 0 is followed by '\{\"a\": 2\}\]', not valid JSON; accepted: a comma",
        ),
        ("a.json", b'[{"a": 1},, {"a": 2}]', r"a\.json record 1 is not valid JSON"),
        ("a.json", b'[, {"a": 2}]', r"a\.json record 0 is not valid JSON"),
        ("a.json", b'[{"a": 1},]', r"a\.json record 1 is not valid JSON"),
        ("a.json", b'[{"a": 1}', r"a\.json record 0 is followed by '', not valid JSON"),
        ("a.json", b'[{"a": 1, "a": 1}]', r"a\.json record 0 is not valid JSON: key 'a' is given twice"),
        ("a.json", b'[{"a": "\xff"}]', r"a\.json is not text in UTF-8"),
        ("a.json", b"", r"a\.json is empty"),
        ("a.json", b" ", r"a\.json does not begin with '\['"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(read_records(write_file(tmp_path / name, content)))


def test_a_gzip_ending_on_a_plain_file_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(b'{"a": 1}\n')
    assert [record.values for record in read_records(path)] == [{"a": 1}]


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
    with pytest.raises(ValueError, match=r"d\.lmdb/data\.mdb is not a readable LMDB"):
        list(read_records(tmp_path / "d.lmdb"))


def test_in_a_list_a_wrong_record_is_noted_and_the_next_one_follows(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.json", b'[{"a": 1}, 3, {"b": 1, "b": 2}, {"a": "\\ud800"}, {"a": 2}]')
    faults: list[str] = []
    assert [record.values for record in read_records(path, faults)] == [{"a": 1}, {"a": 2}]
    assert [fault.removeprefix(str(path))[:9] for fault in faults] == [" record 1", " record 2", " record 3"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_byte_order_mark_and_old_line_ends_change_nothing(tmp_path: Path, name: str, end: str) -> None:
    texts = {
        "a.jsonl": '{"id": "x", "primary": "MK"}\n\n{"id": "y", "primary": "MT"}\n',
        "a.json": '[{"id": "x", "primary": "MK"},\n{"id": "y", "primary": "MT"}]\n',
        "a.csv": "id,primary\nx,MK\ny,MT\n",
        "a.txt": "[ID]\nx\n[PRIMARY]\nMK\n\n[ID]\ny\n[PRIMARY]\nMT\n",
    }
    content = b"\xef\xbb\xbf" + texts[name].replace("\n", end).encode()
    read = [record.values for record in read_records(write_file(tmp_path / name, content))]
    assert [(record["id"], record["primary"]) for record in read] == [("x", "MK"), ("y", "MT")]


@pytest.mark.parametrize(
    ("name", "begin"), [("a.jsonl", b'{"a": "'), ("a.json", b'[{"a": "'), ("a.csv", b"id,sequence\n")]
)
def test_a_line_without_end_is_refused(
    tmp_path: Path, name: str, begin: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proteinlm.platform.labelled.text_forms.MAX_RECORD", 3000)
    monkeypatch.setattr("proteinlm.platform.labelled.text_forms._READ_BYTES", 100)
    path = write_file(tmp_path / f"{name}.gz", begin + b"A" * 100_000)
    with pytest.raises(ValueError, match=r"is longer than 3,000 characters|record 0 is not valid JSON"):
        list(read_records(path))


def test_a_long_record_of_a_list_is_read_in_linear_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proteinlm.platform.labelled.text_forms._READ_BYTES", 10)
    path = write_file(tmp_path / "a.json", json.dumps([{"a": "A" * 1_000_000}, {"b": 1}]).encode())
    assert [len(record.values) for record in read_records(path)] == [1, 1]


def test_a_count_that_leaves_records_out_is_refused_with_both_figures(tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "a.lmdb", [{"primary": "ACD"}] * 20, length=16)
    for read in (lambda: list(read_records(path)), lambda: count_records(path)):
        with pytest.raises(ValueError, match=r"a\.lmdb holds 20 records, and its num_examples says 16"):
            read()
    with pytest.raises(ValueError, match=r"num_examples is '-3'; a count is expected"):
        list(read_records(write_lmdb(tmp_path / "b.lmdb", [], length=-3)))


def test_an_lmdb_that_is_one_file_is_read(tmp_path: Path) -> None:
    folder = write_lmdb(tmp_path / "a.lmdb", RECORDS)
    path = (folder / "data.mdb").rename(tmp_path / "b.lmdb")
    assert [record.values for record in read_records(path)] == RECORDS
    assert count_records(path) == len(RECORDS)


def test_a_record_that_cannot_be_unpickled_is_noted_and_the_next_one_follows(tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "a.lmdb", [{"a": 1}, b"nonsense", 3, {"a": "\ud800"}, {5: 6}, {"a": 2}])
    faults: list[str] = []
    assert [record.values for record in read_records(path, faults)] == [{"a": 1}, {"a": 2}]
    assert [fault.removeprefix(str(path))[:30] for fault in faults] == [
        " record 1: not a readable pick",
        " record 2 holds a int; a recor",
        " record 3: key 'a' holds half ",
        " record 4 has the key 5; accep",
    ]


def test_a_line_that_cannot_be_read_is_noted_and_the_next_one_follows(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.jsonl.gz", b'{"a": 1}\n{"a": \n[2]\n\n{"a": 3}\n')
    faults: list[str] = []
    assert [record.values for record in read_records(path, faults)] == [{"a": 1}, {"a": 3}]
    assert [fault.split(" is not")[0] for fault in faults[:1]] == [f"{path} line 2"]
    assert faults[1] == f"{path} line 3 holds a list; a record is a dict of named values"
    assert len(faults) == 2


def test_records_are_counted_in_every_form(tmp_path: Path) -> None:
    lines = write_file(tmp_path / "a.jsonl", b'{"a": 1}\n\n{"a": 3}\n')
    listed = write_file(tmp_path / "a.json.gz", b'[{"a": 1}, {"a": 3}, {}]')
    unread = write_lmdb(tmp_path / "a.lmdb", [b"nonsense"] * 4)
    assert [count_records(path) for path in (lines, listed, unread)] == [2, 3, 4]


def test_every_ending_of_a_split_is_one_that_is_read(tmp_path: Path) -> None:
    texts = {"jsonl": b'{"primary": "AC"}', "json": b'[{"primary": "AC"}]', "csv": b"primary\nAC\n"}
    texts |= {"ndjson": texts["jsonl"]} | dict.fromkeys(("txt", "proteinnet"), b"[ID]\nx\n[PRIMARY]\nAC\n")
    for ending in ENDINGS[:-1]:
        path = write_file(tmp_path / f"split{ending}", texts[ending.split(".")[1]])
        assert [record.values["primary"] for record in read_records(path)] == ["AC"], ending
    assert ENDINGS[-1] == ".lmdb"
