"""Rows that do not say where they belong: refused by name, or left out, counted and said; never in two splits."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from proteinlm.platform.data.manifest import Manifest
from proteinlm.platform.labelled.split_files import SplitOptions
from proteinlm.platform.labelled.task_check import show_check
from proteinlm.platform.labelled.task_data import build_task_shards, notices_of, read_split
from tests.made.protein_files import write_file

SPLITS = ("train", "valid", "test")


def build(folder: Path, name: str, content: str, splits: tuple[str, ...] = SPLITS) -> Manifest:
    write_file(folder / name, content.encode())
    options = SplitOptions(seed=0, files=dict.fromkeys(splits, name))
    return build_task_shards("stability", folder, folder / "out", options)


def ids(folder: Path, manifest: Manifest) -> dict[str, list[str]]:
    return {split: sorted(read_split(folder / "out", manifest, split)["id"].to_pylist()) for split in manifest.splits}


TABLE = "id,sequence,target,set\na,MKV,1,train\nb,MKT,2,Val\nc,MKA,3,test\n"


def test_an_unknown_set_is_a_fault_with_line_value_and_what_is_accepted(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"all\.csv line 5: key 'set' has 'trian'; accepted: simulated_test, test, train"
    ):
        build(tmp_path, "all.csv", TABLE + "d,MKC,4,trian\n")


@pytest.mark.parametrize("value", [5, True, ["train"], {"a": 1}, 1.5])
def test_a_set_that_is_no_name_is_a_fault(tmp_path: Path, value: object) -> None:
    lines = [{"primary": "MKV", "target": 1, "set": split} for split in (*SPLITS, value)]
    with pytest.raises(ValueError, match=r"all\.jsonl line 4: key 'set' has .*; accepted: "):
        build(tmp_path, "all.jsonl", "\n".join(map(json.dumps, lines)))


def test_rows_without_a_set_are_in_no_split_and_counted(tmp_path: Path) -> None:
    manifest = build(tmp_path, "all.csv", TABLE + "d,MKC,4,\ne,MKD,5, \n")
    assert ids(tmp_path, manifest) == {"train": ["a"], "valid": ["b"], "test": ["c"]}
    assert manifest.counts["left_out"] == 2
    assert notices_of(tmp_path / "out") == ["2 records of all.csv are in no split: their 'set' is empty"]


def test_an_empty_set_in_the_first_row_leaves_only_that_row_out(tmp_path: Path) -> None:
    lines = [{"primary": "MKD", "target": 0, "set": None}]
    lines += [{"primary": "MKV", "target": 1, "set": split} for split in SPLITS]
    manifest = build(tmp_path, "all.jsonl", "\n".join(map(json.dumps, lines)))
    assert ids(tmp_path, manifest) == {"train": ["1"], "valid": ["2"], "test": ["3"]}


def test_a_file_of_one_split_leaves_out_the_rows_of_others_and_says_so(tmp_path: Path) -> None:
    write_file(tmp_path / "stability_valid.csv", b"id,sequence,target\nv,MKE,1\n")
    manifest = build(tmp_path, "all.csv", TABLE + "d,MKC,4,\n", ("train",))
    assert ids(tmp_path, manifest) == {"train": ["a"], "valid": ["v"]}
    assert sorted(notices_of(tmp_path / "out")) == [
        "1 records of all.csv are in no split: their 'set' is 'test', which is not asked for",
        "1 records of all.csv are in no split: their 'set' is 'valid', which is not asked for",
        "1 records of all.csv are in no split: their 'set' is empty",
    ]


def test_one_file_for_train_and_test_without_a_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"all\.csv is the file of train, valid, test, and its records have no 'set'"):
        build(tmp_path, "all.csv", "id,sequence,target\na,MKV,1\nb,MKT,2\n")


def test_a_set_that_only_later_rows_have_is_a_fault(tmp_path: Path) -> None:
    lines = [{"primary": "MKV", "target": 1}, {"primary": "MKV", "target": 1, "set": "train"}]
    with pytest.raises(ValueError, match=r"line 2: key 'set' has 'train', and records before it have no such key"):
        build(tmp_path, "all.jsonl", "\n".join(map(json.dumps, lines)))


def test_test_sequences_in_train_are_counted_and_named(tmp_path: Path) -> None:
    table = TABLE + "".join(f"t{number},{'MKV' if number < 8 else 'MKL'},1,test\n" for number in range(9))
    manifest = build(tmp_path, "all.csv", table)
    assert manifest.counts["test_in_train"] == 8
    assert manifest.counts["valid_in_train"] == 0
    assert manifest.split("test").rows == 10  # counted, not left out
    said = "8 of 10 proteins of test have a sequence that is in train too: t0, t1, t2, t3, t4, ..."
    assert notices_of(tmp_path / "out") == [said]
    record = json.loads((tmp_path / "out" / "notices.json").read_text())
    assert record["in_train"] == {"valid": [], "test": [f"t{number}" for number in range(8)]}


def test_tasks_check_says_both(tmp_path: Path) -> None:
    for split, rows in {
        "train": "a,MKV,1,train\n",
        "test": "b,mk v*,1,test\nc,MKT,1,\n",
        "valid": "d,MK,1,valid\n",
    }.items():
        write_file(tmp_path / f"stability_{split}.csv", f"id,sequence,target,set\n{rows}".encode())
    console = Console(record=True, width=200)
    assert show_check(tmp_path, console) == 0
    said = console.export_text()
    assert "stability: 1 of 1 proteins of test have a sequence that is in train too: b" in said
    assert "1 records of stability_test.csv are in no split: their 'set' is empty" in said


def test_sequences_are_mended_as_in_a_corpus(tmp_path: Path) -> None:
    manifest = build(tmp_path, "all.csv", "id,sequence,target,set\na,mkv l*,1,train\nb,M-K.T,2,valid\nc,MKA,3,test\n")
    sequences = {split: read_split(tmp_path / "out", manifest, split)["sequence"].to_pylist() for split in SPLITS}
    assert sequences == {"train": ["MKVL"], "valid": ["MKT"], "test": ["MKA"]}


def test_a_table_of_genes_is_no_table_of_proteins(tmp_path: Path) -> None:
    genes = "".join(f"{number},ATGGCCAAATTTGGCCGATCGATTAG,1,train\n" for number in range(9))
    with pytest.raises(
        ValueError, match=r"9 of 12 records are wrong; .*\n.*line 5: key 'sequence' looks like nucleotides"
    ):
        build(tmp_path, "all.csv", TABLE + genes)
    options = SplitOptions(seed=0, files=dict.fromkeys(SPLITS, "all.csv"), accept_non_protein=True)
    manifest = build_task_shards("stability", tmp_path, tmp_path / "insisted", options)
    assert manifest.counts["train_read"] == 10
    short = "".join(f"{number},ATGGCCAAATTTGGC,1,train\n" for number in range(20))
    with pytest.raises(ValueError, match=r"all\.csv looks like nucleotides, not proteins \(9\d"):
        build(tmp_path, "all.csv", TABLE + short)
