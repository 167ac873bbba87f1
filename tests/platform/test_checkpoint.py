"""A checkpoint is the engine's state and a cursor; another number of workers is refused by name."""

from pathlib import Path

import pytest
import torch

from proteinlm.platform.training.checkpoint import Cursor, checkpoint_name, load_checkpoint, save_checkpoint
from proteinlm.platform.training.engine import Engine, make_engine
from tests.platform import two_workers


def engine() -> Engine:
    section = two_workers.training(0, "plain")
    return make_engine(two_workers.model(), section, two_workers.OPTIMIZER, device=torch.device("cpu"), micro_batches=1)


def test_an_engine_goes_on_from_its_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    trained = engine()
    two_workers.losses(trained, 0, 1)
    cursor = Cursor(step=3, residues=99, world_size=1, figures={"valid/loss": 2.5})
    save_checkpoint(tmp_path, trained, cursor, is_first_worker=True)
    resumed = engine()
    assert load_checkpoint(tmp_path, resumed, world_size=1) == cursor
    assert two_workers.losses(resumed, 0, 1) == two_workers.losses(trained, 0, 1)


def test_another_number_of_workers_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, engine(), Cursor(3, 99, 2, {}), is_first_worker=True)
    with pytest.raises(ValueError, match=r"cluster.num_workers: .* step 3 .* 2 workers .* by 1"):
        load_checkpoint(tmp_path, engine(), world_size=1)


def test_names_sort_by_step() -> None:
    assert sorted([checkpoint_name(1000), checkpoint_name(20)]) == ["step_00000020", "step_00001000"]
