"""A run is resumed by another number of workers: the same rows in the same global batches."""

import threading
from pathlib import Path

import pytest

from proteinlm.platform.pretrain import pretrain
from proteinlm.platform.storage.run_directory import request_stop
from proteinlm.platform.training.stopping import StoppedError
from proteinlm.platform.training.tracking import read_metrics
from tests.made.small_corpus import write_small_corpus
from tests.made.small_pretraining import config, losses, wait_for_step


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrain")
    (folder / "corpus").mkdir()
    write_small_corpus(folder / "corpus")
    return folder


def test_a_run_goes_on_with_other_numbers_of_workers(folder: Path, ray_cluster: None) -> None:
    """4 -> 2 -> 3 workers, stopped in between: the rows and losses of the run that 4 workers do alone, within 1e-5."""
    settings = {"lanes": 4, "steps": 60, "zero_stage": 2, "learning_rate": 5e-4}  # large ones amplify rounding
    alone = config(folder, "four", workers=4, **settings)
    pretrain(alone)
    for workers, stop_at in ((4, 15), (2, 35), (3, None)):
        run = config(folder, "four-two-three", workers=workers, **settings)
        if stop_at is None:
            pretrain(run)
            break
        stopper = threading.Thread(target=lambda: (wait_for_step(run, stop_at), request_stop(run.directory)))  # noqa: B023
        stopper.start()
        with pytest.raises(StoppedError, match=r"stopped after step \d+, as asked; the same command resumes"):
            pretrain(run)
        stopper.join()
    found, expected = losses(run), losses(alone)
    assert [step for step, _ in found] == [step for step, _ in expected] == list(range(1, 61))
    assert [loss for _, loss in found] == pytest.approx([loss for _, loss in expected], rel=1e-5)
    residues = [[row["residues"] for row in read_metrics(one.directory) if "residues" in row] for one in (run, alone)]
    assert residues[0] == residues[1], "the same rows in the same global batches"
