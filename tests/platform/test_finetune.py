"""Finetuning on simulated secondary structure: full, frozen, scratch and baseline end in rows of the same table."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import LanguageModelHead, ProteinEncoder
from proteinlm.models.pretrained import load_pretrained, save_pretrained
from proteinlm.platform.data.manifest import read_manifest
from proteinlm.platform.finetune import finetune, task_data
from proteinlm.platform.results.measure import Measured, measure
from proteinlm.platform.results.rows import ResultRow, gather_rows
from proteinlm.platform.settings.config import FinetuneConfig
from proteinlm.platform.settings.loading import validate
from proteinlm.platform.simulated.proteins import simulate
from proteinlm.platform.training.tracking import read_metrics
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.finetuned import load_finetuned


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finetune")
    simulate(folder / "records", num_families=60, proteins_per_family=8, seed=0)
    torch.manual_seed(0)
    encoder = ProteinEncoder(ModelConfig(hidden_size=64, num_hidden_layers=1, num_attention_heads=2))
    save_pretrained(folder / "model", encoder, LanguageModelHead(encoder.config, encoder.token_embedding), {})
    return folder


def config(folder: Path, mode: str, **changes: Any) -> FinetuneConfig:
    values = {
        "name": mode,
        "storage": str(folder / "runs"),
        "task": "secondary_structure_q3",
        "data": str(folder / "records"),
        "mode": mode,
        "pretrained": str(folder / "model"),
        "batches": {"micro_batch_residues": 4000, "lanes": 1, "max_length": 200},
        "optimizer": {"learning_rate": 3e-3, "warmup_steps": 5},
        "training": {"steps": 80, "engine": "plain", "precision": "fp32", "checkpoint_every": 80, "validate_every": 40},
    }
    return validate(FinetuneConfig, values | changes, "test")


def accuracy(run: FinetuneConfig, split: str = "simulated_test") -> dict[str, ResultRow]:
    rows = gather_rows([run.directory])
    return {row.model: row for row in rows if row.metric == "accuracy" and row.split == split}


@pytest.mark.usefixtures("ray_cluster")
def test_modes_end_in_one_table_and_training_beats_the_majority(folder: Path) -> None:
    runs = {mode: config(folder, mode) for mode in ("full", "frozen", "baseline")}
    for run in runs.values():
        finetune(run)
    baseline = accuracy(runs["baseline"])
    full = accuracy(runs["full"])["hidden-64-layer-1-head-2"]
    frozen = accuracy(runs["frozen"])["hidden-64-layer-1-head-2"]
    assert {row.num_scored for row in (*baseline.values(), full, frozen)} == {full.num_scored}
    assert {row.data_hash for row in (*baseline.values(), full, frozen)} == {full.data_hash}
    assert full.low is not None
    assert baseline["majority class"].high is not None
    assert full.low > baseline["majority class"].high
    assert baseline["one-hot window"].value > baseline["majority class"].value
    assert full.value > frozen.value, "a random encoder that is not trained knows less than one that is"
    assert (full.mode, frozen.mode, full.is_simulated) == ("full", "frozen", True)
    assert full.parameters == frozen.parameters
    for mode, row in (("full", full), ("frozen", frozen)):
        model, about = load_finetuned(runs[mode].directory / "model")
        assert sum(parameter.numel() for parameter in model.parameters()) == row.parameters
        assert (about.mode, about.extra["steps"]) == (mode, row.steps)
    kept = load_pretrained(folder / "model").encoder.state_dict()
    frozen_encoder = load_finetuned(runs["frozen"].directory / "model")[0].encoder.state_dict()
    assert all(torch.equal(kept[name], frozen_encoder[name]) for name in kept)
    assert not (runs["baseline"].directory / "model").exists()
    # The pretrained directory is read, never written.
    assert load_pretrained(folder / "model").extra == {}


@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_under_deepspeed_choose_one_step_and_score_each_protein_once(folder: Path) -> None:
    training = {"steps": 6, "engine": "deepspeed", "zero_stage": 3, "precision": "fp32", "validate_every": 2}
    batches = {"micro_batch_residues": 2000, "lanes": 2, "max_length": 200}
    optimizer = {"learning_rate": 1e-2, "warmup_steps": 0, "decay": "none"}
    settings = {"training": training, "batches": batches, "optimizer": optimizer, "cluster": {"num_workers": 2}}
    run = config(folder, "full", name="two-workers", with_baselines=False, **settings)
    finetune(run)
    row = accuracy(run)["hidden-64-layer-1-head-2"]
    validated = {row["step"]: row["valid/accuracy"] for row in read_metrics(run.directory) if "valid/accuracy" in row}
    assert sorted(validated) == [2, 4, 6]
    best = max(validated, key=lambda step: (validated[step], -step))
    assert row.settings is not None
    assert row.settings["chosen"] == {"step": best, "of_steps": 6, "figure": "valid/accuracy", "value": validated[best]}
    assert row.steps == best
    assert accuracy(run, "valid")["hidden-64-layer-1-head-2"].value == pytest.approx(validated[best])
    rows = pq.read_table(run.directory / "predictions" / "simulated_test.parquet").column("row").to_pylist()
    assert rows == list(range(len(rows)))


def test_scratch_takes_the_shape_and_not_the_weights(folder: Path) -> None:
    from proteinlm.platform.finetune import check_finetune

    model = check_finetune(config(folder, "scratch"))
    assert model is not None
    assert model.hidden_size == 64
    assert check_finetune(config(folder, "baseline")) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "masked_language_modeling"}, "needs no labels"),
        ({"model": {"preset": "cpu-small"}}, "differs from"),
        ({"mode": "full", "pretrained": None}, "needs a pretrained directory"),
        ({"mode": "scratch", "pretrained": None}, "needs a model section"),
    ],
)
def test_what_does_not_fit_is_refused(folder: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        finetune(config(folder, **{"mode": "full"} | changes))


def test_runs_of_the_same_records_share_their_shards(folder: Path) -> None:
    first, second = task_data(config(folder, "full")), task_data(config(folder, "frozen"))
    assert first == second
    assert task_data(config(folder, "full", max_train_examples=20)) != first
    assert task_data(config(folder, "full", max_test_examples=2)) != first


def test_every_figure_says_how_it_was_measured(folder: Path) -> None:
    manifest = read_manifest(task_data(config(folder, "full")))
    task = build_task("secondary_structure_q3").on_splits(manifest.splits)
    columns = {"valid": {name: torch.ones(5).double().numpy() * 2 for name in ("loss", "scored", "correct")}}
    architecture = ModelConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    who = Measured("run", "finetune", "model", "full", seed=3, code_version="1", architecture=architecture)
    rows = measure(who, task, manifest, columns)
    assert {row.metric for row in rows} == {metric.name for metric in task.metrics}
    for row in rows:
        assert (row.num_proteins, row.num_scored, row.seed) == (5, 10, 3)
        assert row.configuration == "run"
        assert (row.hidden_size, row.num_hidden_layers, row.num_attention_heads) == (32, 2, 4)
        assert row.data_hash == manifest.split("valid").content_hash
        assert row.definition
        assert row.is_simulated
