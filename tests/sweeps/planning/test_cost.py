"""What pretraining costs, counted before: against what a run of it logs."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from proteinlm.models.config import num_parameters
from proteinlm.platform.data.manifest import read_manifest
from proteinlm.platform.pretrain import pretrain
from proteinlm.platform.settings.config import PretrainConfig
from proteinlm.platform.settings.loading import merge, validate
from proteinlm.platform.training.tracking import read_metrics
from proteinlm.sweeps.planning.cost import pretraining_cost, residues_per_step, steps_of_flops
from tests.made.small_corpus import write_small_corpus


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cost")
    (folder / "corpus").mkdir()
    write_small_corpus(folder / "corpus")
    return folder


def config(folder: Path, **changes: Any) -> PretrainConfig:
    values = {
        "name": "run",
        "storage": str(folder / "runs"),
        "corpus": str(folder / "corpus"),
        "model": {"preset": "cpu-tiny"},
        "batches": {"micro_batch_residues": 1000, "lanes": 2, "max_length": 60},
        "training": {"steps": 40, "engine": "plain", "precision": "fp32", "log_every": 1},
        "cluster": {"in_process": True},
    }
    return validate(PretrainConfig, merge(values, changes), "test")


@pytest.mark.usefixtures("ray_cluster")
def test_residues_and_flops_are_those_of_the_run(folder: Path) -> None:
    """Proteins of 30 to 80 residues, cropped to 60: to within a few per cent over 40 steps."""
    chosen = config(folder)
    cost = pretraining_cost(chosen)
    pretrain(chosen)
    rows = [row for row in read_metrics(chosen.directory) if "loss" in row]
    assert cost.steps == len(rows) == 40
    assert cost.residues == pytest.approx(rows[-1]["residues"], rel=0.03)
    seen = [rows[0]["residues"], *(now["residues"] - before["residues"] for before, now in pairwise(rows))]
    flops = sum(row["flops_per_s"] / row["residues_per_s"] * residues for row, residues in zip(rows, seen, strict=True))
    assert cost.training_flops == pytest.approx(flops, rel=0.03)
    assert cost.parameters == num_parameters(chosen.model)


def test_steps_spend_the_flops(folder: Path) -> None:
    chosen = config(folder)
    cost = pretraining_cost(chosen)
    assert steps_of_flops(chosen, cost.training_flops) == 40
    assert steps_of_flops(chosen, 3 * cost.training_flops) == 120
    assert steps_of_flops(chosen, 1.0) == 1


def test_epochs_are_counted_in_steps(folder: Path) -> None:
    chosen = config(folder, training={"steps": None, "epochs": 2.0}, batches={"max_length": 1000})
    manifest = read_manifest(folder / "corpus")
    cost, whole = pretraining_cost(chosen), manifest.split("train").residues
    assert cost.residues == pytest.approx(2 * whole, rel=0.02)
    assert cost.steps == round(cost.residues / residues_per_step(chosen, manifest))


def test_zero_shares_the_state_and_fewer_bytes_are_needed(folder: Path) -> None:
    def memory(stage: int, workers: int) -> float:
        training = {"engine": "deepspeed", "zero_stage": stage}
        cluster = {"in_process": None, "num_workers": workers}
        return pretraining_cost(config(folder, training=training, cluster=cluster)).memory

    state = 16 * num_parameters(config(folder).model)
    assert memory(0, 2) == memory(1, 1)
    assert memory(0, 2) - memory(1, 2) == pytest.approx(state / 4)  # half of Adam's two moments
    assert memory(0, 2) - memory(3, 2) == pytest.approx(state / 2)
