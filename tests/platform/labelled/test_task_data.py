"""A task's shards: contents, order, reuse, two builders at once, and splits that are refused."""

import gzip
import json
import threading
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from proteinlm.platform.data.manifest import MANIFEST_FILE, read_manifest
from proteinlm.platform.labelled.split_files import SplitOptions
from proteinlm.platform.labelled.task_data import build_task_shards, read_split, shared_task_shards
from proteinlm.platform.results.measure import split_rule

Q3, Q8 = "secondary_structure_q3", "secondary_structure_q8"


def make_records(count: int, label: int = 1, length: int = 12, **changes: object) -> list[dict]:
    letters = "ACDEFGHIKLMNPQRSTVWY"
    return [
        {
            "id": f"p{i}",
            "primary": "".join(letters[(i * 7 + k * (i + 1)) % 20] for k in range(length)) + letters[i % 20],
            "ss3": [label] * (length + 1),
            "ss8": [-1] * (length + 1),
            "valid_mask": [1] * length + [0],
            **changes,
        }
        for i in range(count)
    ]


def write_records(folder: Path, name: str, records: list[dict]) -> None:
    folder.mkdir(exist_ok=True)
    with gzip.open(folder / f"secondary_structure_{name}.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


@pytest.fixture
def source(tmp_path) -> Path:
    folder = tmp_path / "source"
    write_records(folder, "train", make_records(23))
    write_records(folder, "valid", make_records(5))
    write_records(folder, "cb513", make_records(4, label=2))
    write_records(folder, "train_extra", make_records(3))
    return folder


def test_a_build_holds_every_record_once_in_shards_of_equal_rows(source, tmp_path):
    manifest = build_task_shards(Q3, source, tmp_path / "out", SplitOptions(seed=1), shard_rows=8)
    assert manifest == read_manifest(tmp_path / "out")
    assert set(manifest.splits) == {"train", "valid", "cb513"}  # what no split of the task names is not taken along
    train = manifest.split("train")
    assert [shard.rows for shard in train.shards] == [8, 8, 7]
    assert (train.residues, train.longest) == (23 * 13, 13)
    assert sum(train.residue_counts.values()) == train.residues
    assert (manifest.kind, manifest.is_simulated) == (Q3, False)
    assert manifest.counts["cb513_labels"] == 4 * 12
    table = read_split(tmp_path / "out", manifest, "train")
    assert table.schema.names == ["id", "sequence", "length", "ss3", "valid_mask"]
    assert str(table.schema.field("ss3").type) == "list<element: int8>"
    assert {row["id"]: row["sequence"] for row in table.to_pylist()} == {
        record["id"]: record["primary"] for record in make_records(23)
    }
    for shard in train.shards:
        part = pyarrow.parquet.ParquetFile(tmp_path / "out" / shard.file).read()
        assert (part.num_rows, sum(part["length"].to_pylist())) == (shard.rows, shard.residues)


def test_only_train_is_shuffled_and_by_the_seed_alone(source, tmp_path):
    ids = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        manifest = build_task_shards(Q3, source, tmp_path / name, SplitOptions(seed=seed))
        ids[name] = {split: read_split(tmp_path / name, manifest, split)["id"].to_pylist() for split in manifest.splits}
        ids[name]["hash"] = [manifest.content_hash]
    assert ids["a"] == ids["b"]
    assert ids["a"]["train"] != ids["c"]["train"]
    assert sorted(ids["a"]["train"]) == sorted(ids["c"]["train"])
    assert ids["a"]["hash"] != ids["c"]["hash"]
    assert ids["c"]["valid"] == [f"p{i}" for i in range(5)]


def test_fewer_examples_are_the_first_of_the_same_order(source, tmp_path):
    whole = build_task_shards(Q3, source, tmp_path / "whole", SplitOptions(seed=1))
    few = build_task_shards(Q3, source, tmp_path / "few", SplitOptions(seed=1, max_train_examples=6))
    order = read_split(tmp_path / "whole", whole, "train")["id"].to_pylist()
    assert read_split(tmp_path / "few", few, "train")["id"].to_pylist() == order[:6]
    assert few.split("valid").rows == 5


def test_a_sample_of_the_test_splits_is_the_same_for_all_seeds_and_says_so(source, tmp_path):
    ids = {}
    for name, seed, most in (("a", 1, 3), ("b", 2, 3), ("fewer", 2, 2), ("whole", 1, 4)):
        manifest = build_task_shards(Q3, source, tmp_path / name, SplitOptions(seed=seed, max_test_examples=most))
        ids[name] = read_split(tmp_path / name, manifest, "cb513")["id"].to_pylist()
        assert (manifest.split("train").rows, manifest.split("valid").rows) == (23, 5)
        rule = split_rule(manifest, "cb513")
        assert ("of its 4 proteins those" in rule) == (most < 4)
        assert "of its" not in split_rule(manifest, "valid")
    assert ids["a"] == ids["b"] == sorted(ids["a"])  # in the file's order
    assert set(ids["fewer"]) < set(ids["a"]) < set(ids["whole"])
    assert ids["a"] != ids["whole"][:3]  # not the first of the file


def test_a_finished_build_is_reused_and_another_is_not_overwritten(source, tmp_path):
    out = tmp_path / "out"
    first = build_task_shards(Q3, source, out, SplitOptions(seed=1))
    stamp = (out / MANIFEST_FILE).stat().st_mtime_ns
    assert build_task_shards(Q3, source, out, SplitOptions(seed=1)) == first
    assert (out / MANIFEST_FILE).stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match=r"holds another build \(seed: found 1, wanted 2\)"):
        build_task_shards(Q3, source, out, SplitOptions(seed=2))
    write_records(source, "cb513", make_records(3))
    with pytest.raises(ValueError, match=r"another build \(sources: "):
        build_task_shards(Q3, source, out, SplitOptions(seed=1))


def test_builders_at_the_same_time_end_with_one_build(source, tmp_path):
    out, found = tmp_path / "out", []
    start = threading.Barrier(4)

    def build() -> None:
        start.wait()
        found.append(build_task_shards(Q3, source, out, SplitOptions(seed=1)))

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [read_manifest(out)] * 4
    assert [path.name for path in tmp_path.iterdir() if "staging" in path.name] == []


def test_a_wrong_record_leaves_nothing_behind(source, tmp_path):
    write_records(source, "valid", [*make_records(2), *make_records(1, valid_mask=[1])])
    with pytest.raises(
        ValueError, match=r"secondary_structure_valid.jsonl.gz line 3: key 'valid_mask' has 1 values for"
    ):
        build_task_shards(Q3, source, tmp_path / "out", SplitOptions(seed=1))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_folder_that_holds_something_else_is_left_alone(source, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists and holds no finished build"):
        build_task_shards(Q3, source, out, SplitOptions(seed=1))
    assert (out / "notes.txt").read_text() == "mine"


def test_a_split_without_a_label_is_refused_by_name(source, tmp_path):
    with pytest.raises(
        ValueError, match=r"split 'train' of task .*_q8.*train.jsonl.gz has 23 records and not one label"
    ):
        build_task_shards(Q8, source, tmp_path / "out", SplitOptions(seed=1))


def test_files_can_be_named_and_valid_cut_off_train(source, tmp_path):
    records = make_records(20, ss8=[7] * 13)
    write_records(source, "train_ss8", [*records, *records[:5]])
    write_records(source, "cb513", make_records(4, ss8=[2] * 13))
    files = {"train": "secondary_structure_train_ss8"}
    with pytest.raises(ValueError, match=r"split 'valid' .* or cut it off train with valid_fraction"):
        build_task_shards(Q8, source, tmp_path / "out", SplitOptions(seed=1, files=files))
    manifest = build_task_shards(Q8, source, tmp_path / "out", SplitOptions(seed=1, files=files, valid_fraction=0.2))
    train, valid = (
        read_split(tmp_path / "out", manifest, split)["sequence"].to_pylist() for split in ("train", "valid")
    )
    assert len(train) + len(valid) == 25
    assert valid
    assert not set(train) & set(valid)


def test_a_record_without_id_is_named_by_its_number(source, tmp_path):
    records = make_records(3)
    for record in records:
        del record["id"]
    write_records(source, "cb513", records)
    manifest = build_task_shards(Q3, source, tmp_path / "out", SplitOptions(seed=1))
    assert read_split(tmp_path / "out", manifest, "cb513")["id"].to_pylist() == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"task_name": "secondary_structure"}, ValueError, "unknown task 'secondary_structure'"),
        ({"task_name": "masked_language_modeling"}, ValueError, "has no labelled records"),
        ({"source": Path("nowhere")}, FileNotFoundError, "no folder nowhere"),
        ({"files": {"train": "other"}}, FileNotFoundError, "file 'other' of split 'train' is not in"),
        ({"max_train_examples": 0}, ValueError, "max_train_examples is 0"),
        ({"max_test_examples": 0}, ValueError, "max_test_examples is 0"),
        ({"shard_rows": 0}, ValueError, "shard_rows is 0"),
        ({"valid_fraction": 1.0}, ValueError, "valid_fraction is 1.0"),
    ],
)
def test_wrong_arguments_are_named(source, tmp_path, arguments, error, message):
    arguments = dict(arguments)
    with pytest.raises(error, match=message):
        build_task_shards(
            arguments.pop("task_name", Q3),
            arguments.pop("source", source),
            tmp_path / "out",
            shard_rows=arguments.pop("shard_rows", 8),
            options=SplitOptions(seed=0, **arguments),
        )


def test_a_missing_valid_file_is_named(source, tmp_path):
    (source / "secondary_structure_valid.jsonl.gz").unlink()
    with pytest.raises(FileNotFoundError, match="has no secondary_structure_valid"):
        build_task_shards(Q3, source, tmp_path / "out", SplitOptions(seed=0))


def test_real_test_sets_have_their_known_counts(real_data, tmp_path):
    manifest = build_task_shards(
        Q8,
        real_data / "secondary_structure",
        tmp_path / "out",
        SplitOptions(seed=0, files={"train": "secondary_structure_train_ss8_pdb"}, valid_fraction=0.1),
    )
    assert {name: manifest.split(name).rows for name in ("cb513", "ts115", "casp12")} == {
        "cb513": 511,
        "ts115": 115,
        "casp12": 20,
    }
    assert manifest.counts["cb513_labels"] == 83_991
    assert manifest.split("train").rows + manifest.split("valid").rows == 808


def test_each_option_has_shards_of_its_own_in_a_storage(source: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "seed": 2,
        "max_train_examples": 6,
        "max_test_examples": 3,
        "files": {"valid": "secondary_structure_cb513"},
        "valid_fraction": 0.2,
        "accept_non_protein": True,
    }
    assert changes.keys() == {field.name for field in fields(SplitOptions)}
    options = [SplitOptions(seed=1), *(SplitOptions(**{"seed": 1, name: value}) for name, value in changes.items())]
    made = [shared_task_shards(Q3, source, tmp_path / "runs", each) for each in options]
    assert len(set(made)) == len(options)
    assert shared_task_shards(Q3, source, tmp_path / "runs", SplitOptions(seed=1)) == made[0]
