"""A checkpoint is the engine's state and a cursor; another number of workers gets it converted."""

from pathlib import Path

import pytest

from proteinlm.platform.training import checkpoint
from proteinlm.platform.training.checkpoint import Cursor, loadable, needs_conversion, read_cursor, save_checkpoint
from tests.made import engine_workers
from tests.made.engine_workers import plain_engine, training


def test_an_engine_goes_on_from_its_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    trained = plain_engine()
    engine_workers.losses(trained, 0, 3)
    cursor = Cursor(step=3, residues=99, world_size=1, figures={"valid/loss": 2.5}, skipped_steps=1)
    save_checkpoint(tmp_path, trained, cursor, is_first_worker=True)
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


def test_names_sort_by_step_and_tell_workers_apart() -> None:
    names = [Cursor(step, 0, size, {}).checkpoint_name() for step, size in ((1000, 2), (20, 2), (20, 4))]
    assert sorted(names) == ["step_00000020_by_2", "step_00000020_by_4", "step_00001000_by_2"]
