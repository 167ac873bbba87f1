"""A data set's digest knows every value and nothing of how Arrow holds it; a build that stands there is told apart."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from proteinlm.platform.data.manifest import (
    Manifest,
    Split,
    content_digest,
    read_manifest,
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
    assert content_digest(pa.parquet.read_table(tmp_path / written.shard.file)) == expected == written.shard.digest


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
