"""The contact probe at each validation of a pretraining: figures in metrics.jsonl, and no change to the training."""

from pathlib import Path
from typing import Any

import pytest

from proteinlm.platform.pretrain import pretrain
from proteinlm.platform.settings.config import PretrainConfig
from proteinlm.platform.settings.loading import validate
from proteinlm.platform.training.tracking import read_metrics
from tests.made.small_corpus import write_small_corpus
from tests.made.tape_records import tape_record, write_as_tape


def config(folder: Path, name: str, **changes: Any) -> PretrainConfig:
    values: dict[str, Any] = {
        "name": name,
        "storage": str(folder / "runs"),
        "corpus": str(folder / "corpus"),
        "model": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
        "batches": {"micro_batch_residues": 1000, "lanes": 2, "max_length": 100},
        "training": {"steps": 6, "engine": "plain", "precision": "fp32", "log_every": 1, "validate_every": 3},
        "cluster": {"in_process": True},
    }
    return validate(PretrainConfig, values | changes, "test")


@pytest.mark.usefixtures("ray_cluster")
def test_contacts_are_probed_at_each_validation_and_training_does_not_notice(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    write_small_corpus(tmp_path / "corpus")
    for split, first in (("train", 0), ("valid", 100)):
        records = [tape_record("proteinnet", first + number) for number in range(12)]
        records = [record | {"tertiary": record["tertiary"] / 10} for record in records]  # near enough to touch
        write_as_tape(tmp_path / f"proteinnet_{split}.lmdb", records)
    probed = config(tmp_path, "probed", probe={"data": str(tmp_path), "num_proteins": 8, "max_scored": 5})
    plain = config(tmp_path, "plain")
    for run in (probed, plain):
        pretrain(run)
    rows = read_metrics(probed.directory)
    readings = {row["step"]: row for row in rows if "contact_probe/precision_l5_sep6" in row}
    assert sorted(readings) == [3, 6]
    assert all(0 <= row["contact_probe/precision_l5_sep6"] <= 1 for row in readings.values())
    losses = [[row["loss"] for row in read_metrics(run.directory) if "loss" in row] for run in (probed, plain)]
    assert losses[0] == losses[1]
