"""A checkpoint is the engine's state and a cursor; another number of workers gets it converted."""

import json
import random
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

from proteinlm.platform.storage.atomic import crc32
from proteinlm.platform.training import checkpoint
from proteinlm.platform.training.checkpoint import (
    Cursor,
    LocalCheckpoints,
    check_whole,
    loadable,
    loading,
    needs_conversion,
    newest_whole,
    read_cursor,
    save_checkpoint,
)
from tests.made import engine_workers
from tests.made.engine_workers import plain_engine, training


def test_an_engine_goes_on_from_its_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    trained = plain_engine()
    engine_workers.losses(trained, 0, 3)
    cursor = Cursor(step=3, residues=99, world_size=1, figures={"valid/loss": 2.5}, skipped_steps=1)
    save_checkpoint(tmp_path, trained, cursor, rank=0)
    resumed = plain_engine()
    assert read_cursor(tmp_path) == cursor
    resumed.load(tmp_path)
    assert engine_workers.losses(resumed, 3, 6) == engine_workers.losses(trained, 3, 6)


def test_only_zero_parts_of_other_workers_need_a_conversion() -> None:
    cursor = Cursor(3, 99, world_size=2, figures={})
    assert [needs_conversion(cursor, training(stage), 3) for stage in range(4)] == [False, True, True, True]
    assert not needs_conversion(cursor, training(3), 2)
    assert not needs_conversion(cursor, training(1, "plain"), 1)


def test_the_first_worker_converts_and_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(state: Path, converted: Path) -> None:
        assert state == tmp_path / "step" / "state"
        converted.mkdir(parents=True)

    monkeypatch.setattr(checkpoint, "convert_to_universal", convert)
    barriers: list[bool] = []
    with loadable(tmp_path / "step", True, tmp_path, True, barrier=lambda: barriers.append(True)) as folder:
        assert barriers == [True], "nobody reads before it is there"
        assert (folder / "state").is_dir()
    assert not folder.exists()
    assert barriers == [True, True], "nobody still reads when it goes"
    with loadable(tmp_path / "step", False, tmp_path, True) as folder:
        assert folder == tmp_path / "step"


@pytest.mark.parametrize("is_foreign", [True, False])
def test_what_a_killed_worker_left_half_converted_goes(
    is_foreign: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As large as the state of the optimizer; a group of the old size again would never look at it."""
    for name in ("step_00000003_by_2", "step_00000005_by_2"):
        (tmp_path / f"universal-{name}" / "state").mkdir(parents=True)
    monkeypatch.setattr(checkpoint, "convert_to_universal", lambda state, converted: converted.mkdir(parents=True))
    with loadable(tmp_path / "step_00000005_by_2", is_foreign, tmp_path, False, barrier=lambda: None):
        assert len(list(tmp_path.iterdir())) == 2, "one worker cleans up for all"
    with loadable(tmp_path / "step_00000005_by_2", is_foreign, tmp_path, True, barrier=lambda: None):
        assert len(list(tmp_path.iterdir())) == is_foreign
    assert list(tmp_path.iterdir()) == []


def test_names_sort_by_step_and_tell_workers_apart() -> None:
    names = [Cursor(step, 0, size, {}).checkpoint_name() for step, size in ((1000, 2), (20, 2), (20, 4))]
    assert sorted(names) == ["step_00000020_by_2", "step_00000020_by_4", "step_00001000_by_2"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the plain engine."""
    folder = tmp_path_factory.mktemp("saved") / "step_00000003_by_1"
    folder.mkdir()
    save_checkpoint(folder, plain_engine(), Cursor(3, 99, 1, {"valid/loss": 2.5}), rank=0)
    return folder


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / saved.name))


@pytest.mark.parametrize("name", ["state.pt", "cursor.json", "checksums-00000.json"])
def test_every_flipped_bit_is_noticed(name: str, copied: Path) -> None:
    check_whole(copied)
    file = copied / name
    honest = file.read_bytes()
    generator = random.Random(0)
    for _ in range(100):
        place, bit = generator.randrange(len(honest)), 1 << generator.randrange(8)
        file.write_bytes(honest[:place] + bytes([honest[place] ^ bit]) + honest[place + 1 :])
        with pytest.raises(ValueError, match=r"is (damaged|missing)"):
            check_whole(copied)


@pytest.mark.parametrize("name", ["state.pt", "cursor.json", "checksums-00000.json"])
@pytest.mark.parametrize("share", [0.0, 0.5, None])
def test_a_file_cut_short_or_missing_is_named(name: str, share: float | None, copied: Path) -> None:
    file = copied / name
    if share is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    with pytest.raises(ValueError, match=rf"{name}.* is (damaged|missing)|{name} says"):
        check_whole(copied)


def test_the_part_of_every_worker_is_looked_at(copied: Path) -> None:
    cursor = json.loads((copied / "cursor.json").read_text())
    (copied / "cursor.json").write_text(json.dumps(cursor | {"world_size": 2}))
    (copied / "second.pt").write_bytes(b"part")
    listed = {name: [(copied / name).stat().st_size, crc32(copied / name)] for name in ("state.pt", "cursor.json")}
    (copied / "checksums-00000.json").write_text(json.dumps(listed))
    with pytest.raises(ValueError, match=r"checksums-00001\.json is missing"):
        check_whole(copied)
    (copied / "checksums-00001.json").write_text(json.dumps({"second.pt": [4, crc32(copied / "second.pt")]}))
    check_whole(copied)
    (copied / "second.pt").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"second\.pt is damaged: .* checksums-00001\.json says"):
        check_whole(copied)


def test_a_checkpoint_of_an_earlier_version_has_no_checksums(copied: Path) -> None:
    cursor = json.loads((copied / "cursor.json").read_text())
    del cursor["format_version"]
    (copied / "cursor.json").write_text(json.dumps(cursor))
    (copied / "checksums-00000.json").unlink()
    check_whole(copied)
    plain_engine().load(copied)


def test_a_run_goes_on_from_the_newest_whole_checkpoint(saved: Path, tmp_path: Path) -> None:
    kept = LocalCheckpoints(tmp_path, keep=3)
    folders = [Path(shutil.copytree(saved, tmp_path / "checkpoints" / f"step_{step:08d}_by_1")) for step in (1, 2, 3)]
    (folders[2] / "state.pt").write_bytes(b"torn")
    (folders[1] / "cursor.json").unlink()
    with kept.newest() as chosen:
        assert chosen == folders[0]
    assert [fault.partition(" is ")[2] for fault in newest_whole(folders[::-1])[1]] == [
        "damaged: its size or checksum is not what checksums-00000.json says",
        "missing",
    ]
    (folders[0] / "state.pt").unlink()
    with pytest.raises(
        ValueError, match=r"no checkpoint in .* is whole: .*state.pt is damaged.*; .*state.pt is missing"
    ):
        newest_whole(folders[::-1])
    assert newest_whole([]) == (None, ())


def test_a_plain_checkpoint_that_would_run_code_is_refused_by_name(copied: Path, tmp_path: Path) -> None:
    torch.save({"model": engine_workers.Gadget(f"touch {tmp_path / 'code-ran'}")}, copied / "state.pt")
    with pytest.raises(ValueError, match=r"state\.pt asks for posix\.system: refused"), loading(copied):
        plain_engine().load(copied)
    assert not (tmp_path / "code-ran").exists()


def test_a_full_disk_is_said_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("basic_ios::clear: iostream error")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(OSError, match=r"the checkpoint after step 3 could not be written .* is the disk full"):
        save_checkpoint(tmp_path, plain_engine(), Cursor(3, 9, 1, {}), rank=0)


def as_version_1(folder: Path) -> None:
    cursor = json.loads((folder / "cursor.json").read_text())
    del cursor["format_version"]
    (folder / "cursor.json").write_text(json.dumps(cursor))
    (folder / "checksums-00000.json").unlink()


def test_every_flipped_bit_of_weights_without_checksums_is_noticed_or_changes_nothing(copied: Path) -> None:
    """Of an earlier version: the archive has checksums of its own, at which torch does not look."""
    as_version_1(copied)
    engine = plain_engine()
    with engine.module() as whole:
        expected = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    file, generator, noticed = copied / "state.pt", random.Random(0), 0
    honest = file.read_bytes()
    for _ in range(100):
        place, bit = generator.randrange(len(honest)), 1 << generator.randrange(8)
        file.write_bytes(honest[:place] + bytes([honest[place] ^ bit]) + honest[place + 1 :])
        try:
            check_whole(copied)
            with loading(copied):
                engine.load(copied)
        except ValueError as error:
            assert "state.pt is damaged" in str(error)  # noqa: PT017  (no error is right too)
            noticed += 1
        else:
            with engine.module() as whole:
                assert all(torch.equal(tensor, expected[name]) for name, tensor in whole.state_dict().items())
    assert noticed > 50


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("cursor.json", {"format_version": 1}, r"cursor\.json is damaged: its size or checksum"),
        ("cursor.json", {"format_version": 3}, r"cursor\.json has format version 3; this version reads 1 and 2"),
        ("cursor.json", {"world_size": 0}, r"cursor\.json is damaged: world_size: Input should be greater than 0"),
        ("cursor.json", {"step": -1}, r"cursor\.json is damaged: step: Input should be greater than or equal to 0"),
        ("checksums-00000.json", None, r"cursor\.json is damaged, or checksums-00000\.json: no checksum is listed"),
        ("checksums-00000.json", {"\x1b" * 300: [1, 2]}, r"is missing; checksums-00000\.json lists it"),
    ],
)
def test_a_checkpoint_that_lies_is_named(
    name: str, changes: dict[str, object] | None, message: str, copied: Path
) -> None:
    found = json.loads((copied / name).read_text())
    (copied / name).write_text(json.dumps(found | changes if changes else {}))
    with pytest.raises(ValueError, match=message) as refused:
        check_whole(copied)
    assert str(refused.value).isprintable()


def test_a_checkpoint_of_another_model_is_named(copied: Path) -> None:
    for state in ({}, {"model": {}, "optimizer": {}, "scaler": {}}, [1], {"model": {"x": torch.zeros(1)}}):
        torch.save(state, copied / "state.pt")
        with pytest.raises(ValueError, match=r"state\.pt does not fit this model: \w+Error: \S"), loading(copied):
            plain_engine().load(copied)


def test_a_pickle_that_is_nested_a_million_times_is_refused(copied: Path) -> None:
    """torch.load would end the process with a segmentation fault: a key's hash takes more stack than there is."""
    torch.save({}, copied / "state.pt")
    with zipfile.ZipFile(copied / "state.pt") as archive:
        records = {record.filename: archive.read(record) for record in archive.infolist()}
    with zipfile.ZipFile(copied / "state.pt", "w") as archive:
        for name, content in records.items():
            deep = b"\x80\x02}K\x01" + b"\x85" * 1_000_000 + b"K\x02s."
            archive.writestr(name, deep if name.endswith("data.pkl") else content)
    with pytest.raises(ValueError, match=r"state\.pt is damaged: its pickle is nested deeper"), loading(copied):
        plain_engine().load(copied)
