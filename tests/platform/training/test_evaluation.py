"""Scoring splits: every protein counts once, in the order of its rows."""

from pathlib import Path
from typing import Any

import pytest
import torch

from proteinlm.models.config import ModelConfig
from proteinlm.platform.settings.sections import TrainingSection
from proteinlm.platform.training import evaluation
from proteinlm.platform.training.evaluation import Validation, score_split
from proteinlm.platform.training.job import Run, Worker
from proteinlm.tasks.task import Batch
from tests.made.jobs import job
from tests.made.small_corpus import write_small_corpus
from tests.made.stub_engine import StubEngine, batch

FP32 = TrainingSection(steps=1, precision="fp32")


def test_columns_come_in_the_order_of_rows_and_filling_does_not_count() -> None:
    scores = score_split(StubEngine(), [batch(4, 1), batch(3), batch(7)], num_counted=2)
    assert scores.rows == (1, 3, 4)
    assert scores.columns["loss"].tolist() == [1.0, 3.0, 4.0]


def test_a_split_is_scored_with_masks_of_its_content_whatever_the_seed_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Any] = []
    monkeypatch.setattr(evaluation, "validation_batches", lambda reading, **_: read.append(reading) or ([batch(0)], 1))
    manifest = write_small_corpus(tmp_path)
    for seed in (0, 5):
        shape = ModelConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
        told = job(
            verb="pretrain", task="masked_language_modeling", data=tmp_path, model=shape, seed=seed, training=FP32
        )
        run = Run(told, manifest, told.build_task(manifest), Worker(0, 1, torch.device("cpu")))
        Validation(run, StubScorer()).final_scores()
    assert [reading.seed for reading in read] == [manifest.split(name).mask_seed for name in ("valid", "holdout")] * 2


class StubScorer(StubEngine):
    def eval_step(self, batch: Batch) -> dict[str, torch.Tensor]:
        columns = ("loss", "scored", "masked_loss", "masked", "correct", "masked_correct")
        return {name: torch.ones(len(batch.rows)) for name in columns}
