"""TAPE's own files, written as TAPE writes them, become each task's shards; a hostile or broken record is named."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proteinlm.platform.labelled.files import read_records
from proteinlm.platform.labelled.split_files import SplitOptions
from proteinlm.platform.labelled.task_data import build_task_shards, read_split
from proteinlm.tasks.catalog import build_task
from tests.made.tape_records import FILE_STEMS, tape_record, write_as_tape

TASKS = tuple(FILE_STEMS)


STEMS = (*dict.fromkeys(FILE_STEMS.values()), "pfam")


def plain(value: Any) -> Any:
    """The form that a value has in TAPE's JSON: arrays as nested lists, bytes as text."""
    if isinstance(value, bytes):
        return value.decode()
    return value.tolist() if isinstance(value, np.ndarray) else value


def plain_record(task: str, number: int) -> dict[str, Any]:
    return {key: plain(value) for key, value in tape_record(FILE_STEMS[task], number).items()}


@pytest.mark.parametrize("stem", STEMS)
def test_every_key_comes_back_as_it_was_written(stem: str, tmp_path: Path) -> None:
    records = [tape_record(stem, number) for number in range(12)]
    read = [record.values for record in read_records(write_as_tape(tmp_path / f"{stem}_train.lmdb", records))]
    np.testing.assert_equal(read, records)
    for written, found in zip(records, read, strict=True):
        assert {key: type(value) for key, value in found.items()} == {key: type(written[key]) for key in written}
        arrays = [key for key in written if isinstance(written[key], np.ndarray)]
        assert [found[key].dtype for key in arrays] == [written[key].dtype for key in arrays]


@pytest.mark.parametrize("task", TASKS)
def test_lmdb_and_json_give_the_same_shards(task: str, tmp_path: Path) -> None:
    stem = FILE_STEMS[task]
    for folder in ("lmdb", "json"):
        (tmp_path / folder).mkdir()
    for split, numbers in {"train": range(7), "valid": range(7, 11)}.items():
        records = [tape_record(stem, number) for number in numbers]
        write_as_tape(tmp_path / "lmdb" / f"{stem}_{split}.lmdb", records)
        lists = [{key: plain(value) for key, value in record.items()} for record in records]
        (tmp_path / "json" / f"{stem}_{split}.json").write_text(json.dumps(lists))
    tables = []
    for folder in ("lmdb", "json"):
        manifest = build_task_shards(task, tmp_path / folder, tmp_path / f"out-{folder}", SplitOptions(seed=3))
        tables.append([read_split(tmp_path / f"out-{folder}", manifest, split) for split in ("train", "valid")])
    assert tables[0] == tables[1]
    schema = build_task(task).records
    assert schema is not None
    for row, number in zip(tables[0][1].to_pylist(), range(7, 11), strict=True):
        written = tape_record(stem, number)
        assert row["sequence"] == written["primary"]
        for field in schema.fields:
            assert np.array_equal(np.ravel(row[field.key]), np.ravel(written[field.key])), field.key


class _Hostile:
    """A pickle that would make a file when it is read."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., int], tuple[str]]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("place", ["record", "label"])
def test_a_hostile_pickle_is_refused_and_nothing_runs(task: str, place: str, tmp_path: Path) -> None:
    stem, executed = FILE_STEMS[task], tmp_path / "executed"
    good = tape_record(stem, 0)
    bad = _Hostile(executed) if place == "record" else {**good, "primary": _Hostile(executed)}
    (tmp_path / "source").mkdir()
    write_as_tape(tmp_path / "source" / f"{stem}_train.lmdb", [good, pickle.dumps(bad), good])
    write_as_tape(tmp_path / "source" / f"{stem}_valid.lmdb", [good])
    with pytest.raises(ValueError, match=rf"{stem}_train\.lmdb record 1: refused to load posix\.system"):
        build_task_shards(task, tmp_path / "source", tmp_path / "out", SplitOptions(seed=0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


MISSING = object()

BROKEN: dict[str, tuple[str, str, Any, str]] = {
    # what is wrong: (task, key, its value or MISSING, what the message says of it)
    "labels for fewer residues": (
        "secondary_structure_q3",
        "ss3",
        [0, 1, 2],
        "has 3 values for a sequence of 4 residues; accepted: one integer for each residue, 0 to 2 or -1",
    ),
    "a class out of range": ("secondary_structure_q8", "ss8", [0, 8, 1, 1], "has 8 at residue 2; accepted: .*0 to 7"),
    "a class below -1": ("secondary_structure_q3", "ss3", [0, 0, -2, 1], "has -2 at residue 3"),
    "a class that is no integer": ("secondary_structure_q3", "ss3", [0.5, 0, 1, 1], "has values of type float64"),
    "a residue without class": ("secondary_structure_q3", "ss3", [0, None, 1, 1], "has values of type object"),
    "a mask of 2": ("secondary_structure_q3", "valid_mask", [1, 2, 1, 1], "has 2 at residue 2; accepted: one 0 or 1"),
    "no mask": ("secondary_structure_q3", "valid_mask", MISSING, r"is missing \(found 'id', "),
    "a residue that there is not": ("stability", "primary", "MKJT", "has 'J' at residue 3; accepted: a string of"),
    "a stop inside": ("fluorescence", "primary", "MKT*V", r"has stop codon '\*' inside the sequence, at residue 4"),
    "an empty sequence": ("remote_homology", "primary", "", "is an empty sequence"),
    "a number for a sequence": ("stability", "primary", 7, r"has 7 \(int\); accepted: a string of the letters"),
    "no sequence": ("contact_prediction", "primary", MISSING, r"\(or 'sequence'\) is missing"),
    "another length": ("contact_prediction", "protein_length", 5, "has 5; accepted: 4, the residues of its sequence"),
    "no target": ("stability", "stability_score", MISSING, r"\(or 'target'\) is missing .* needs one finite number"),
    "a target that is NaN": (
        "fluorescence",
        "log_fluorescence",
        [float("nan")],
        "has nan; accepted: one finite number",
    ),
    "an infinite target": ("stability", "stability_score", float("-inf"), "has -inf"),
    "a target as text": ("stability", "stability_score", "1.5", r"has '1.5' \(str\)"),
    "two targets": (
        "fluorescence",
        "log_fluorescence",
        [1.0, 2.0],
        r"has \[1.0, 2.0\] \(list\); accepted: .*list of one",
    ),
    "mutations below 0": ("fluorescence", "num_mutations", -1, "has -1; accepted: one integer, 0 or more"),
    "a boolean for a fold": (
        "remote_homology",
        "fold_label",
        True,
        r"has True \(bool\); accepted: one integer, 0 to 1194",
    ),
    "a fold that there is not": ("remote_homology", "fold_label", 1195, "has 1195; accepted: one integer, 0 to 1194"),
    "half a fold": ("remote_homology", "fold_label", 3.5, r"has 3.5 \(float\)"),
    "a coordinate without end": (
        "contact_prediction",
        "tertiary",
        [[0, 0, 0], [1, 1, 1], [2, float("inf"), 2], [3, 3, 3]],
        "has inf at residue 3; accepted: three finite numbers in Angstrom for each residue",
    ),
    "two coordinates": (
        "contact_prediction",
        "tertiary",
        [[0, 0]] * 4,
        r"has an array of shape \[4, 2\] for a sequence of 4 residues",
    ),
    "coordinates of three atoms": ("contact_prediction", "tertiary", [[0] * 9] * 4, r"has an array of shape \[4, 9\]"),
    "an id that is a list": ("secondary_structure_q3", "id", ["1abc"], r"has \['1abc'\] \(list\); accepted: a string"),
}


def good_record(task: str, number: int) -> dict[str, Any]:
    """A record of four residues."""
    labels = {
        "secondary_structure_q3": {"ss3": [0, 1, 2, -1], "valid_mask": [1, 1, 1, 0]},
        "secondary_structure_q8": {"ss8": [0, 7, 2, -1], "valid_mask": [1, 1, 1, 0]},
        "contact_prediction": {"tertiary": [[0, 0, 3.8 * place] for place in range(4)], "valid_mask": [True] * 4},
        "remote_homology": {"fold_label": number},
        "fluorescence": {"log_fluorescence": [3.5], "num_mutations": 2},
        "stability": {"stability_score": [0.5]},
    }
    return {"id": f"p{number}", "primary": "MKTV", "protein_length": 4, **labels[task]}


def write_lines(folder: Path, task: str, lines: list[bytes]) -> None:
    """The lines as train, and two good records as valid."""
    good = [json.dumps(good_record(task, number)).encode() for number in range(2)]
    for split, content in {"train": lines, "valid": good}.items():
        (folder / f"{FILE_STEMS[task]}_{split}.jsonl").write_bytes(b"\n".join([*content, b""]))


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_record_is_named_by_file_record_and_key(name: str, tmp_path: Path) -> None:
    task, key, value, message = BROKEN[name]
    records = [good_record(task, number) for number in range(5)]
    if value is MISSING:
        del records[3][key]
    else:
        records[3][key] = value
    write_lines(tmp_path, task, [json.dumps(record).encode() for record in records])
    with pytest.raises(ValueError, match=rf"^\S+{FILE_STEMS[task]}_train\.jsonl line 4: key '{key}' {message}"):
        build_task_shards(task, tmp_path, tmp_path / "out", SplitOptions(seed=0))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"primary": "MK"', "line 2 is not valid JSON: Expecting ',' delimiter"),
        (b'{"primary": "M\xffK"}', "line 2 is not valid JSON: 'utf-8' codec"),
        (b'["MK", 1.5]', "line 2 holds a list; a record is a dict of named values"),
    ],
)
def test_a_line_that_is_no_record_is_named(line: bytes, message: str, tmp_path: Path) -> None:
    good = json.dumps(good_record("stability", 0)).encode()
    write_lines(tmp_path, "stability", [good, line, good])
    with pytest.raises(ValueError, match=rf"stability_train\.jsonl {message}"):
        build_task_shards("stability", tmp_path, tmp_path / "out", SplitOptions(seed=0))


def test_the_first_of_many_wrong_records_are_named_and_all_are_counted(tmp_path: Path) -> None:
    records = [good_record("stability", number) for number in range(1200)]
    for record in records[100:1107]:
        record["stability_score"] = None
    write_lines(tmp_path, "stability", [*(json.dumps(record).encode() for record in records), b"{"])
    with pytest.raises(ValueError, match=r"^1,008 of 1,203 records are wrong; the first 5:\n") as caught:
        build_task_shards("stability", tmp_path, tmp_path / "out", SplitOptions(seed=0))
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0].rpartition(" ")[2] for line in lines[1:]] == ["101", "102", "103", "104", "105"]


def test_a_table_without_mutations_is_a_fluorescence_table(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        (tmp_path / f"fluorescence_{split}.csv").write_text("sequence,target\nMKTV,3.5\nMKTA,1.25\n")
    manifest = build_task_shards("fluorescence", tmp_path, tmp_path / "out", SplitOptions(seed=0))
    table = read_split(tmp_path / "out", manifest, "test")
    assert table["log_fluorescence"].to_pylist() == [3.5, 1.25]
    assert table["num_mutations"].to_pylist() == [None, None]
