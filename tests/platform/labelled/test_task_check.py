"""A folder's records are checked task by task, and counted beside TAPE's published sizes."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from proteinlm.platform.labelled.task_check import PUBLISHED_SIZES, SplitCheck, check_tasks, show_check
from proteinlm.tasks.catalog import TASKS, build_task
from tests.made.tape_records import tape_record, write_as_tape


def write_lines(path: Path, records: Sequence[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def stability(count: int, **changes: object) -> list[dict[str, object]]:
    return [{"id": f"p{number}", "primary": "MKT", "stability_score": 0.5, **changes} for number in range(count)]


def found(directory: Path) -> dict[tuple[str, str], SplitCheck]:
    return {(check.task, check.split): check for check in check_tasks(directory)}


def shown(directory: Path) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=140)
    wrong = show_check(directory, console)
    assert isinstance(console.file, io.StringIO)
    return wrong, console.file.getvalue()


def test_every_task_of_tapes_tree_is_checked(tmp_path: Path) -> None:
    for stem in ("secondary_structure", "remote_homology", "stability", "pfam"):
        (tmp_path / stem).mkdir()
        for split in ("train", "valid"):
            records = [tape_record(stem, number) for number in range(4)]
            write_as_tape(tmp_path / stem / f"{stem}_{split}.lmdb", records)
    checks = found(tmp_path)
    tasks = ("secondary_structure_q3", "secondary_structure_q8", "remote_homology", "stability", "pfam")
    assert set(checks) == {(task, split) for task in tasks for split in ("train", "valid")}
    assert {check.num_records for check in checks.values()} == {4}
    assert {check.num_faults for check in checks.values()} == {0}
    assert checks["stability", "train"].num_labels == 4
    assert checks["secondary_structure_q3", "train"].published == 8678
    assert checks["pfam", "valid"].num_labels is None
    assert checks["pfam", "valid"].published == 1_715_454


def test_the_folder_of_one_task_and_splits_that_tape_has_not(tmp_path: Path) -> None:
    write_lines(tmp_path / "stability_mine.jsonl", stability(3))
    write_lines(tmp_path / "stability_test.jsonl", stability(2))
    checks = found(tmp_path)
    assert list(checks) == [("stability", "test"), ("stability", "mine")]
    assert (checks["stability", "mine"].num_records, checks["stability", "mine"].published) == (3, None)


def test_wrong_records_are_counted_and_the_first_are_named(tmp_path: Path) -> None:
    path = tmp_path / "stability" / "stability_train.jsonl"
    write_lines(path, [*stability(3), *stability(7, primary="MJ"), [1]])
    check = found(tmp_path)["stability", "train"]
    assert (check.num_records, check.num_labels, check.num_faults) == (11, 3, 8)
    assert len(check.faults) == 5
    assert check.faults[0].startswith(f"{path} line 4: key 'primary' has 'J' at residue 2")
    wrong, text = shown(tmp_path)
    assert wrong == 8
    assert f"{path} line 8: key 'primary'" in text
    assert "line 9" not in text
    assert f"... and 3 more in {path}" in text


def test_a_fault_that_two_tasks_share_is_printed_once(tmp_path: Path) -> None:
    record = {"primary": "MKT", "ss3": [0, 1, 2], "ss8": [0, 4, 7], "valid_mask": [1, 1]}
    write_lines(tmp_path / "secondary_structure_train.jsonl", [record])
    wrong, text = shown(tmp_path)
    assert wrong == 2
    assert text.count("key 'valid_mask'") == 1


def test_other_sizes_than_tapes_are_a_remark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lines(tmp_path / "stability_train.jsonl", stability(3))
    wrong, text = shown(tmp_path)
    assert wrong == 0
    assert "-53,611" in text
    assert "not results on TAPE's splits" in text
    monkeypatch.setitem(PUBLISHED_SIZES, "stability", {"train": 3})  # type: ignore[arg-type]
    assert "not results on" not in shown(tmp_path)[1]


def test_a_file_that_cannot_be_read_does_not_end_the_check(tmp_path: Path) -> None:
    (tmp_path / "stability_train.jsonl.gz").write_bytes(b"\x1f\x8bnonsense")
    (tmp_path / "pfam_train.jsonl").write_text("{")
    write_lines(tmp_path / "stability_valid.jsonl", stability(3))
    checks = found(tmp_path)
    assert checks["stability", "valid"].num_records == 3
    assert "damaged gzip" in checks["stability", "train"].faults[0]
    assert "line 1 is not valid JSON" in checks["pfam", "train"].faults[0]


def test_a_folder_without_tasks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no file of a task; looked for secondary_structure_<split>"):
        found(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        found(tmp_path / "nowhere")


def test_sizes_are_there_for_every_task_and_split() -> None:
    schemas = {name: build_task(name) for name in TASKS}
    for task in schemas.values():
        if task.records is not None:
            assert set(PUBLISHED_SIZES[task.records.file_stem]) == {"train", *task.valid_splits, *task.test_splits}


def test_real_records_are_all_right(real_data: Path) -> None:
    checks = found(real_data / "fluorescence") | found(real_data / "secondary_structure")
    assert {name: check.faults for name, check in checks.items() if check.num_faults} == {}
    sizes = {split: checks["fluorescence", split] for split in ("train", "valid", "test")}
    assert all(check.num_records == check.published for check in sizes.values())
    assert checks["secondary_structure_q8", "train"].num_labels == 0
