"""A data set's digest knows every value and nothing of how Arrow holds it; a build that stands there is told apart."""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from proteinlm.platform.data.manifest import (
    Manifest,
    Split,
    content_digest,
    read_manifest,
    read_shard,
    split_of,
    standing_build,
    write_manifest,
    write_shard,
)


def make_table(**changes: Any) -> pa.Table:
    columns: dict[str, Any] = {
        "id": ["a", "b", "c"],
        "sequence": ["ACD", "MK", "W"],
        "length": pa.array([3, 2, 1], pa.int32()),
        "ss3": pa.array([[0, 1, 2], [1, -1], [2]], pa.list_(pa.int8())),
        "valid_mask": pa.array([[True, True, False], [True, True], [True]], pa.list_(pa.bool_())),
        "tertiary": pa.array([[[0.0, 1.0]], [], [[2.0, 3.0]]], pa.list_(pa.list_(pa.float32()))),
        "score": pa.array([0.5, None, 1.5], pa.float64()),
    }
    return pa.table(columns | changes)


CHANGES: list[dict[str, Any]] = [
    {"id": ["a", "b", "d"]},
    {"sequence": ["ACD", "MK", "Y"]},
    {"ss3": pa.array([[0, 1, 2], [1, -1], [1]], pa.list_(pa.int8()))},
    {"ss3": pa.array([[0, 1], [2, 1, -1], [2]], pa.list_(pa.int8()))},
    {"ss3": pa.array([[0, 1, 2], [1, -1], [2]], pa.list_(pa.int16()))},
    {"valid_mask": pa.array([[True, True, True], [True, True], [True]], pa.list_(pa.bool_()))},
    {"tertiary": pa.array([[[0.0, 1.0]], [[]], [[2.0, 3.0]]], pa.list_(pa.list_(pa.float32())))},
    {"score": pa.array([0.5, 0.0, 1.5], pa.float64())},
    {"further": pa.array([1, 2, 3], pa.int64())},
]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: next(iter(changes)))
def test_every_value_of_a_label_changes_the_digest(changes: dict[str, Any]) -> None:
    assert content_digest(make_table(**changes)) != content_digest(make_table())


def test_how_arrow_holds_the_rows_does_not(tmp_path: Path) -> None:
    table = make_table()
    expected = content_digest(table)
    assert content_digest(pa.concat_tables([table.slice(0, 1), table.slice(1, 2)])) == expected
    assert content_digest(table.select(sorted(table.column_names, reverse=True))) == expected
    assert content_digest(pa.concat_tables([table, table]).slice(3)) == expected
    assert content_digest(make_table(length=pa.array([3, 2, 1], pa.int64()))) == expected
    written = write_shard(tmp_path, "train", 0, table)
    assert content_digest(pq.read_table(tmp_path / written.shard.file)) == expected == written.shard.digest


def test_a_corpus_has_the_digest_of_version_1() -> None:
    """Masks of validation are drawn from it: another digest would change the validation loss of earlier corpora."""
    plain = {"id": ["a", "b"], "sequence": ["ACD", "MK"], "family": ["PF1", None], "clan": [None, None]}
    assert content_digest(pa.table(plain)) == hashlib.sha256(b"a\nACD\nb\nMK\n").hexdigest()


def test_a_shard_says_what_it_holds(tmp_path: Path) -> None:
    written = write_shard(tmp_path, "valid", 7, make_table())
    assert (written.shard.file, written.shard.rows, written.shard.residues) == ("valid/shard-00007.parquet", 3, 6)
    split = split_of([written, write_shard(tmp_path, "valid", 8, make_table())])
    assert (split.rows, split.residues, split.longest) == (6, 12, 3)
    assert split.residue_counts == dict.fromkeys("ACDKMW", 2)
    assert split.first_rows == (0, 3)
    assert split == Split.model_validate(split.model_dump())
    assert sorted(path.name for path in (tmp_path / "valid").iterdir()) == [
        "shard-00007.parquet",
        "shard-00008.parquet",
    ]


def test_the_masks_of_validation_come_from_the_content(tmp_path: Path) -> None:
    """Runs on one split score the same masks, and a split of other proteins gets others."""
    one, same = (split_of([write_shard(tmp_path, name, 0, make_table())]) for name in ("one", "same"))
    other = split_of([write_shard(tmp_path, "other", 0, make_table(id=["a", "b", "d"]))])
    assert one.mask_seed == same.mask_seed == int(one.content_hash[:12], 16)
    assert one.mask_seed != other.mask_seed


def test_a_standing_build_is_this_one_or_named_as_another(tmp_path: Path) -> None:
    assert standing_build(tmp_path / "none", "corpus", {"seed": 0}) is None
    (tmp_path / "empty").mkdir()
    assert standing_build(tmp_path / "empty", "corpus", {"seed": 0}) is None
    split = split_of([write_shard(tmp_path / "made", "train", 0, make_table())])
    made = Manifest(kind="corpus", splits={"train": split}, settings={"seed": 0, "held_out": []}, counts={})
    with pytest.raises(ValueError, match="holds no finished build"):
        standing_build(tmp_path / "made", "corpus", {"seed": 0})
    write_manifest(tmp_path / "made", made)
    assert standing_build(tmp_path / "made", "corpus", {"seed": 0}) == made
    with pytest.raises(ValueError, match=r"another build \(seed: found 0, wanted 1\)"):
        standing_build(tmp_path / "made", "corpus", {"seed": 1})
    with pytest.raises(ValueError, match=r"kind: found 'corpus', wanted 'stability'"):
        standing_build(tmp_path / "made", "stability", {"seed": 0})


def test_an_older_manifest_is_read_and_a_newer_one_refused(tmp_path: Path) -> None:
    split = split_of([write_shard(tmp_path, "train", 0, make_table())])
    old = Manifest(format_version=1, kind="corpus", splits={"train": split}, settings={}, counts={})
    write_manifest(tmp_path, old)
    assert read_manifest(tmp_path).content_hash == old.content_hash
    write_manifest(tmp_path, old.model_copy(update={"format_version": 3}))
    with pytest.raises(ValueError, match="has format version 3; this version reads 1 and 2"):
        read_manifest(tmp_path)


def test_the_digest_stays_what_it_is() -> None:
    """Rows of results carry it: another layout of the bytes would be other data."""
    assert content_digest(make_table()) == "916d486474301cbb4c0d2da7aa6190ff535813c8d6e21e0bace5dc63ad337a14"


def test_a_shard_is_read_as_it_was_written(tmp_path: Path) -> None:
    shard = write_shard(tmp_path, "train", 0, make_table()).shard
    assert read_shard(tmp_path, shard).equals(make_table())
    assert read_shard(tmp_path, shard, ["id", "score"]).equals(make_table().select(["id", "score"]))
    unchecked = shard.model_copy(update={"checksum": None})  # of an earlier version
    assert read_shard(tmp_path, unchecked, ["id"]).equals(make_table().select(["id"]))
    of_version_1 = {"checksum": None, "digest": content_digest(make_table().select(["id", "sequence"]))}
    assert read_shard(tmp_path, shard.model_copy(update=of_version_1)).equals(make_table())


@pytest.mark.parametrize("is_checked", [True, False])
def test_every_flipped_bit_of_a_shard_is_noticed_or_changes_nothing(is_checked: bool, tmp_path: Path) -> None:
    shard = write_shard(tmp_path, "train", 0, make_table()).shard
    if not is_checked:
        shard = shard.model_copy(update={"checksum": None})
    file = tmp_path / shard.file
    honest, generator, noticed = file.read_bytes(), random.Random(0), 0
    for _ in range(300):
        place, bit = generator.randrange(len(honest)), 1 << generator.randrange(8)
        file.write_bytes(honest[:place] + bytes([honest[place] ^ bit]) + honest[place + 1 :])
        try:
            assert read_shard(tmp_path, shard).equals(make_table())
        except ValueError as error:
            assert str(file) in str(error)  # noqa: PT017  (no error is right too)
            noticed += 1
    assert noticed == 300 if is_checked else noticed > 100


def test_another_shard_in_its_place_is_named(tmp_path: Path) -> None:
    shard = write_shard(tmp_path, "train", 0, make_table()).shard
    other = write_shard(tmp_path, "valid", 0, make_table(score=pa.array([1.0, 2.0, 3.0], pa.float64()))).shard
    whole = (tmp_path / other.file).read_bytes()
    (tmp_path / shard.file).write_bytes(whole)
    with pytest.raises(ValueError, match=r"train/shard-00000\.parquet is damaged or was exchanged: its checksum"):
        read_shard(tmp_path, shard)
    with pytest.raises(ValueError, match=r"its rows are not those of manifest\.json"):
        read_shard(tmp_path, shard.model_copy(update={"checksum": None}))
    fewer = shard.model_copy(update={"checksum": other.checksum, "rows": 2})
    with pytest.raises(ValueError, match=r"it has 3 rows, not 2 as in manifest\.json"):
        read_shard(tmp_path, fewer)
    longer = shard.model_copy(update={"checksum": other.checksum, "residues": 7})
    with pytest.raises(ValueError, match=r"it has 6 residues, not 7 as in manifest\.json"):
        read_shard(tmp_path, longer)
    (tmp_path / shard.file).unlink()
    with pytest.raises(ValueError, match=r"train/shard-00000\.parquet is missing"):
        read_shard(tmp_path, shard)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found["splits"]["train"].update(shards=[]), "the split train has no shards"),
        (lambda found: found["splits"]["train"]["shards"][0].update(file="/etc/x.parquet"), "shards.0.file: .*below"),
        (lambda found: found["splits"]["train"]["shards"][0].update(file="../x.parquet"), "shards.0.file: .*below"),
        (lambda found: found["splits"]["train"]["shards"][0].update(rows=-1), "shards.0.rows: .*greater than or equal"),
        (lambda found: found.pop("counts"), "counts: Field required"),
    ],
)
def test_a_manifest_that_lies_is_named(change: Any, message: str, tmp_path: Path) -> None:
    split = split_of([write_shard(tmp_path, "train", 0, make_table())])
    write_manifest(tmp_path, Manifest(kind="corpus", splits={"train": split}, settings={}, counts={}))
    found = json.loads((tmp_path / "manifest.json").read_text())
    change(found)
    (tmp_path / "manifest.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match=f"manifest.json.*{message}"):
        read_manifest(tmp_path)
    for torn in (b"", b"{", "{}".encode("utf-16"), b"[1]", b"null"):
        (tmp_path / "manifest.json").write_bytes(torn)
        with pytest.raises(ValueError, match=r"manifest\.json is not a manifest of this version"):
            read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"longest": 10**15}, "proteins of 6 residues, and the longest of 1,000,000,000,000,000"),
        ({"longest": 1}, "proteins of 6 residues, and the longest of 1"),
        ({"residue_counts": {"A": 7}}, "residue_counts that are not those of the 6 residues"),
        ({"residue_counts": {"A": 8, "C": -2}}, "residue_counts.C: .*greater than or equal to 0"),
    ],
)
def test_counts_that_contradict_each_other_are_named(change: Any, message: str, tmp_path: Path) -> None:
    split = split_of([write_shard(tmp_path, "train", 0, make_table())])
    write_manifest(tmp_path, Manifest(kind="corpus", splits={"train": split}, settings={}, counts={}))
    found = json.loads((tmp_path / "manifest.json").read_text())
    found["splits"]["train"] |= change
    (tmp_path / "manifest.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match=f"manifest.json.*{message}"):
        read_manifest(tmp_path)


def test_lengths_of_an_earlier_version_are_compared_with_the_sequences(tmp_path: Path) -> None:
    """No digest covers them, and windows are planned by them."""
    shard = write_shard(tmp_path, "train", 0, make_table()).shard.model_copy(update={"checksum": None})
    for changed in (make_table(length=pa.array([3, 2, 2], pa.int32())), make_table().drop_columns(["length"])):
        pq.write_table(changed, tmp_path / shard.file)
        with pytest.raises(ValueError, match=r"shard-00000\.parquet is damaged or was exchanged: it"):
            read_shard(tmp_path, shard, ["id", "sequence"])


def test_a_shard_under_an_impossible_name_is_named(tmp_path: Path) -> None:
    shard = write_shard(tmp_path, "train", 0, make_table()).shard
    with pytest.raises(OSError, match=r"x{100}.*, which manifest\.json lists, cannot be read") as refused:
        read_shard(tmp_path, shard.model_copy(update={"file": "x" * 5000}))
    assert len(str(refused.value)) < 500
