"""Scoring splits: every protein counts once, in the order of its rows, and validation is masked alike in all runs."""

from pathlib import Path

from proteinlm.platform.training.evaluation import make_reading, score_split
from proteinlm.tasks.catalog import build_task
from tests.made.jobs import job
from tests.made.small_corpus import write_small_corpus
from tests.made.stub_engine import StubEngine, batch


def test_columns_come_in_the_order_of_rows_and_filling_does_not_count() -> None:
    scores = score_split(StubEngine(), [batch(4, 1), batch(3), batch(7)], num_counted=2)
    assert scores.rows == (1, 3, 4)
    assert scores.columns["loss"].tolist() == [1.0, 3.0, 4.0]


def test_long_proteins_are_cropped_in_training_alone(tmp_path: Path) -> None:
    manifest = write_small_corpus(tmp_path)
    run = job(batches={"max_length": 50, "crop": "start"})
    task = build_task("masked_language_modeling")
    lengths = [make_reading(manifest, task, run, split, seed=0).max_length for split in ("train", "valid")]
    assert lengths[0] == 50
    assert lengths[1] > 100_000
